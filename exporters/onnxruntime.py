"""ONNX Runtime on CPUs: the canonical graph itself, in fp32."""

from __future__ import annotations

import re

from onnx import ModelProto

from edgekit.errors import InputError
from edgekit.exporters.exporter import Artifact, Exported, LoweringRequest, Plan, choose_precision, plan_rows
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND

REFUSED = {
    "fp16": "ONNX Runtime's CPU provider wraps fp16 in casts to fp32: slower, and nothing is gained but file size"
}


class OnnxRuntimeExporter:
    """The exporter `onnxruntime`."""

    name = "onnxruntime"

    def plan(self, request: LoweringRequest) -> Plan:
        precision, reason = choose_precision(request, REFUSED)
        problems = {}
        try:
            BACKEND.open(EngineRequest(request.graph.serialized())).close()
        except InputError as error:  # the runtime itself says which node it has no kernel for
            problems = dict.fromkeys(_named(request.graph.model, str(error.why)), str(error.why))
        rows = plan_rows(request.graph, "cpu", precision, problems)
        return Plan(request.profile.name, self.name, precision, reason, rows)

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        plan.require_supported()
        model = Artifact("model.onnx", "model", request.graph.serialized())
        return Exported((model,), request.graph, plan.precision, request.profile.settings)


def _named(model: ModelProto, reason: str) -> list[str]:
    """The nodes that `reason` names as whole words; the first node where it names none."""
    names = [node.name for node in model.graph.node]
    return [name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", reason)] or names[:1]


EXPORTER = OnnxRuntimeExporter()
