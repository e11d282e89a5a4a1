"""Rules on operators: which there are, in which form, on which types, of which size."""

from __future__ import annotations

import math
from collections.abc import Iterator

from edgekit.graph.graph import STANDARD_DOMAINS
from edgekit.graph.rules.facts import Rule, form_table, rule_table
from edgekit.graph.rules.forms import breaks
from edgekit.graph.rules.view import Hit, Site, View

# Types of which TensorRT's parser has nothing but what casts them.
_BORDER_TYPES = frozenset({"UINT8"})
_OWN_TYPES = frozenset(
    {"FP32", "FP16", "BF16", "FP8", "FP4", "FP64", "INT64", "INT32", "INT8", "INT4", "UINT8", "BOOL"}
)


def opset_ceiling(view: View, _: Rule) -> Iterator[Hit]:
    low, high = view.release.opset_min, view.release.opset_max
    if not low <= view.opset <= high:
        yield Hit(None, f"operator set {view.opset}; the parser covers {low} to {high}", view.release.opset_source)


def ir_ceiling(view: View, _: Rule) -> Iterator[Hit]:
    if view.model.ir_version > view.release.ir_max:
        said = f"IR version {view.model.ir_version}; the ONNX inside the parser knows up to {view.release.ir_max}"
        yield Hit(None, said, view.release.ir_source)


def list_of_another_version(view: View, _: Rule) -> Iterator[Hit]:
    if not view.release.listed:
        version = ".".join(map(str, view.span.low))
        said = f"operators of TensorRT {version} are judged by an older list and the dated changes since 10.1"
        yield Hit(None, said, view.release.source)


def integer_operator(view: View, rule: Rule) -> Iterator[Hit]:
    for site in view.standard:
        if site.node.op_type in rule.data["operators"]:
            yield Hit(site, f"{site.node.op_type} is not in TensorRT's operator list")


def foreign_domain(view: View, _: Rule) -> Iterator[Hit]:
    for site in view.sites:
        domain, op = site.node.domain, site.node.op_type
        if domain in STANDARD_DOMAINS or (domain, op) in view.functions:
            continue
        if op in view.release.operators:
            said = f"{op} of domain {domain!r} would be read as ONNX's own {op}: the parser looks at names alone"
            yield Hit(site, said, by="edgekit")
        else:
            yield Hit(site, f"{op} of domain {domain!r}: TensorRT has it only where a plugin of that name is installed")


def operator_unsupported(view: View, _: Rule) -> Iterator[Hit]:
    skip = integer_operators()
    for site in view.standard:
        op = site.node.op_type
        if op in view.release.unsupported and op not in skip:
            source = view.release.unsupported[op]
            yield Hit(site, f"{op} is not in TensorRT's operator list ({source} calls it unsupported)", source)


def operator_unknown(view: View, _: Rule) -> Iterator[Hit]:
    skip = integer_operators()
    known = {*view.release.operators, *view.release.unsupported, *skip}
    for site in view.standard:
        op = site.node.op_type
        if op not in known:
            source = view.release.source
            yield Hit(site, f"{op} is not in TensorRT's operator list ({source} does not name it)", source)


def integer_operators() -> frozenset[str]:
    """The operators that have a rule of their own."""
    return frozenset(next(rule.data["operators"] for rule in rule_table() if rule.id == "integer-operator"))


def operator_form(view: View, _: Rule) -> Iterator[Hit]:
    forms = [form for form in form_table() if view.span.meets(form.since, form.below)]
    for site in view.standard:
        for form in forms:
            if site.node.op_type in form.operators:
                found = breaks(form, site.node, view)
                if found is not None:
                    said = f"{site.node.op_type}: {form.says}{f', and here {found}' if found else ''}"
                    yield Hit(site, said, form.source, form.severity)


def operator_restriction(view: View, rule: Rule) -> Iterator[Hit]:
    decided = {op for form in form_table() for op in form.operators} | set(rule.data["exempt"])
    first: dict[str, Site] = {}
    for site in view.standard:
        first.setdefault(site.node.op_type, site)
    for op, site in sorted(first.items()):
        said = view.release.operators.get(op)
        if said and said.restriction and op not in decided:
            yield Hit(site, f"{op}: {said.restriction}", said.source)


def type_unsupported(view: View, _: Rule) -> Iterator[Hit]:
    for site in view.standard:
        op = view.release.operators.get(site.node.op_type)
        quantizes = site.node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in (*site.node.input, *site.node.output):
            kind = view.type_name(name)
            if kind is None or (name in view.tensors and kind in _BORDER_TYPES):
                continue
            border = kind in _BORDER_TYPES and not quantizes and op is not None and kind not in op.types
            if kind not in _OWN_TYPES or border:
                yield Hit(site, f"{site.node.op_type} does not take {kind} in TensorRT (tensor {name!r})")
                break


def double_precision(view: View, _: Rule) -> Iterator[Hit]:
    for site in view.standard:
        name = next((n for n in (*site.node.input, *site.node.output) if view.type_name(n) == "FP64"), None)
        if name is not None:
            said = f"{site.node.op_type} does not take FP64 in TensorRT: tensor {name!r} would become FP32, clamped"
            yield Hit(site, said)


def type_unlisted(view: View, rule: Rule) -> Iterator[Hit]:
    for site in view.standard:
        op = view.release.operators.get(site.node.op_type)
        kind = view.type_name(site.node.input[0]) if site.node.input else None
        skipped = site.node.op_type in rule.data["exempt"] or kind in ("FP64", *_BORDER_TYPES)
        if op is None or not op.types or kind is None or skipped or kind not in _OWN_TYPES:
            continue
        if kind not in op.types:
            said = f"{site.node.op_type} on {kind}; its row names {', '.join(op.types)}"
            yield Hit(site, said, op.source)


def rank_limit(view: View, rule: Rule) -> Iterator[Hit]:
    for site in view.sites:
        for name in site.node.output:
            rank = len(view.shapes.get(name, ()))
            if rank > rule.data["limit"]:
                yield Hit(site, f"tensor {name!r} has {rank} dimensions, TensorRT {rule.data['limit']} at most")


def volume_limit(view: View, rule: Rule) -> Iterator[Hit]:
    for site in view.sites:
        for name in site.node.output:
            sizes = view.largest.get(name)
            count = math.prod(sizes) if sizes is not None else 0
            if count > rule.data["limit"]:
                yield Hit(site, f"tensor {name!r} has {count} elements, a layer takes {rule.data['limit']} at most")
