"""The gates after an export: parity with the parent tensor by tensor, and the task's quality on held-out data.

A breach raises; what this machine cannot decide becomes an open question for the board.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.bundle import Parity, Quality, Question
from edgekit.divergence import describe_tensor, first_divergence_of, trace
from edgekit.errors import GateError
from edgekit.evaluate.datasets import Dataset
from edgekit.evaluate.parity import compare
from edgekit.exporters import Exported
from edgekit.graph.graph import Graph
from edgekit.graph.half import half_tensors
from edgekit.parents import Parent
from edgekit.profiles import DeviceProfile
from edgekit.quality import ParentAnswers, judge_quality
from edgekit.runtimes.backend import Backend
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.samples import Sample
from edgekit.spec import ModelSpec

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

# Largest deviation from the parent, relative to the largest output. fp32: kernels sum in another order (1e-6 is
# usual, OpenVINO's bf16 default gives 8e-3 and must fail). fp16: weights and, where computed so, activations carry
# 11 bits, and some fifty layers of rounding add up (FemtoDet: 3e-3). bf16 has 8 of them. int8 deviates by design: its
# bound only tells a model from a broken one (FastestDet loses 0.5 of its largest value in one cell);
# the task's metric judges it.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 1e-1, "int8": 2.0}


def parity_gate(
    parent: Parent,
    run: Run,
    samples: Sequence[Sample],
    tolerance: float,
    where: str,
    locate: Callable[[Sample], str],
) -> tuple[Parity, ...]:
    """Compare the bundle with its parent on every sample.

    Args:
        run: runs the bundle.
        tolerance: bound on max|a-b| / max(0.01, max|b|) a tensor.
        where: what ran, for the record.
        locate: names the first tensor that diverges; called only on a breach.

    Returns:
        One record a kind of sample: `real`, `drawn`, `random`.

    Raises:
        GateError: a tensor deviates beyond the tolerance, is not finite, or has another shape or dtype.
    """
    records = []
    compared: set[str] = set()
    for origin in dict.fromkeys(sample.origin for sample in samples):
        chosen = [sample for sample in samples if sample.origin == origin]
        worst_absolute = worst_relative = 0.0
        for sample in chosen:
            wanted = parent.run(sample.parent)
            compared |= {name for name, array in wanted.items() if array.size}
            for gap in compare(wanted, run(sample.bundle)):
                if not gap.within(tolerance):
                    raise GateError(
                        f"parity: output {gap.tensor!r} deviates from the parent on {origin} input",
                        where=locate(sample),
                        why=f"{gap.describe()}, allowed is {tolerance:.3g}; {where} against {parent.reference_name()}",
                        fix="mend the layer that is named, or state a wider bar with --tolerance",
                    )
                worst_absolute, worst_relative = max(worst_absolute, gap.max_abs), max(worst_relative, gap.relative)
        records.append(
            Parity(
                where=where,
                against=parent.reference_name(),
                samples=len(chosen),
                inputs=origin,
                max_abs=worst_absolute,
                relative=worst_relative,
                tolerance=tolerance,
                passed=True,
            )
        )
    untested = [tensor.name for tensor in parent.spec.outputs if tensor.name not in compared]
    if untested:
        raise GateError(
            f"parity: output {untested[0]!r} was empty on every input, so nothing was compared",
            where=where,
            why="the model finds nothing in random inputs",
            fix="give inputs on which it does with --calibration-data",
        )
    return tuple(records)


def half_range_gate(canonical: Graph, exported: Exported, samples: Sequence[Sample]) -> None:
    """Check that every tensor that becomes fp16 fits into it: a rehearsal that computes in fp32 would not show it.

    Raises:
        GateError: naming the first tensor whose values on the samples are beyond fp16.
    """
    limit = float(np.finfo(np.float16).max)
    half = half_tensors(exported.graph.model)
    for sample in samples:
        for name, values in trace(canonical, ORT, sample.bundle, {}).items():
            if name in half and values.size and not np.abs(values).max() <= limit:
                raise GateError(
                    f"fp16: tensor {name!r} does not fit",
                    where=describe_tensor(canonical, name),
                    why=f"it reaches {np.abs(values).max():.4g} on {sample.origin} input, fp16 ends at {limit:.0f}",
                    fix="export with --precision fp32, or scale the layer down",
                )


def locator(
    parent: Parent, canonical: Graph, exported: Exported, backend: Backend, tolerance: float
) -> Callable[[Sample], str]:
    """A function that names, for a sample, the first tensor that diverges and the source line it comes from."""
    return lambda sample: first_divergence_of(parent, canonical, exported, backend, sample, tolerance)


def quality_gate(
    parent: Parent,
    bundle_spec: ModelSpec,
    run: Run,
    data: Dataset | None,
    metric: Any,
    max_drop: float,
    limit: int | None,
) -> Quality:
    """The task metric of parent and bundle on the user's data; `judge_quality` is the form that does not raise.

    Args:
        metric: None for the spec's built-in metric, or a callable on predictions and truths.
        max_drop: points that may be lost.
        limit: at most so many samples.

    Raises:
        GateError: the bundle loses more than `max_drop`, by the drop's lower bound.
        InconclusiveError: the samples are too few to tell.
    """
    return judge_quality(ParentAnswers.of(parent, data, metric, limit), bundle_spec, run, max_drop).require()


def open_questions(
    profile: DeviceProfile, exported: Exported, tolerance: float, variants: Sequence[str] = ()
) -> tuple[Question, ...]:
    """What only the board can answer. A profile that pins no machine describes this one, and leaves nothing open.

    Args:
        variants: precisions that travel in the bundle because nobody could race them here.
    """
    if not profile.isa:
        return ()
    here = platform.machine()
    kernels = (
        f"the {profile.runtime} engine is built on the board" if exported.rehearsal else "its kernels are chosen there"
    )
    known = "this machine is not known to be one" if here in profile.isa else f"this machine is {here}"
    reason = f"{kernels}; {known}"
    rivals = " and ".join([exported.precision, *variants])
    raced = Question("race-on-device", "race", f"which of {rivals} is faster on {profile.title}", reason, unit="x")
    return (
        Question("parity-on-device", "parity", f"same outputs on {profile.title}", reason, tolerance=tolerance),
        Question("latency-on-device", "latency", f"median latency on {profile.title}", reason, unit="ms"),
        *((raced,) if variants else ()),
    )
