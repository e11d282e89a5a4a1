"""On the device: self-tests are replayed, questions answered and signed, and what stays open is said to be open."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import (
    Bundle,
    Manifest,
    Quality,
    Question,
    RuntimeNeed,
    SelfTest,
    Source,
    TargetNeed,
    check_signature,
    encode_array,
    generate_keys,
    load_public_key,
    write_bundle,
)
from edgekit.errors import GateError, InputError, IntegrityError, MissingError
from edgekit.prove import LATENCY_RUNS, Answer, device_key, prove, require_passed, write_proof
from edgekit.spec import ModelSpec

pytest.importorskip("onnxruntime")

PARITY = Question("parity-on-device", "parity", "same outputs", "another machine", tolerance=1e-4)
LATENCY = Question("latency-on-device", "latency", "median latency", "another machine", unit="ms")
ENERGY = Question("energy", "energy", "energy an inference", "no meter there", unit="mJ")
QUALITY = Question("quality", "quality", "AP50 on the device", "no data there")
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration folder, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def make(tmp_path: Path, detector: Path, detector_spec: ModelSpec) -> Make:
    """A bundle of the detector with two self-test vectors, whose outputs are `error` off."""

    def write(*questions: Question, error: float = 0.0, tests: int = 2, name: str = "b.edgekit", **fields: Any) -> Path:
        from edgekit.runtimes.backend import EngineRequest
        from edgekit.runtimes.onnxruntime import BACKEND

        run = BACKEND.open(EngineRequest(detector.read_bytes())).run
        files: dict[str, tuple[str, bytes]] = {"model.onnx": ("model", detector.read_bytes())}
        vectors = []
        for index in range(tests):
            image = np.random.default_rng(index).random((1, 3, 32, 32), dtype=np.float32)
            head = run({"image": image})["head"]
            head = head + np.float32(error * np.abs(head).max())
            files |= {f"{index}/i.npy": ("selftest", encode_array(image))}
            files |= {f"{index}/o.npy": ("selftest", encode_array(head))}
            vectors.append(SelfTest({"image": f"{index}/i.npy"}, {"head": f"{index}/o.npy"}, 1e-3, "random"))
        manifest = Manifest(
            name="cells",
            version=4,
            model=detector_spec,
            target=TargetNeed("snapdragon-865", RuntimeNeed("onnxruntime", "1"), "fp32"),
            files=(),
            source=Source("onnx", "detector.onnx", "0" * 64),
            history=(),
            parity=(),
            quality=Quality("unknown", reason="it is a test"),
            questions=questions,
            selftest=tuple(vectors),
            tools={},
            origins={},
        )
        write_bundle(tmp_path / name, replace(manifest, **fields), files).close()
        return tmp_path / name

    return write


def by_id(answers: tuple[Answer, ...]) -> dict[str, Answer]:
    return {answer.id: answer for answer in answers}


def test_every_question_that_this_device_can_answer_is_answered_with_figures(make: Make) -> None:
    path = make(PARITY, LATENCY)
    proof = prove(path, threads=1)
    answers = by_id(proof.answers)
    assert list(answers) == ["selftest-0", "selftest-1", "parity-on-device", "latency-on-device"]
    parity, latency = answers["parity-on-device"], answers["latency-on-device"]
    assert (parity.status, parity.samples, parity.unit, parity.tolerance) == ("passed", 2, "relative", 1e-4)
    assert 0 <= (parity.value or 0.0) < 1e-6
    assert (latency.status, latency.unit, latency.samples) == ("measured", "ms", LATENCY_RUNS)
    assert 0 < (latency.value or 0.0) < 1000
    assert proof.failed == []
    require_passed(proof)
    with Bundle.open(path) as bundle:
        assert (proof.bundle, proof.version, proof.manifest_sha256) == ("cells", 4, bundle.digest)
    assert proof.signed_bundle is False


def test_what_cannot_be_answered_stays_open_with_a_reason_and_never_passes(make: Make) -> None:
    proof = prove(make(ENERGY, QUALITY))
    for name, kind in (("energy", "energy"), ("quality", "quality")):
        answer = by_id(proof.answers)[name]
        assert (answer.status, answer.value) == ("open", None)
        assert kind in str(answer.reason)
    assert proof.failed == []


def test_without_self_tests_parity_is_not_proven_and_latency_stays_open(make: Make) -> None:
    answers = by_id(prove(make(PARITY, LATENCY, tests=0)).answers)
    assert answers["parity-on-device"].status == "failed"
    assert "no self-test" in str(answers["parity-on-device"].reason)
    assert answers["latency-on-device"].status == "open"


def test_a_device_that_computes_something_else_fails_with_the_tensor_and_the_gap(make: Make) -> None:
    proof = prove(make(PARITY, error=0.01))
    answers = by_id(proof.answers)
    assert answers["selftest-0"].status == answers["parity-on-device"].status == "failed"
    assert "output 'head': relative deviation 0.0" in str(answers["selftest-0"].reason)
    with pytest.raises(GateError, match="does not compute here what its parent did") as caught:
        require_passed(proof)
    assert caught.value.exit_code == 3
    assert str(caught.value.where).startswith("onnxruntime ")


def test_a_question_may_ask_for_more_than_the_self_tests_do(make: Make) -> None:
    answers = by_id(prove(make(PARITY, error=5e-4)).answers)  # within 1e-3 of the vectors, not within 1e-4
    assert answers["selftest-0"].status == "passed"
    assert answers["parity-on-device"].status == "failed"
    assert answers["parity-on-device"].value == pytest.approx(5e-4, rel=0.01)
    assert "allowed is 0.0001" in str(answers["parity-on-device"].reason)


@pytest.mark.parametrize(("bar", "status"), [(1e-9, "failed"), (1e9, "passed")])
def test_a_latency_with_a_bar_passes_or_fails(make: Make, bar: float, status: str) -> None:
    answer = by_id(prove(make(replace(LATENCY, tolerance=bar))).answers)["latency-on-device"]
    assert answer.status == status
    assert answer.value is not None


@pytest.mark.parametrize("name", ["0/o.npy", "1/i.npy", "model.onnx"])
def test_a_tampered_file_is_found_before_anything_runs(make: Make, name: str) -> None:
    path = make(PARITY, name="folder")
    raw = bytearray((path / name).read_bytes())
    raw[-1] ^= 1
    (path / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match="was changed or damaged"):
        prove(path)


def test_the_boards_own_runtime_has_to_be_there(make: Make) -> None:
    board = TargetNeed("orin-nano", RuntimeNeed("tensorrt", "10.3"), "fp16", ("aarch64",))
    with pytest.raises(MissingError, match="tensorrt"):
        prove(make(PARITY, target=board))


@pytest.mark.parametrize("name", ["b.edgekit", "b"])
def test_the_answer_is_written_beside_the_bundle_and_signed_by_this_device(make: Make, home: Path, name: str) -> None:
    path = make(PARITY, LATENCY, ENERGY, name=name)
    proof = prove(path)
    written, signature = write_proof(proof, path)
    assert (written.name, signature.name) == (f"{name}.proof.json", f"{name}.proof.sig")
    assert written.parent == path.parent
    check_signature(load_public_key(home / "edgekit" / "device.pub"), written.read_bytes(), signature.read_bytes())
    document = json.loads(written.read_text())
    assert document["schema"] == "edgekit/proof/1"
    assert [answer["status"] for answer in document["answers"]] == ["passed"] * 3 + ["measured", "open"]
    assert (home / "edgekit" / "device.key").stat().st_mode & 0o777 == 0o600
    with Bundle.open(path) as bundle:
        bundle.verify()  # nothing was put into it


def test_a_changed_answer_does_not_fit_its_signature(make: Make, home: Path) -> None:
    path = make(PARITY)
    written, signature = write_proof(prove(path), path)
    forged = written.read_bytes().replace(b'"passed"', b'"failed"')
    with pytest.raises(IntegrityError):
        check_signature(load_public_key(home / "edgekit" / "device.pub"), forged, signature.read_bytes())


def test_the_devices_key_is_made_once_and_another_may_sign(make: Make, home: Path, tmp_path: Path) -> None:
    path = make(PARITY)
    key = device_key()
    before = key.read_bytes()
    assert device_key() == key
    assert key.read_bytes() == before
    private, public = generate_keys(tmp_path / "mine")
    written, signature = write_proof(prove(path), path, private)
    check_signature(load_public_key(public), written.read_bytes(), signature.read_bytes())
    with pytest.raises(IntegrityError):
        check_signature(load_public_key(home / "edgekit" / "device.pub"), written.read_bytes(), signature.read_bytes())


def test_a_second_answer_replaces_the_first(make: Make) -> None:
    path = make(PARITY, LATENCY)
    first, _ = write_proof(prove(path), path)
    before = first.read_bytes()
    second, _ = write_proof(prove(path), path)
    assert second == first
    assert sorted(entry.name for entry in path.parent.iterdir() if "proof" in entry.name) == [
        "b.edgekit.proof.json",
        "b.edgekit.proof.sig",
    ]
    assert json.loads(before)["manifest_sha256"] == json.loads(second.read_bytes())["manifest_sha256"]


def test_the_answer_names_neither_the_machine_nor_its_user(make: Make) -> None:
    path = make(PARITY, LATENCY, ENERGY)
    written, signature = write_proof(prove(path), path)
    text = written.read_text() + signature.read_text()
    document = json.loads(written.read_text())
    assert set(document["device"]) == {"machine", "model", "system", "python", "runtime"}
    assert document["device"]["model"] != ""
    for secret in (socket.gethostname(), str(Path.home()), str(path.parent)):
        assert secret not in text
    assert f'"{getpass.getuser()}"' not in text


def test_a_configuration_folder_that_cannot_be_made_is_an_input_error(make: Make, home: Path) -> None:
    home.write_text("a file")
    path = make(PARITY)
    with pytest.raises(InputError, match="cannot be written"):
        write_proof(prove(path), path)


def test_a_bundle_that_was_exported_is_proven_in_openvino(tmp_path: Path, detector: Path) -> None:
    for package in ("torch", "onnx", "openvino"):
        pytest.importorskip(package)
    from edgekit import pipeline
    from edgekit.config import Config, ModelOptions

    config = Config(model=ModelOptions(source=str(detector)))
    path = pipeline.export(config, "intel-n100", tmp_path / "intel.edgekit").path
    answers = by_id(prove(path).answers)
    assert answers["parity-on-device"].status == "passed"
    assert answers["latency-on-device"].status == "measured"
