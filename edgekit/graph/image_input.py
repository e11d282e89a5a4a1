"""Moves layout, cast and normalisation of an image input into the graph: the device then feeds uint8 pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekit.errors import UsageError
from edgekit.graph.graph import Graph
from edgekit.graph.passes import infer_shapes
from edgekit.spec import ModelSpec, TensorSpec


def with_uint8_nhwc_input(graph: Graph, spec: ModelSpec) -> tuple[Graph, ModelSpec]:
    """Prepend cast, normalisation and transpose, so that the image input is uint8 (batch, height, width, 3).

    The subtraction of the mean stays a node: folded into a convolution's bias it would be wrong at the border, where
    the convolution pads with zeros.

    Raises:
        UsageError: the model has no image preprocessing, or its input is not float32 NCHW.
    """
    pre = spec.preprocess
    if pre is None or pre.dtype != "float32" or pre.layout != "nchw":
        raise UsageError(
            "--input uint8-nhwc needs a model with a float32 NCHW image input",
            where=spec.name,
            why="there is no normalisation to move into the graph"
            if pre is None
            else f"it takes {pre.dtype} {pre.layout}",
            fix="declare the preprocessing in [model] preprocess, or leave --input away",
        )
    index = next((i for i, tensor in enumerate(spec.inputs) if tensor.name == pre.input), None)
    if index is None or len(spec.inputs[index].shape) != 4:
        raise UsageError(
            f"the preprocessing feeds {pre.input!r}, which is no image input",
            where=spec.name,
            why="; ".join(f"{tensor.name} {tensor.shape}" for tensor in spec.inputs),
            fix="name an input of four dimensions in preprocess.input",
        )
    batch, channels, height, width = spec.inputs[index].shape
    model = _prepend(graph.model, pre.input, (batch, height, width, channels), pre.mean, pre.std)
    tensor = TensorSpec(pre.input, "uint8", (batch, height, width, channels))
    inputs = (*spec.inputs[:index], tensor, *spec.inputs[index + 1 :])
    moved = replace(pre, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), layout="nhwc", dtype="uint8")
    return graph.then("uint8-nhwc-input", infer_shapes(model)), replace(spec, inputs=inputs, preprocess=moved)


def _prepend(
    model: ModelProto, name: str, shape: tuple[int | str, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    normalized = f"{name}_normalized"
    for node in graph.node:
        for i, value in enumerate(node.input):
            if value == name:
                node.input[i] = normalized
    old = next(i for i, value in enumerate(graph.input) if value.name == name)
    graph.input[old].CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, list(shape)))
    for suffix, values in (("mean", mean), ("std", std)):
        constant = np.asarray(values, np.float32).reshape(1, 3, 1, 1)
        graph.initializer.append(numpy_helper.from_array(constant, f"{name}_{suffix}"))
    nodes = [
        helper.make_node("Cast", [name], [f"{name}_float"], f"{name}/cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{name}_float"], [f"{name}_nchw"], f"{name}/transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", [f"{name}_nchw", f"{name}_mean"], [f"{name}_centered"], f"{name}/sub"),
        helper.make_node("Div", [f"{name}_centered", f"{name}_std"], [normalized], f"{name}/div"),
    ]
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
    del graph.value_info[:]
    return copy
