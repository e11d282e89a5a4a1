"""The benchmarks' detectors: a model, the pictures to calibrate on, the held-out ones to score AP50 on, and what an
export makes of them in int8.

Both come with data that is not in the repository: `$EDGEKIT_DATA`, see the README.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit import pipeline
from edgekit.bundle import Bundle
from edgekit.config import CalibrationOptions, Config, ExportOptions, QualityOptions
from edgekit.errors import MissingError
from edgekit.evaluate.datasets import Dataset, open_dataset
from edgekit.intake import Intake
from edgekit.parents import Parent
from edgekit.runtimes.backend import EngineRequest
from edgekit.sources import open_source
from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec

TARGETS = {"onnxruntime": "snapdragon-865", "openvino": "intel-n100"}
"""Whose bundle is scored, by runtime."""
SCORED = "no comparable value"
"""How the account of a try ends that was scored, but not to a number; of the others the points are told."""


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


@dataclass(frozen=True)
class Published:
    """What `edgekit export --precision int8 --allow-slower` publishes.

    Attributes:
        form: the bundle's own bytes, on one thread.
        target: whom for.
        coverage: share of the multiply-accumulates in int8, 0 to 1.
        returned: how many layers the search returned to float.
        tried: what it tried before, and what each try came to.
        drop, drop_upper: points lost as the export saw them, and their bound at 95 %, which allows for one look.
    """

    form: EngineRequest
    target: str
    coverage: float
    returned: int
    tried: tuple[str, ...]
    drop: float
    drop_upper: float

    @property
    def looks(self) -> int:
        """How many int8 forms were scored on the held-out samples, this one included."""
        return 1 + sum(each.endswith(SCORED) or "points lost" in each for each in self.tried)


def publish(subject: Detector, runtime: str, samples: int) -> Published:
    """Export for the runtime's target, calibrated on the first `samples` pictures.

    Raises:
        GateError, InconclusiveError: no form passes.
    """
    config = Config(
        calibration=CalibrationOptions(calibration_samples=samples),
        quality=QualityOptions(max_drop=subject.max_drop),
        export=ExportOptions(precision="int8", allow_slower=True),
    )
    parent = replace(subject.parent, spec=subject.spec)  # type: ignore[type-var]  # every Parent is a frozen dataclass
    intake = Intake(parent, subject.held_out, subject.held_out, None, ranges=subject.calibration)
    with tempfile.TemporaryDirectory() as folder:
        path = pipeline.export(config, TARGETS[runtime], Path(folder) / "bundle.edgekit", intake=intake).path
        with Bundle.open(path) as bundle:
            return read_published(bundle)


def read_published(bundle: Bundle) -> Published:
    """From an int8 bundle with a measured quality."""
    manifest = bundle.manifest
    quality = manifest.quality
    assert manifest.target.precision == "int8" and quality.drop is not None and quality.drop_upper is not None
    (coverage,) = (each.coverage for each in manifest.choice.candidates if each.precision == "int8")
    (result,) = (step.result for step in manifest.history if step.step == "int8")
    files = {role: bundle.read(name) for role in ("model", "weights") for name in bundle.files_with_role(role)}
    form = EngineRequest(
        files["model"],
        files.get("weights"),
        manifest.target.settings,
        threads=1,
        outputs=tuple(tensor.name for tensor in manifest.model.outputs),
    )
    target, returned, tried = manifest.target.name, len(result["returned_to_float"]), tuple(result["tried"])
    return Published(form, target, coverage.share, returned, tried, quality.drop, quality.drop_upper)


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
