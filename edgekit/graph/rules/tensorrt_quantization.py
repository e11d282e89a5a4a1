"""Rules on QuantizeLinear and DequantizeLinear, and on what int8 costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import NodeProto, TensorProto

from edgekit.graph.rules.facts import Rule
from edgekit.graph.rules.view import BODIES, Hit, Site, View
from edgekit.graph.wiring import attribute

_PAIR = ("QuantizeLinear", "DequantizeLinear")
# INT4 is for weights alone; TensorRT reads it on every GPU, in DequantizeLinear.
_TAKEN = frozenset({"INT8", "INT4"})
_INT8_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


def zero_point(view: View, _: Rule) -> Iterator[Hit]:
    for site in _pairs(view):
        name = _input(site.node, 2)
        values = view.constant(name) if name else None
        if name and values is None:
            yield Hit(site, f"zero point {name!r} is computed; TensorRT wants zeros that it can read")
        elif values is not None and np.asarray(values, np.float64).any():
            first = np.asarray(values, np.float64).reshape(-1)
            yield Hit(site, f"zero point {name!r} is {first[np.flatnonzero(first)[0]]:g}; TensorRT takes 0 only")


def quantized_type(view: View, _: Rule) -> Iterator[Hit]:
    for site in _pairs(view):
        kind = _quantized(site.node, view)
        if kind is None:
            yield Hit(site, "no zero point and no output_dtype: ONNX means uint8, TensorRT's parser int8")
        elif kind not in _TAKEN or (kind == "INT4" and not _is_weight(site.node, view)):
            yield Hit(site, f"{site.node.op_type} has integers of type {kind}; edgekit writes INT8 for Orin")


def scale_constant(view: View, _: Rule) -> Iterator[Hit]:
    for site in _pairs(view):
        scale = _input(site.node, 1)
        if scale not in view.tensors:
            yield Hit(site, f"scale {scale!r} is computed or fed")


def scale_positive(view: View, _: Rule) -> Iterator[Hit]:
    for site, values in _scales(view):
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if wrong.size:
            yield Hit(site, f"scale {site.node.input[1]!r} holds {wrong[0]:g}")


def scale_shape(view: View, _: Rule) -> Iterator[Hit]:
    for site, values in _scales(view):
        scale, zero = str(site.node.input[1]), _input(site.node, 2)
        zeros = view.constant(zero) if zero else None
        if zeros is not None and zeros.size != values.size:
            yield Hit(site, f"{values.size} scale(s) and {zeros.size} zero point(s)")
        if values.size == 1:
            continue
        sizes = view.shapes.get(site.node.input[0])
        if values.ndim > 1:
            if _quantized(site.node, view) != "INT4":
                yield Hit(site, f"scale {scale!r} has {values.ndim} dimensions: blocks are for INT4")
        elif sizes is not None and -len(sizes) <= _axis(site.node) < len(sizes):
            channels = sizes[_axis(site.node)]
            if isinstance(channels, int) and channels != values.size:
                yield Hit(site, f"{values.size} scales for {channels} entries on axis {_axis(site.node)}")


def scale_type(view: View, _: Rule) -> Iterator[Hit]:
    for site in _pairs(view):
        kinds = [view.type_name(name) for name in site.node.input[:2]]
        if site.node.op_type == "QuantizeLinear" and None not in kinds and kinds[0] != kinds[1]:
            yield Hit(site, f"data is {kinds[0]}, its scale {kinds[1]}")


def half_opset(view: View, rule: Rule) -> Iterator[Hit]:
    for site in _pairs(view):
        scale = _input(site.node, 1)
        if view.types.get(scale) == TensorProto.FLOAT16 and view.opset < rule.data["limit"]:
            yield Hit(site, f"scale {scale!r} is fp16 at operator set {view.opset}")


def activation_per_tensor(view: View, _: Rule) -> Iterator[Hit]:
    for site, values in _scales(view):
        if values.size > 1 and not _is_weight(site.node, view):
            yield Hit(site, f"{values.size} scales for the activation {site.node.input[0]!r}")


def weight_axis(view: View, _: Rule) -> Iterator[Hit]:
    for site in view.standard:
        wanted = _output_axis(site.node)
        maker = view.producers.get(_input(site.node, 1)) if wanted is not None else None
        if wanted is None or maker is None or maker.node.op_type != "DequantizeLinear":
            continue
        scale = view.constant(_input(maker.node, 1))
        rank = len(view.shapes.get(maker.node.input[0], ()))
        if scale is None or scale.size == 1 or scale.ndim != 1 or not rank:
            continue
        if _axis(maker.node) % rank != wanted % rank:
            said = f"its weight's scales run along axis {_axis(maker.node)}, its outputs along axis {wanted % rank}"
            yield Hit(site, said)


def in_subgraph(view: View, _: Rule) -> Iterator[Hit]:
    for site in _pairs(view):
        body = next((op for op in reversed(site.inside) if op in BODIES), None)
        if body is not None:
            yield Hit(site, f"{site} stands in the body of {site.top.op_type}")


def int8_channels(view: View, rule: Rule) -> Iterator[Hit]:
    for site, sizes, groups in _int8_convolutions(view):
        if odd_channels(sizes, groups, rule.data["limit"]):
            yield Hit(site, f"{sizes[0]} outputs, {sizes[1] * groups} inputs: {rule.title}")


def int8_depthwise(view: View, rule: Rule) -> Iterator[Hit]:
    for site, sizes, groups in _int8_convolutions(view):
        if is_depthwise(sizes, groups):
            yield Hit(site, f"{groups} groups of one channel: {rule.title}")


def int8_grouped(view: View, rule: Rule) -> Iterator[Hit]:
    for site, sizes, groups in _int8_convolutions(view):
        if is_grouped(sizes, groups):
            yield Hit(site, f"{groups} groups of {sizes[1]} channels: {rule.title}")


def odd_channels(sizes: tuple[int, ...], groups: int, unit: int = 32) -> bool:
    """Whether a convolution's weight of `sizes` has inputs or outputs that do not fill int8's tiles."""
    return bool(sizes[0] % unit or (sizes[1] * groups) % unit)


def is_depthwise(sizes: tuple[int, ...], groups: int) -> bool:
    """One input channel a group."""
    return groups > 1 and sizes[1] == 1


def is_grouped(sizes: tuple[int, ...], groups: int) -> bool:
    """Groups of several input channels."""
    return groups > 1 and sizes[1] > 1


def explicit_int8_sites(view: View) -> tuple[Site, ...]:
    """The layers whose data and weight are both dequantized right before, with zero points of zero.

    TensorRT's rule for explicit quantization (NVIDIA, Working with Quantized Types, "Explicit Quantization").
    """
    return tuple(
        site
        for site in view.standard
        if site.node.op_type in _INT8_LAYERS
        and not site.inside
        and all(_dequantized(name, view) for name in site.node.input[:2])
    )


def _int8_convolutions(view: View) -> Iterator[tuple[Site, tuple[int, ...], int]]:
    for site in explicit_int8_sites(view):
        sizes = view.shapes.get(site.node.input[1], ())
        known = tuple(size for size in sizes if isinstance(size, int))
        groups = attribute(site.node, "group", 1)
        if site.node.op_type == "Conv" and len(known) == len(sizes) > 1 and isinstance(groups, int):
            yield site, known, groups


def _dequantized(tensor: str, view: View) -> bool:
    site = view.producers.get(tensor)
    if site is None or site.node.op_type != "DequantizeLinear":
        return False
    zero = _input(site.node, 2)
    values = view.constant(zero) if zero else None
    return not zero or (values is not None and not values.any())


def _pairs(view: View) -> Iterator[Site]:
    return (site for site in view.standard if site.node.op_type in _PAIR)


def _scales(view: View) -> Iterator[tuple[Site, np.ndarray]]:
    for site in _pairs(view):
        values = view.constant(_input(site.node, 1))
        if values is not None:
            yield site, np.asarray(values, np.float64)


def _quantized(node: NodeProto, view: View) -> str | None:
    """The type of a pair's integers; None where the file does not say."""
    if node.op_type == "DequantizeLinear":
        return view.type_name(node.input[0]) or view.type_name(_input(node, 2)) or "unknown"
    given = attribute(node, "output_dtype", 0)
    if given:
        return view.type_name(node.output[0]) or TensorProto.DataType.Name(int(str(given)))
    return view.type_name(_input(node, 2)) if _input(node, 2) else None


def _is_weight(node: NodeProto, view: View) -> bool:
    """Whether a pair works on a constant: as it is, or quantized just before."""
    if node.input[0] in view.tensors:
        return True
    maker = view.producers.get(node.input[0])
    return maker is not None and maker.node.op_type == "QuantizeLinear" and maker.node.input[0] in view.tensors


def _output_axis(node: NodeProto) -> int | None:
    """The axis of output channels of a layer's second operand."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)


def _axis(node: NodeProto) -> int:
    axis = attribute(node, "axis", 1)
    return axis if isinstance(axis, int) else 1


def _input(node: NodeProto, index: int) -> str:
    return str(node.input[index]) if len(node.input) > index else ""
