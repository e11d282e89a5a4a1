"""Which precision a target gets where nothing can be measured: a table, with the reason of every row.

A row is a rule of thumb from published figures and never a measurement: the manifest says `policy, not measured`, both
variants travel in the bundle, and `edgekit prove` races them on the board.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx import ModelProto

from edgekit.graph.macs import macs_by_node


@dataclass(frozen=True)
class Rule:
    """A runtime's preference.

    Attributes:
        precision: what to publish, where it is among the eligible.
        least_mmac: for models of at least so many million multiply-accumulates.
        because: the published figures behind it.
    """

    runtime: str
    precision: str
    least_mmac: float
    because: str


POLICY = (
    Rule(
        "onnxruntime",
        "int8",
        200.0,
        "from MobileNetV2's size on, int8 beats fp32 in ONNX Runtime (2.3x there, 3.2x for ResNet-50, x86 with VNNI);"
        " below it, Q/DQ costs what the kernels gain (FemtoDet 0.65 ms to 0.97 ms): edgekit research study, 2026-11",
    ),
    Rule(
        "openvino",
        "int8",
        200.0,
        "from MobileNetV2's size on, int8 beats fp32 in OpenVINO (2.6x there, 3.5x for ResNet-50, on x86 with VNNI):"
        " edgekit research study, 2026-11",
    ),
)


def choose_by_policy(runtime: str, model: ModelProto, default: str, eligible: Collection[str]) -> tuple[str, str]:
    """The precision that the table prefers among `eligible`, else `default`; and why."""
    mmac = sum(macs_by_node(model).values()) / 1e6
    for rule in POLICY:
        if rule.runtime == runtime and rule.precision in eligible and mmac >= rule.least_mmac:
            return rule.precision, f"{mmac:.0f} MMAC: {rule.because}"
    return default, f"{mmac:.0f} MMAC: no row of the policy table prefers another than the target's default"
