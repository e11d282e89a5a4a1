"""From a detector's outputs to boxes in pixels of the original pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.processing.decode import DECODERS, SUPPRESSED, Candidates
from edgekit.processing.nms import nms
from edgekit.processing.preprocess import Placement
from edgekit.spec import DetectionPostprocess

AXES = {"yolox-grid": (4,), "fastestdet-grid": (4,), "yolov8-rows": (3,), "boxes-scores": (3, 3), "detections": (3,)}
"""Axes of each output, the batch included."""
_LEAST_CHANNELS = {"yolox-grid": 6, "fastestdet-grid": 6, "yolov8-rows": 5, "boxes-scores": 1, "detections": 1}
_LAST_AXIS = {"boxes-scores": (4, None), "detections": (6,)}  # its size where it is fixed


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one picture, best first.

    Attributes:
        boxes: float32 (n, 4), corners x1 y1 x2 y2 in pixels of the original picture, clipped to it if the spec says so.
        scores: float32 (n,), 0 to 1.
        labels: int64 (n,), class indices.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)


def detections(
    spec: DetectionPostprocess, outputs: Mapping[str, npt.NDArray[Any]], placements: Sequence[Placement]
) -> list[Detections]:
    """Decode, suppress overlaps class by class unless the graph did, and map back to each picture.

    Overlaps are compared before boxes are clipped; scaling the axes does not change them.

    Args:
        spec: how outputs are laid out, and the thresholds.
        outputs: the model's outputs by name, batch axis first.
        placements: where each picture of the batch lies in the input.

    Raises:
        InputError: an output is missing, has another shape than `spec.decode` reads, or holds NaN where it matters.
    """
    arrays = [_array(spec, outputs, i, len(placements)) for i in range(len(spec.outputs))]
    decoder = DECODERS[spec.decode]
    found = []
    for i, placement in enumerate(placements):
        boxes, scores, labels = _finite(spec, decoder(spec, [array[i] for array in arrays]))
        if spec.decode in SUPPRESSED:
            kept = np.arange(min(len(scores), spec.max_detections))
        else:
            kept = nms(boxes, scores, labels, spec.iou_threshold, spec.max_detections)
        found.append(Detections(placement.to_picture(boxes[kept], spec.clip), scores[kept], labels[kept]))
    return found


def _array(
    spec: DetectionPostprocess, outputs: Mapping[str, npt.NDArray[Any]], index: int, batch: int
) -> npt.NDArray[Any]:
    name, axes = spec.outputs[index], AXES[spec.decode][index]
    if name not in outputs:
        raise InputError(
            f"the model returned no output {name!r}",
            where="postprocess.outputs",
            why="postprocessing reads it; the model returned " + (", ".join(outputs) or "nothing"),
        )
    array = outputs[name]
    channels = _LEAST_CHANNELS[spec.decode] if index == len(spec.outputs) - 1 else 0
    last = _LAST_AXIS[spec.decode][index] if spec.decode in _LAST_AXIS else None
    fits = array.ndim == axes and len(array) == batch and array.shape[1] >= channels
    if not fits or (last is not None and array.shape[-1] != last):
        raise InputError(
            f"decode {spec.decode!r} cannot read an array of shape {array.shape} for {batch} picture(s)",
            where=f"output {name!r}",
            why=f"it reads {axes} axes: the batch, then what edgekit.spec.DetectionPostprocess says",
            fix="choose the decode that fits the model",
        )
    return array


def _finite(spec: DetectionPostprocess, candidates: Candidates) -> Candidates:
    if np.isfinite(candidates.boxes).all() and np.isfinite(candidates.scores).all():
        return candidates
    raise InputError(
        "the model's output holds NaN or infinity",
        where="output " + ", ".join(map(repr, spec.outputs)),
        why="its arithmetic overflowed, most often in half precision, or its input was not finite",
        fix="run it in fp32, or compare it with its parent",
    )
