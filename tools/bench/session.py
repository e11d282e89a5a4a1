"""What `session.run` adds to ONNX Runtime's own `InferenceSession.run` on the same model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from models import export_options
from timing import interleave, report

import edgekit
from edgekit.bundle import Bundle
from edgekit.pipeline import export

BAR_RATIO, BAR_US = 1.03, 15.0


def main() -> bool:
    """Measure and print; true where the bar is met."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "femtodet"
        export(export_options(), "snapdragon-865", path)
        with Bundle.open(path) as bundle:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            raw = onnxruntime.InferenceSession(bundle.read("model.onnx"), options, providers=["CPUExecutionProvider"])
        session = edgekit.load(path, threads=1)
    image = np.random.default_rng(0).standard_normal((1, 3, 416, 416)).astype(np.float32)
    pair = interleave(lambda: session.run({"image": image}), lambda: raw.run(None, {"image": image}), rounds=400)
    extra_us = (pair.a_median - pair.b_median) * 1e3
    passed = pair.ratio <= BAR_RATIO or extra_us <= BAR_US
    return report(f"session.run / raw ORT ({extra_us:+.0f} us)", "<= 1.03x or 15 us", pair, pair.ratio, passed)


if __name__ == "__main__":
    raise SystemExit(not main())
