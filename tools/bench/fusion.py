"""Fused and rewritten FemtoDet against its unfused export: ONNX Runtime, 416x416, one thread."""

from __future__ import annotations

import numpy as np
from models import femtodet_onnx
from timing import interleave, report

from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND

BAR = 1.6


def main() -> bool:
    """Measure and print; true where the bar is met."""
    image = np.random.default_rng(0).standard_normal((1, 3, 416, 416)).astype(np.float32)
    unfused = BACKEND.open(EngineRequest(femtodet_onnx(), threads=1))
    deployed = BACKEND.open(EngineRequest(femtodet_onnx("fuse", "rewrite"), threads=1))
    pair = interleave(lambda: unfused.run({"image": image}), lambda: deployed.run({"image": image}), rounds=300)
    shown = pair.ratio_of_minima
    name = f"unfused / deployed FemtoDet (medians {pair.ratio:.2f}x)"
    return report(name, f">= {BAR}x", pair, shown, shown >= BAR)


if __name__ == "__main__":
    raise SystemExit(not main())
