"""Whether TensorRT takes a graph: rules as data with version ranges and sources, held against a model.

`check` is for the export, `refusals` is what TensorRT's own parser would say. Nothing here ran on a board.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from onnx import ModelProto

from edgekit.bundle.manifest import Origin
from edgekit.graph.layers import find_layers
from edgekit.graph.rules import tensorrt_flow as flow
from edgekit.graph.rules import tensorrt_operators as operators
from edgekit.graph.rules import tensorrt_quantization as quantization
from edgekit.graph.rules.facts import SEVERITIES, Finding, Rule, Span, operator_table, release, rule_table
from edgekit.graph.rules.memory import MemoryEstimate, estimate_memory
from edgekit.graph.rules.view import Hit, Shapes, View, name_of
from edgekit.graph.wiring import Wiring

__all__ = [
    "Finding",
    "MemoryEstimate",
    "check",
    "estimate_memory",
    "explicit_int8_nodes",
    "int8_cautions",
    "operator_table",
    "refusals",
    "restrictions",
    "summary",
    "unsupported_nodes",
]

PREDICATES: dict[str, Callable[[View, Rule], Iterator[Hit]]] = {
    "opset-ceiling": operators.opset_ceiling,
    "ir-ceiling": operators.ir_ceiling,
    "list-of-another-version": operators.list_of_another_version,
    "integer-operator": operators.integer_operator,
    "foreign-domain": operators.foreign_domain,
    "operator-unsupported": operators.operator_unsupported,
    "operator-unknown": operators.operator_unknown,
    "operator-form": operators.operator_form,
    "operator-restriction": operators.operator_restriction,
    "type-unsupported": operators.type_unsupported,
    "type-unlisted": operators.type_unlisted,
    "double-precision": operators.double_precision,
    "rank-limit": operators.rank_limit,
    "volume-limit": operators.volume_limit,
    "qdq-zero-point": quantization.zero_point,
    "qdq-type": quantization.quantized_type,
    "qdq-scale-constant": quantization.scale_constant,
    "qdq-scale-positive": quantization.scale_positive,
    "qdq-scale-shape": quantization.scale_shape,
    "qdq-scale-type": quantization.scale_type,
    "qdq-half-opset": quantization.half_opset,
    "qdq-activation-per-tensor": quantization.activation_per_tensor,
    "qdq-weight-axis": quantization.weight_axis,
    "qdq-in-subgraph": quantization.in_subgraph,
    "int64-range": flow.int64_range,
    "int64-compute": flow.int64_compute,
    "dynamic-without-profile": flow.dynamic_without_profile,
    "data-dependent-shape": flow.data_dependent_shape,
    "loop-carried-shape": flow.loop_carried_shape,
    "loop-scan-length": flow.loop_scan_length,
    "scan-length": flow.scan_length,
    "if-branches": flow.if_branches,
    "subgraph-depth": flow.subgraph_depth,
    "control-flow-cost": flow.control_flow_cost,
    "int8-channels": quantization.int8_channels,
    "int8-depthwise": quantization.int8_depthwise,
    "int8-grouped": quantization.int8_grouped,
    "memory-exceeded": flow.memory_exceeded,
    "memory-tight": flow.memory_tight,
}
# What makes a node of a canonical graph impossible, whatever it is lowered to.
_NODE_RULES = frozenset(
    {
        *("integer-operator", "foreign-domain", "operator-unsupported", "operator-unknown"),
        *("type-unsupported", "double-precision"),
    }
)


def check(
    model: ModelProto,
    *,
    versions: tuple[str, str | None],
    profile: Shapes | None = None,
    memory_bytes: int | None = None,
    workspace_bytes: int = 0,
    origins: Mapping[str, Origin] | None = None,
) -> tuple[Finding, ...]:
    """Everything that the rules say of a lowered model: errors first, then warnings and notes, each in graph order.

    Args:
        model: the ONNX model as it would be shipped.
        versions: the board's TensorRT, from (inclusive) and to (exclusive; None is open), such as `("10.3", "10.4")`.
            What a parser takes is read at the lower end, since releases add operators.
        profile: input to `min`, `opt` and `max` shape; None where nothing is open.
        memory_bytes: the board's memory; None leaves the memory rules out.
        workspace_bytes: the builder's scratch memory, where it is known.
        origins: node name to torch module and line; a node that a lowering added takes its neighbour's.

    Raises:
        UnsupportedError: nothing is known of a version so old.
        InputError: the model is malformed.
        UsageError: a version is no version.
    """
    span = Span.of(*versions)
    view = View(model, span, release(span.low), profile, memory_bytes, workspace_bytes)
    found = [_finding(rule, hit, view, origins or {}) for rule, hit in _hits(view)]
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: SEVERITIES.index(finding.severity)))


def refusals(model: ModelProto, version: str) -> list[Finding]:
    """The errors that TensorRT's own parser would report for `model`, as far as documents tell; empty if none.

    Args:
        version: the parser's version, such as `10.3` or `10.16.1.11`.

    Raises:
        UnsupportedError: nothing is known of a version so old.
        InputError: the model is malformed.
        UsageError: it is no version.
    """
    found = check(model, versions=(version, version))
    return [finding for finding in found if finding.severity == "error" and finding.by == "parser"]


def summary(findings: Sequence[Finding]) -> tuple[str, ...]:
    """A line for each severity and rule: how many, the first, and where the others are."""
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        grouped.setdefault((finding.severity, finding.rule), []).append(finding)
    lines = []
    for (severity, rule), group in grouped.items():
        others = [finding.node for finding in group[1:4] if finding.node]
        more = f"; {len(group)} in all, also {', '.join(others)}" if others else ""
        lines.append(f"{severity} {rule}: {group[0].message}{more}")
    return tuple(lines)


def unsupported_nodes(model: ModelProto) -> dict[str, str]:
    """Node name to the reason why the parser of 10.1 would refuse it; a node answers for the bodies inside it."""
    base = operator_table()["tensorrt"]
    span = Span.of(base, base)
    view = View(model, span, release(span.low))
    found: dict[str, str] = {}
    for rule, hit in _hits(view, _NODE_RULES):
        if hit.site is not None:
            found.setdefault(hit.site.top.name, f"{hit.message} ({hit.source or rule.source})")
    return found


def restrictions(model: ModelProto) -> list[str]:
    """What the list of 10.1 says besides of the operators that `model` uses."""
    base = operator_table()["tensorrt"]
    view = View(model, Span.of(base, base), release(Span.of(base, base).low))
    used = sorted({site.node.op_type for site in view.sites})
    said = [(name, view.release.operators[name].restriction) for name in used if name in view.release.operators]
    return [f"{name}: {restriction}" for name, restriction in said if restriction]


def int8_cautions(model: ModelProto) -> tuple[str, ...]:
    """Where int8 may lose to fp16 on a Jetson, of a float graph that is to be quantized: only the board measures it."""
    wiring = Wiring(model)
    layers = [layer for layer in find_layers(wiring)[0].values() if layer.node.op_type == "Conv"]
    sizes = {layer.name: tuple(int(size) for size in wiring.weights[layer.weight].dims) for layer in layers}
    tests = {
        "int8-channels": quantization.odd_channels,
        "int8-depthwise": quantization.is_depthwise,
        "int8-grouped": quantization.is_grouped,
    }
    said = []
    for rule in rule_table():
        names = [each.name for each in layers if rule.id in tests and tests[rule.id](sizes[each.name], each.groups)]
        if names:
            said.append(f"int8: {len(names)} layer(s) {rule.title}: {', '.join(names[:3])}")
    return tuple(said)


def explicit_int8_nodes(model: ModelProto) -> frozenset[str]:
    """The compute nodes whose data and weight are both dequantized right before, with zero points of zero.

    Nothing inside a loop counts, since no Q/DQ is written there.
    """
    base = operator_table()["tensorrt"]
    view = View(model, Span.of(base, base), release(Span.of(base, base).low))
    return frozenset(str(site.node.name) for site in quantization.explicit_int8_sites(view))


def _hits(view: View, only: frozenset[str] | None = None) -> Iterator[tuple[Rule, Hit]]:
    for rule in rule_table():
        if (only is None or rule.id in only) and view.span.meets(rule.since, rule.below):
            for hit in PREDICATES[rule.id](view, rule):
                yield rule, hit


def _finding(rule: Rule, hit: Hit, view: View, origins: Mapping[str, Origin]) -> Finding:
    origin = None
    if hit.site is not None:
        origin = view.origin(hit.site.node, origins) or view.origin(hit.site.top, origins)
    inner = f" (in {hit.site})" if hit.site is not None and hit.site.inside else ""
    return Finding(
        rule.id,
        hit.severity or rule.severity,
        None if hit.site is None else name_of(hit.site.top),
        origin.module if origin else None,
        f"{hit.message}{inner}",
        rule.fix,
        hit.source or rule.source,
        f"{origin.file}:{origin.line}" if origin and origin.file else None,
        hit.by or rule.by,
    )
