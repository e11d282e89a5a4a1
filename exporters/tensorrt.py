"""TensorRT on Jetson, the portable half: a strongly typed ONNX within the JetPack's ceilings, and a recipe as data.

The engine is born on the board: no flag makes one portable. What this machine can check, it checks; the engine's
parity and speed stay open questions in the bundle.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

from edgekit.errors import UnsupportedError
from edgekit.exporters.exporter import Artifact, Exported, LoweringRequest, Plan, choose_precision, lowered, plan_rows
from edgekit.graph.densify import densify
from edgekit.graph.graph import Graph
from edgekit.graph.half import to_half
from edgekit.graph.rules.tensorrt import explicit_int8_nodes, int8_cautions, restrictions, unsupported_nodes
from edgekit.profiles import DeviceProfile
from edgekit.spec import ModelSpec

BUILD_SCHEMA = "edgekit/tensorrt-build/1"
REFUSED = {
    "bf16": "no gain over fp16 is known on Orin, and fp16 has three more bits",
    "w8a16": "TensorRT's integers are 8 bits wide on both sides of a product",
}
# Sizes of a symbolic batch dimension in the optimization profile: minimum, optimum, maximum.
BATCH = (1, 1, 8)
# Of the memory free when the board builds: CPU and GPU share it, and the builder needs room beside its workspace.
WORKSPACE_FRACTION = 0.5


class TensorRtExporter:
    """The exporter `tensorrt`."""

    name = "tensorrt"
    coverage_source: Literal["runtime", "rule"] = "rule"

    def plan(self, request: LoweringRequest) -> Plan:
        precision, reason = choose_precision(request, REFUSED)
        _refuse_open_sizes(request.spec)
        rows = plan_rows(request, "gpu", precision, unsupported_nodes(request.graph.model), rest="fp16")
        notes = (
            "the engine is built on the board; until then its parity and speed are open questions",
            *(f"TensorRT restricts {text}" for text in restrictions(request.graph.model)),
            *(int8_cautions(request.graph.model) if precision == "int8" else ()),
        )
        return Plan(request.profile.name, self.name, precision, reason, rows, notes)

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        plan.require_supported()
        graph = self._lowered(request, plan.precision)
        recipe = json.dumps(build_recipe(request.spec, request.profile), indent=1, sort_keys=True) + "\n"
        files = (
            Artifact("model.onnx", "model", graph.serialized()),
            Artifact("build.json", "recipe", recipe.encode()),
        )
        settings = request.profile.settings
        return Exported(files, graph, plan.precision, settings, rehearsal="onnxruntime", portable=False)

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


def build_recipe(spec: ModelSpec, profile: DeviceProfile) -> dict[str, object]:
    """Builder settings as data, for the engine half on the board.

    Strongly typed networks need a flag on TensorRT 10 and are the only kind on 11; precision stands in the ONNX.
    """
    return {
        "schema": BUILD_SCHEMA,
        "tensorrt": {"min": profile.runtime_min, "below": profile.runtime_below},
        "network_flags": ["STRONGLY_TYPED"],
        "builder_optimization_level": 3,
        "workspace": {"rule": "fraction-of-free-memory", "fraction": WORKSPACE_FRACTION},
        "timing_cache": f"{profile.name}.timing",
        "optimization_profiles": [
            {
                tensor.name: {
                    label: [dim if isinstance(dim, int) else size for dim in tensor.shape]
                    for label, size in zip(("min", "opt", "max"), BATCH, strict=True)
                }
                for tensor in spec.inputs
            }
        ],
    }


EXPORTER = TensorRtExporter()
