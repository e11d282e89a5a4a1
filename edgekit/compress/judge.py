"""How far a quantized graph's outputs are from the float graph's, on samples that nobody needs labels for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.compress.calibration import Feeds
from edgekit.errors import InputError
from edgekit.graph.end_to_end import PREFIX
from edgekit.graph.graph import Graph
from edgekit.graph.qdq import lower
from edgekit.graph.quantspec import QuantSpec
from edgekit.graph.wiring import Wiring
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT

Answers = Sequence[Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Judge:
    """What the float graph said of some samples.

    Attributes:
        samples: the inputs.
        wanted: the float graph's outputs by name, one mapping a sample; without the detections that `end_to_end`
            makes of the others (`ModelSpec.derived`), whose rows change places where scores are nearly equal.
        runtime: whose dialect quantized graphs are judged in; ONNX Runtime computes them whatever it is, since
            integers and scales are what differ.
    """

    samples: Sequence[Feeds]
    wanted: Answers
    runtime: str

    @classmethod
    def of(cls, graph: Graph, samples: Sequence[Feeds], runtime: str) -> Judge:
        """Run the float graph on each sample, once.

        Raises:
            InputError: it gives NaN or infinity for one.
        """
        derived = {name for name, node in Wiring(graph.model).producers.items() if node.name.startswith(PREFIX)}
        answers = _run(graph, samples)
        wanted = [{name: outputs[name] for name in outputs if name not in derived} for outputs in answers]
        for number, outputs in enumerate(wanted, 1):
            for name, values in outputs.items():
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    raise InputError(
                        f"output {name!r} holds NaN or infinity",
                        where=f"calibration sample {number} of those held apart",
                        why="no error can be measured against it",
                        fix="look at the sample, and at the layer that computes the output",
                    )
        return cls(samples, wanted, runtime)

    def error(self, graph: Graph, spec: QuantSpec) -> float:
        """`output_error` of the graph that `spec` makes of `graph`, in the judge's dialect.

        Raises:
            UnsupportedError: the dialect cannot express it.
        """
        return output_error(self.wanted, _run(lower(graph, spec, self.runtime), self.samples))


def output_error(wanted: Answers, got: Answers) -> float:
    """The share of the outputs' variance that the deviation from `wanted` makes up; 0 where there is none.

    The mean over channels of sum (got - wanted)^2 / sum (wanted - mean)^2, sums over samples and positions: the
    reciprocal of the signal-to-noise ratio, by channel, so that box sizes in pixels do not outweigh scores. Channels
    stand on axis 1 of pictures and on the last of everything else; those that never vary have no scale and are left
    out, unless all are, when the sum of wanted^2 is theirs. Outputs of integers say nothing.
    """
    errors = []
    for name, first in wanted[0].items():
        if first.dtype.kind != "f" or not first.size:
            continue
        exact = _channels([outputs[name] for outputs in wanted])
        noise = ((_channels([outputs[name] for outputs in got]) - exact) ** 2).sum(axis=1)
        signal = ((exact - exact.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        if not signal.any():
            signal = (exact**2).sum(axis=1)
        varies = signal > 0
        if varies.any():
            errors.append(float((noise[varies] / signal[varies]).mean()))
    return float(np.mean(errors)) if errors else 0.0


def _channels(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """A row a channel, float64 (channels, values)."""
    axis = 1 if arrays[0].ndim == 4 else -1
    rows = [np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) if a.ndim else a.reshape(1, 1) for a in arrays]
    return np.concatenate(rows, axis=1).astype(np.float64)


def _run(graph: Graph, samples: Sequence[Feeds]) -> list[dict[str, npt.NDArray[Any]]]:
    engine = ORT.open(EngineRequest(graph.serialized()))
    try:
        return [dict(engine.run(feeds)) for feeds in samples]
    finally:
        engine.close()
