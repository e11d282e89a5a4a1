"""ONNX Runtime on CPUs: the canonical graph itself, in fp32."""

from __future__ import annotations

from edgekit.errors import InputError
from edgekit.exporters.exporter import Artifact, Exported, LoweringRequest, Plan, choose_precision, plan_rows
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND

REFUSED = {"fp16": "ONNX Runtime's CPU provider wraps fp16 in casts to fp32: slower, and nothing is gained but file size"}


class OnnxRuntimeExporter:
    """The exporter `onnxruntime`."""

    name = "onnxruntime"

    def plan(self, request: LoweringRequest) -> Plan:
        precision, reason = choose_precision(request, REFUSED)
        problems = {}
        try:
            BACKEND.open(EngineRequest(request.graph.serialized())).close()
        except InputError as error:  # the runtime itself says which node it has no kernel for
            named = [node.name for node in request.graph.model.graph.node if node.name and node.name in str(error.why)]
            problems = dict.fromkeys(named or [request.graph.model.graph.node[0].name], str(error.why))
        rows = plan_rows(request.graph, "cpu", precision, problems)
        return Plan(request.profile.name, self.name, precision, reason, rows)

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        plan.require_supported()
        model = Artifact("model.onnx", "model", request.graph.serialized())
        return Exported((model,), request.graph, plan.precision, request.profile.settings)


EXPORTER = OnnxRuntimeExporter()
