"""Requests to lower the shipped FemtoDet, or a small model, to a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import ModelProto, helper, numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from edgekit import profiles  # noqa: E402
from edgekit.exporters import LoweringRequest  # noqa: E402
from edgekit.graph.graph import Graph, tensor_specs  # noqa: E402
from edgekit.graph.passes import canonicalize  # noqa: E402
from edgekit.spec import ModelSpec  # noqa: E402

Request = Callable[..., LoweringRequest]


@pytest.fixture(scope="session")
def femtodet_for(shipped: tuple[nn.Module, ModelSpec], shipped_graph: Graph) -> Request:
    """`femtodet_for(target, precision)`."""

    def request(target: str, precision: str = "auto") -> LoweringRequest:
        return LoweringRequest(shipped_graph, shipped[1], profiles.get(target), precision)

    return request


@pytest.fixture(scope="session")
def small_for() -> Request:
    """`small_for(target, nodes, weights, shape)`: the nodes lead from `x` to `y`."""

    def request(target: str, nodes: list[Any], weights: Any = None, shape: Any = (1, 4)) -> LoweringRequest:
        tensors = [helper.make_tensor_value_info(name, 1, list(shape)) for name in ("x", "y")]
        stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
        graph = helper.make_graph(nodes, "small", tensors[:1], tensors[1:], stored)
        model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        found = canonicalize(Graph(model, {}, ("test",)), 20, 10)
        spec = ModelSpec("small", "tensor", tensor_specs(list(graph.input)), tensor_specs(list(graph.output)))
        return LoweringRequest(found, spec, profiles.get(target))

    return request
