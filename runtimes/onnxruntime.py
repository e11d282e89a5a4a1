"""ONNX Runtime on the CPU, silent: telemetry off before import, nothing in its log that is not raised as well."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingError
from edgekit.runtimes.backend import EngineRequest, LayerTime

_KERNEL = "_kernel_time"
_LOG_FATAL_ONLY = 4  # what is less than fatal is raised, and says so better than a log


class OnnxRuntimeEngine:
    """An ONNX Runtime session on the CPU provider."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
        except _errors() as error:
            raise InputError(
                "ONNX Runtime cannot run the model on this input",
                where="session.run",
                why=str(error).strip().splitlines()[0],
                fix="sizes that the model leaves open still have to fit together; edgekit export --shapes fixes them",
            ) from error

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend:
    """The backend `onnxruntime`."""

    name = "onnxruntime"
    devices = ("cpu",)

    def version(self) -> str:
        return str(import_onnxruntime().__version__)

    def open(self, request: EngineRequest) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(self._session(request, import_onnxruntime().SessionOptions()))

    def optimized(self, request: EngineRequest) -> bytes:
        """The model as this runtime would run it here, an ONNX file with its own operators.

        Raises:
            MissingError, InputError: as `open`.
        """
        options = import_onnxruntime().SessionOptions()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(path)
            self._session(request, options)
            return path.read_bytes()

    def layer_times(self, request: EngineRequest, feeds: Mapping[str, np.ndarray], runs: int) -> list[LayerTime]:
        """Each node's median time over `runs` runs, by the runtime's own profiler, as the optimized graph has them."""
        options = import_onnxruntime().SessionOptions()
        with tempfile.TemporaryDirectory() as folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "layers")
            session = self._session(request, options)
            for _ in range(runs):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        times: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                node = event["name"].removesuffix(_KERNEL)
                times.setdefault((node, event["args"]["op_name"]), []).append(event["dur"] / 1000)
        return [LayerTime(node, op, statistics.median(each[-runs:])) for (node, op), each in times.items()]

    def _session(self, request: EngineRequest, options: Any) -> Any:
        ort = import_onnxruntime()
        options.log_severity_level = _LOG_FATAL_ONLY
        if request.threads is not None:
            options.intra_op_num_threads = request.threads
        for key, value in request.settings.items():
            options.add_session_config_entry(key, value)
        try:
            return ort.InferenceSession(request.model, options, providers=["CPUExecutionProvider"])
        except _errors() as error:
            raise InputError(
                "ONNX Runtime cannot load the model",
                where=f"onnxruntime {self.version()}",
                why=str(error).strip().splitlines()[0],
                fix="export it for the version installed here, or install the version that the manifest names",
            ) from error


def import_onnxruntime() -> Any:
    """The onnxruntime package, with telemetry switched off before it is imported."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by the library when it is loaded
    try:
        import onnxruntime
    except ImportError as error:  # missing, or a library that it needs
        raise MissingError(
            "ONNX Runtime is not installed, or not for this system",
            where="import onnxruntime",
            why=str(error),
            fix="pip install 'edgekit[onnxruntime]'",
        ) from error
    return onnxruntime


def _errors() -> tuple[type[Exception], ...]:
    """What the library raises: it has a kind of its own for each status, and they share no base but `Exception`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, *own)


BACKEND = OnnxRuntimeBackend()
