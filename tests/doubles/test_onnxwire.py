"""Our reader of ONNX files agrees with onnx, and what it changes is still a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

MODEL = Path(__file__).parents[1] / "runtimes" / "data" / "detector.onnx"


@pytest.fixture
def wire(board: Any) -> Any:
    import onnxwire

    return onnxwire


def test_it_reads_what_onnx_reads(wire: Any) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(MODEL).graph
    wanted = [(node.name, node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node]
    assert [(node.name, node.op, node.inputs, node.outputs) for node in wire.nodes(MODEL.read_bytes())] == wanted


def test_a_model_that_was_taken_apart_and_joined_is_the_same(wire: Any) -> None:
    assert wire.join(wire.split(MODEL.read_bytes())) == MODEL.read_bytes()


def test_what_is_spoiled_computes_the_opposite(wire: Any) -> None:
    ort = pytest.importorskip("onnxruntime")
    feeds = {"image": np.ones((1, 3, 32, 32), np.float32)}
    model = MODEL.read_bytes()
    (right,) = ort.InferenceSession(model).run(None, feeds)
    (wrong,) = ort.InferenceSession(wire.spoiled(model, "head", ("Neg",))).run(None, feeds)
    np.testing.assert_array_equal(wrong, -right)
    both = ort.InferenceSession(wire.with_outputs(model, ["cells"])).run(None, feeds)
    np.testing.assert_array_equal(both[0], right)
    assert both[1].shape == (1, 3, 4, 4)


@given(data=st.binary(max_size=40))
def test_rubbish_is_no_message_or_one_that_can_be_joined(data: bytes) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    try:
        import onnxwire
    finally:
        sys.path.pop(0)
    try:
        fields = onnxwire.split(data)
    except ValueError:
        return
    assert onnxwire.split(onnxwire.join(fields)) == fields
