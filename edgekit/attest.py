"""`edgekit attest`: a proof as a signed report for strangers, without anything that tells who or where somebody is.

Its signature shows that nothing was changed since one device wrote it, and that two reports come from one key. It does
not show who holds the key, or that the device was honest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Literal

import edgekit
from edgekit import machine
from edgekit.anonymous import own_names, private_parts, texts, without_paths
from edgekit.bundle import Bundle, check_signature, load_private_key, sign_bytes
from edgekit.bundle.atomic import publish, staging, unwritable_is_typed, write_file
from edgekit.bundle.signing import key_id, parse_public_key, public_pem
from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.errors import InputError, IntegrityError
from edgekit.profiler.report import Certificate, Condition
from edgekit.profiler.short import ShortProfile, conditions_digest
from edgekit.prove import Answer, Proof, device_key
from edgekit.structure import decode, encode

SCHEMA: Final = "edgekit/attestation/1"
SUFFIX, SIGNATURE_SUFFIX = ".attest.json", ".attest.sig"
MAX_BYTES = 1 << 20

KEPT = re.compile(
    r"(governor|clocks?\b|power (mode|limit)|fan mode|temperature|slowed down by|(throttle|over-current|quota) events"
    r"|jetpack|operating system|cores|cpu quota|smt|turbo|energy preference|platform profile|microcode|virtual machine"
    r"|container|battery|load |time stolen|memory available)"
)
"""Conditions that are passed on, by the start of their name; a kernel's release can bear its builder's name."""

_RUNTIME = re.compile(r"[a-z][a-z-]* \d[\w.+-]*(/\w+)*")  # versions look like addresses: `tensorrt 10.3.0.26`
_NUMBERS = re.compile(r"\d+(\.\d+)*")


@dataclass(frozen=True)
class Device:
    """What ran it: names of products and versions only.

    Attributes:
        model: board or processor, as all of its kind call themselves.
        machine: such as `aarch64`; system: such as `Linux 6.8.0`; jetpack: None where there is none.
    """

    model: str
    machine: str
    system: str
    jetpack: str | None
    python: str
    runtime: str
    threads: str
    edgekit: str


@dataclass(frozen=True)
class Outcome:
    """An answer without its reason, which may name files."""

    id: str
    kind: str
    status: Literal["passed", "failed", "measured", "open"]
    value: float | None
    unit: str | None
    tolerance: float | None


@dataclass(frozen=True)
class Score:
    """How good a prediction was.

    Attributes:
        predicted, measured: in `unit`; None where there is none, and `reason` says why.
        error: predicted over measured, less 1; low, high: its ends, from the interval of what was measured.
    """

    kind: Literal["latency", "energy"]
    unit: Literal["ms", "mJ"]
    predicted: float | None
    measured: float | None
    error: float | None
    low: float | None
    high: float | None
    reason: str | None


@dataclass(frozen=True)
class Attestation:
    """The document.

    Attributes:
        public_key: PEM; its private half signed this.
        on_target: whether the device is one that the bundle was exported for.
    """

    schema: Literal["edgekit/attestation/1"]
    public_key: str
    bundle: str
    version: int
    manifest_sha256: str
    source_sha256: str
    target: str
    precision: str
    signed_bundle: bool
    on_target: bool
    day_utc: str
    device: Device
    outcomes: tuple[Outcome, ...]
    profile: ShortProfile
    scores: tuple[Score, ...]

    @property
    def file_name(self) -> str:
        """The name that it has among others: bundle, target and key."""
        key = key_id(parse_public_key(self.public_key.encode(), "public_key"))
        parts = (f"{self.bundle}-{self.version}", self.target, key)
        return "_".join(re.sub(r"[^A-Za-z0-9.-]", "-", part) for part in parts) + SUFFIX


def attest(bundle: Bundle, proof: Proof, private_key: Path | None = None) -> Attestation:
    """The proof of `bundle`, anonymised, with the bundle's predictions scored.

    Args:
        private_key: that will sign it; by default this device's own.

    Raises:
        IntegrityError: the proof is about another bundle.
        InputError: something private was left in it, and where.
    """
    if proof.manifest_sha256 != bundle.digest:
        raise IntegrityError("the proof is about another bundle", where=proof.bundle, fix="prove this one")
    manifest = bundle.manifest
    here = machine.is_device(manifest.target.identity, (proof.device["model"], *machine.machine_names()))
    public = public_pem(load_private_key(private_key or device_key())).decode()
    made = Attestation(
        schema=SCHEMA,
        public_key=public,
        bundle=proof.bundle,
        version=proof.version,
        manifest_sha256=proof.manifest_sha256,
        source_sha256=manifest.source.sha256,
        target=manifest.target.name,
        precision=manifest.target.precision,
        signed_bundle=proof.signed_bundle,
        on_target=here,
        day_utc=datetime.now(timezone.utc).date().isoformat(),
        device=_device(proof),
        outcomes=tuple(_outcome(answer) for answer in proof.answers),
        profile=anonymous(proof.profile),
        scores=scores(bundle, proof.profile, here),
    )
    require_anonymous(made, "the report", own_names())
    return made


def scores(bundle: Bundle, profile: ShortProfile, on_target: bool) -> tuple[Score, ...]:
    """The bundle's predictions of latency and energy against what was measured."""
    predicted = {question.kind: question.prediction for question in bundle.manifest.questions}
    median, energy = profile.median_ms, profile.energy
    joules = energy.total if energy is not None and energy.valid else None
    spread = joules.uncertainty_mj if joules else 0.0
    mj = (joules.value_mj, joules.value_mj - spread, joules.value_mj + spread) if joules else None
    ms = (median.value, median.low, median.high) if profile.steady else None
    return (
        _score("latency", "ms", predicted.get("latency"), ms, profile.steady_reason, on_target),
        _score("energy", "mJ", predicted.get("energy"), mj, _no_energy(profile), on_target),
    )


