"""Rules on shapes, integers, loops and branches, and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from edgekit.graph.rules.facts import Rule
from edgekit.graph.rules.memory import estimate_memory
from edgekit.graph.rules.view import BODIES, Hit, Site, View
from edgekit.graph.wiring import attribute

_INT32 = np.iinfo(np.int32)


def int64_range(view: View, rule: Rule) -> Iterator[Hit]:
    for name, tensor in view.tensors.items():
        if tensor.data_type != TensorProto.INT64:
            continue
        values = np.asarray(view.constant(name), np.int64)
        beyond = values[(values < _INT32.min) | (values > _INT32.max)]
        readers = [site for site in view.readers.get(name, []) if site.node.op_type not in rule.data["exempt"]]
        if beyond.size and readers:
            yield Hit(readers[0], f"constant {name!r} holds {int(beyond[0])}")


def int64_compute(view: View, rule: Rule) -> Iterator[Hit]:
    for site in view.standard:
        name = site.node.output[0] if site.node.output else ""
        sizes = view.shapes.get(name)
        if site.node.op_type not in rule.data["operators"] or sizes is None:
            continue
        known = [size for size in sizes if isinstance(size, int)]
        large = len(known) < len(sizes) or math.prod(known) > rule.data["limit"]
        if view.types.get(name) == TensorProto.INT64 and large:
            yield Hit(site, f"{site.node.op_type} computes {name!r} in INT64")


def dynamic_without_profile(view: View, _: Rule) -> Iterator[Hit]:
    weights = {tensor.name for tensor in view.model.graph.initializer}
    profile = view.profile or {}
    for value in view.model.graph.input:
        if value.name in weights or not value.type.HasField("tensor_type"):
            continue
        sizes = view.shapes.get(value.name)
        wrong = "its rank is not known" if sizes is None else _unbounded(sizes, profile.get(value.name))
        if wrong:
            yield Hit(None, f"input {value.name!r}: {wrong}")


def _unbounded(sizes: Sequence[int | str], bounds: Mapping[str, Sequence[int]] | None) -> str | None:
    """Why `bounds` is no optimization profile for an input of `sizes`; None where it is one, or none is needed."""
    open_sizes = [size for size in sizes if isinstance(size, str)]
    if bounds is None:
        return f"dimension {open_sizes[0]!r} is open and no profile bounds it" if open_sizes else None
    found = [bounds.get(label, ()) for label in ("min", "opt", "max")]
    if any(len(given) != len(sizes) for given in found):
        return f"the profile needs min, opt and max of {len(sizes)} sizes each"
    for axis, size in enumerate(sizes):
        low, usual, high = (int(given[axis]) for given in found)
        if not 0 < low <= usual <= high:
            return f"the profile has {low}, {usual}, {high} on axis {axis}: not 0 < min <= opt <= max"
        if isinstance(size, int) and (low, high) != (size, size):
            return f"the profile has {low} to {high} on axis {axis}, which is fixed at {size}"
    return None


def data_dependent_shape(view: View, rule: Rule) -> Iterator[Hit]:
    for site in view.standard:
        if site.node.op_type in rule.data["operators"]:
            yield Hit(site, f"how large {site.node.output[0]!r} is, {site.node.op_type} knows only when it has run")


def loop_carried_shape(view: View, _: Rule) -> Iterator[Hit]:
    for site in _loops(view):
        body = _body(site.node)
        scanned = attribute(site.node, "num_scan_inputs", 0)
        if site.node.op_type == "Loop":
            before, after, fed = body.input[2:], body.output[1:], site.node.input[2:]
        else:
            count = len(body.input) - (scanned if isinstance(scanned, int) else 0)
            before, after, fed = body.input[:count], body.output[:count], site.node.input[:count]
        for outer, old, new in zip(fed, before, after, strict=False):
            for name in (outer, old.name):
                differ = _differ(name, new.name, view)
                if differ:
                    yield Hit(site, f"{old.name!r} is carried into {new.name!r}, {differ}")
                    break


def _differ(old: str, new: str, view: View) -> str | None:
    kinds = view.type_name(old), view.type_name(new)
    if None not in kinds and kinds[0] != kinds[1]:
        return f"from {kinds[0]} to {kinds[1]}"
    before, after = view.shapes.get(old), view.shapes.get(new)
    if before is None or after is None:
        return None
    fixed = [(a, b) for a, b in zip(before, after, strict=False) if isinstance(a, int) and isinstance(b, int)]
    if len(before) != len(after) or any(a != b for a, b in fixed):
        return f"from shape {list(before)} to {list(after)}"
    return None


def loop_scan_length(view: View, _: Rule) -> Iterator[Hit]:
    for site in _loops(view):
        if site.node.op_type != "Loop":
            continue
        body = _body(site.node)
        collected = [name for name in site.node.output[len(site.node.input) - 2 :] if name]
        if not collected:
            continue
        count = site.node.input[0] if site.node.input else ""
        if count not in view.tensors:
            yield Hit(site, f"it collects {collected[0]!r} for a number of iterations that is not constant")
        elif not _runs_to_the_end(body, view):
            yield Hit(site, f"it collects {collected[0]!r} and may stop early by its condition")


def _runs_to_the_end(body: GraphProto, view: View) -> bool:
    """Whether a loop's body passes its condition on, or gives a constant that is true."""
    name, given = body.output[0].name, body.input[1].name
    maker = view.producers.get(name)
    while maker is not None and maker.node.op_type == "Identity":
        name = maker.node.input[0]
        maker = view.producers.get(name)
    values = view.constant(name)
    return name == given or (values is not None and bool(values.all()))


