"""ONNX Runtime on CPUs: the canonical graph itself in fp32, or its int8 form, and what the runtime makes of that."""

from __future__ import annotations

import re
from typing import Literal

import onnx
from onnx import ModelProto

from edgekit.errors import InputError
from edgekit.exporters.exporter import Artifact, Exported, LoweringRequest, Plan, choose_precision, lowered, plan_rows
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND

REFUSED = {
    "fp16": "ONNX Runtime's CPU provider wraps fp16 in casts to fp32: slower, and nothing is gained but file size",
    "bf16": "ONNX Runtime's CPU provider has no bf16 kernels for convolutions",
    "w8a16": "it has no int16 kernels: every node becomes an island between casts, 5 to 7 times slower than int8"
    " (YOLOv8, QCS6490, all on the CPU, 344 ms against 60.8: Qualcomm AI Hub)",
}
INT8_KERNELS = frozenset(
    {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger"}
)
_RENAMED = re.compile(r"_token_\d+$")  # what its NHWC transformer appends to a node's name


class OnnxRuntimeExporter:
    """The exporter `onnxruntime`."""

    name = "onnxruntime"
    coverage_source: Literal["runtime", "rule"] = "runtime"

    def plan(self, request: LoweringRequest) -> Plan:
        precision, reason = choose_precision(request, REFUSED)
        problems = {}
        try:
            BACKEND.open(EngineRequest(request.graph.serialized())).close()
        except InputError as error:  # the runtime itself says which node it has no kernel for
            problems = dict.fromkeys(_named(request.graph.model, str(error.why)), str(error.why))
        rows = plan_rows(request, "cpu", precision, problems)
        return Plan(request.profile.name, self.name, precision, reason, rows)

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        plan.require_supported()
        graph = lowered(request, self.name) if plan.precision == "int8" else request.graph
        model = Artifact("model.onnx", "model", graph.serialized())
        return Exported((model,), graph, plan.precision, request.profile.settings)

    def int8_nodes(self, exported: Exported) -> frozenset[str]:
        """From the graph that the runtime writes after its own optimizations."""
        optimized = onnx.load_from_string(BACKEND.optimized(EngineRequest(exported.graph.serialized())))
        return frozenset(_RENAMED.sub("", node.name) for node in optimized.graph.node if node.op_type in INT8_KERNELS)


def _named(model: ModelProto, reason: str) -> list[str]:
    """The nodes that `reason` names as whole words; the first node where it names none."""
    names = [node.name for node in model.graph.node]
    return [name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", reason)] or names[:1]


EXPORTER = OnnxRuntimeExporter()
