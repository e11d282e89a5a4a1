"""What a bundle can show for itself: parity, quality, coverage, and which precision was chosen by which figures.

`manifest.py` puts these dataclasses into the manifest; rules between their fields raise `ValueError` when one is built.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

_ROUNDED = 5e-3  # a share may stand in the manifest as it is printed, in whole percent

ChosenBy = Literal["race", "policy, not measured", "asked", "default"]


@dataclass(frozen=True)
class Parity:
    """One comparison of outputs with the parent's, as it was made.

    Attributes:
        where: what ran, such as `onnxruntime 1.23.2 on host`.
        against: the parent, such as `torch 2.9.1`.
        samples: how many inputs were compared.
        inputs: `real` data, a `drawn` picture, or `random`.
        max_abs: the largest absolute difference, in units of the output.
        relative: the largest over tensors of max|a-b| / max(0.01, max|b|).
        tolerance: the bound on `relative`.
        passed: whether the gate let it through.
    """

    where: str
    against: str
    samples: int
    inputs: Literal["real", "drawn", "random"]
    max_abs: float
    relative: float
    tolerance: float
    passed: bool

    def __post_init__(self) -> None:
        check_not_negative(samples=self.samples, max_abs=self.max_abs, relative=self.relative, tolerance=self.tolerance)
        if self.passed and (self.relative > self.tolerance or self.samples == 0):
            raise ValueError("parity says passed, but its own figures are outside the tolerance or rest on no sample")


@dataclass(frozen=True)
class Quality:
    """How well the bundle does its task, next to its parent; `unknown` comes with the reason.

    Attributes:
        metric: a metric's name; `parent` and `bundle` are its values in percent, `max_drop` the allowed loss in points.
        samples: how many samples the values rest on; `data_sha256` tells which.
        drop: points lost, parent minus bundle; `drop_upper` and `drop_lower` its one-sided bounds, each exceeded with a
            probability of 1 - `confidence`, from `replicates` resamplings by `method`; None where there is no bound.
    """

    status: Literal["measured", "unknown"]
    reason: str | None = None
    metric: str | None = None
    parent: float | None = None
    bundle: float | None = None
    max_drop: float | None = None
    samples: int | None = None
    data_sha256: str | None = None
    drop: float | None = None
    drop_upper: float | None = None
    drop_lower: float | None = None
    confidence: float | None = None
    replicates: int | None = None
    method: str | None = None

    def __post_init__(self) -> None:
        if self.status == "unknown" and not self.reason:
            raise ValueError("quality is unknown without a reason")
        if self.status == "unknown" and not all(value is None for value in (self.parent, self.bundle, self.drop)):
            raise ValueError("quality is unknown and yet has values")
        if self.status == "measured" and (not self.metric or None in (self.parent, self.bundle, self.samples)):
            raise ValueError("quality is measured: it needs metric, parent, bundle and samples")
        if self.drop is None and not (self.drop_upper is None and self.drop_lower is None):
            raise ValueError("quality has bounds of a drop that it does not give")
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ValueError(f"quality: a confidence lies between 0 and 1, not at {self.confidence}")
        if self.replicates is not None and self.replicates < 1:
            raise ValueError(f"quality: bounds rest on at least one replicate, not {self.replicates}")
        check_not_negative(samples=self.samples or 0, max_drop=self.max_drop or 0.0)
        if self.data_sha256 is not None:
            check_sha256("data_sha256", self.data_sha256)


@dataclass(frozen=True)
class Coverage:
    """How much of the model the runtime computes in int8.

    Attributes:
        bar: the least share that the gate lets through, 0 to 1.
        share: `int8_macs / total_macs`, 0 where there are no MACs.
        int8_macs, total_macs: multiply-accumulates of one inference, counted in the ONNX graph.
        source: `runtime` where the runtime itself told what it runs, `rule` where a static rule stands in for it.
        float_nodes: original node name to the reason why it stays float; nodes without MACs may be left out.
    """

    bar: float
    share: float
    int8_macs: int
    total_macs: int
    source: Literal["runtime", "rule"]
    float_nodes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_not_negative(bar=self.bar, share=self.share, int8_macs=self.int8_macs, total_macs=self.total_macs)
        if max(self.bar, self.share) > 1:
            raise ValueError("bar and share of coverage are at most 1")
        expected = self.int8_macs / self.total_macs if self.total_macs else 0.0
        if self.int8_macs > self.total_macs or abs(expected - self.share) > _ROUNDED:
            raise ValueError(
                f"coverage contradicts itself: {self.int8_macs} of {self.total_macs} MACs is no share of {self.share}"
            )


@dataclass(frozen=True)
class MeasuredOn:
    """The machine that figures come from; it tells its kind, never its name.

    Attributes:
        cpu: the processor's own name for itself.
        machine, system: as `platform` tells them, such as `x86_64` and `Linux 6.8`.
        runtime: with its version, such as `openvino 2026.4.1`.
        instruction_set: what the runtime was allowed to use: `AVX512_CORE_VNNI (all of this CPU)`, or the cap that was
            set, `ONEDNN_MAX_CPU_ISA=AVX2_VNNI`.
        threads: threads of one inference.
    """

    cpu: str
    machine: str
    system: str
    runtime: str
    instruction_set: str
    threads: int

    def __post_init__(self) -> None:
        for name in ("cpu", "machine", "system", "runtime", "instruction_set"):
            check_text(name, getattr(self, name))
        if self.threads < 1:
            raise ValueError(f"no figure was measured on {self.threads} threads")


@dataclass(frozen=True)
class Candidate:
    """One precision that could have been the bundle's.

    Attributes:
        eligible: whether it may be published: within the quality bar and above the coverage bar.
        reason: why it is not eligible or was not measured; a figure that is None has its reason here.
        quality, coverage: what the gates found; None where they were not asked.
        latency_ms: median of one inference, process CPU time.
        speedup: float's time divided by this one's, (low, value, high) with a 95 % interval; above 1 is faster.
    """

    precision: str
    eligible: bool
    reason: str | None = None
    quality: Quality | None = None
    coverage: Coverage | None = None
    latency_ms: float | None = None
    speedup: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        check_text("precision", self.precision)
        if not self.reason and not (self.eligible and self.latency_ms is not None):
            raise ValueError("a candidate that is not eligible or was not measured has a reason")
        if self.speedup is not None and self.latency_ms is None:
            raise ValueError("a candidate has a speedup, but no latency")
        check_not_negative(latency_ms=self.latency_ms or 0.0)
        if self.speedup is not None and not 0 < self.speedup[0] <= self.speedup[1] <= self.speedup[2]:
            raise ValueError("a speedup is (low, value, high), above zero and in ascending order")


@dataclass(frozen=True)
class Choice:
    """Why the bundle computes in the precision that it does.

    Attributes:
        precision: the main model's.
        chosen_by: `race`, where figures decided; `policy, not measured`, where the target is not this machine;
            `asked`, where the user named it; `default`, where there was nothing to choose.
        reason: one sentence for people.
        candidates: all that were considered, float first.
        measured_on: where the candidates' latencies come from; None where none was taken.
    """

    precision: str
    chosen_by: ChosenBy
    reason: str
    candidates: tuple[Candidate, ...] = ()
    measured_on: MeasuredOn | None = None

    def __post_init__(self) -> None:
        check_text("precision", self.precision)
        check_text("reason", self.reason)
        names = [candidate.precision for candidate in self.candidates]
        if len(set(names)) != len(names):
            raise ValueError("two candidates have the same precision")
        timed = {each.precision for each in self.candidates if each.latency_ms is not None}
        if timed and self.measured_on is None:
            raise ValueError("latencies say what they were measured on")
        if self.chosen_by == "race" and self.measured_on is None:
            raise ValueError("a race says what it was measured on")
        if self.chosen_by == "race" and self.precision not in timed:
            raise ValueError(f"the race was won by {self.precision[:40]!a}, which has no latency")


@dataclass(frozen=True)
class Variant:
    """The same model in another precision, carried in the bundle beside its main model.

    Attributes:
        files: role to path, such as `{"model": "variants/int8/model.onnx"}`; the paths are among the manifest's files,
            with the role `variant` or, where variants differ in settings alone, as the main model's own.
        settings: handed to the backend at load, in place of the target's.
        tolerance: the bound for self-tests of this variant, on max|a-b| / max(0.01, max|b|).
    """

    precision: str
    files: dict[str, str]
    settings: dict[str, str]
    tolerance: float
    quality: Quality
    coverage: Coverage | None = None

    def __post_init__(self) -> None:
        check_text("precision", self.precision)
        check_not_negative(tolerance=self.tolerance)
        if "model" not in self.files:
            raise ValueError("a variant has a file with the role 'model'")


@dataclass(frozen=True)
class LayerNoise:
    """How much noise quantization puts on one tensor, and the line of code that made it.

    Attributes:
        node, tensor: names in the graph.
        snr_db: 10 log10(sum a^2 / sum (a-b)^2), a the float tensor and b the same in int8; finite, so that a tensor
            that is reproduced exactly has no entry.
        module, file, line: the torch module's qualified name and its source line, as far as they are known.
    """

    node: str
    tensor: str
    snr_db: float
    module: str | None = None
    file: str | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.snr_db):
            raise ValueError(f"the signal-to-noise ratio of {self.tensor[:80]!a} is not finite")


def check_text(name: str, text: str) -> None:
    """Raise `ValueError` where the text is empty or blank."""
    if not text.strip():
        raise ValueError(f"{name} is empty")


def check_sha256(name: str, digest: str) -> None:
    """Raise `ValueError` where it is no SHA-256."""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"{name} is 64 lowercase hexadecimal digits, not {digest[:80]!a}")


def check_not_negative(**values: float) -> None:
    """Raise `ValueError` naming the first that is below zero."""
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name} is not negative, but {value} is")
