"""Runs a model in one runtime: `python worker.py FOLDER RUNTIME [SITE]`, with numpy and that runtime alone.

Reads `model.onnx`, `settings.json` and every `feeds-N.npz` in FOLDER; writes an `outputs-N.npz` for each, and
`facts.json`: versions, what the CPU says that it can, and which operators the runtime made of the graph. SITE is a
folder of packages to import from. It runs natively and under emulation, and on purpose imports nothing of edgekit.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[dict[str, Any]], dict[str, Any]]
Operators = Callable[[], list[str]]

_SEVERE_ONLY = 3


def main(folder: Path, runtime: str) -> None:
    import numpy as np

    settings = json.loads((folder / "settings.json").read_text())
    run, version, operators = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](folder, settings)
    for stored in sorted(folder.glob("feeds-*.npz")):
        with np.load(stored, allow_pickle=False) as arrays:
            outputs = run({name: arrays[name] for name in arrays.files})
        np.savez(stored.with_name(stored.name.replace("feeds", "outputs")), **outputs)
    facts = {
        "runtime": f"{runtime} {version}",
        "machine": platform.machine(),
        "features": _features(),
        "operators": dict(sorted(Counter(operators()).items())),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _onnxruntime(folder: Path, settings: dict[str, str]) -> tuple[Run, str, Operators]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    optimized = folder / "optimized.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = _SEVERE_ONLY
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(optimized)
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run, ort.__version__, lambda: _operators(optimized.read_bytes())


def _openvino(folder: Path, settings: dict[str, str]) -> tuple[Run, str, Operators]:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes its import fail
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(folder / "model.onnx"))
    names = [output.any_name for output in model.outputs]
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1", **settings}
    compiled = core.compile_model(model, "CPU", config)

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, compiled(feeds).to_tuple(), strict=True))

    def operators() -> list[str]:
        facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        return [f"{node['layerType'].astype(str)}:{node['runtimePrecision'].astype(str)}" for node in facts]

    return run, str(ov.__version__).split("-")[0], operators


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
