"""Model specs: JSON both ways, and nothing that no model could mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.spec import ClassificationPostprocess, DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec

names = st.text(min_size=1, max_size=8)
triples = st.tuples(*[st.floats(-1e6, 1e6)] * 3)
tensors = st.builds(
    TensorSpec,
    names,
    st.sampled_from(["float32", "float16", "uint8", "int64", "bool"]),
    st.lists(st.integers(1, 4096) | names, max_size=5).map(tuple),
)
preprocessing = st.builds(
    ImagePreprocess,
    names,
    st.integers(1, 4096),
    st.integers(1, 4096),
    resize=st.sampled_from(["letterbox", "stretch", "crop"]),
    antialias=st.booleans(),
    anchor=st.sampled_from(["top-left", "center"]),
    pad_value=st.integers(0, 255),
    colour=st.sampled_from(["rgb", "bgr"]),
    mean=triples,
    std=triples.filter(lambda std: 0.0 not in std),
    layout=st.sampled_from(["nchw", "nhwc"]),
    dtype=st.sampled_from(["float32", "uint8"]),
)
ratio = st.floats(0, 1)
detection = st.builds(
    DetectionPostprocess,
    st.tuples(names),
    st.sampled_from(["yolox-grid", "fastestdet-grid", "yolov8-rows"]),
    st.integers(1, 64),
    ratio,
    ratio,
    st.integers(1, 1000),
    clip=st.booleans(),
)
pairs = st.builds(DetectionPostprocess, st.tuples(names, names), st.just("boxes-scores"))
classification = st.builds(ClassificationPostprocess, st.tuples(names), st.booleans(), st.integers(1, 100))
specs = st.builds(
    ModelSpec,
    names,
    st.sampled_from(["detection", "classification", "tensor"]),
    st.lists(tensors, max_size=3).map(tuple),
    st.lists(tensors, max_size=3).map(tuple),
    st.none() | preprocessing,
    st.none() | detection | pairs | classification,
    st.lists(names, max_size=4).map(tuple),
    st.none() | st.sampled_from(["ap50", "ap", "top1", "package:function"]),
)

MINIMAL: dict[str, Any] = {"name": "m", "task": "tensor", "inputs": [], "outputs": []}


@given(specs)
def test_a_spec_goes_through_json_and_back(spec: ModelSpec) -> None:
    text = json.dumps(spec.as_json(), allow_nan=False)
    assert ModelSpec.from_json(json.loads(text)) == spec


def test_a_spec_may_be_as_short_as_this() -> None:
    assert ModelSpec.from_json(MINIMAL) == ModelSpec("m", "tensor", (), ())


def test_a_spec_from_before_antialiasing_and_clipping_were_named_means_what_it_meant() -> None:
    preprocess = {"input": "x", "height": 8, "width": 8, "resize": "stretch", "kind": "image"}
    postprocess = {"kind": "detection", "outputs": ["y"], "decode": "yolox-grid"}
    spec = ModelSpec.from_json({**MINIMAL, "preprocess": preprocess, "postprocess": postprocess})
    assert spec.preprocess == ImagePreprocess("x", 8, 8, "stretch", resampler="bilinear", antialias=False)
    assert spec.postprocess == DetectionPostprocess(("y",), "yolox-grid", clip=True)


@pytest.mark.parametrize(
    ("field", "value", "where", "said"),
    [
        ("task", "segmentation", "spec.task", "one of detection, classification, tensor"),
        ("inputs", [{"name": "x", "dtype": "float32"}], "spec.inputs[0]", "missing field 'shape'"),
        ("inputs", [{"name": "x", "dtype": "f", "shape": [1.5]}], "spec.inputs[0].shape[0]", "a whole number or text"),
        ("labels", "cat", "spec.labels", "a list"),
        ("preprocess", {"input": "x", "height": 8}, "spec.preprocess", "missing field 'width'"),
        ("preprocess", {"input": "x", "height": 0, "width": 8}, "spec.preprocess", "no area"),
        ("preprocess", {"input": "x", "height": 8, "width": 8, "std": [1, 0, 1]}, "spec.preprocess", "divides by zero"),
        ("preprocess", {"input": "x", "height": 8, "width": 8, "pad_value": 256}, "spec.preprocess", "grey level"),
        ("preprocess", {"input": "x", "height": 8, "width": 8, "colour": "hsv"}, "spec.preprocess.colour", "rgb, bgr"),
        (
            "preprocess",
            {"input": "x", "height": 8, "width": 8, "resampler": "cubic"},
            "spec.preprocess.resampler",
            "one of",
        ),
        ("preprocess", {"input": "x", "height": 8, "width": 8, "antialias": 1}, "spec.preprocess.antialias", "true"),
        ("postprocess", {"outputs": ["y"]}, "spec.postprocess.kind", "one of classification, detection"),
        ("postprocess", {"kind": "detection", "outputs": ["y"]}, "spec.postprocess", "missing field 'decode'"),
        (
            "postprocess",
            {"kind": "detection", "outputs": ["y"], "decode": "boxes-scores"},
            "spec.postprocess",
            "reads 2 output(s), 1 are named",
        ),
        (
            "postprocess",
            {"kind": "detection", "outputs": ["y"], "decode": "yolox-grid", "stride": 0},
            "spec.postprocess",
            "at least 1",
        ),
        (
            "postprocess",
            {"kind": "detection", "outputs": ["y"], "decode": "yolox-grid", "iou_threshold": 1.5},
            "spec.postprocess",
            "between 0 and 1",
        ),
        ("postprocess", {"kind": "classification", "outputs": []}, "spec.postprocess.outputs", "1 values"),
        ("postprocess", {"kind": "classification", "outputs": ["y"], "top_k": 0}, "spec.postprocess", "at least 1"),
    ],
)
def test_what_no_model_could_mean_is_refused_with_its_field(field: str, value: Any, where: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        ModelSpec.from_json({**MINIMAL, field: value})
    assert caught.value.where == where
    assert said in caught.value.what
