"""`edgekit prove`: on the board, replay the bundle's self-test, profile it and answer its open questions, signed.

The answer is a JSON file beside the bundle with a detached signature. A question that cannot be answered here stays
`open` with its reason; nothing unanswered counts as passed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from edgekit.bundle import (
    Bundle,
    Question,
    SelfTest,
    Variant,
    check_signature,
    generate_keys,
    load_private_key,
    load_public_key,
    sign_bytes,
)
from edgekit.bundle.atomic import publish, staging, unwritable_is_typed, write_file
from edgekit.bundle.signing import key_id
from edgekit.bundle.strictjson import parse_json
from edgekit.errors import GateError, InconclusiveError, InputError, IntegrityError
from edgekit.evaluate.parity import compare
from edgekit.machine import is_device, machine_names
from edgekit.machine import system as operating_system
from edgekit.profiler.short import ShortProfile, short_profile
from edgekit.race import Entrant, RaceResult, race, reference_first
from edgekit.runtimes.session import Session, engine_request, open_session
from edgekit.structure import decode, encode

SCHEMA: Final = "edgekit/proof/2"
LATENCY_RUNS = 50
LATENCY_WARMUP = 10


@dataclass(frozen=True)
class Answer:
    """What was found for one question or self-test.

    Attributes:
        status: `passed`, `failed`, `measured` (a figure without a bar), or `open`.
        value, unit, samples: the figure, for latency the median and for a race the speedup over float; `spread` is the
            smallest and largest, for a race the ends of a 95 % interval.
        tolerance: the bar, where there is one.
        reason: why it failed or stays open; for a race, what was faster.
    """

    id: str
    kind: str
    status: Literal["passed", "failed", "measured", "open"]
    value: float | None = None
    spread: tuple[float, float] | None = None
    unit: str | None = None
    samples: int | None = None
    tolerance: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Proof:
    """The signed document: which bundle, on what, the answers, and a short profile."""

    schema: Literal["edgekit/proof/2"]
    bundle: str
    version: int
    manifest_sha256: str
    signed_bundle: bool
    device: dict[str, str]
    answers: tuple[Answer, ...]
    profile: ShortProfile

    @property
    def failed(self) -> list[Answer]:
        """The answers that say no."""
        return [answer for answer in self.answers if answer.status == "failed"]


def prove(
    path: Path,
    *,
    key: Path | None = None,
    threads: int | None = None,
    announce: Callable[[str], None] | None = None,
) -> Proof:
    """Replay the self-tests and answer the open questions on this machine.

    Args:
        path: the bundle.
        key: a public key; with one, the bundle must be signed by it.
        threads: threads for one inference.
        announce: told of the stages where an engine has to be built first.

    Raises:
        MissingError: this machine does not have the bundle's runtime.
        IntegrityError, InputError: as `load`.
    """
    with Bundle.open(path, key=key) as bundle:
        bundle.verify()
        manifest = bundle.manifest
        names = machine_names()
        stranger = not is_device(manifest.target.identity, names)
        with open_session(bundle, threads=threads, announce=announce) as session:
            tests = tuple(_replay(bundle, session, i, test) for i, test in enumerate(manifest.selftest))
            short = short_profile(bundle, session)
            answers = tuple(
                _unanswerable(question, manifest.target.name, names[0])
                if stranger
                else _answer(bundle, session, question, tests, short)
                for question in manifest.questions
                if question.kind != "race"
            )
            device = _device(session, names[0], threads)
        replayed = {variant.precision: _replay_variant(bundle, variant, threads) for variant in manifest.variants}
        others = tuple(answer for answers_of in replayed.values() for answer in answers_of)
        sound = [name for name, found in replayed.items() if all(each.status != "failed" for each in found)]
        sound += [manifest.target.precision] if all(test.status != "failed" for test in tests) else []
        races = tuple(
            _unanswerable(question, manifest.target.name, names[0])
            if stranger
            else _race(bundle, question, threads, sound)
            for question in manifest.questions
            if question.kind == "race"
        )
        every = (*tests, *others, *answers, *races)
        return Proof(SCHEMA, manifest.name, manifest.version, bundle.digest, bundle.signed, device, every, short)


def write_proof(proof: Proof, bundle: Path, private_key: Path | None = None) -> tuple[Path, Path]:
    """Write `BUNDLE.KEY.proof.json` and `.proof.sig` beside the bundle, KEY the id of the key that signs.

    Args:
        private_key: signs the answer; by default this device's own key, made on first use.

    Returns:
        The two paths.
    """
    key = load_private_key(private_key or device_key())
    data = (json.dumps(encode(proof), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    place = bundle.resolve()
    stem = f"{place.name}.{key_id(key.public_key())}.proof"
    paths = (place.with_name(f"{stem}.json"), place.with_name(f"{stem}.sig"))
    for path, content in zip(paths, (data, sign_bytes(key, data)), strict=True):
        with unwritable_is_typed(path), staging(path) as fresh:
            write_file(fresh, [content])
            publish(fresh, path, replace=True)
    return paths


def read_proof(path: Path, bundle: Bundle, public_key: Path) -> Proof:
    """A written proof, after checking who signed it and that it is about `bundle`.

    Raises:
        InputError: it cannot be read.
        IntegrityError: changed, signed by another key, or about another bundle.
    """
    try:
        data, signature = path.read_bytes(), path.with_suffix(".sig").read_bytes()
    except OSError as error:
        raise InputError("the proof cannot be read", where=str(path), why=error.strerror or str(error)) from error
    check_signature(load_public_key(public_key), data, signature, str(path))
    content = parse_json(data, str(path))
    said = content.get("schema") if isinstance(content, Mapping) else None
    if said != SCHEMA:
        raise InputError(
            "this is no proof of this format", where=str(path), why=f"{said!a} is not {SCHEMA}", fix="prove again"
        )
    proof = decode(Proof, content, str(path))
    if proof.manifest_sha256 != bundle.digest:
        raise IntegrityError(
            "the proof is about another bundle",
            where=str(path),
            why=f"it names the manifest {proof.manifest_sha256[:16]}..., this one is {bundle.digest[:16]}...",
            fix="prove this bundle on the device",
        )
    return proof


def require_passed(proof: Proof) -> None:
    """Raise where the proof is not complete.

    Raises:
        GateError: an answer says no.
        InconclusiveError: none does, but a question stays open.
    """
    if proof.failed:
        first = proof.failed[0]
        raise GateError(
            f"{first.id}: the bundle does not compute here what its parent did",
            where=f"{proof.device['runtime']} on {proof.device['machine']}",
            why=first.reason,
            fix="do not deploy it on this device; edgekit export says which layer diverges",
        )
    still_open = [answer for answer in proof.answers if answer.status == "open"]
    if still_open:
        raise InconclusiveError(
            f"{len(still_open)} question(s) stay open",
            where=", ".join(answer.id for answer in still_open),
            why=still_open[0].reason,
            fix="run edgekit prove on the board itself",
        )


def device_key() -> Path:
    """This device's private key under the user's configuration folder, made on first use."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgekit"
    path = home / "device.key"
    if not path.exists():
        with unwritable_is_typed(home):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
        generate_keys(home / "device")
    return path


