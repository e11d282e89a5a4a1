"""A detector trained by others, on real pictures, from the file to its average precision."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.evaluate.datasets import open_dataset
from edgekit.evaluate.evaluate import predict
from edgekit.evaluate.metrics import COCO_THRESHOLDS, average_precision
from edgekit.processing import decode
from edgekit.processing.detect import Detections
from edgekit.processing.nms import nms
from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec

OUTPUT = "758"
SPEC = ModelSpec(
    "FastestDet",
    "detection",
    (TensorSpec("input.1", "float32", (1, 3, 352, 352)),),
    (TensorSpec(OUTPUT, "float32", (1, 85, 22, 22)),),
    ImagePreprocess("input.1", 352, 352, resize="stretch", colour="bgr", std=(255.0, 255.0, 255.0)),
    DetectionPostprocess((OUTPUT,), "fastestdet-grid", score_threshold=0.01, iou_threshold=0.45),
    metric="ap",
)


@pytest.fixture(scope="module")
def chain():
    """Spec with COCO's labels, the 128 pictures, and the model in ONNX Runtime."""
    if not os.environ.get("EDGEKIT_DATA"):
        pytest.skip("EDGEKIT_DATA names no folder of real data")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("PIL")
    root = Path(os.environ["EDGEKIT_DATA"])
    names = re.findall(r"^\s+\d+: (.+)$", (root / "detection/coco128/classes.yaml").read_text(), re.MULTILINE)
    spec = replace(SPEC, labels=tuple(names))
    session = onnxruntime.InferenceSession(root / "onnx/FastestDet.onnx", providers=["CPUExecutionProvider"])
    data = open_dataset(root / "detection/coco128", spec, "val")
    return spec, data, lambda feeds: dict(zip([OUTPUT], session.run(None, dict(feeds)), strict=True))


def score(predictions, data):
    truths = [sample.truth for sample in data.samples]
    return [100 * average_precision(predictions, truths, 80, levels).mean for levels in (COCO_THRESHOLDS, (0.5,))]


def test_fastestdet_scores_what_an_independent_script_measured(chain):
    """AP 18.22 and AP50 33.77: measured with Pillow's antialiased bilinear resize and boxes that are not clipped."""
    from PIL import Image

    spec, data, run = chain
    found = []
    for sample in data.samples:
        image = sample.read()
        small = np.asarray(Image.fromarray(image).resize((352, 352), Image.Resampling.BILINEAR))
        tensor = small[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
        boxes, scores, labels = decode.fastestdet_grid(spec.postprocess, [run({"input.1": tensor})[OUTPUT][0]])
        kept = nms(boxes, scores, labels, 0.45, 300)
        stretch = np.array([image.shape[1], image.shape[0]] * 2, np.float32) / 352
        found.append(Detections(boxes[kept] * stretch, scores[kept], labels[kept]))
    assert score(found, data) == pytest.approx([18.22, 33.77], abs=0.15)  # JPEG decoders differ by a grey level


@pytest.mark.slow
def test_fastestdet_through_our_own_preprocessing_is_at_least_as_good(chain):
    """Clipping boxes to the picture gains some two points of AP, resizing without antialiasing half a one."""
    spec, data, run = chain
    found = [answer for _, answers in predict(run, spec, data.samples) for answer in answers]
    assert score(found, data) == pytest.approx([20.54, 35.40], abs=0.3)
