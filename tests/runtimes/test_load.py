"""Loading refuses what does not belong together: keys, versions, machines, runtimes, formats."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import plugins
from edgekit.bundle import generate_keys, load_private_key
from edgekit.errors import EdgekitError, InputError, IntegrityError, MissingError, UsageError
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.runtimes.openvino import BACKEND as OPENVINO
from edgekit.runtimes.session import load, version_numbers
from edgekit.spec import ModelSpec, TensorSpec

Make = Callable[..., Path]
pytest.importorskip("onnxruntime")


class Recorder:
    """A backend that computes nothing and remembers what it was asked."""

    name = "recorder"
    devices = ("cpu",)

    def __init__(self, version: str = "1.20") -> None:
        self.requests: list[EngineRequest] = []
        self._version = version

    def version(self) -> str:
        return self._version

    def open(self, request: EngineRequest) -> Any:
        self.requests.append(request)
        return self

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        return {"head": np.zeros((1, 7, 4, 4), np.float32)}

    def close(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A runtime of a stranger's, called `recorder`, of version 1.20."""
    backend, names, found = Recorder(), plugins.names, plugins.load
    monkeypatch.setattr(plugins, "names", lambda group: sorted([*names(group), "recorder"]))
    monkeypatch.setattr(plugins, "load", lambda group, name: backend if name == "recorder" else found(group, name))
    yield backend


def test_model_weights_settings_threads_and_outputs_reach_the_backend(make: Make, recorder: Recorder) -> None:
    path = make(
        runtime="recorder",
        settings={"HINT": "f32"},
        files={"net.xml": ("model", b"graph"), "net.bin": ("weights", b"numbers"), "notes.json": ("recipe", b"{}")},
    )
    load(path, threads=3).close()
    assert recorder.requests == [EngineRequest(b"graph", b"numbers", {"HINT": "f32"}, 3, ("head",), recipe=b"{}")]


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_refused(make: Make, threads: int) -> None:
    with pytest.raises(UsageError, match="no thread"):
        load(make(), threads=threads)


@pytest.mark.parametrize("backend", [ORT, OPENVINO], ids=["onnxruntime", "openvino"])
def test_a_session_on_one_thread_computes_the_same(make: Make, cells: np.ndarray, backend: Any) -> None:
    pytest.importorskip(backend.name)
    path = make(runtime=backend.name)
    with load(path, threads=1) as one, load(path) as many:
        np.testing.assert_array_equal(one.predict(cells).boxes, many.predict(cells).boxes)  # type: ignore[union-attr]


def test_a_runtime_that_nobody_brings_is_missing_and_nothing_falls_back(make: Make) -> None:
    with pytest.raises(MissingError, match="no runtime 'nowhere' is available") as caught:
        load(make(runtime="nowhere"))
    assert caught.value.exit_code == 4
    assert "onnxruntime" in str(caught.value.why)
    assert "runtime='onnxruntime'" in str(caught.value.fix)


def test_tensorrt_is_missing_where_its_package_is_and_nothing_falls_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # the import fails
    with pytest.raises(MissingError, match="TensorRT is not installed") as caught:
        load(make(runtime="tensorrt"))
    assert caught.value.exit_code == 4
    fix = str(caught.value.fix)
    assert "python3-libnvinfer" in fix and "--system-site-packages" in fix and "runtime='onnxruntime'" in fix


def test_another_runtime_computes_where_it_is_asked_for(make: Make, cells: np.ndarray, cells_found: list) -> None:
    # Neither the version range, nor the machine, nor the settings of the bundle's own runtime are its business.
    path = make(runtime="tensorrt", needs=("10.3", "10.4"), isa=("riscv128",), settings={"PRECISION": "fp16"})
    with load(path, runtime="onnxruntime") as session:
        assert session.runtime.startswith("onnxruntime ")
        assert len(session.predict(cells)) == len(cells_found)  # type: ignore[arg-type]


def test_another_runtime_gets_none_of_the_settings(make: Make, recorder: Recorder) -> None:
    load(make(runtime="openvino", settings={"HINT": "f32"}), runtime="recorder").close()
    assert recorder.requests[0].settings == {}


def test_another_runtime_cannot_read_another_format(make: Make) -> None:
    path = make(runtime="openvino", files={"model.xml": ("model", b"<net/>"), "model.bin": ("weights", b"")})
    with pytest.raises(UsageError, match="cells cannot run on onnxruntime") as caught:
        load(path, runtime="onnxruntime")
    assert caught.value.where == "model.xml"


@pytest.mark.parametrize(
    ("needs", "fits"),
    [
        (("1.0", None), True),
        (("1.20", None), True),
        (("1.20.0", None), True),
        (("1.20.1", None), False),
        (("1.21", None), False),
        (("1.0", "1.20"), False),
        (("1.0", "1.20.0"), False),
        (("1.0", "1.20.0.1"), True),
        (("1.0", "2"), True),
        (("2", None), False),
    ],
)
def test_the_runtimes_version_has_to_be_in_range(
    make: Make, recorder: Recorder, needs: tuple[str, str | None], fits: bool
) -> None:
    path = make(runtime="recorder", needs=needs)
    if fits:
        load(path).close()
        return
    with pytest.raises(MissingError, match="the bundle needs recorder >= ") as caught:
        load(path)
    assert caught.value.where == "recorder 1.20"
    assert str(caught.value.fix).startswith("pip install 'recorder>=")
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("1.32.0", (1, 32)), ("2026.4.1-22982-e213a", (2026, 4, 1)), ("1.24.0rc1", (1, 24)), ("2", (2,)), ("dev", ())],
)
def test_a_version_is_its_leading_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(version) == numbers


