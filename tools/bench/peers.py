"""The peers of int8: `onnxruntime.quantization.quantize_static`, and NNCF in `.venv-bench`, made on demand."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

Feeds = Mapping[str, np.ndarray]

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-bench"
NNCF = "nncf==3.4.0"


def quantize_static(model: bytes, samples: Sequence[Feeds]) -> bytes:
    """ONNX Runtime's own quantization: QDQ, uint8 activations, int8 weights by channel, the file pre-processed."""
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[Feeds] = iter(samples)

        def get_next(self) -> Feeds | None:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        source, ready, target = (Path(folder) / name for name in ("model.onnx", "ready.onnx", "int8.onnx"))
        source.write_bytes(model)
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        ort.quantize_static(
            ready,
            target,
            Reader(),
            quant_format=ort.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
        )
        return target.read_bytes()


def nncf_int8(model: bytes, samples: Sequence[Feeds], transformer: bool) -> tuple[bytes, bytes]:
    """NNCF's `quantize` with its defaults: OpenVINO's IR, `.xml` and `.bin`."""
    ((name, _),) = samples[0].items()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "model.onnx").write_bytes(model)
        np.savez(folder / "samples.npz", **{name: np.concatenate([feeds[name] for feeds in samples])})
        worker = Path(__file__).with_name("nncf_worker.py")
        files = [str(folder / file) for file in ("model.onnx", "samples.npz", "int8.xml")]
        command = [str(environment()), str(worker), *files, "transformer" if transformer else "cnn"]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environ["NNCF_CI"] = "1"  # switches its telemetry off
        done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError("NNCF failed: " + done.stderr[-2000:])
        return (folder / "int8.xml").read_bytes(), (folder / "int8.bin").read_bytes()


def environment() -> Path:
    """The Python that has NNCF; the environment is made where it does not exist, with the pinned OpenVINO."""
    python = VENV / "bin" / "python"
    ready = VENV / ".ready"
    if not ready.is_file() or ready.read_text(encoding="utf-8") != NNCF:
        pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
        wanted = [pin for pin in pins if pin.startswith(("openvino==", "onnx==", "numpy=="))]
        print(f"making {VENV.name} with {NNCF} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", NNCF, *wanted], check=True)
        ready.write_text(NNCF, encoding="utf-8")
    return python