def _replay_variant(bundle: Bundle, variant: Variant, threads: int | None) -> tuple[Answer, ...]:
    """The self-tests in the variant's precision, with its tolerance; one that cannot be loaded here fails them."""
    tests = [replace(test, tolerance=variant.tolerance) for test in bundle.manifest.selftest]
    try:
        with open_session(bundle, threads=threads, precision=variant.precision) as session:
            found = [_replay(bundle, session, index, test) for index, test in enumerate(tests)]
    except InputError as error:
        found = [
            Answer(
                f"selftest-{index}", "parity", "failed", tolerance=test.tolerance, reason=f"{error.what}: {error.why}"
            )
            for index, test in enumerate(tests)
        ]
    return tuple(replace(answer, id=f"{answer.id}-{variant.precision}") for answer in found)


def _race(bundle: Bundle, question: Question, threads: int | None, sound: Collection[str]) -> Answer:
    """Run the bundle's precisions against one another; those that failed a self-test (not `sound`) cannot win."""
    blank = Answer(question.id, question.kind, "open", tolerance=question.tolerance, unit="x")
    manifest = bundle.manifest
    if not manifest.selftest or not manifest.variants:
        missing = "self-test to run" if not manifest.selftest else "variant to race against"
        return replace(blank, reason=f"the bundle has no {missing}")
    feeds = {name: bundle.read_array(file) for name, file in manifest.selftest[0].inputs.items()}
    order = reference_first(manifest.precisions)
    entrants = [Entrant(precision, engine_request(bundle, precision)) for precision in order]
    try:
        result = race(entrants, feeds, manifest.target.runtime.name, threads=threads or 1)
    except (InconclusiveError, InputError) as error:
        return replace(blank, reason=f"{error.what}: {error.why}")
    return _raced(blank, result, sound)


