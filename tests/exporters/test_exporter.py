"""What all exporters share: a plan that can be read, and precisions that are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("openvino")

from edgekit import profiles
from edgekit.errors import UnsupportedError, UsageError
from edgekit.exporters import Exporter, LoweringRequest, Plan, PlanRow, exporter_for

Request = Callable[..., LoweringRequest]
TARGETS = {"snapdragon-865": "onnxruntime", "intel-n100": "openvino", "orin-nano": "tensorrt"}


def planned(request: LoweringRequest) -> tuple[Exporter, Plan]:
    exporter = exporter_for(request.profile)
    return exporter, exporter.plan(request)


@pytest.mark.parametrize("target", TARGETS)
def test_a_plan_says_for_each_node_where_it_runs_and_what_it_costs(femtodet_for: Request, target: str) -> None:
    request = femtodet_for(target)
    exporter, plan = planned(request)
    assert exporter.name == plan.runtime == TARGETS[target]
    assert plan.target == target
    assert [row.node for row in plan.rows] == [node.name for node in request.graph.model.graph.node]
    assert plan.problems == []
    plan.require_supported()
    assert sum(row.macs for row in plan.rows) == 69_898_400  # three classes, and a lateral that computes a quarter
    assert {row.where for row in plan.rows} == {"gpu" if target == "orin-nano" else "cpu"}
    assert {row.precision for row in plan.rows} == {plan.precision}


@pytest.mark.parametrize("target", TARGETS)
def test_the_precision_is_the_profiles_with_its_reason_unless_one_is_asked_for(
    femtodet_for: Request, target: str
) -> None:
    profile = profiles.get(target)
    _, auto = planned(femtodet_for(target))
    assert (auto.precision, auto.reason) == (profile.default_precision, profile.because["default_precision"])
    _, asked = planned(femtodet_for(target, "fp32"))
    assert (asked.precision, asked.reason) == ("fp32", "asked for")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["int4", "fp8", "FP32", ""])
def test_an_unknown_precision_is_refused(femtodet_for: Request, target: str, precision: str) -> None:
    with pytest.raises(UsageError, match="unknown precision"):
        planned(femtodet_for(target, precision))


def test_fp16_is_refused_where_nothing_is_gained_and_the_reason_is_told(femtodet_for: Request) -> None:
    with pytest.raises(UnsupportedError, match="fp16 is refused for snapdragon-865") as caught:
        planned(femtodet_for("snapdragon-865", "fp16"))
    assert "casts to fp32" in str(caught.value.why) and "--precision fp32" in str(caught.value.fix)


@pytest.mark.parametrize("target", TARGETS)
def test_planning_and_exporting_leave_the_request_as_it_was(femtodet_for: Request, target: str) -> None:
    request = femtodet_for(target)
    before = request.graph.serialized()
    exporter, plan = planned(request)
    exporter.export(request, plan)
    assert request.graph.serialized() == before


@pytest.mark.parametrize("target", TARGETS)
def test_exporting_twice_gives_the_same_bytes(femtodet_for: Request, target: str) -> None:
    request = femtodet_for(target)
    exporter, plan = planned(request)
    assert exporter.export(request, plan).files == exporter.export(request, plan).files


def test_a_plan_with_problems_names_the_first_and_counts_them() -> None:
    rows = (PlanRow("a", "Conv", "cpu", "fp32", 9), *(PlanRow(n, "Odd", "nowhere", "fp32", 0, "why") for n in "bc"))
    plan = Plan("board", "runtime", "fp32", "because", rows)
    assert [row.node for row in plan.problems] == ["b", "c"]
    with pytest.raises(UnsupportedError, match=r"2 node\(s\) cannot run on board") as caught:
        plan.require_supported()
    assert (caught.value.where, caught.value.why) == ("Odd b", "why")
