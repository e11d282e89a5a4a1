"""A detector trained by others, on real pictures, from the file to its average precision."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.evaluate.datasets import open_dataset
from edgekit.evaluate.evaluate import evaluate
from edgekit.evaluate.metrics import COCO_THRESHOLDS, average_precision
from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec

OUTPUT = "758"
PRE = ImagePreprocess("input.1", 352, 352, resize="stretch", antialias=True, colour="bgr", std=(255.0, 255.0, 255.0))
POST = DetectionPostprocess((OUTPUT,), "fastestdet-grid", score_threshold=0.01, iou_threshold=0.45, clip=False)
SPEC = ModelSpec(
    "FastestDet",
    "detection",
    (TensorSpec("input.1", "float32", (1, 3, 352, 352)),),
    (TensorSpec(OUTPUT, "float32", (1, 85, 22, 22)),),
    PRE,
    POST,
)


@pytest.fixture(scope="module")
def root():
    if not os.environ.get("EDGEKIT_DATA"):
        pytest.skip("EDGEKIT_DATA names no folder of real data")
    pytest.importorskip("PIL")
    return Path(os.environ["EDGEKIT_DATA"])


@pytest.fixture(scope="module")
def chain(root):
    """Spec with COCO's labels, and the 128 pictures."""
    names = re.findall(r"^\s+\d+: (.+)$", (root / "detection/coco128/classes.yaml").read_text(), re.MULTILINE)
    spec = replace(SPEC, labels=tuple(names))
    return spec, open_dataset(root / "detection/coco128", spec, "val")


def in_onnxruntime(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda feeds: {OUTPUT: session.run([OUTPUT], dict(feeds))[0]}


def in_openvino(path):
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feeds: {OUTPUT: model(dict(feeds))[OUTPUT]}


def score(runtime, root, chain, **changes):
    """AP and AP50 in percent; `changes` are fields of preprocessing, or `clip`."""
    spec, data = chain
    post = replace(POST, clip=changes.pop("clip", POST.clip))
    spec = replace(spec, preprocess=replace(PRE, **changes), postprocess=post)
    figures = []

    def both(predictions, truths):
        for thresholds in (COCO_THRESHOLDS, (0.5,)):
            figures.append(100 * average_precision(predictions, truths, len(spec.labels), thresholds).mean)
        return figures[0]

    evaluate(runtime(root / "onnx/FastestDet.onnx"), spec, data, both)
    return figures


@pytest.mark.parametrize("runtime", [in_onnxruntime, in_openvino])
def test_fastestdet_scores_what_an_independent_script_measured(runtime, root, chain):
    """AP 18.22 and AP50 33.77: measured with Pillow's antialiased bilinear resize and boxes that are not clipped."""
    found = score(runtime, root, chain)
    assert found == pytest.approx([18.22, 33.77], abs=0.15)  # JPEG decoders differ by a grey level


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "figures"),
    [
        ({"resize": "letterbox"}, [17.45, 31.80]),
        ({"antialias": False}, [18.98, 35.20]),
        ({"clip": True}, [20.02, 33.93]),
        ({"antialias": False, "clip": True}, [20.55, 35.40]),
    ],
)
def test_every_part_of_the_description_moves_the_figures(root, chain, changes, figures):
    assert score(in_onnxruntime, root, chain, **changes) == pytest.approx(figures, abs=0.15)
