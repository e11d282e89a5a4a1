"""What is known of each TensorRT: versions, operators and forms with sources, and views of them for the exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper  # noqa: E402

from edgekit.errors import InputError, UnsupportedError, UsageError  # noqa: E402
from edgekit.graph.rules.facts import Form, Span, form_table, operator_table, parse_version, release  # noqa: E402
from edgekit.graph.rules.tensorrt import check, refusals, restrictions, summary, unsupported_nodes  # noqa: E402

Build = Callable[..., ModelProto]
TYPES = {"BF16", "BOOL", "FP16", "FP32", "FP4", "FP8", "INT32", "INT4", "INT64", "INT8", "UINT8"}
NEWEST = "11.5"


def errors(model: ModelProto, version: str, rule: str) -> list[str]:
    return [finding.message for finding in refusals(model, version) if finding.rule == rule]


# --- versions


@pytest.mark.parametrize(
    ("low", "high", "since", "below", "holds"),
    [
        ("10.3", "10.4", None, None, True),
        ("10.3", "10.4", "10.3", "10.4", True),
        ("10.3", "10.4", None, "10.3", False),
        ("10.3", "10.4", "10.4", None, False),
        ("10.3", "10.17", "10.4", None, True),  # one of the versions is enough
        ("10.3", None, "11.0", None, True),
        ("10.3", "10.3", "10.3", None, True),  # just one version
        ("10.3", "10.3", "10.4", None, False),
        ("10.16.1.11", "10.16.1.11", "10.15", "10.17", True),
    ],
)
def test_a_range_of_versions_meets_a_rule_s(low: str, high: str, since: str, below: str, holds: bool) -> None:
    parsed = [parse_version(text) if text else None for text in (since, below)]
    assert Span.of(low, high).meets(*parsed) is holds


def test_a_version_that_nobody_knows_is_refused(build: Build) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    with pytest.raises(UnsupportedError, match=r"nothing is known of TensorRT 8\.6"):
        check(model, versions=("8.6", "8.7"))
    with pytest.raises(UsageError, match="is no TensorRT version"):
        refusals(model, "10.x")


def test_a_malformed_model_is_said_to_be_so(build: Build) -> None:
    model = build([helper.make_node("TopK", ["x"], ["y"])], {"x": (4,)}, {"y": (4,)})
    with pytest.raises(InputError, match="malformed"):
        refusals(model, "10.3")


def test_a_rule_with_a_range_is_silent_outside_it(build: Build) -> None:
    def branch(name: str, *nodes: NodeProto) -> GraphProto:
        made = nodes or (helper.make_node("Identity", ["x"], [name]),)
        return helper.make_graph(made, "b", [], [helper.make_tensor_value_info(name, 1, [4])])

    inner = branch("deepest")
    for level in range(25):
        other = branch(f"else{level}")
        node = helper.make_node("If", ["c"], [f"b{level}"], then_branch=inner, else_branch=other)
        inner = branch(f"b{level}", node)
    top = helper.make_node("If", ["c"], ["y"], "top", then_branch=inner, else_branch=branch("else"))
    model = build([top], {"x": (4,)}, {"y": (4,)}, {"c": np.bool_(True)})
    assert errors(model, "10.3", "subgraph-depth") == []
    (said,) = errors(model, "10.15", "subgraph-depth")
    assert said.startswith("If holds more than 24 levels of bodies")


# --- operators


@pytest.mark.parametrize(
    ("operator", "since"),
    [
        ("BlackmanWindow", "10.4"),
        ("STFT", "10.5"),
        ("Attention", "10.14"),
        ("RMSNormalization", "10.15"),
        ("Swish", "11.0"),
        ("DFT", "11.2"),
    ],
)
def test_an_operator_is_taken_from_its_release_on(operator: str, since: str) -> None:
    major, minor = parse_version(since)
    before = (major, minor - 1) if minor else (10, 16)
    assert operator not in release(before).operators
    taken = release((major, minor)).operators[operator]
    assert taken.source and operator not in release((major, minor)).unsupported


@pytest.mark.parametrize(("version", "opset", "ir"), [("10.3", 20, 10), ("10.16", 24, 11), ("11.4", 24, 13)])
def test_ceilings_of_operator_set_and_ir(version: str, opset: int, ir: int) -> None:
    known = release(parse_version(version))
    assert (known.opset_min, known.opset_max, known.ir_max) == (9, opset, ir)
    assert known.opset_source and known.ir_source


def test_the_ceiling_of_11_5_is_25() -> None:
    assert release((11, 5)).opset_max == 25


@pytest.mark.parametrize("version", ["10.1", "10.3", "10.15", "10.16", NEWEST])
def test_every_operator_has_a_source_and_types_that_exist(version: str) -> None:
    known = release(parse_version(version))
    assert not set(known.operators) & set(known.unsupported)
    for operator in known.operators.values():
        assert operator.source
        assert set(operator.types) <= TYPES
    untyped = {name for name, operator in known.operators.items() if not operator.types}
    assert untyped == ({"Swish", "DFT"} if version == NEWEST else set())  # unknown, and said so in the data


def test_only_lists_that_were_read_count_as_listed() -> None:
    assert [release(parse_version(v)).listed for v in ("10.1", "10.3", "10.15", "10.16", "11.4")] == [
        *(True, False, True, False, False)
    ]


def test_releases_of_10_1_are_the_published_list() -> None:
    table, known = operator_table(), release((10, 1))
    assert set(known.operators) == set(table["operators"])
    assert set(known.unsupported) == set(table["unsupported"])


def test_a_changed_type_counts_from_its_release_on(build: Build) -> None:
    node = helper.make_node("Pow", ["x", "two"], ["y"], "power")
    model = build([node], {"x": ("INT32", 4)}, {"y": ("INT32", 4)}, {"two": np.int32(2)})
    told = [f.rule for f in check(model, versions=("10.3", "10.4"))]
    assert "type-unlisted" in told
    assert "type-unlisted" not in [f.rule for f in check(model, versions=("10.12", "10.13"))]


def test_text_is_no_type_of_tensorrt(build: Build) -> None:
    node = helper.make_node("Identity", ["x"], ["y"], "words")
    model = build([node], {"x": ("STRING", 4)}, {"y": ("STRING", 4)})
    assert errors(model, "10.3", "type-unsupported") == ["Identity does not take STRING in TensorRT (tensor 'x')"]


def test_bytes_are_taken_at_the_border_alone(build: Build) -> None:
    cast = helper.make_node("Cast", ["x"], ["f"], "cast", to=TensorProto.FLOAT)
    add = helper.make_node("Identity", ["x"], ["z"], "copy")
    model = build([cast, add], {"x": ("UINT8", 4)}, {"f": (4,), "z": ("UINT8", 4)})
    assert [f.node for f in refusals(model, "10.3")] == ["copy"]


def test_a_local_function_is_read_and_its_body_judged(build: Build) -> None:
    model = build([helper.make_node("Own", ["x"], ["y"], "own", domain="mine")], {"x": (1, 4)}, {"y": (1, 4)})
    model.opset_import.append(helper.make_opsetid("mine", 1))
    for inner, refused in (("Relu", []), ("Det", ["operator-unsupported"])):
        del model.functions[:]
        nodes = [helper.make_node(inner, ["a"], ["b"])]
        imports = [helper.make_opsetid("", 20)]
        model.functions.append(helper.make_function("mine", "Own", ["a"], ["b"], nodes, imports))
        found = refusals(model, "10.3")
        assert [finding.rule for finding in found] == refused
        assert all(finding.node == "own" and "Det" in finding.message for finding in found)


def test_a_vendor_s_operator_under_a_standard_name_is_an_error_that_the_parser_overlooks(build: Build) -> None:
    model = build([helper.make_node("Gelu", ["x"], ["y"], "gelu", domain="com.microsoft")], {"x": (4,)}, {"y": (4,)})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    (found,) = [f for f in check(model, versions=("10.3", "10.4")) if f.severity == "error"]
    assert (found.rule, found.by, found.node) == ("foreign-domain", "edgekit", "gelu")
    assert refusals(model, "10.3") == []


def test_the_largest_end_of_a_slice_is_no_narrowing(build: Build) -> None:
    ends = {"a": np.int64([0]), "b": np.int64([2**63 - 1])}
    model = build([helper.make_node("Slice", ["x", "a", "b"], ["y"], "cut")], {"x": (4,)}, {"y": (4,)}, ends)
    assert "int64-range" not in {f.rule for f in check(model, versions=("10.3", "10.4"))}


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (None, "dimension 'n' is open and no profile bounds it"),
        ({"min": [1, 4], "opt": [1, 4]}, "min, opt and max"),
        ({"min": [2, 4], "opt": [1, 4], "max": [8, 4]}, "not 0 < min <= opt <= max"),
        ({"min": [0, 4], "opt": [1, 4], "max": [8, 4]}, "not 0 < min"),
        ({"min": [1, 3], "opt": [1, 4], "max": [8, 4]}, "fixed at 4"),
        ({"min": [1, 4], "opt": [1, 4], "max": [8, 4]}, ""),
    ],
)
def test_a_profile_bounds_what_is_open_and_keeps_what_is_fixed(build: Build, bounds: Any, said: str) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {"x": ("n", 4)}, {"y": ("n", 4)})
    given = {} if bounds is None else {"x": bounds}
    found = [f for f in check(model, versions=("10.3", "10.4"), profile=given) if f.severity == "error"]
    assert [f.rule for f in found] == (["dynamic-without-profile"] if said else [])
    assert all(said in f.message and "'x'" in f.message for f in found)


# --- forms


def breaking(form: Form, op: str) -> tuple[list[NodeProto], dict[str, Any], dict[str, Any]]:
    """A node of `op` that breaks `form`, with its inputs and constants."""
    data, count = form.data, 1 + form.data.get("index", 0)
    inputs: list[str] = ["x", *[""] * (count - 1)]
    outputs, attributes = ["y"], dict(form.data.get("when", {}))
    feeds, weights = {"x": (1, 4, 8, 8)}, {}
    if form.kind == "attribute":
        last = data["values"][-1]
        attributes[data["attribute"]] = "floor" if isinstance(last, str) else last + 1
    elif form.kind == "ones":
        attributes[data["attribute"]] = [1, 2]
    elif form.kind == "absent":
        sparse = helper.make_sparse_tensor(
            helper.make_tensor("v", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0]), [4]
        )
        inputs = []
        attributes = {data["attribute"]: {"sparse_value": sparse, "value_string": "a"}.get(data["attribute"], ["a"])}
    elif form.kind == "outputs":
        outputs = ["y", *[f"y{i}" for i in range(data["index"])]]
    elif form.kind in ("no-input", "constant", "known", "zero", "iota"):
        inputs[data["index"]] = "fed"
        feeds["fed"] = ("INT64", 1)
        attributes |= {"axes": [1, 0, 2, 3]} if form.kind == "iota" else {}
    elif form.kind == "rank":
        feeds["x"] = (1, 4)
    elif form.kind == "static":
        feeds["x"] = ("open", 4)
    elif form.kind == "directions":
        attributes |= {"direction": "bidirectional", "activations": ["Tanh", "Relu"]}
    if op == "TopK":
        outputs, weights = ["y", "i"], {"k": np.int64([data.get("limit", 2)])}
        inputs[1:] = ["k"]
    elif op == "Upsample":
        inputs.append("fed")
        feeds["fed"] = (4,)
    return [helper.make_node(op, inputs, outputs, "odd", **attributes)], feeds, weights


ROWS = [(form, op) for form in form_table() for op in sorted(form.operators)]


@pytest.mark.parametrize(("form", "op"), ROWS, ids=lambda given: given if isinstance(given, str) else given.kind)
def test_a_form_that_is_not_taken_is_found_in_its_versions_and_in_no_others(build: Build, form: Form, op: str) -> None:
    nodes, feeds, weights = breaking(form, op)
    opset = form.data["limit"] if form.kind == "opset" else 20
    model = build(nodes, feeds, {"y": None}, weights, opset=opset)
    low = max(form.since or (10, 1), (10, 1))

    def said(version: tuple[int, ...]) -> list[tuple[str, str]]:
        text = ".".join(map(str, version))
        found = check(model, versions=(text, text))
        return [(f.severity, f.source) for f in found if f.rule == "operator-form" and form.says in f.message]

    assert said(low) == [(form.severity, form.source)]
    assert form.source and form.says
    for version in (form.below, (form.since[0], form.since[1] - 1) if form.since else None):
        assert version is None or said(version) == []


def test_forms_that_are_taken_are_left_alone(build: Build) -> None:
    scales = np.float32([1, 1, 2, 2])
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a"], "pool", kernel_shape=[2, 2], dilations=[1, 1]),
        helper.make_node("Resize", ["a", "", "s"], ["b"], "resize", mode="linear", axes=[0, 1, 2, 3]),
        helper.make_node("TopK", ["b", "k"], ["c", "i"], "top"),
        helper.make_node("ReduceSum", ["c", "axes"], ["d"], "sum"),
        helper.make_node("Shape", ["d"], ["sizes"], "sizes"),
        helper.make_node("Unsqueeze", ["d", "zero"], ["y"], "more"),
    ]
    weights = {"s": scales, "k": np.int64([2]), "axes": np.int64([1]), "zero": np.int64([0])}
    model = build(nodes, {"x": (1, 4, 8, 8)}, {"y": None}, weights)
    for version in ("10.3", "10.16", NEWEST):
        assert [f.message for f in refusals(model, version)] == []


def test_axes_computed_from_fixed_shapes_are_known_since_10_7(build: Build) -> None:
    nodes = [helper.make_node("Size", ["w"], ["n"]), helper.make_node("Unsqueeze", ["x", "axes"], ["y"], "more")]
    nodes.insert(1, helper.make_node("Sub", ["n", "n"], ["zero"]))
    nodes.insert(2, helper.make_node("Reshape", ["zero", "one"], ["axes"]))
    weights = {"w": np.ones(3, np.float32), "one": np.int64([1])}
    model = build(nodes, {"x": (4,)}, {"y": None}, weights)
    assert errors(model, "10.3", "operator-form") == [
        "Unsqueeze: axes must be an initializer, and here 'axes' is computed"
    ]
    assert errors(model, "10.7", "operator-form") == []


# --- what the exporter reads


def test_nodes_that_cannot_run_and_restrictions_keep_their_words(build: Build) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "fine"),
        helper.make_node("BlackmanWindow", ["n"], ["w"], "odd"),
        helper.make_node("CumSum", ["a", "axis"], ["y"], "sums"),
    ]
    model = build(nodes, {"x": (4,)}, {"y": (4,)}, {"n": np.int64(4), "axis": np.int64(0)})
    (reason,) = unsupported_nodes(model).values()
    assert list(unsupported_nodes(model)) == ["odd"]
    assert reason.startswith("BlackmanWindow is not in TensorRT's operator list (onnx/onnx-tensorrt docs/operators.md")
    assert restrictions(model) == ["CumSum: `axis` must be an initializer"]


def test_a_summary_counts_by_rule(build: Build) -> None:
    nodes = [helper.make_node("Det", ["x"], [f"y{i}"], f"det{i}") for i in range(3)]
    model = build(nodes, {"x": (4, 4)}, {f"y{i}": None for i in range(3)})
    lines = summary(check(model, versions=("10.1", "10.2")))
    assert len(lines) == 1
    assert lines[0].startswith("error operator-unsupported: Det is not in") and "3 in all, also det1, det2" in lines[0]
