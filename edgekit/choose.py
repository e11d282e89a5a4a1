"""Which precision is published: raced where this machine speaks for the target, by policy where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.bundle import Candidate, Choice
from edgekit.bundle.evidence import ChosenBy
from edgekit.candidates import Built, build, why_not_int8, why_not_lossy
from edgekit.config import Config
from edgekit.errors import EdgekitError, GateError, InputError, MissingError, UsageError
from edgekit.exporters import LoweringRequest
from edgekit.intake import Intake
from edgekit.policy import choose_by_policy
from edgekit.profiles import DeviceProfile
from edgekit.progress import Progress
from edgekit.race import Entrant, RaceResult, race, race_problem


@dataclass(frozen=True, eq=False)
class Chosen:
    """The precision to publish, what travels beside it, and why."""

    main: Built
    variants: tuple[Built, ...]
    choice: Choice


def choose(intake: Intake, config: Config, canonical: LoweringRequest, progress: Progress) -> Chosen:
    """Build what `--precision` asks for, or for `auto` every candidate of the target, and decide.

    Raises:
        GateError: what was asked for does not pass, or int8 was asked for and is not faster.
        InconclusiveError: the held-out samples do not decide.
        UnsupportedError, InputError: as `candidates.build`.
    """
    profile, asked = canonical.profile, canonical.precision
    base = asked if asked not in ("auto", "int8") else _float_of(profile)
    with progress.step(f"lower to {profile.runtime} in {base} and check"):
        reference = build(intake, config, canonical, base)
        reference.verdict.require()
    if asked not in ("auto", "int8"):
        return Chosen(reference, (), Choice(base, "asked", f"--precision {asked}"))
    wanted = ("int8",) if asked == "int8" else profile.candidates[1:]
    built, refused = _others(intake, config, canonical, wanted, asked, progress)
    if not built:
        reason = profile.because.get("default_precision", "the profile's default")
        left_out = [Candidate(name, eligible=False, reason=why) for name, why in refused.items()]
        kept = Candidate(base, eligible=True, reason="nothing to race against", quality=reference.verdict.quality)
        return Chosen(reference, (), Choice(base, "default", reason, (kept, *left_out)))
    problem = _race_problem(profile, built)
    if problem is None:
        with progress.step(f"race {base} against {', '.join(b.precision for b in built)}"):
            result = _race(profile, reference, built)
        return _by_race(config, asked, reference, built, refused, result)
    return _by_policy(canonical, asked, reference, built, refused, problem)


def _float_of(profile: DeviceProfile) -> str:
    return profile.candidates[0] if profile.candidates else profile.default_precision


def _others(
    intake: Intake,
    config: Config,
    canonical: LoweringRequest,
    wanted: Sequence[str],
    asked: str,
    progress: Progress,
) -> tuple[list[Built], dict[str, str]]:
    """The lossy candidates that pass, and why the others do not. What was asked for by name raises instead."""
    built: list[Built] = []
    refused: dict[str, str] = {}
    for precision in wanted:
        missing = why_not_int8(intake) if precision == "int8" else why_not_lossy(intake)
        lacking = race_problem(canonical.profile, precision) if precision == "bf16" else None
        if asked == "auto" and (missing or lacking):
            refused[precision] = missing or lacking or ""
            continue
        try:
            with progress.step(f"try {precision}"):
                one = build(intake, config, canonical, precision)
                one.verdict.require()
            built.append(one)
        except EdgekitError as error:
            misused = isinstance(error, UsageError) and not isinstance(error, InputError)
            if asked != "auto" or misused or isinstance(error, MissingError):
                raise
            refused[precision] = f"{error.what}: {error.why}" if error.why else error.what
    return built, refused


def _race_problem(profile: DeviceProfile, built: Sequence[Built]) -> str | None:
    problems = [race_problem(profile, one.precision) for one in built]
    return next((problem for problem in problems if problem is not None), None)


def _race(profile: DeviceProfile, reference: Built, built: Sequence[Built]) -> RaceResult:
    entrants = [Entrant(one.precision, one.engine) for one in (reference, *built)]
    return race(entrants, built[0].samples[0].bundle, profile.runtime, profile.race_env)


def _by_race(
    config: Config, asked: str, reference: Built, built: list[Built], refused: dict[str, str], result: RaceResult
) -> Chosen:
    winner, why = result.winner()
    if asked == "int8" and winner != "int8" and not config.export.allow_slower:
        raise GateError(
            "int8 is not faster than float here",
            where=f"{result.measured_on.runtime}, {result.measured_on.instruction_set}",
            why=why,
            fix="export without --precision int8, or publish it all the same with --allow-slower",
        )
    every = [reference, *built]
    main = next(one for one in every if one.precision == ("int8" if asked == "int8" else winner))
    laps = {lap.precision: (lap.latency_ms, lap.speedup) for lap in result.laps}
    candidates = _candidates(every, refused, laps)
    by: ChosenBy = "race" if asked == "auto" else "asked"
    return Chosen(main, (), Choice(main.precision, by, why, candidates, result.measured_on))


def _by_policy(
    canonical: LoweringRequest,
    asked: str,
    reference: Built,
    built: list[Built],
    refused: dict[str, str],
    problem: str,
) -> Chosen:
    every = [reference, *built]
    eligible = [one.precision for one in every]
    if asked == "int8":
        precision, why = "int8", f"--precision int8; not raced: {problem}"
    else:
        default = canonical.profile.default_precision
        precision, rule = choose_by_policy(canonical.profile.runtime, canonical.graph.model, default, eligible)
        why = f"{rule} (not raced: {problem})"
    main = next(one for one in every if one.precision == precision)
    others = tuple(one for one in every if one is not main)
    candidates = _candidates(every, refused, {}, f"not raced: {problem}")
    by: ChosenBy = "asked" if asked == "int8" else "policy, not measured"
    return Chosen(main, others, Choice(precision, by, why, candidates))


def _candidates(
    every: Sequence[Built],
    refused: Mapping[str, str],
    laps: Mapping[str, tuple[float, tuple[float, float, float]]],
    unmeasured: str | None = None,
) -> tuple[Candidate, ...]:
    """All that were considered; the figures of a race where there was one."""
    built = tuple(
        Candidate(
            one.precision,
            eligible=True,
            reason=unmeasured,
            quality=one.verdict.quality,
            coverage=one.coverage,
            latency_ms=laps[one.precision][0] if one.precision in laps else None,
            speedup=laps[one.precision][1] if one.precision in laps else None,
        )
        for one in every
    )
    return built + tuple(Candidate(name, eligible=False, reason=why) for name, why in refused.items())
