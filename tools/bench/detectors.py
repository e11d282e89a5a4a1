"""The benchmarks' detectors: a model, the pictures to calibrate on, and the held-out ones to score AP50 on.

Both come with data that is not in the repository: `$EDGEKIT_DATA`, see the README.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import MissingError
from edgekit.evaluate.datasets import Dataset, open_dataset
from edgekit.parents import Parent
from edgekit.sources import open_source
from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec


@dataclass(frozen=True)
class Detector:
    """A detector with its data.

    Attributes:
        name: the row's.
        parent: the float model.
        spec: how pictures become tensors and outputs boxes, with the metric `ap50`.
        calibration, held_out: pictures for the ranges, and labelled ones that no range has seen.
        max_drop: points of AP50 that int8 may lose.
    """

    name: str
    parent: Parent
    spec: ModelSpec
    calibration: Dataset
    held_out: Dataset
    max_drop: float


def femtodet() -> Detector:
    """The shipped FemtoDet, with BCCD: calibrated on `train`, scored on the 72 pictures of `test`.

    Raises:
        MissingError: BCCD is not there.
    """
    root = _data("detection/bccd")
    parent = open_source("femtodet")
    sets = [open_dataset(root, parent.spec, split) for split in ("train", "test")]
    return Detector("femtodet", parent, parent.spec, *sets, max_drop=0.5)


def fastestdet() -> Detector:
    """FastestDet as its authors published it, with coco128: 64 pictures of COCO's `train`, scored on 128 of its `val`.

    Preprocessing and boxes are what an independent script measured AP50 33.77 with (`tests/evaluate/
    test_golden_chain.py`): Pillow's antialiased bilinear stretch, BGR / 255, boxes not clipped.

    Raises:
        MissingError: the file or the pictures are not there.
    """
    root, model = _data("detection/coco128"), _data("onnx/FastestDet.onnx")
    parent = open_source(str(model))
    spec = replace(
        parent.spec,
        task="detection",
        preprocess=ImagePreprocess(
            parent.spec.inputs[0].name, 352, 352, resize="stretch", antialias=True, colour="bgr", std=(255.0,) * 3
        ),
        postprocess=DetectionPostprocess(
            (parent.spec.outputs[0].name,),
            "fastestdet-grid",
            stride=16,
            score_threshold=0.01,
            iou_threshold=0.45,
            clip=False,
        ),
        labels=tuple(re.findall(r"^\s+\d+: (.+)$", (root / "classes.yaml").read_text(encoding="utf-8"), re.MULTILINE)),
        metric="ap50",
    )
    sets = [open_dataset(root, spec, split) for split in ("train", "val")]
    return Detector("fastestdet", parent, spec, *sets, max_drop=0.8)


DETECTORS: dict[str, Callable[[], Detector]] = {"femtodet": femtodet, "fastestdet": fastestdet}


def _data(path: str) -> Path:
    root = os.environ.get("EDGEKIT_DATA")
    full = Path(root or ".") / path
    if not root or not full.exists():
        raise MissingError(
            f"{path} is not on this machine",
            where=str(full),
            fix="set EDGEKIT_DATA to the folder that holds it; see README",
        )
    return full