def scan_length(view: View, _: Rule) -> Iterator[Hit]:
    for site in _loops(view):
        scanned = attribute(site.node, "num_scan_inputs", 0)
        if site.node.op_type != "Scan" or not scanned:
            continue
        axes = attribute(site.node, "scan_input_axes", None)
        axis = int(axes[-1]) if isinstance(axes, list) else 0
        sizes = view.shapes.get(site.node.input[-1])
        if sizes is not None and isinstance(sizes[axis], str):
            yield Hit(site, f"it runs over axis {axis} of {site.node.input[-1]!r}, whose size {sizes[axis]!r} is open")


def if_branches(view: View, _: Rule) -> Iterator[Hit]:
    for site in view.standard:
        if site.node.op_type != "If":
            continue
        branches = [attribute(site.node, name) for name in ("then_branch", "else_branch")]
        then, other = ([value.name for value in b.output] if isinstance(b, GraphProto) else [] for b in branches)
        if len(then) != len(other):
            yield Hit(site, f"its branches have {len(then)} and {len(other)} outputs")
            continue
        for a, b in zip(then, other, strict=True):
            ranks = [len(view.shapes[name]) if name in view.shapes else None for name in (a, b)]
            if a == b:
                yield Hit(site, f"both branches call an output {a!r}")
            elif None not in ranks and ranks[0] != ranks[1]:
                yield Hit(site, f"{a!r} has {ranks[0]} dimensions and {b!r} {ranks[1]}")


def subgraph_depth(view: View, rule: Rule) -> Iterator[Hit]:
    deepest: dict[str, Site] = {}
    for site in view.sites:
        if len(site.inside) > rule.data["limit"]:
            deepest.setdefault(site.top.name, site)
    for site in deepest.values():
        yield Hit(site, f"{site.top.op_type} holds more than {rule.data['limit']} levels of bodies")


def control_flow_cost(view: View, rule: Rule) -> Iterator[Hit]:
    for site in view.standard:
        if site.node.op_type in rule.data["operators"]:
            yield Hit(site, f"{site} runs step by step")


def memory_exceeded(view: View, _: Rule) -> Iterator[Hit]:
    if view.memory_bytes is None:
        return
    estimate = estimate_memory(view.model, view.profile, view.workspace_bytes)
    if estimate.total_bytes > view.memory_bytes:
        yield Hit(None, f"{_mib(estimate.total_bytes)} to run, estimated, of {_mib(view.memory_bytes)}")


def memory_tight(view: View, rule: Rule) -> Iterator[Hit]:
    if view.memory_bytes is None:
        return
    estimate = estimate_memory(view.model, view.profile, view.workspace_bytes)
    if estimate.total_bytes <= view.memory_bytes and estimate.build_bytes > rule.data["fraction"] * view.memory_bytes:
        share = f"more than {rule.data['fraction']:.0%} of {_mib(view.memory_bytes)}"
        yield Hit(None, f"{_mib(estimate.build_bytes)} to build, estimated, {share}")


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _loops(view: View) -> Iterator[Site]:
    return (site for site in view.standard if site.node.op_type in BODIES - {"If"})


def _body(node: NodeProto) -> GraphProto:
    body = attribute(node, "body")
    assert isinstance(body, GraphProto)
    return body
