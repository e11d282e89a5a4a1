"""OpenVINO on the CPU, silent: its telemetry package is blocked before import, and models are read, never converted."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingError
from edgekit.runtimes.backend import EngineRequest, LayerTime

# Its own default precision is bf16 on newer CPUs: 1e-2 from the parent, where f32 gives 1e-6.
DEFAULTS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoEngine:
    """A compiled model with one inference request."""

    def __init__(self, compiled: Any, outputs: tuple[str, ...]) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = [
            next((name for name in outputs if name in port.names), port.any_name) for port in compiled.outputs
        ]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            results = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise InputError(
                "OpenVINO cannot run the model on this input",
                where="session.run",
                why=str(error).strip().splitlines()[-1],
                fix="sizes that the model leaves open still have to fit together; a session serves one thread",
            ) from error
        return dict(zip(self._outputs, results.to_tuple(), strict=True))

    def close(self) -> None:
        self._request = None


class OpenVinoBackend:
    """The backend `openvino`."""

    name = "openvino"
    devices = ("cpu",)

    def version(self) -> str:
        return str(import_openvino().__version__).split("-")[0]

    def open(self, request: EngineRequest) -> OpenVinoEngine:
        return OpenVinoEngine(self._compiled(request, {}), request.outputs)

    def layer_times(self, request: EngineRequest, feeds: Mapping[str, np.ndarray], runs: int) -> list[LayerTime]:
        """Each executed primitive's median time over `runs` runs, by the runtime's own counters."""
        asked = self._compiled(request, {"PERF_COUNT": "YES"}).create_infer_request()
        times: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(runs):
            asked.infer(feeds, share_inputs=True)
            for layer in asked.get_profiling_info():
                if layer.real_time.total_seconds() > 0:
                    name = (layer.node_name, layer.node_type, layer.exec_type)
                    times.setdefault(name, []).append(layer.real_time.total_seconds() * 1000)
        return [
            LayerTime(node, op, statistics.median(each), kind.rsplit("_", 1)[-1])
            for (node, op, kind), each in times.items()
        ]

    def _compiled(self, request: EngineRequest, extra: Mapping[str, str]) -> Any:
        ov = import_openvino()
        config = {**DEFAULTS, **request.settings, **extra}
        if request.threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(request.threads)
        core = ov.Core()
        try:
            model = core.read_model(model=request.model, weights=request.weights or b"")
            return core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise InputError(
                "OpenVINO cannot load the model",
                where=f"openvino {self.version()}",
                why=str(error).strip().splitlines()[-1],
                fix="export it for the version installed here, or install the version that the manifest names",
            ) from error


def import_openvino() -> Any:
    """The openvino package, with its telemetry blocked before it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes its import fail
    try:
        import openvino
    except ImportError as error:  # missing, or a library that it needs
        raise MissingError(
            "OpenVINO is not installed, or not for this system",
            where="import openvino",
            why=str(error),
            fix="pip install 'edgekit[openvino]'",
        ) from error
    return openvino


BACKEND = OpenVinoBackend()
