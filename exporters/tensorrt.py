"""TensorRT on Jetson, the portable half: a strongly typed ONNX within the JetPack's ceilings, and a recipe as data.

The engine is born on the board: no flag makes one portable. What this machine can check, it checks; the engine's
parity and speed stay open questions in the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from edgekit.errors import UnsupportedError
from edgekit.exporters.exporter import (
    Artifact,
    Exported,
    LoweringRequest,
    Plan,
    PlanRow,
    choose_precision,
    lowered,
    plan_rows,
)
from edgekit.exporters.tensorrt_recipe import optimization_profile, recipe_json
from edgekit.graph.densify import densify
from edgekit.graph.graph import Graph
from edgekit.graph.half import to_half
from edgekit.graph.half_reference import BACKEND as HALF
from edgekit.graph.rules.tensorrt import (
    Finding,
    check,
    estimate_memory,
    explicit_int8_nodes,
    restrictions,
    summary,
    unsupported_nodes,
)
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.spec import ModelSpec

REFUSED = {
    "bf16": "no gain over fp16 is known on Orin, and fp16 has three more bits",
    "w8a16": "TensorRT's integers are 8 bits wide on both sides of a product",
}
_LATER = "the engine is built on the board; until then its parity and speed are open questions"


class TensorRtExporter:
    """The exporter `tensorrt`."""

    name = "tensorrt"
    coverage_source: Literal["runtime", "rule"] = "rule"

    def plan(self, request: LoweringRequest) -> Plan:
        precision, reason = choose_precision(request, REFUSED)
        _refuse_open_sizes(request.spec)
        foreign = unsupported_nodes(request.graph.model)
        findings = () if foreign else self.findings(request, precision)  # what nobody knows cannot be lowered either
        errors = [finding for finding in findings if finding.severity == "error"]
        problems = foreign | {finding.node: finding.describe() for finding in reversed(errors) if finding.node}
        rows = plan_rows(request, "gpu", precision, problems, "fp16")
        notes = (
            _LATER,
            *(f"TensorRT restricts {text}" for text in restrictions(request.graph.model)),
            *summary([finding for finding in findings if finding.severity != "error"]),
        )
        return Plan(request.profile.name, self.name, precision, reason, (*rows, *_beyond(errors, rows)), notes)

    def findings(self, request: LoweringRequest, precision: str) -> tuple[Finding, ...]:
        """What the rules say of the file that would be shipped; before calibration, of its form in fp16."""
        profile = request.profile
        known = request.quant is not None or precision != "int8"
        graph = self._lowered(request, precision if known else "fp16")
        return check(
            graph.model,
            versions=(profile.runtime_min, profile.runtime_below),
            profile=optimization_profile(request.spec),
            memory_bytes=profile.memory_bytes,
            origins=graph.origins,
        )

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        plan.require_supported()
        graph = self._lowered(request, plan.precision)
        estimate = estimate_memory(graph.model, optimization_profile(request.spec)).total_bytes
        files = (
            Artifact("model.onnx", "model", graph.serialized()),
            Artifact("build.json", "recipe", recipe_json(request.spec, request.profile, estimate)),
        )
        rehearsal = ORT if plan.precision == "fp32" else HALF
        return Exported(files, graph, plan.precision, request.profile.settings, rehearsal, portable=False)

    def int8_nodes(self, exported: Exported) -> frozenset[str]:
        """By rule: what reads integers on both sides; what the builder really fuses, only the board can tell."""
        return explicit_int8_nodes(exported.graph.model)

    def _lowered(self, request: LoweringRequest, precision: str) -> Graph:
        if precision == "fp16":
            return to_half(request.graph)
        if precision == "int8":
            dense = replace(request, graph=densify(request.graph, request.quant.layers if request.quant else ()))
            return to_half(lowered(dense, self.name))
        return request.graph


def _beyond(errors: Sequence[Finding], rows: Sequence[PlanRow]) -> list[PlanRow]:
    """Rows for errors of the whole model, and of nodes that only lowering adds."""
    told = {row.node for row in rows}
    return [
        PlanRow(finding.node or "the model", finding.rule, "nowhere", "-", 0, finding.describe())
        for finding in errors
        if finding.node not in told
    ]


def _refuse_open_sizes(spec: ModelSpec) -> None:
    for tensor in spec.inputs:
        symbolic = [dim for dim in tensor.shape[1:] if isinstance(dim, str)]
        if symbolic:
            raise UnsupportedError(
                f"dimension {symbolic[0]!r} of input {tensor.name!r} is open",
                where="exporter tensorrt",
                why="an engine is tuned for known sizes; only the first dimension, the batch, may vary",
                fix="fix it with [model] shapes, or --shapes",
            )


EXPORTER = TensorRtExporter()
