"""Bundles of a detector so small that it can be read: it finds cells of 8x8 pixels that are red or blue.

`data/detector.onnx` was made by onnx 1.23.2 with these lines, so that no test here needs onnx:

    weight = np.array([*[[0, 0, 0]] * 4, [4, 4, 4], [9, 0, -9], [-9, 0, 9]], np.float32).reshape(7, 3, 1, 1)
    bias = np.array([0.5, 0.5, 0, 0, -2, 0, 0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["cells"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Conv", ["cells", "weight", "bias"], ["head"], "head"),
        ],
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("head", TensorProto.FLOAT, ["batch", 7, 4, 4])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)

`data/classifier.onnx` likewise, of a GlobalAveragePool from "image" to "mean" and a Flatten to "logits" (batch, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import Manifest, Quality, RuntimeNeed, Source, TargetNeed, write_bundle
from edgekit.spec import ModelSpec

# As every profile for OpenVINO has it: some processors compute in bf16 by default.
PINNED = {"openvino": {"INFERENCE_PRECISION_HINT": "f32"}}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, detector: Path, detector_spec: ModelSpec) -> Make:
    """Write a bundle of the detector and return its path: `make("b.edgekit", runtime="openvino", isa=("riscv64",))`."""

    def write(
        name: str = "cells",
        *,
        runtime: str = "onnxruntime",
        needs: tuple[str, str | None] = ("1.0", None),
        isa: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
        spec: ModelSpec = detector_spec,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        private_key: Any = None,
        **fields: Any,
    ) -> Path:
        need = RuntimeNeed(runtime, *needs)
        manifest = Manifest(
            name="cells",
            version=1,
            model=spec,
            target=TargetNeed(
                "host", need, "fp32", isa, PINNED.get(runtime, {}) if settings is None else dict(settings)
            ),
            files=(),
            source=Source("onnx", "detector.onnx", "0" * 64),
            history=(),
            parity=(),
            quality=Quality("unknown", reason="it is a test"),
            questions=(),
            selftest=(),
            tools={},
            origins={},
        )
        contents = files if files is not None else {"model.onnx": ("model", detector.read_bytes())}
        path = tmp_path / name
        write_bundle(path, replace(manifest, **fields), contents, private_key=private_key).close()
        return path

    return write
