"""Every rule for TensorRT fires on a small graph and on real models broken in one place, and on no sound one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

from edgekit.compress.ptq import PtqOptions, prepare  # noqa: E402
from edgekit.graph.densify import densify  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.half import to_half  # noqa: E402
from edgekit.graph.passes import canonicalize, infer_shapes  # noqa: E402
from edgekit.graph.qdq import lower  # noqa: E402
from edgekit.graph.rules.facts import rule_table  # noqa: E402
from edgekit.graph.rules.tensorrt import PREDICATES, Finding, check, refusals  # noqa: E402

JETPACKS = {"6.2": ("10.3", "10.4"), "7.2": ("10.16", "10.17")}
ORIN_NANO = 8 * 2**30
# What a sound FemtoDet in int8 is told, and rightly: 8 to 160 channels, 14 depthwise layers.
TOLD = {"list-of-another-version", "int8-channels", "int8-depthwise"}
FLOAT = TensorProto.FLOAT
# Models and the precisions that they are tried in; the last two are others' and lie in EDGEKIT_DATA.
MODELS = {"small": ("half", "int8"), "femtodet": ("half", "int8"), "fastestdet": ("half",), "yunet": ("half",)}
Break = Callable[[ModelProto], None]


@dataclass(frozen=True)
class Case:
    """How to break a sound model so that one rule fires.

    Attributes:
        breaks: changes the model in place.
        base: `half` or `int8`: which sound model is broken.
        versions, options: what is asked of `check` besides.
        node: the name that the finding must give, where the break chooses it.
    """

    breaks: Break
    base: str = "half"
    versions: tuple[str, str | None] = JETPACKS["6.2"]
    options: Mapping[str, Any] = field(default_factory=dict)
    node: str | None = None


# --- sound models


@pytest.fixture(scope="module")
def small_half() -> Graph:
    """A convolution with its activation and an addition, in fp16, open in its batch."""
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["d"], "last"),
        helper.make_node("Add", ["d", "r"], ["head"], "add"),
    ]
    weights = {"w": (32, 32, 3, 3), "b": (32,), "v": (32, 32, 1, 1)}
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    sides = [value(name, FLOAT, ["batch", 32, 8, 8]) for name in ("image", "head")]
    graph = helper.make_graph(nodes, "small", sides[:1], sides[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Graph(infer_shapes(model), {}, ())


@pytest.fixture(scope="module")
def femtodet_int8(shipped_graph: Graph) -> Graph:
    return int8_of(shipped_graph)


@pytest.fixture(scope="module")
def models(small_half: Graph, shipped_graph: Graph, femtodet_int8: Graph) -> dict[tuple[str, str], Graph]:
    """Sound lowered graphs by model and precision."""
    found = {
        ("small", "half"): to_half(small_half),
        ("small", "int8"): int8_of(small_half),
        ("femtodet", "half"): to_half(shipped_graph),
        ("femtodet", "int8"): femtodet_int8,
    }
    onnx_folder = Path(os.environ.get("EDGEKIT_DATA", "/nowhere")) / "onnx"
    for name, file in (("fastestdet", "FastestDet.onnx"), ("yunet", "yunet_n_320_320.onnx")):
        if (onnx_folder / file).exists():
            graph = Graph(onnx.load(onnx_folder / file), {}, ())
            found[name, "half"] = to_half(canonicalize(graph, 20, 10))
    return found


def int8_of(graph: Graph) -> Graph:
    """The graph in TensorRT's int8 form, calibrated on noise: what the exporter writes."""
    shape = [dim.dim_value or 1 for dim in graph.model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    name = graph.model.graph.input[0].name
    samples = [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(8)]
    prepared, spec = prepare(graph, samples, PtqOptions(observer="minmax")).spec()
    model = copy_of(prepared.model)
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    dense = densify(Graph(model, prepared.origins, ()), spec.layers)
    return to_half(lower(dense, spec, "tensorrt"))


def profile_of(model: ModelProto) -> dict[str, dict[str, list[int]]]:
    """One to eight pictures where the batch is open."""
    found = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if any(not dim.dim_value for dim in dims):
            sizes = {"min": 1, "opt": 1, "max": 8}
            found[value.name] = {label: [d.dim_value or size for d in dims] for label, size in sizes.items()}
    return found


def checked(graph: Graph, model: ModelProto | None = None, versions: Any = JETPACKS["6.2"], **options: Any) -> Any:
    model = graph.model if model is None else model
    given = {"profile": profile_of(graph.model), "memory_bytes": ORIN_NANO, "origins": graph.origins} | options
    return check(model, versions=versions, **given)


# --- ways to break them


def copy_of(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def first(model: ModelProto, op: str) -> NodeProto:
    return next(node for node in model.graph.node if node.op_type == op)


def store(model: ModelProto, name: str, values: Any) -> str:
    """Give an initializer other values, or add it."""
    tensor = next((t for t in model.graph.initializer if t.name == name), None) or model.graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))
    return name