def anonymous(profile: ShortProfile) -> ShortProfile:
    """Without conditions that may name a machine, and without the files of samples, which stay at home."""
    rows = tuple(_row(row) for row in profile.conditions if KEPT.match(row.name))
    certificate = profile.certificate
    spoken = Certificate(certificate.valid, _cleared(certificate.reasons), _cleared(certificate.notes))
    energy = profile.energy
    if energy is not None:
        meter = energy.meter if not private_parts(energy.meter) else energy.meter.split()[0].rsplit("/", 1)[-1]
        energy = replace(energy, meter=meter, reasons=_cleared(energy.reasons), samples=None)
    unknown = profile.energy_unknown
    if unknown is not None:
        unknown = replace(unknown, reason=_cleared((unknown.reason,))[0], fix=None)
    return replace(
        profile,
        certificate=spoken,
        conditions=rows,
        conditions_sha256=conditions_digest(rows),
        energy=energy,
        energy_unknown=unknown,
    )


def require_anonymous(found: Attestation, where: str, secrets: Collection[str] = ()) -> None:
    """Raise where something private is in the document.

    Args:
        secrets: names of this machine and its user; a stranger's are not known.

    Raises:
        InputError: naming the field and what it seems to be.
    """
    if not _RUNTIME.fullmatch(found.device.runtime):
        raise InputError("a runtime is a name and a version", where=f"{where}: device.runtime")
    blank = replace(found, public_key="", manifest_sha256="", source_sha256="")
    blank = replace(blank, device=replace(found.device, runtime=""))
    blank = replace(blank, profile=replace(found.profile, conditions_sha256=""))
    for place, text in texts(encode(blank)):
        kinds = private_parts(text, secrets)
        if kinds:
            raise InputError(
                f"the report would tell strangers {kinds[0]}",
                where=f"{where}: {place.lstrip('.')}",
                why=f"it says {text[:60]!a}",
                fix="export the bundle under another name, or report this: it should have been left out",
            )


def write_attestation(found: Attestation, folder: Path, private_key: Path | None = None) -> tuple[Path, Path]:
    """Sign it and write both files into `folder`, under its own name.

    Raises:
        InputError, MissingError: it cannot be written.
        IntegrityError: the key is not the one that the document names.
    """
    key = load_private_key(private_key or device_key())
    if public_pem(key).decode() != found.public_key:
        raise IntegrityError("the report names another key", where=str(private_key), fix="attest with the same key")
    data = render_json(encode(found), "the report")
    paths = (folder / found.file_name, signature_of(folder / found.file_name))
    for path, content in zip(paths, (data, sign_bytes(key, data)), strict=True):
        with unwritable_is_typed(path), staging(path) as fresh:
            write_file(fresh, [content])
            publish(fresh, path, replace=True)
    return paths


