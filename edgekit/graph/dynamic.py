"""Linear layers whose activations get their range at run time, in the form that ONNX Runtime fuses into one kernel."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.graph.integer_weights import quantize_weight
from edgekit.graph.layers import Layer, find_layers
from edgekit.graph.quantspec import QuantSpec
from edgekit.graph.wiring import Wiring, copy_of


def write_dynamic(source: ModelProto, spec: QuantSpec) -> ModelProto:
    """DynamicQuantizeLinear, MatMulInteger, and scales multiplied back: ONNX operator specification, opset 11."""
    wiring = Wiring(source)
    layers, _ = find_layers(wiring)
    nodes: list[NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    quantized: set[str] = set()
    for node in source.graph.node:
        if node.name not in spec.layers:
            nodes.append(node)
            continue
        layer = layers[node.name]
        if layer.data not in quantized:
            quantized.add(layer.data)
            parts = [f"{layer.data}/{part}" for part in ("q", "scale", "zero")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [layer.data], parts, f"{layer.data}/Q"))
        nodes += _matmul(layer, wiring, spec, constants)
    model = copy_of(source)
    graph = model.graph
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copies)
    used = set(Wiring(model).consumers)
    kept = [tensor for tensor in source.graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(array, name) for name, array in constants.items())])
    return model


def _matmul(layer: Layer, wiring: Wiring, spec: QuantSpec, constants: dict[str, np.ndarray]) -> list[NodeProto]:
    data, weight, name = layer.data, layer.weight, layer.name
    output = str(layer.node.output[0])
    integers, scales = quantize_weight(wiring.weight(weight), spec.weights[weight])
    constants[f"{weight}/q"] = integers if layer.axis == 1 else np.ascontiguousarray(integers.T)
    constants[f"{weight}/zero"] = np.zeros(scales.size, np.int8) if scales.size > 1 else np.array(0, np.int8)
    constants[f"{weight}/scale"] = scales.reshape(-1).astype(np.float32)
    bias = layer.bias if layer.node.op_type == "Gemm" else None
    product = f"{output}/scaled" if bias else output
    nodes = [
        helper.make_node(
            "MatMulInteger",
            [f"{data}/q", f"{weight}/q", f"{data}/zero", f"{weight}/zero"],
            [f"{output}/int32"],
            name,
        ),
        helper.make_node("Cast", [f"{output}/int32"], [f"{output}/float"], f"{name}/cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{data}/scale", f"{weight}/scale"], [f"{output}/scale"], f"{name}/scale"),
        helper.make_node("Mul", [f"{output}/float", f"{output}/scale"], [product], f"{name}/scaled"),
    ]
    if bias:
        nodes.append(helper.make_node("Add", [product, bias], [output], f"{name}/bias"))
    return nodes