def stored(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def append(op: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Break:
    """A node behind the model's output, called `odd`; an input `head` is that output, an array becomes a constant."""

    def change(model: ModelProto) -> None:
        add_node(model, op, inputs, "odd", outputs, **attributes)

    return change


def add_node(model: ModelProto, op: str, inputs: Any, name: str, outputs: int = 1, **attributes: Any) -> NodeProto:
    names = []
    for i, given in enumerate(inputs):
        if isinstance(given, str):
            names.append(model.graph.output[0].name if given == "head" else given)
        else:
            names.append(store(model, f"{name}/{i}", given))
    made = [f"{name}/out{i or ''}" for i in range(outputs)]
    model.graph.node.append(helper.make_node(op, names, made, name, **attributes))
    return model.graph.node[-1]


def in_type(kind: int, op: str, *inputs: Any, **attributes: Any) -> Break:
    """`append` on the output cast to another type."""

    def change(model: ModelProto) -> None:
        add_node(model, "Cast", ["head"], "cast", to=kind)
        add_node(model, op, ["cast/out", *inputs], "odd", **attributes)

    return change


def renamed(old: str, new: str, domain: str = "") -> Break:
    """The first node of an operator becomes one of another."""

    def change(model: ModelProto) -> None:
        node = first(model, old)
        node.op_type, node.domain = new, domain
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def opset(version: int) -> Break:
    def change(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def newer_ir(model: ModelProto) -> None:
    model.ir_version = 14


def cubic(model: ModelProto) -> None:
    node = next((n for n in model.graph.node if n.op_type == "Resize"), None)
    if node is None:
        scales = np.float32([1, 1, 2, 2])
        node = add_node(model, "Resize", ["head", np.float32([]), scales], "odd", mode="nearest")
    next(a for a in node.attribute if a.name == "mode").s = b"cubic"


def pair_of(model: ModelProto, weight: bool) -> NodeProto:
    """The DequantizeLinear of a weight with a scale for each output, or of an activation."""
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and (stored(model, node.input[1]).size > 1) == weight:
            return node
    raise AssertionError("the model has no such pair")


def new_zero(values: Any) -> Break:
    def change(model: ModelProto) -> None:
        node = pair_of(model, weight=False)
        store(model, node.input[2], values)

    return change


def fed_scale(model: ModelProto) -> None:
    name = pair_of(model, weight=False).input[1]
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT16, []))


def new_scale(change_values: Callable[[np.ndarray], Any], weight: bool = False) -> Break:
    def change(model: ModelProto) -> None:
        name = pair_of(model, weight).input[1]
        store(model, name, change_values(stored(model, name)))

    return change


def other_axis(model: ModelProto) -> None:
    """A square weight, so that its scales fit either axis."""
    by_output = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv" and by_output[node.input[1]].op_type == "DequantizeLinear":
            maker = by_output[node.input[1]]
            outputs, inputs = stored(model, maker.input[0]).shape[:2]
            if outputs == inputs:
                next(a for a in maker.attribute if a.name == "axis").i = 1
                node.name = "odd"
                return
    raise AssertionError("no convolution is square")


def body(nodes: list[NodeProto], inputs: list[Any], outputs: list[Any], weights: Any = None) -> GraphProto:
    constants = [numpy_helper.from_array(np.asarray(v), name) for name, v in (weights or {}).items()]
    return helper.make_graph(nodes, "body", inputs, outputs, constants)


def value(name: str, shape: list[Any] | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def branches(then: GraphProto, other: GraphProto) -> Break:
    return append("If", np.bool_(True), then_branch=then, else_branch=other)


def constant_branch(name: str, array: Any = 1.0) -> GraphProto:
    values = np.asarray(array, np.float32)
    node = helper.make_node("Identity", [f"{name}/w"], [name])
    return body([node], [], [value(name, list(values.shape))], {f"{name}/w": values})


def quantizing_branch() -> GraphProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["q/x", "q/s", "q/z"], ["q/q"], "inner Q"),
        helper.make_node("DequantizeLinear", ["q/q", "q/s", "q/z"], ["q/y"], "inner DQ"),
    ]
    weights = {"q/x": np.ones(4, np.float32), "q/s": np.float32(0.5), "q/z": np.int8(0)}
    return body(nodes, [], [value("q/y", [4])], weights)


