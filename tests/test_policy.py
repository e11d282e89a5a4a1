"""The policy table: a rule with a reason where nothing can be measured, and the target's default where none applies."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: E402

from edgekit import profiles  # noqa: E402
from edgekit.exporters.exporter import PRECISIONS  # noqa: E402
from edgekit.graph.passes import infer_shapes  # noqa: E402
from edgekit.policy import POLICY, Rule, choose_by_policy  # noqa: E402


def model_of(mmac: int) -> ModelProto:
    """A product of `mmac` million multiply-accumulates."""
    weight = numpy_helper.from_array(np.zeros((100, 100), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [100 * mmac, 100]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "n")], "g", ends[:1], ends[1:], [weight])
    return infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def test_rows_are_well_formed() -> None:
    runtimes = {profile.runtime for profile in profiles.all_profiles()}
    for rule in POLICY:
        assert rule.runtime in runtimes and rule.precision in PRECISIONS
        assert rule.least_mmac >= 0 and len(rule.because) > 40 and "20" in rule.because
    assert len({(rule.runtime, rule.precision) for rule in POLICY}) == len(POLICY)


@pytest.mark.parametrize("rule", POLICY, ids=lambda rule: rule.runtime)
def test_a_row_applies_from_its_size_on_and_says_why(rule: Rule) -> None:
    size = int(rule.least_mmac)
    eligible = ("fp32", rule.precision)
    precision, why = choose_by_policy(rule.runtime, model_of(size), "fp32", eligible)
    assert precision == rule.precision and why == f"{size} MMAC: {rule.because}"
    precision, why = choose_by_policy(rule.runtime, model_of(size - 1), "fp32", eligible)
    assert precision == "fp32" and why.startswith(f"{size - 1} MMAC: no row")


def test_what_is_not_eligible_or_not_in_the_table_leaves_the_default() -> None:
    large = model_of(500)
    assert choose_by_policy("onnxruntime", large, "fp32", ("fp32",))[0] == "fp32"
    precision, why = choose_by_policy("nowhere", large, "fp16", ("fp16", "int8"))
    assert precision == "fp16" and "target's default" in why
