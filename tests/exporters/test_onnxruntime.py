"""ONNX Runtime takes the canonical graph as it is, and says which node it has no kernel for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import helper  # noqa: E402

from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.exporters import LoweringRequest  # noqa: E402
from edgekit.exporters.onnxruntime import EXPORTER  # noqa: E402

Request = Callable[..., LoweringRequest]


def test_the_artefact_is_the_canonical_graph_itself(femtodet_for: Request) -> None:
    request = femtodet_for("snapdragon-865")
    exported = EXPORTER.export(request, EXPORTER.plan(request))
    (model,) = exported.files
    assert (model.path, model.role, model.data) == ("model.onnx", "model", request.graph.serialized())
    assert exported.rehearsal is None and exported.portable and exported.precision == "fp32"
    assert onnx.load_from_string(model.data).ir_version == request.profile.ir


def test_a_node_without_a_kernel_is_named_and_no_other(small_for: Request) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], "cast", to=onnx.TensorProto.DOUBLE),
        helper.make_node("Asinh", ["d"], ["s"], "cast_asinh"),  # no CPU kernel in float64
        helper.make_node("Cast", ["s"], ["y"], "cast_2", to=onnx.TensorProto.FLOAT),
    ]
    request = small_for("host", nodes)
    plan = EXPORTER.plan(request)
    assert [(row.node, row.where) for row in plan.problems] == [("cast_asinh", "nowhere")]
    assert "cast_asinh" in str(plan.problems[0].problem)
    with pytest.raises(UnsupportedError, match="cannot run on host"):
        EXPORTER.export(request, plan)


def test_a_failure_that_names_no_node_is_told_at_the_first(small_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.errors import InputError
    from edgekit.exporters import onnxruntime as module

    class Broken:
        def open(self, request: object) -> object:
            raise InputError("no", why="something is wrong everywhere")

    monkeypatch.setattr(module, "BACKEND", Broken())
    nodes = [helper.make_node("Relu", ["x"], ["m"], "first"), helper.make_node("Mul", ["m", "w"], ["y"], "second")]
    plan = EXPORTER.plan(small_for("host", nodes, {"w": np.float32([2])}))
    assert [row.node for row in plan.problems] == ["first"]