def _raced(blank: Answer, result: RaceResult, sound: Collection[str]) -> Answer:
    """The figure of what won; of what came nearest, where float stays."""
    faster, why = result.winner(sound)
    best = max(result.laps[1:], key=lambda lap: lap.speedup[1])
    low, value, high = (best if faster == result.laps[0].precision else result.lap(faster)).speedup
    reason = f"{faster} is to be used: {why}; {result.clock} time on {result.measured_on.threads} thread(s)"
    bar = blank.tolerance
    status: Literal["passed", "failed", "measured"] = "measured"
    if bar is not None:
        status = "passed" if value >= bar else "failed"
    return replace(blank, status=status, value=value, spread=(low, high), samples=result.rounds, reason=reason)


def _replay(bundle: Bundle, session: Session, index: int, test: SelfTest) -> Answer:
    feeds = {name: bundle.read_array(file) for name, file in test.inputs.items()}
    wanted = {name: bundle.read_array(file) for name, file in test.outputs.items()}
    gaps = compare(wanted, session.run(feeds), session.spec.derived)
    answer = Answer(f"selftest-{index}", "parity", "passed", samples=1, tolerance=test.tolerance)
    bad = next((gap for gap in gaps if not gap.within(test.tolerance)), None)
    if bad is not None:
        return replace(answer, status="failed", reason=f"output {bad.tensor!r}: {bad.describe()}")
    return replace(answer, value=max(gap.relative for gap in gaps), unit="relative")


def _answer(
    bundle: Bundle, session: Session, question: Question, tests: tuple[Answer, ...], short: ShortProfile
) -> Answer:
    blank = Answer(question.id, question.kind, "open", tolerance=question.tolerance, unit=question.unit)
    if question.kind == "parity":
        failed = next((test for test in tests if test.status == "failed"), None)
        if failed or not tests:
            return replace(blank, status="failed", reason=failed.reason if failed else "the bundle has no self-test")
        worst, bar = max(test.value or 0.0 for test in tests), question.tolerance
        blank = replace(blank, value=worst, unit="relative", samples=len(tests))
        if bar is not None and worst > bar:  # a question may ask for more than the self-tests do
            return replace(blank, status="failed", reason=f"relative deviation {worst:.3g}; allowed is {bar:.3g}")
        return replace(blank, status="passed")
    if question.kind == "latency" and tests:
        first = bundle.manifest.selftest[0]
        feeds = {name: bundle.read_array(file) for name, file in first.inputs.items()}
        taken = _latencies_ms(session, feeds)
        median = statistics.median(taken)
        bar = question.tolerance
        status: Literal["passed", "failed", "measured"] = "measured"
        if bar is not None:
            status = "passed" if median <= bar else "failed"
        spread = (min(taken), max(taken))
        return replace(blank, status=status, value=median, spread=spread, unit="ms", samples=len(taken))
    if question.kind == "energy":
        return _joules(blank, short)
    return replace(blank, reason=f"this version cannot answer a question of kind {question.kind}")


def _joules(blank: Answer, short: ShortProfile) -> Answer:
    """The total of an inference, the idle board's included; decided where its whole interval is on one side."""
    energy = short.energy
    if energy is None:
        assert short.energy_unknown is not None
        return replace(blank, reason=f"no energy was measured: {short.energy_unknown.reason}")
    value, spread, bar = energy.total.value_mj, energy.total.uncertainty_mj, blank.tolerance
    found = replace(blank, value=value, spread=(value - spread, value + spread), unit="mJ", samples=energy.inferences)
    if not energy.valid or (bar is not None and value - spread <= bar < value + spread):
        reason = f"{bar:g} mJ is inside its interval" if energy.valid else "; ".join(energy.reasons)
        return replace(found, reason=f"the energy is not decided: {reason}")
    status: Literal["passed", "failed", "measured"] = "measured"
    if bar is not None:
        status = "passed" if value <= bar else "failed"
    return replace(found, status=status)


def _unanswerable(question: Question, target: str, machine: str) -> Answer:
    reason = f"the question is about {target}, and this machine calls itself {machine!r}"
    return Answer(question.id, question.kind, "open", tolerance=question.tolerance, unit=question.unit, reason=reason)


def _latencies_ms(session: Session, feeds: Mapping[str, np.ndarray]) -> list[float]:
    for _ in range(LATENCY_WARMUP):  # on the very shapes that are timed
        session.run(feeds)
    taken = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter_ns()
        session.run(feeds)
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def _device(session: Session, name: str, threads: int | None) -> dict[str, str]:
    """What ran, without anything that names the machine or its user."""
    return {
        "machine": platform.machine(),
        "model": name,
        "threads": "the runtime's choice" if threads is None else str(threads),
        "system": operating_system(),
        "python": platform.python_version(),
        "runtime": session.runtime,
    }
