"""OpenVINO on Intel CPUs: its IR, with weights in fp32, or stored in fp16 and computed in the pinned precision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekit.errors import UnsupportedError
from edgekit.exporters.exporter import Artifact, Exported, LoweringRequest, Plan, choose_precision, plan_rows
from edgekit.graph.graph import Graph
from edgekit.runtimes.openvino import import_openvino


class OpenVinoExporter:
    """The exporter `openvino`."""

    name = "openvino"

    def plan(self, request: LoweringRequest) -> Plan:
        precision, reason = choose_precision(request, refused={})
        ov = import_openvino()
        core = ov.Core()
        model = _read(core, request.graph)
        supported = core.query_model(model, "CPU")
        missing = {op.get_friendly_name() for op in model.get_ordered_ops()} - set(supported)
        problems = _problems(request.graph, missing)
        notes = ["weights are stored in fp16, arithmetic is in f32"] if precision == "fp16" else []
        notes += [
            f"{key} = {value}: {request.profile.because.get('settings', '')}" for key, value in _settings(request)
        ]
        rows = plan_rows(request.graph, "cpu", precision, problems)
        return Plan(request.profile.name, self.name, precision, reason, rows, tuple(notes))

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        plan.require_supported()
        ov = import_openvino()
        model = _read(ov.Core(), request.graph)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            ov.save_model(model, path, compress_to_fp16=plan.precision == "fp16")
            files = (
                Artifact("model.xml", "model", path.read_bytes()),
                Artifact("model.bin", "weights", path.with_suffix(".bin").read_bytes()),
            )
        return Exported(files, request.graph, plan.precision, dict(_settings(request)))


def _problems(graph: Graph, missing: set[str]) -> dict[str, str]:
    """Node name to reason; what bears the name of no node, because the frontend added it, is told at the first."""
    nodes = list(graph.model.graph.node)
    named = [node.name for node in nodes if missing & {node.name, *node.output}]
    if missing and not named:
        named = [nodes[0].name]
    reason = f"OpenVINO's CPU plugin has no kernel for {', '.join(sorted(missing)[:3])}"
    return dict.fromkeys(named, reason)


def _settings(request: LoweringRequest) -> list[tuple[str, str]]:
    return sorted(request.profile.settings.items())


def _read(core: Any, graph: Graph) -> Any:
    """The graph as OpenVINO's; nodes that the frontend adds get names that do not depend on what ran before."""
    try:
        model = core.read_model(graph.serialized())
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UnsupportedError(
            "OpenVINO cannot read the graph", where="core.read_model", why=lines[-1], fix="see the operator it names"
        ) from error
    for index, op in enumerate(model.get_ordered_ops()):
        if op.get_friendly_name() == op.get_name():  # a counter of the process
            op.set_friendly_name(f"{op.get_type_name()}:{index}")
    return model


EXPORTER = OpenVinoExporter()
