"""`edgekit prove`: on the board, replay the bundle's self-test and answer its open questions, signed.

The answer is a JSON file beside the bundle with a detached signature. A question that cannot be answered here stays
`open` with its reason; nothing unanswered counts as passed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.bundle import Bundle, Question, SelfTest, generate_keys, load_private_key, sign_bytes
from edgekit.bundle.atomic import publish, staging, unwritable_is_typed, write_file
from edgekit.errors import GateError
from edgekit.evaluate.parity import compare
from edgekit.runtimes.session import Session, open_session
from edgekit.structure import encode

SCHEMA = "edgekit/proof/1"
LATENCY_RUNS = 50
LATENCY_WARMUP = 10


@dataclass(frozen=True)
class Answer:
    """What was found for one question or self-test.

    Attributes:
        status: `passed`, `failed`, `measured` (a figure without a bar), or `open`.
        value, unit, samples: the figure.
        tolerance: the bar, where there is one.
        reason: why it failed or stays open.
    """

    id: str
    kind: str
    status: Literal["passed", "failed", "measured", "open"]
    value: float | None = None
    unit: str | None = None
    samples: int | None = None
    tolerance: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Proof:
    """The signed document: which bundle, on what, and the answers."""

    schema: str
    bundle: str
    version: int
    manifest_sha256: str
    signed_bundle: bool
    device: dict[str, str]
    answers: tuple[Answer, ...]

    @property
    def failed(self) -> list[Answer]:
        """The answers that say no."""
        return [answer for answer in self.answers if answer.status == "failed"]


def prove(path: Path, *, key: Path | None = None, threads: int | None = None) -> Proof:
    """Replay the self-tests and answer the open questions on this machine.

    Args:
        path: the bundle.
        key: a public key; with one, the bundle must be signed by it.
        threads: threads for one inference.

    Raises:
        MissingError: this machine does not have the bundle's runtime.
        IntegrityError, InputError: as `load`.
    """
    with Bundle.open(path, key=key) as bundle:
        bundle.verify()
        with open_session(bundle, threads=threads) as session:
            tests = tuple(_replay(bundle, session, i, test) for i, test in enumerate(bundle.manifest.selftest))
            answers = tuple(_answer(bundle, session, question, tests) for question in bundle.manifest.questions)
            device = _device(session)
        manifest = bundle.manifest
        return Proof(SCHEMA, manifest.name, manifest.version, bundle.digest, bundle.signed, device, (*tests, *answers))


def write_proof(proof: Proof, bundle: Path, private_key: Path | None = None) -> tuple[Path, Path]:
    """Write `BUNDLE.proof.json` and `BUNDLE.proof.sig` beside the bundle.

    Args:
        private_key: signs the answer; by default this device's own key, made on first use.

    Returns:
        The two paths.
    """
    key = load_private_key(private_key or device_key())
    data = (json.dumps(encode(proof), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    stem = bundle.resolve()
    paths = (stem.with_name(f"{stem.name}.proof.json"), stem.with_name(f"{stem.name}.proof.sig"))
    for path, content in zip(paths, (data, sign_bytes(key, data)), strict=True):
        with unwritable_is_typed(path), staging(path) as fresh:
            write_file(fresh, [content])
            publish(fresh, path, replace=True)
    return paths


def require_passed(proof: Proof) -> None:
    """Raise `GateError` naming the first answer that says no."""
    if proof.failed:
        first = proof.failed[0]
        raise GateError(
            f"{first.id}: the bundle does not compute here what its parent did",
            where=f"{proof.device['runtime']} on {proof.device['machine']}",
            why=first.reason,
            fix="do not deploy it on this device; edgekit export says which layer diverges",
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


def _replay(bundle: Bundle, session: Session, index: int, test: SelfTest) -> Answer:
    feeds = {name: bundle.read_array(file) for name, file in test.inputs.items()}
    wanted = {name: bundle.read_array(file) for name, file in test.outputs.items()}
    gaps = compare(wanted, session.run(feeds))
    answer = Answer(f"selftest-{index}", "parity", "passed", samples=1, tolerance=test.tolerance)
    bad = next((gap for gap in gaps if not gap.within(test.tolerance)), None)
    if bad is not None:
        return replace(answer, status="failed", reason=f"output {bad.tensor!r}: {bad.describe()}")
    return replace(answer, value=max(gap.relative for gap in gaps), unit="relative")


def _answer(bundle: Bundle, session: Session, question: Question, tests: tuple[Answer, ...]) -> Answer:
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
        median = _median_latency_ms(session, feeds)
        bar = question.tolerance
        status: Literal["passed", "failed", "measured"] = "measured"
        if bar is not None:
            status = "passed" if median <= bar else "failed"
        return replace(blank, status=status, value=median, unit="ms", samples=LATENCY_RUNS)
    return replace(blank, reason=f"this version cannot answer a question of kind {question.kind}")


def _median_latency_ms(session: Session, feeds: Mapping[str, np.ndarray]) -> float:
    for _ in range(LATENCY_WARMUP):  # on the very shapes that are timed
        session.run(feeds)
    taken = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter_ns()
        session.run(feeds)
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(taken)


def _device(session: Session) -> dict[str, str]:
    """What ran, without anything that names the machine or its user."""
    return {
        "machine": platform.machine(),
        "model": _machine_model(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "runtime": session.runtime,
    }


def _machine_model() -> str:
    """The board, or where no device tree names it the processor; either is the same for all of its kind."""
    board, processor = Path("/proc/device-tree/model"), Path("/proc/cpuinfo")
    if board.is_file():
        return board.read_text(errors="replace").strip("\0\n ")
    lines = processor.read_text(errors="replace").splitlines() if processor.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