def test_another_machine_is_refused_by_name(make: Make) -> None:
    with pytest.raises(MissingError, match="needs a machine with riscv128 or sparc") as caught:
        load(make(isa=("riscv128", "sparc")))
    assert caught.value.where == platform.machine()
    load(make("mine", isa=("riscv128", platform.machine()))).close()


@pytest.mark.parametrize("form", [str, Path, lambda path: path.read_bytes()], ids=["text", "path", "bytes"])
def test_with_a_key_only_the_bundle_that_it_signed_loads(
    make: Make, tmp_path: Path, form: Callable[[Path], Any]
) -> None:
    private, public = generate_keys(tmp_path / "mine")
    _, other = generate_keys(tmp_path / "other")
    signed = make("signed.edgekit", private_key=load_private_key(private))
    load(signed, key=form(public)).close()
    load(signed).close()
    with pytest.raises(IntegrityError):
        load(signed, key=form(other))
    with pytest.raises(IntegrityError, match="not signed"):
        load(make("unsigned"), key=form(public))


def test_a_changed_model_is_never_handed_to_the_runtime(make: Make, recorder: Recorder) -> None:
    path = make(runtime="recorder")
    raw = bytearray((path / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / "model.onnx").write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"model\.onnx was changed"):
        load(path)
    assert recorder.requests == []


def test_a_bundle_without_a_model_is_refused(make: Make) -> None:
    with pytest.raises(IntegrityError, match="the bundle has no model"):
        load(make(files={"notes.json": ("recipe", b"{}")}))


def test_an_unknown_dtype_in_the_manifest_is_refused(make: Make, detector_spec: ModelSpec) -> None:
    odd = replace(detector_spec, inputs=(TensorSpec("image", "float31", (1, 3, 32, 32)),))
    with pytest.raises(IntegrityError, match="input 'image' is of an unknown dtype"):
        load(make(spec=odd))


@pytest.mark.parametrize("backend", [ORT, OPENVINO], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("raw", [b"", b"\x00", b"not a model at all", "half"], ids=["empty", "zero", "text", "half"])
def test_what_the_runtime_cannot_read_is_an_input_error_and_its_log_is_silent(
    detector: Path, capfd: pytest.CaptureFixture[str], backend: Any, raw: bytes | str
) -> None:
    pytest.importorskip(backend.name)
    data = detector.read_bytes()[:180] if isinstance(raw, str) else raw
    with pytest.raises(InputError, match="cannot load the model") as caught:
        backend.open(EngineRequest(data))
    assert caught.value.where == f"{backend.name} {backend.version()}"
    assert caught.value.why
    assert "\n" not in caught.value.why
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", [ORT, OPENVINO], ids=["onnxruntime", "openvino"])
def test_what_the_runtime_refuses_while_it_runs_is_an_input_error(
    detector: Path, capfd: pytest.CaptureFixture[str], backend: Any
) -> None:
    pytest.importorskip(backend.name)
    engine = backend.open(EngineRequest(detector.read_bytes(), outputs=("head",)))
    with pytest.raises(InputError, match="cannot run the model on this input"):
        engine.run({"image": np.zeros((1, 5, 32, 32), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_openvino_computes_in_f32_unless_the_bundle_asks_for_something_else(make: Make, detector: Path) -> None:
    ov = pytest.importorskip("openvino")

    def precision(session: Any) -> Any:
        with session:
            return session._engine._request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT")

    assert precision(load(make(runtime="openvino", settings={}))) == ov.Type.f32
    assert precision(load(make("ort", runtime="onnxruntime"), runtime="openvino")) == ov.Type.f32
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        asked = make("bf16", runtime="openvino", settings={"INFERENCE_PRECISION_HINT": "bf16"})
        assert precision(load(asked)) == ov.Type.bf16


def test_openvino_takes_its_settings_seriously(make: Make) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(InputError, match="OpenVINO cannot load the model") as caught:
        load(make(runtime="openvino", settings={"INFERENCE_PRECISION_HINTS": "f32"}))
    assert "INFERENCE_PRECISION_HINTS" in str(caught.value.why)


@pytest.mark.parametrize(("package", "backend"), [("onnxruntime", ORT), ("openvino", OPENVINO)])
def test_a_runtime_that_is_not_installed_is_missing_with_the_command_that_gets_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, package: str, backend: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError, match="not installed") as caught:
        load(make(runtime=package))
    assert caught.value.fix == f"pip install 'edgekit[{package}]'"


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_bundle_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgekitError) as caught:
        load(tmp_path / name)
    assert caught.value.exit_code == 2