def read_attestation(path: Path) -> Attestation:
    """A report that a stranger sent: who signed it is not known, but that nothing was changed since.

    Raises:
        InputError: it cannot be read, is of another schema, is named wrongly, or holds private data.
        IntegrityError: it was changed after signing, or is written otherwise than edgekit writes it.
    """
    data, signature = _read(path), _read(signature_of(path))
    content = parse_json(data, path.name)
    said = content.get("schema") if isinstance(content, Mapping) else None
    if said != SCHEMA:
        raise InputError("this is no report of this format", where=path.name, why=f"{said!a} is not {SCHEMA}")
    found = decode(Attestation, content, path.name)
    check_signature(parse_public_key(found.public_key.encode(), path.name), data, signature, path.name)
    if data != render_json(encode(found), path.name):
        raise IntegrityError("its bytes are not those that edgekit writes for it", where=path.name, fix="attest again")
    if path.name != found.file_name:
        raise InputError("the file has another name than its content says", where=path.name, fix=found.file_name)
    if found.profile.conditions_sha256 != conditions_digest(found.profile.conditions):
        raise IntegrityError("the digest is not that of its conditions", where=path.name, fix="attest again")
    require_anonymous(found, path.name, own_names())
    return found


def signature_of(path: Path) -> Path:
    """Where the signature of the report at `path` is."""
    return path.with_name(path.name.removesuffix(SUFFIX) + SIGNATURE_SUFFIX)


def _read(path: Path) -> bytes:
    try:
        if path.is_symlink() or path.stat().st_size > MAX_BYTES:
            raise InputError("this is no report", where=path.name, why=f"a link, or larger than {MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError("the report cannot be read", where=path.name, why=error.strerror or str(error)) from error


def _device(proof: Proof) -> Device:
    told = proof.device
    jetpack = next((row.before for row in proof.profile.conditions if row.name == "jetpack"), None)
    kind, _, release = told["system"].partition(" ")
    numbers = _NUMBERS.match(release)
    return Device(
        model=told["model"],
        machine=told["machine"],
        system=f"{kind} {numbers[0]}" if numbers else kind,
        jetpack=jetpack,
        python=told["python"],
        runtime=told["runtime"],
        threads=told["threads"],
        edgekit=edgekit.__version__,
    )


def _outcome(answer: Answer) -> Outcome:
    return Outcome(answer.id, answer.kind, answer.status, answer.value, answer.unit, answer.tolerance)


def _row(row: Condition) -> Condition:
    """A product's name in `virtual machine` may be a provider's or an owner's own."""
    before = "yes" if row.name == "virtual machine" and row.before else row.before
    return replace(row, before=before, source=None)


def _cleared(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """Without paths; what still tells something is left out whole."""
    shown = [without_paths(text) for text in sentences]
    return tuple("left out: it told something private" if private_parts(text) else text for text in shown)


def _no_energy(profile: ShortProfile) -> str | None:
    if profile.energy_unknown is not None:
        return "no meter gave a value"
    return None if profile.energy is None or profile.energy.valid else "the energy window is not valid"


def _score(
    kind: Literal["latency", "energy"],
    unit: Literal["ms", "mJ"],
    predicted: float | None,
    measured: tuple[float, float | None, float | None] | None,
    missing: str | None,
    on_target: bool,
) -> Score:
    value, low, high = measured or (None, None, None)
    reasons = []
    if predicted is None:
        reasons.append("the bundle predicts none")
    if value is None:
        reasons.append(f"it was not measured: {missing}")
    if not on_target:
        reasons.append("the device is not one that the bundle was exported for")
    if reasons or predicted is None or value is None:
        return Score(kind, unit, predicted, value, None, None, None, "; ".join(reasons))
    error, most, least = (None if each is None else predicted / each - 1 for each in (value, low, high))
    return Score(kind, unit, predicted, value, error, least, most, None)
