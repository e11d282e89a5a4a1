"""OpenVINO on Intel CPUs: its IR in fp32, fp16 (weights only), bf16 (arithmetic) or int8, and what the plugin runs."""

from __future__ import annotations

import tempfile
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import UnsupportedError
from edgekit.exporters.exporter import Artifact, Exported, LoweringRequest, Plan, choose_precision, lowered, plan_rows
from edgekit.graph.graph import Graph
from edgekit.runtimes.openvino import DEFAULTS, import_openvino

REFUSED = {"w8a16": "its CPU plugin has no kernels for 16-bit integers: every layer would fall back to float"}
# What compiling a model turns a node's name into.
_TOLD = ("layerType", "primitiveType", "originalLayersNames")
_KERNELS = ("Convolution", "FullyConnected", "MatMul")
_PARTS = ("/WithoutBiases", "/DequantizationMultiply", "/DequantizationSubtract")


class OpenVinoExporter:
    """The exporter `openvino`."""

    name = "openvino"
    coverage_source: Literal["runtime", "rule"] = "runtime"

    def plan(self, request: LoweringRequest) -> Plan:
        precision, reason = choose_precision(request, REFUSED)
        ov = import_openvino()
        core = ov.Core()
        model = _read(core, request.graph)
        supported = core.query_model(model, "CPU")
        missing = {op.get_friendly_name() for op in model.get_ordered_ops()} - set(supported)
        problems = _problems(request.graph, missing)
        notes = ["weights are stored in fp16, arithmetic is in f32"] if precision == "fp16" else []
        notes += [
            f"{key} = {value}: {request.profile.because.get('settings', '')}"
            for key, value in _settings(request, precision)
        ]
        rows = plan_rows(request, "cpu", precision, problems)
        return Plan(request.profile.name, self.name, precision, reason, rows, tuple(notes))

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        plan.require_supported()
        ov = import_openvino()
        graph = lowered(request, self.name) if plan.precision == "int8" else request.graph
        model = _read(ov.Core(), graph)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            ov.save_model(model, path, compress_to_fp16=plan.precision == "fp16")
            files = (
                Artifact("model.xml", "model", path.read_bytes()),
                Artifact("model.bin", "weights", path.with_suffix(".bin").read_bytes()),
            )
        return Exported(files, graph, plan.precision, dict(_settings(request, plan.precision)))

    def int8_nodes(self, exported: Exported) -> frozenset[str]:
        """From the compiled model's own account: the primitives that it chose, and the nodes that went into each."""
        ov = import_openvino()
        files = {artifact.role: artifact.data for artifact in exported.files}
        core = ov.Core()
        model = core.read_model(model=files["model"], weights=files["weights"])
        compiled = core.compile_model(model, "CPU", {**DEFAULTS, **exported.settings})
        found: set[str] = set()
        for op in compiled.get_runtime_model().get_ordered_ops():
            info = {key: value.astype(str) for key, value in op.get_rt_info().items() if key in _TOLD}
            if info.get("layerType") in _KERNELS and info.get("primitiveType", "").endswith("_I8"):
                names = info.get("originalLayersNames", "").split(",")
                found |= {reduce(str.removesuffix, _PARTS, name) for name in names}
        return frozenset(found)


def _problems(graph: Graph, missing: set[str]) -> dict[str, str]:
    """Node name to reason; what bears the name of no node, because the frontend added it, is told at the first."""
    nodes = list(graph.model.graph.node)
    named = [node.name for node in nodes if missing & {node.name, *node.output}]
    if missing and not named:
        named = [nodes[0].name]
    reason = f"OpenVINO's CPU plugin has no kernel for {', '.join(sorted(missing)[:3])}"
    return dict.fromkeys(named, reason)


def _settings(request: LoweringRequest, precision: str) -> list[tuple[str, str]]:
    asked = {"INFERENCE_PRECISION_HINT": "bf16"} if precision == "bf16" else {}
    return sorted({**request.profile.settings, **asked}.items())


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
