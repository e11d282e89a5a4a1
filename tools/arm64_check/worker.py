"""Runs a model once in one runtime: `python worker.py FOLDER RUNTIME [SITE]`, with numpy and that runtime alone.

Reads `model.onnx` and `feeds.npz`, writes `outputs.npz` and `facts.json` in FOLDER: versions, what the CPU says that it
can, and which operators the runtime made of the graph. SITE is a folder of packages to import from. It runs on Python
3.10 to 3.13, natively and under emulation, and on purpose imports nothing of edgekit.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

_SEVERE_ONLY = 3


def main(folder: Path, runtime: str) -> None:
    import numpy as np

    with np.load(folder / "feeds.npz", allow_pickle=False) as stored:
        feeds = {name: stored[name] for name in stored.files}
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
    outputs, version, operators = run(folder / "model.onnx", feeds)
    np.savez(folder / "outputs.npz", **outputs)
    facts = {
        "runtime": f"{runtime} {version}",
        "machine": platform.machine(),
        "numpy": np.__version__,
        "features": _features(),
        "operators": dict(sorted(operators.items())),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _onnxruntime(model: Path, feeds: dict[str, Any]) -> tuple[dict[str, Any], str, Counter[str]]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    optimized = model.with_name("optimized.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = _SEVERE_ONLY
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(optimized)
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds)))  # noqa: B905  # `strict` is younger than some devices' Python
    return outputs, ort.__version__, Counter(_operators(optimized.read_bytes()))


def _openvino(model: Path, feeds: dict[str, Any]) -> tuple[dict[str, Any], str, Counter[str]]:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes its import fail
    import openvino as ov

    core = ov.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    compiled = core.compile_model(core.read_model(str(model)), "CPU", config)
    names = [port.any_name for port in compiled.outputs]
    outputs = dict(zip(names, compiled(feeds).to_tuple()))  # noqa: B905
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = Counter(f"{node['layerType']}:{node['runtimePrecision']}" for node in nodes)
    return outputs, str(ov.__version__).split("-")[0], kinds


def _features() -> list[str]:
    """The flags of the first core in /proc/cpuinfo: `Features` on Arm, `flags` on x86."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, words = line.partition(":")
        if name.strip() in ("Features", "flags"):
            return words.split()
    return []


def _operators(model: bytes) -> list[str]:
    """The operator types of an ONNX file's nodes: field 4 of each `node` (1) of `graph` (7), by protobuf's wire format.

    The onnx package is not among what a device has.
    """
    graphs = [part for field, part in _fields(model) if field == 7]
    nodes = [part for graph in graphs for field, part in _fields(graph) if field == 1]
    return [part.decode() for node in nodes for field, part in _fields(node) if field == 4]


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message: number and content."""
    found, at = [], 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 2:
            length, at = _varint(message, at)
            found.append((key >> 3, message[at : at + length]))
            at += length
        elif key & 7 == 0:
            _, at = _varint(message, at)
        else:
            at += {1: 8, 5: 4}[key & 7]
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.path.insert(0, sys.argv[3])
    main(Path(sys.argv[1]), sys.argv[2])
