"""Small ONNX models, written by hand, for the passes to work on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

Build = Callable[..., ModelProto]


@pytest.fixture(scope="session")
def build() -> Build:
    """`build(nodes, inputs, outputs, weights, opset, ir)`: shapes by name, float32 unless one starts with a dtype."""

    def value(name: str, shape: Any) -> Any:
        dtype = TensorProto.FLOAT
        if isinstance(shape, tuple) and shape and isinstance(shape[0], str) and shape[0].isupper():
            dtype, shape = getattr(TensorProto, shape[0]), shape[1:]
        return helper.make_tensor_value_info(name, dtype, list(shape) if shape is not None else None)

    def make(
        nodes: list[NodeProto],
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        weights: dict[str, np.ndarray] | None = None,
        opset: int = 20,
        ir: int = 10,
    ) -> ModelProto:
        graph = helper.make_graph(
            nodes,
            "test",
            [value(name, shape) for name, shape in inputs.items()],
            [value(name, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)

    return make


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[str, np.ndarray]]:
    """`run(model, **feeds)` in ONNX Runtime."""
    from edgekit.runtimes.backend import EngineRequest
    from edgekit.runtimes.onnxruntime import BACKEND

    def run_model(model: ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return BACKEND.open(EngineRequest(model.SerializeToString(), threads=1)).run(feeds)

    return run_model
