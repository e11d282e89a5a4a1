"""What each kind of a form in `tensorrt_forms.toml` looks at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto

from edgekit.graph.rules.facts import Form
from edgekit.graph.rules.view import View
from edgekit.graph.wiring import attribute


def breaks(form: Form, node: NodeProto, view: View) -> str | None:
    """None where `node` keeps to `form`; else what it is instead, possibly empty."""
    wanted = form.data.get("when", {})
    if any(_text(attribute(node, name)) != value for name, value in wanted.items()):
        return None
    return _KINDS[form.kind](form, node, view)


def _attribute(form: Form, node: NodeProto, _: View) -> str | None:
    name = form.data["attribute"]
    value = _text(attribute(node, name, form.data["default"]))
    return None if value in form.data["values"] else f"{name} is {value}"


def _ones(form: Form, node: NodeProto, _: View) -> str | None:
    value = attribute(node, form.data["attribute"])
    values = [int(v) for v in value] if isinstance(value, list) else []
    return None if set(values) <= {1} else f"they are {values}"


def _absent(form: Form, node: NodeProto, _: View) -> str | None:
    return "" if attribute(node, form.data["attribute"]) is not None else None


def _outputs(form: Form, node: NodeProto, _: View) -> str | None:
    extra = [name for name in node.output[form.data["index"] :] if name]
    return f"{extra[0]!r} is given too" if extra else None


def _no_input(form: Form, node: NodeProto, _: View) -> str | None:
    name = _input(form, node)
    return f"it is {name!r}" if name else None


def _required(form: Form, node: NodeProto, _: View) -> str | None:
    return None if _input(form, node) else ""


def _constant(form: Form, node: NodeProto, view: View) -> str | None:
    name = _input(form, node)
    return f"{name!r} is computed" if name and name not in view.tensors else None


def _known(form: Form, node: NodeProto, view: View) -> str | None:
    name = _input(form, node)
    return f"{name!r} depends on the data or on an open dimension" if name and not view.is_known(name) else None


def _zero(form: Form, node: NodeProto, view: View) -> str | None:
    name = _input(form, node)
    values = view.constant(name) if name else None
    if not name or (values is not None and not values.any()):
        return None
    return f"{name!r} is computed" if values is None else f"{name!r} is {values.reshape(-1)[0]}"


def _rank(form: Form, node: NodeProto, view: View) -> str | None:
    name = _input(form, node)
    sizes = view.shapes.get(name) if name else None
    return None if sizes is None or len(sizes) in form.data["values"] else f"{name!r} has {len(sizes)}"


def _static(form: Form, node: NodeProto, view: View) -> str | None:
    name = _input(form, node)
    sizes = view.shapes.get(name) if name else None
    open_sizes = [size for size in sizes or () if isinstance(size, str)]
    return f"{open_sizes[0] or 'one'!r} of {name!r} is open" if open_sizes else None


def _below(form: Form, node: NodeProto, view: View) -> str | None:
    name = _input(form, node)
    values = view.constant(name) if name else None
    largest = None if values is None or not values.size else int(np.max(values.astype(np.int64)))
    return None if largest is None or largest < form.data["limit"] else f"it is {largest}"


def _iota(form: Form, node: NodeProto, view: View) -> str | None:
    scales, axes = _input(form, node), attribute(node, form.data["attribute"])
    rank = len(view.shapes.get(node.input[0], ()))
    if not scales or scales in view.tensors or not isinstance(axes, list) or axes == list(range(rank)):
        return None
    return f"they are {axes}"


def _directions(form: Form, node: NodeProto, _: View) -> str | None:
    value = attribute(node, form.data["attribute"])
    if _text(attribute(node, "direction")) != "bidirectional" or not isinstance(value, list):
        return None
    names = [str(_text(v)).lower() for v in value]
    half = len(names) // 2
    return None if names[:half] == names[half:] else f"they are {', '.join(names)}"


def _opset(form: Form, node: NodeProto, view: View) -> str | None:
    since = int(onnx.defs.get_schema(node.op_type, view.opset).since_version)
    return f"it is of operator set {since}" if since >= form.data["limit"] else None


def _input(form: Form, node: NodeProto) -> str:
    index = form.data["index"]
    return str(node.input[index]) if len(node.input) > index else ""


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


_KINDS: dict[str, Callable[[Form, NodeProto, View], str | None]] = {
    "attribute": _attribute,
    "ones": _ones,
    "absent": _absent,
    "outputs": _outputs,
    "no-input": _no_input,
    "required": _required,
    "constant": _constant,
    "known": _known,
    "zero": _zero,
    "rank": _rank,
    "static": _static,
    "below": _below,
    "iota": _iota,
    "directions": _directions,
    "opset": _opset,
}
