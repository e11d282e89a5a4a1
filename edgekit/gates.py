"""The gates after an export: parity with the parent tensor by tensor, and the task's quality on held-out data.

A breach raises; what this machine cannot decide becomes an open question for the board.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.bundle import Parity, Quality, Question
from edgekit.divergence import first_divergence_of
from edgekit.errors import GateError
from edgekit.evaluate.datasets import Dataset
from edgekit.evaluate.parity import compare
from edgekit.evaluate.suppression import suppression_fault
from edgekit.exporters import Exported
from edgekit.graph.end_to_end import OUTPUT as DETECTIONS
from edgekit.graph.graph import Graph
from edgekit.parents import Parent
from edgekit.profiles import DeviceProfile
from edgekit.quality import ParentAnswers, judge_quality
from edgekit.runtimes.backend import Backend
from edgekit.samples import Sample
from edgekit.spec import DetectionPostprocess, ModelSpec

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
    derived: Collection[str] = (),
) -> tuple[Parity, ...]:
    """Compare the bundle with its parent on every sample.

    Args:
        run: runs the bundle.
        tolerance: bound on max|a-b| / max(0.01, max|b|) a tensor.
        where: what ran, for the record.
        locate: names the first tensor that diverges; called only on a breach.
        derived: outputs of the bundle that the parent has none of, made of the others.

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
            for gap in compare(wanted, run(sample.bundle), derived):
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


def detections_gate(post: DetectionPostprocess, run: Run, samples: Sequence[Sample], where: str) -> None:
    """Check that the detections of a graph that ends in them are those of numpy on the same run's raw outputs.

    Raises:
        GateError: naming the input and the box that is wrong, missing or too much.
    """
    for sample in samples:
        outputs = run(sample.bundle)
        fault = suppression_fault(post, outputs, outputs[DETECTIONS])
        if fault is not None:
            raise GateError(
                "detections: the graph's differ from numpy's",
                where=f"{where}, on {sample.origin} input",
                why=fault,
                fix="leave --end-to-end away: the device then decodes the raw outputs",
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
