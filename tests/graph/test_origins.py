"""Stack traces become relative paths, whatever the roots on the import path are."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("onnx")

from onnx import ModelProto, helper

from edgekit.bundle.manifest import Origin
from edgekit.graph.origins import collect_origins, strip_metadata

TRACE = """
File "/home/ada/project/app/torch/net.py", line 12, in forward
  return self.conv(x)
File "/home/ada/site-packages/torch/nn/modules/conv.py", line 554, in forward
"""


def model_with(trace: str, scopes: str) -> ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"], "relu", doc_string="made by ada")
    for key, value in (("pkg.torch.onnx.stack_trace", trace), ("pkg.torch.onnx.name_scopes", scopes)):
        entry = node.metadata_props.add()
        entry.key, entry.value = key, value
    return helper.make_model(helper.make_graph([node], "g", [], [], doc_string="secret"), doc_string="secret")


def test_the_innermost_line_outside_torch_is_kept_below_the_longest_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/home/ada", "/home/ada/project", "/home/ada/site-packages"])
    origins = collect_origins(model_with(TRACE, "['', 'backbone.stem', 'conv2d']"))
    assert origins == {"relu": Origin(module="backbone.stem", file="app/torch/net.py", line=12)}


def test_a_file_below_no_root_keeps_its_bare_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/home/ada/site-packages"])
    assert collect_origins(model_with(TRACE, "['conv2d']")) == {"relu": Origin(module="", file="net.py", line=12)}


def test_a_node_without_a_trace_has_a_module_and_no_line() -> None:
    assert collect_origins(model_with("", "['head', 'cat']")) == {"relu": Origin(module="head", file=None, line=None)}


def test_a_graph_of_others_has_no_origins() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "relu")
    assert collect_origins(helper.make_model(helper.make_graph([node], "g", [], []))) == {}


def test_stripping_leaves_a_copy_without_a_trace_of_its_maker() -> None:
    model = model_with(TRACE, "['head']")
    stripped = strip_metadata(model).SerializeToString()
    for secret in (b"ada", b"secret", b"pkg.torch"):
        assert secret in model.SerializeToString() and secret not in stripped
