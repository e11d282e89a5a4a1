"""The second road: what it refuses before it would compile. The compilation itself was never run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgekit import plugins, profiles
from edgekit.errors import MissingError, UnsupportedError
from edgekit.exporters import Exporter, LoweringRequest
from edgekit.exporters.torch_tensorrt import (
    NEVER_RUN,
    Machine,
    TorchTensorRtExporter,
    compile_engine,
    pairs,
)
from edgekit.profiles import DeviceProfile

Request = Callable[..., LoweringRequest]
# A machine on which all fits JetPack 7.2's TensorRT and the Orin's GPU.
FITS = {"torch-tensorrt": "2.12.1", "torch": "2.12.0+cu130", "tensorrt": "10.16.1.11"}
OTHERWISE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"versions": {"torch": "2.12.0"}}, MissingError, "torch-tensorrt is not installed"),
    ({"versions": {**FITS, "tensorrt": ""}}, UnsupportedError, "does not go with tensorrt"),
    ({"versions": {**FITS, "tensorrt": "10.3.0"}}, UnsupportedError, "does not go with tensorrt 10.3.0"),
    ({"versions": {**FITS, "torch": "2.13.0+cpu"}}, UnsupportedError, "does not go with torch 2.13.0"),
    ({"versions": {**FITS, "torch-tensorrt": "2.14.0"}}, UnsupportedError, "2.14.0 does not go with the target"),
    ({"compute_capability": None}, MissingError, "there is no GPU here"),
    ({"compute_capability": "9.0"}, UnsupportedError, "this machine's GPU is not the target's"),
]


def exporter(**changes: Any) -> TorchTensorRtExporter:
    machine = replace(Machine(FITS, "8.7"), **changes)
    return TorchTensorRtExporter(lambda: machine)


def newer(**changes: Any) -> DeviceProfile:
    """A board as the Orin Nano on JetPack 7.2, but for `changes`."""
    return replace(profiles.get("orin-nano-jp72"), **changes)


def test_it_is_found_by_its_name() -> None:
    found: Exporter = plugins.load("edgekit.exporters", "torch-tensorrt")
    assert found.name == "torch-tensorrt"


@pytest.mark.parametrize("board", ["orin-nano", "orin-nano-4gb"])
def test_no_release_that_edgekit_can_use_goes_with_jetpack_6_2(board: str, femtodet_for: Request) -> None:
    with pytest.raises(UnsupportedError) as caught:
        exporter().plan(femtodet_for(board))
    assert "no release of Torch-TensorRT that edgekit can use" in caught.value.what
    assert caught.value.why is not None
    assert "torch_tensorrt 2.8.0 would, but edgekit needs torch 2.9" in caught.value.why


def test_a_plan_says_that_it_was_never_run(femtodet_for: Request) -> None:
    plan = exporter().plan(femtodet_for("orin-nano-jp72"))
    assert NEVER_RUN in plan.notes
    assert any("publishes no 2.9 to 2.12 for Jetson Orin" in note for note in plan.notes)
    assert (plan.runtime, plan.precision, plan.problems) == ("torch-tensorrt", "fp16", [])


@pytest.mark.parametrize(("changes", "error", "says"), OTHERWISE)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], error: type[Exception], says: str, femtodet_for: Request
) -> None:
    with pytest.raises(error, match=says):
        exporter(**changes).plan(femtodet_for("orin-nano-jp72"))


def test_a_target_whose_gpu_nobody_knows_is_refused(femtodet_for: Request) -> None:
    request = replace(femtodet_for("orin-nano-jp72"), profile=newer(facts={}))
    with pytest.raises(UnsupportedError, match="GPU is not the target's"):
        exporter().plan(request)


@pytest.mark.parametrize("precision", ["int8", "bf16", "w8a16"])
def test_a_precision_that_this_road_does_not_have_is_refused(precision: str, femtodet_for: Request) -> None:
    with pytest.raises(UnsupportedError, match="refused"):
        exporter().plan(femtodet_for("orin-nano-jp72", precision))
    with pytest.raises(UnsupportedError, match="is not on this road"):
        request = femtodet_for("orin-nano-jp72")
        exporter().plan(replace(request, profile=newer(default_precision=precision)))


def test_onnx_is_not_what_this_road_begins_with(femtodet_for: Request) -> None:
    request = femtodet_for("orin-nano-jp72")
    with pytest.raises(UnsupportedError, match="begins with a torch program") as caught:
        exporter().export(request, exporter().plan(request))
    assert caught.value.why == NEVER_RUN


def test_the_call_asks_for_all_or_nothing_and_for_no_shared_cache(
    femtodet_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in takes the place of the package: it shows what is asked for, not that the package would do it."""
    import sys
    import types

    asked: dict[str, Any] = {}

    def convert(program: Any, **options: Any) -> bytes:
        asked.update(options, program=program)
        return b"engine"

    package, dynamo = types.ModuleType("torch_tensorrt"), types.ModuleType("torch_tensorrt.dynamo")
    dynamo.convert_exported_program_to_serialized_trt_engine = convert  # type: ignore[attr-defined]
    package.dynamo = dynamo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_tensorrt", package)
    monkeypatch.setitem(sys.modules, "torch_tensorrt.dynamo", dynamo)
    plan = exporter().plan(femtodet_for("orin-nano-jp72"))
    program: Any = object()
    assert compile_engine(program, [1, 2], plan) == b"engine"
    assert (asked["program"], asked["arg_inputs"], asked["require_full_compilation"]) == (program, (1, 2), True)
    assert not asked["cache_built_engines"] and not asked["reuse_cached_engines"]
    assert "edgekit-" in asked["timing_cache_path"]


def test_this_machine_is_asked_without_importing_the_package() -> None:
    import sys

    machine = Machine.here()
    assert machine.versions["torch"].startswith("2.")
    assert "torch_tensorrt" not in sys.modules


def test_every_pair_names_its_source_and_the_newest_comes_last() -> None:
    table = pairs()
    assert all(pair.source for pair in table)
    newest = [tuple(map(int, pair.wheel.split("."))) for pair in table]
    assert newest == sorted(newest)
    assert all(len(each) == 2 for pair in table for each in (pair.torch_tensorrt, pair.torch, pair.tensorrt))