def nested(levels: int) -> Break:
    inner = constant_branch("deepest")
    for level in range(levels):
        name = f"level{level}"
        sides = {"then_branch": inner, "else_branch": constant_branch(f"{name}/e")}
        node = helper.make_node("If", [f"{name}/c"], [f"{name}/y"], **sides)
        inner = body([node], [], [value(f"{name}/y", [])], {f"{name}/c": np.bool_(True)})
    return branches(inner, constant_branch("outermost"))


def growing_loop(model: ModelProto) -> None:
    nodes = [
        helper.make_node("Concat", ["l/old", "l/old"], ["l/new"], axis=0),
        helper.make_node("Identity", ["l/go"], ["l/on"]),
    ]
    sides = [value("l/i", [], TensorProto.INT64), value("l/go", [], TensorProto.BOOL), value("l/old", [1])]
    outputs = [value("l/on", [], TensorProto.BOOL), value("l/new", [2])]
    add_node(model, "Loop", [np.int64(3), "", np.ones(1, np.float32)], "odd", body=body(nodes, sides, outputs))


def collecting_loop(model: ModelProto) -> None:
    model.graph.input.append(value("count", [], TensorProto.INT64))
    nodes = [
        helper.make_node("Cast", ["l/i"], ["l/y"], to=FLOAT),
        helper.make_node("Identity", ["l/go"], ["l/on"]),
    ]
    sides = [value("l/i", [], TensorProto.INT64), value("l/go", [], TensorProto.BOOL)]
    outputs = [value("l/on", [], TensorProto.BOOL), value("l/y", [])]
    add_node(model, "Loop", ["count", ""], "odd", body=body(nodes, sides, outputs))


def scan(model: ModelProto) -> None:
    """A running sum over an open batch, which every model gets for the purpose."""
    model.graph.input.append(value("steps", ["steps", 4]))
    node = helper.make_node("Add", ["s/old", "s/x"], ["s/new"])
    inner = body([node], [value("s/old", [4]), value("s/x", [4])], [value("s/new", [4])])
    add_node(model, "Scan", [np.zeros(4, np.float32), "steps"], "odd", body=inner, num_scan_inputs=1)


