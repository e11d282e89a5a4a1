"""TensorRT's portable half: typed ONNX within the JetPack's ceilings, and a build recipe as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import ModelProto, TensorProto, helper  # noqa: E402

from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.exporters import LoweringRequest  # noqa: E402
from edgekit.exporters.tensorrt import EXPORTER  # noqa: E402
from edgekit.exporters.tensorrt_recipe import optimization_profile, trtexec  # noqa: E402
from edgekit.graph.half import FLOAT_INPUTS, ISLANDS  # noqa: E402
from edgekit.graph.half_reference import BACKEND as HALF  # noqa: E402
from edgekit.spec import TensorSpec  # noqa: E402

Request = Callable[..., LoweringRequest]
BOARDS = ["orin-nano", "orin-nano-4gb", "orin-nano-jp72", "orin-nano-4gb-jp72"]


def exported_files(request: LoweringRequest) -> dict[str, bytes]:
    return {artifact.path: artifact.data for artifact in EXPORTER.export(request, EXPORTER.plan(request)).files}


def float_tensors(model: ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


@pytest.mark.parametrize("board", BOARDS)
def test_the_model_stays_within_the_ceilings_of_the_jetpack(femtodet_for: Request, board: str) -> None:
    model = onnx.load_from_string(exported_files(femtodet_for(board))["model.onnx"])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    onnx.checker.check_model(model, full_check=True)


def test_nothing_computes_in_float32_outside_the_islands(femtodet_for: Request) -> None:
    model = onnx.load_from_string(exported_files(femtodet_for("orin-nano"))["model.onnx"])
    floats = float_tensors(model)
    for node in model.graph.node:
        if node.op_type not in ISLANDS:
            read = {name for i, name in enumerate(node.input) if (node.op_type, i) not in FLOAT_INPUTS}
            assert not floats & {*read, *node.output}, node.name
    assert {"image", "head"} <= floats  # what callers hand in and get back does not change


def test_fp32_leaves_the_canonical_graph_as_it_is(femtodet_for: Request) -> None:
    request = femtodet_for("orin-nano", "fp32")
    assert exported_files(request)["model.onnx"] == request.graph.serialized()


def test_what_was_exported_is_rehearsed_in_half_and_is_not_portable(femtodet_for: Request) -> None:
    request = femtodet_for("orin-nano")
    exported = EXPORTER.export(request, EXPORTER.plan(request))
    assert (exported.rehearsal, exported.portable, exported.precision) == (HALF, False, "fp16")
    assert exported.graph.passes[-1] == "fp16"
    assert any("open questions" in note for note in EXPORTER.plan(request).notes)


@pytest.mark.parametrize("board", BOARDS)
def test_the_recipe_holds_what_the_board_needs_to_build(femtodet_for: Request, board: str) -> None:
    request = femtodet_for(board)
    raw = exported_files(request)["build.json"]
    recipe = json.loads(raw)
    shapes = {"image": {"min": [1, 3, 416, 416], "opt": [1, 3, 416, 416], "max": [8, 3, 416, 416]}}
    assert recipe["memory"].pop("estimate_bytes") > 8 * 3 * 416 * 416 * 4  # the largest batch's input alone
    assert recipe == {
        "schema": "edgekit/tensorrt-build/2",
        "target": board,
        "tensorrt": {"min": request.profile.runtime_min, "below": request.profile.runtime_below},
        "network_flags": ["STRONGLY_TYPED"],
        "builder_flags": [],
        "builder_flags_off": ["TF32"],
        "builder_optimization_level": 3,
        "profiling_verbosity": "DETAILED",
        "workspace": {"rule": "fraction-of-free-memory", "fraction": 0.5, "at_most_bytes": None},
        "memory": {"floor_bytes": 536870912},
        "timing_cache": f"{board}.timing",
        "optimization_profiles": [shapes],
        "trtexec": {version: trtexec(version, shapes, f"{board}.timing") for version in ("10", "11")},
    }
    recipe = json.loads(raw)
    assert raw == (json.dumps(recipe, indent=1, sort_keys=True) + "\n").encode()


def test_every_input_has_its_sizes_and_fixed_ones_stay(femtodet_for: Request) -> None:
    request = femtodet_for("orin-nano")
    inputs = (TensorSpec("a", "float32", (2, 3)), TensorSpec("b", "int64", ("n", 5)))
    assert optimization_profile(replace(request.spec, inputs=inputs)) == {
        "a": {"min": [2, 3], "opt": [2, 3], "max": [2, 3]},
        "b": {"min": [1, 5], "opt": [1, 5], "max": [8, 5]},
    }


def test_an_open_dimension_besides_the_batch_is_refused(femtodet_for: Request) -> None:
    request = femtodet_for("orin-nano")
    spec = replace(request.spec, inputs=(TensorSpec("image", "float32", ("batch", 3, "height", 416)),))
    with pytest.raises(UnsupportedError, match=r"'height' of input 'image' is open") as caught:
        EXPORTER.plan(replace(request, spec=spec))
    assert "shapes" in str(caught.value.fix)


def test_an_operator_outside_tensorrts_list_is_planned_as_a_problem_and_not_exported(small_for: Request) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["m"], "fine"),
        helper.make_node("BlackmanWindow", ["n"], ["window"], "odd"),
        helper.make_node("Mul", ["m", "window"], ["y"], "scale"),
    ]
    request = small_for("orin-nano", nodes, {"n": np.int64(4)})
    plan = EXPORTER.plan(request)
    assert [(row.node, row.op, row.where) for row in plan.problems] == [("odd", "BlackmanWindow", "nowhere")]
    assert "operators.md" in str(plan.problems[0].problem)
    with pytest.raises(UnsupportedError, match=r"1 node\(s\) cannot run on orin-nano") as caught:
        EXPORTER.export(request, plan)
    assert caught.value.where == "BlackmanWindow odd"


def test_a_weight_beyond_fp16_keeps_its_node_in_float32(small_for: Request) -> None:
    nodes = [helper.make_node("Mul", ["x", "big"], ["y"], "scale")]
    request = small_for("orin-nano", nodes, {"big": np.float32([1e6])})
    model = onnx.load_from_string(exported_files(request)["model.onnx"])
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT}


def test_a_weight_that_is_no_number_is_refused(small_for: Request) -> None:
    nodes = [helper.make_node("Mul", ["x", "bad"], ["y"], "scale")]
    request = small_for("orin-nano", nodes, {"bad": np.float32([np.nan])})
    with pytest.raises(UnsupportedError, match=r"not a number|bad"):
        EXPORTER.export(request, EXPORTER.plan(request))


def test_trtexec_is_told_of_strong_types_by_ten_and_not_by_eleven() -> None:
    shapes = {"x": {"min": [1, 3], "opt": [1, 3], "max": [8, 3]}}
    ten, eleven = (trtexec(version, shapes, "t.timing") for version in ("10", "11"))
    assert "--stronglyTyped" in ten and "--stronglyTyped" not in eleven
    for line in (ten, eleven):
        assert line.startswith("trtexec --onnx=model.onnx ") and "--maxShapes=x:8x3" in line
        assert not {"--fp16", "--int8", "--best", "--useDLACore"} & set(line.split())
    assert "Shapes" not in trtexec("10", {"x": {"min": [1], "opt": [1], "max": [1]}}, "t.timing")
