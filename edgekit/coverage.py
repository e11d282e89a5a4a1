"""The coverage gate: how much of a quantized model the runtime really computes in int8.

The denominator is counted in the ONNX graph, the numerator joined to it by node names: what a runtime does not account
for counts as float. A file full of QuantizeLinear may run slower than the float model (a symmetric Q behind a ReLU
keeps ONNX Runtime's convolutions in float: 1.9 times slower), and nothing but the runtime tells.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.bundle import Coverage
from edgekit.errors import GateError
from edgekit.exporters import Exported, Exporter
from edgekit.graph.graph import Graph
from edgekit.graph.macs import macs_by_node

UNFUSED = "the runtime did not fuse it with the Q/DQ around it: it computes in float"
SHOWN = 5


def measure_coverage(
    canonical: Graph, exporter: Exporter, exported: Exported, reasons: Mapping[str, str], bar: float
) -> Coverage:
    """Ask the runtime what it runs.

    Args:
        canonical: the graph before lowering, whose MACs are counted.
        reasons: why nodes were meant to stay float; for others the runtime is to blame.
        bar: the least share, 0 to 1, for the record.
    """
    macs = macs_by_node(canonical.model)
    int8 = exporter.int8_nodes(exported)
    total, covered = sum(macs.values()), sum(size for name, size in macs.items() if name in int8)
    return Coverage(
        bar=bar,
        share=covered / total if total else 0.0,
        int8_macs=covered,
        total_macs=total,
        source=exporter.coverage_source,
        float_nodes={name: reasons.get(name, UNFUSED) for name in macs if name not in int8},
    )


def coverage_gate(coverage: Coverage, canonical: Graph, runtime: str) -> None:
    """Refuse a model that runs in int8 by name only.

    Raises:
        GateError: the share is below the bar; it lists the largest float nodes, and why each is one.
    """
    if coverage.share >= coverage.bar:
        return
    macs = macs_by_node(canonical.model)
    worst = sorted(coverage.float_nodes, key=lambda name: -macs.get(name, 0))
    listed = "; ".join(f"{name} ({coverage.float_nodes[name]})" for name in worst[:SHOWN])
    more = f"; and {len(worst) - SHOWN} more" if len(worst) > SHOWN else ""
    raise GateError(
        f"coverage: {100 * coverage.share:.1f} % of the multiply-accumulates run in int8",
        where=f"{runtime}: {listed}{more}",
        why=f"the bar is {100 * coverage.bar:.0f} %; counted by {coverage.source}, by name, over all layers",
        fix="export in a float precision, or state another bar with --min-coverage",
    )