def int8_convolution(outputs: int, inputs: int, groups: int) -> Break:
    """A quantized 1x1 convolution of its own behind the model."""

    def change(model: ModelProto) -> None:
        weight = np.ones((outputs, inputs // groups, 1, 1), np.int8)
        model.graph.input.append(value("extra", [1, inputs, 8, 8]))
        scale, zero = np.float32(0.5), np.int8(0)
        add_node(model, "QuantizeLinear", ["extra", scale, zero], "q")
        add_node(model, "DequantizeLinear", ["q/out", scale, zero], "dq")
        add_node(model, "DequantizeLinear", [weight, scale, zero], "w")
        add_node(model, "Conv", ["dq/out", "w/out"], "odd", group=groups)

    return change


def unchanged(_: ModelProto) -> None:
    pass


CASES: dict[str, Case] = {
    "opset-ceiling": Case(opset(21)),
    "ir-ceiling": Case(newer_ir),
    "list-of-another-version": Case(unchanged, versions=("10.16", "10.17")),
    "integer-operator": Case(renamed("Conv", "ConvInteger")),
    "foreign-domain": Case(renamed("Conv", "FusedConv", "com.microsoft")),
    "operator-unsupported": Case(renamed("Relu", "BitwiseNot")),
    "operator-unknown": Case(renamed("Relu", "Swish"), versions=JETPACKS["7.2"]),
    "operator-form": Case(cubic),
    "operator-restriction": Case(append("RandomNormalLike", "head"), node="odd"),
    "type-unsupported": Case(in_type(TensorProto.UINT16, "Identity")),
    "type-unlisted": Case(in_type(TensorProto.INT32, "CumSum", np.int64(0)), node="odd"),
    "double-precision": Case(in_type(TensorProto.DOUBLE, "Relu")),
    "rank-limit": Case(append("Reshape", "head", np.int64([1] * 8 + [-1])), node="odd"),
    "volume-limit": Case(append("ConstantOfShape", np.int64([65536, 65536])), node="odd"),
    "qdq-zero-point": Case(new_zero(np.int8(3)), "int8"),
    "qdq-type": Case(new_zero(np.uint8(0)), "int8"),
    "qdq-scale-constant": Case(fed_scale, "int8"),
    "qdq-scale-positive": Case(new_scale(lambda old: old * 0), "int8"),
    "qdq-scale-shape": Case(new_scale(lambda old: old[1:], weight=True), "int8"),
    "qdq-scale-type": Case(new_scale(lambda old: old.astype(np.float32)), "int8"),
    "qdq-half-opset": Case(opset(18), "int8"),
    "qdq-activation-per-tensor": Case(new_scale(lambda old: np.full(32, old)), "int8"),
    "qdq-weight-axis": Case(other_axis, "int8", node="odd"),
    "qdq-in-subgraph": Case(branches(quantizing_branch(), constant_branch("plain", [1.0] * 4)), node="odd"),
    "int64-range": Case(append("Abs", np.int64([2**40])), node="odd"),
    "int64-compute": Case(in_type(TensorProto.INT64, "Mul", np.int64(3)), node="odd"),
    "dynamic-without-profile": Case(
        lambda model: model.graph.input.append(value("mask", ["n"])), options={"profile": {}}
    ),
    "data-dependent-shape": Case(append("NonZero", "head"), node="odd"),
    "loop-carried-shape": Case(growing_loop, node="odd"),
    "loop-scan-length": Case(collecting_loop, node="odd"),
    "scan-length": Case(scan, node="odd"),
    "if-branches": Case(branches(constant_branch("same"), constant_branch("same")), node="odd"),
    "subgraph-depth": Case(nested(26), versions=JETPACKS["7.2"], node="odd"),
    "control-flow-cost": Case(branches(constant_branch("a"), constant_branch("b")), node="odd"),
    "int8-channels": Case(int8_convolution(20, 32, 1), "int8", node="odd"),
    "int8-depthwise": Case(int8_convolution(32, 32, 32), "int8", node="odd"),
    "int8-grouped": Case(int8_convolution(32, 32, 4), "int8", node="odd"),
    "memory-exceeded": Case(unchanged, options={"memory_bytes": 2**16}),
    "memory-tight": Case(append("ConstantOfShape", np.int64([2**20])), options={"memory_bytes": None}),
}
RULES = {rule.id: rule for rule in rule_table()}


def sound(models: dict[tuple[str, str], Graph], name: str, precision: str) -> Graph:
    if (name, precision) not in models:
        pytest.skip("EDGEKIT_DATA names no folder with this model")
    return models[name, precision]


def of_rule(found: tuple[Finding, ...], rule: str) -> set[Finding]:
    return {finding for finding in found if finding.rule == rule}


def break_one(graph: Graph, case: Case, rule: str) -> Iterator[Finding]:
    """What the rule says of the broken model and not of the sound one."""
    model = copy_of(graph.model)
    case.breaks(model)
    options = dict(case.options)
    if rule == "memory-tight":  # a board just large enough to run it, and not to build it
        from edgekit.graph.rules.memory import estimate_memory

        options["memory_bytes"] = estimate_memory(model, profile_of(graph.model)).total_bytes + 1
    before = of_rule(checked(graph, versions=("10.1", "10.2")), rule)
    return iter(of_rule(checked(graph, model, case.versions, **options), rule) - before)


@pytest.mark.parametrize(
    ("rule", "name"),
    [(rule, name) for name, kinds in MODELS.items() for rule, case in CASES.items() if case.base in kinds],
)
def test_a_rule_fires_on_a_model_broken_in_one_place(
    models: dict[tuple[str, str], Graph], rule: str, name: str
) -> None:
    case = CASES[rule]
    graph = sound(models, name, case.base)
    found = list(break_one(graph, case, rule))
    assert found
    nodes = {node.name for node in graph.model.graph.node} | {"odd", "cast", None}
    for finding in found:
        assert finding.severity == RULES[rule].severity
        assert finding.message and finding.fix and finding.source
        assert finding.node in nodes
        assert case.node is None or finding.node == case.node


def test_every_rule_has_a_source_a_fix_a_predicate_and_a_case() -> None:
    assert list(CASES) == list(PREDICATES) == list(RULES)
    assert len(RULES) == len(rule_table())
    for rule in RULES.values():
        assert rule.source and rule.fix and rule.title
        assert rule.severity in ("error", "warning", "note")
        assert rule.by in ("parser", "builder", "board", "edgekit")


@pytest.mark.parametrize("jetpack", JETPACKS)
@pytest.mark.parametrize(
    ("name", "precision"), [(name, precision) for name, kinds in MODELS.items() for precision in kinds]
)
def test_a_sound_model_gives_no_error(
    models: dict[tuple[str, str], Graph], name: str, precision: str, jetpack: str
) -> None:
    graph = sound(models, name, precision)
    found = checked(graph, versions=JETPACKS[jetpack])
    assert [finding.describe() for finding in found if finding.severity == "error"] == []
    assert {finding.rule for finding in found} <= (TOLD if precision == "int8" else {"list-of-another-version"})
    assert refusals(graph.model, JETPACKS[jetpack][0]) == []


@pytest.mark.parametrize("rule", ["qdq-zero-point", "qdq-scale-positive", "integer-operator"])
def test_a_finding_on_femtodet_names_the_torch_module_and_the_line(
    models: dict[tuple[str, str], Graph], rule: str
) -> None:
    """Also where a node that the lowering added is at fault."""
    case = CASES[rule]
    found = list(break_one(models["femtodet", case.base], case, rule))
    assert found
    for finding in found:
        assert finding.module and finding.module.startswith("backbone.stem")
        assert finding.line and finding.line.startswith("edgekit/models/femtodet.py:")
        assert finding.module in finding.describe() and finding.line in finding.describe()


def test_a_caution_names_the_module_of_its_layer(models: dict[tuple[str, str], Graph]) -> None:
    found = of_rule(checked(models["femtodet", "int8"]), "int8-depthwise")
    assert len(found) == 14
    assert all(finding.module and "depthwise" in finding.module for finding in found)


def test_what_the_parser_refuses_is_what_a_double_refuses(models: dict[tuple[str, str], Graph]) -> None:
    for rule, case in CASES.items():
        graph = models["small", case.base]
        model = copy_of(graph.model)
        case.breaks(model)
        refused = {finding.rule for finding in refusals(model, case.versions[0])}
        parser = RULES[rule].by == "parser" and RULES[rule].severity == "error"
        assert (rule in refused) == parser, rule
