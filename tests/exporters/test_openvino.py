"""OpenVINO's IR: weights halved in fp16, arithmetic pinned to f32, and its bf16 default caught by the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from onnx import helper  # noqa: E402

from edgekit.errors import UnsupportedError  # noqa: E402
from edgekit.evaluate.parity import Gap, compare  # noqa: E402
from edgekit.exporters import Exported, LoweringRequest  # noqa: E402
from edgekit.exporters import openvino as exporter_module  # noqa: E402
from edgekit.exporters.openvino import EXPORTER  # noqa: E402
from edgekit.gates import TOLERANCES  # noqa: E402
from edgekit.processing.preprocess import prepare  # noqa: E402
from edgekit.runtimes.backend import EngineRequest  # noqa: E402
from edgekit.runtimes.onnxruntime import BACKEND as ORT  # noqa: E402
from edgekit.runtimes.openvino import BACKEND as OPENVINO  # noqa: E402
from edgekit.runtimes.openvino import import_openvino  # noqa: E402
from edgekit.smear import draw_smear  # noqa: E402

Request = Callable[..., LoweringRequest]


def lowered(request: LoweringRequest) -> Exported:
    return EXPORTER.export(request, EXPORTER.plan(request))


def gap_to_onnx_runtime(request: LoweringRequest, exported: Exported, settings: Mapping[str, str]) -> Gap:
    """Of the exported files with `settings`, on a drawn picture, from the canonical graph in ONNX Runtime."""
    assert request.spec.preprocess is not None
    feeds = {"image": prepare(request.spec.preprocess, draw_smear(seed=1).image)[0]}
    wanted = ORT.open(EngineRequest(request.graph.serialized(), threads=1)).run(feeds)
    files = {artifact.role: artifact.data for artifact in exported.files}
    asked = EngineRequest(files["model"], files["weights"], settings, threads=1, outputs=("head",))
    (gap,) = compare(wanted, OPENVINO.open(asked).run(feeds))
    return gap


def cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


needs_bf16 = pytest.mark.skipif(
    not cpu_flags() & {"avx512_bf16", "amx_bf16"}, reason="this CPU has neither avx512_bf16 nor amx_bf16"
)


def test_the_pinned_setting_computes_what_the_graph_says(femtodet_for: Request) -> None:
    request = femtodet_for("intel-n100")
    exported = lowered(request)
    assert dict(exported.settings) == {"INFERENCE_PRECISION_HINT": "f32"}
    assert exported.rehearsal is None and exported.portable
    gap = gap_to_onnx_runtime(request, exported, exported.settings)
    assert gap.within(TOLERANCES["fp32"]), gap.describe()


@needs_bf16
def test_arithmetic_in_bf16_is_caught_by_the_gates_tolerance(femtodet_for: Request) -> None:
    request = femtodet_for("intel-n100")
    gap = gap_to_onnx_runtime(request, lowered(request), {"INFERENCE_PRECISION_HINT": "bf16"})
    assert gap.finite and not gap.within(TOLERANCES["fp32"])
    assert gap.relative > 10 * TOLERANCES["fp32"]


@needs_bf16
def test_openvinos_own_default_is_what_the_pin_protects_from(femtodet_for: Request) -> None:
    request = femtodet_for("intel-n100")
    files = {artifact.role: artifact.data for artifact in lowered(request).files}
    core = import_openvino().Core()
    compiled = core.compile_model(core.read_model(model=files["model"], weights=files["weights"]), "CPU", {})
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'bfloat16'>"


def test_fp16_halves_the_weights_and_stays_within_its_bar(femtodet_for: Request) -> None:
    single, half = femtodet_for("intel-n100", "fp32"), femtodet_for("intel-n100", "fp16")
    sizes = [{a.role: len(a.data) for a in lowered(request).files}["weights"] for request in (single, half)]
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    exported = lowered(half)
    assert exported.precision == "fp16"
    gap = gap_to_onnx_runtime(half, exported, exported.settings)
    assert TOLERANCES["fp32"] < gap.relative < TOLERANCES["fp16"]
    assert "weights are stored in fp16, arithmetic is in f32" in EXPORTER.plan(half).notes


def test_the_plan_tells_the_pinned_setting_and_its_reason(femtodet_for: Request) -> None:
    notes = EXPORTER.plan(femtodet_for("intel-n100")).notes
    assert any(note.startswith("INFERENCE_PRECISION_HINT = f32: OpenVINO computes in bf16") for note in notes)


def test_the_files_tell_nothing_of_where_they_were_made(femtodet_for: Request) -> None:
    for artifact in lowered(femtodet_for("intel-n100")).files:
        assert str(Path.cwd()).encode() not in artifact.data and b"/tmp" not in artifact.data


def test_an_operator_that_openvino_cannot_read_is_refused(small_for: Request) -> None:
    nodes = [helper.make_node("Det", ["x"], ["d"], "det"), helper.make_node("Mul", ["x", "d"], ["y"], "mul")]
    with pytest.raises(UnsupportedError, match="OpenVINO cannot read the graph") as caught:
        EXPORTER.plan(small_for("intel-n100", nodes, shape=(4, 4)))
    assert caught.value.why


class Partial:
    """OpenVINO with one kernel taken away."""

    def __init__(self, missing: str) -> None:
        self._real, self._missing = import_openvino(), missing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def Core(self) -> Any:
        missing, core = self._missing, self._real.Core()

        class Core:
            read_model = staticmethod(core.read_model)

            @staticmethod
            def query_model(model: Any, device: str) -> dict[str, str]:
                return {name: place for name, place in core.query_model(model, device).items() if name != missing}

        return Core()


@pytest.mark.parametrize(("missing", "named"), [("first", "first"), ("y", "second"), ("w", "first")])
def test_a_missing_kernel_is_told_even_where_openvino_names_it_otherwise(
    small_for: Request, monkeypatch: pytest.MonkeyPatch, missing: str, named: str
) -> None:
    monkeypatch.setattr(exporter_module, "import_openvino", lambda: Partial(missing))
    nodes = [helper.make_node("Relu", ["x"], ["m"], "first"), helper.make_node("Mul", ["m", "w"], ["y"], "second")]
    request = small_for("intel-n100", nodes, {"w": np.float32([2])})
    plan = EXPORTER.plan(request)
    assert [row.node for row in plan.problems] == [named] and missing in str(plan.problems[0].problem)
    with pytest.raises(UnsupportedError, match="cannot run on intel-n100"):
        EXPORTER.export(request, plan)
