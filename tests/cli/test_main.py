"""Exit codes and the form of errors, in text and in JSON; and the commands that list things."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import COMMANDS


def test_every_command_takes_json_and_has_help(edgekit: Any) -> None:
    for name in COMMANDS:
        done = edgekit(name, "--help")
        assert done.code == 0
        assert "--json" in done.out, name


def test_without_a_command_there_is_help(edgekit: Any) -> None:
    done = edgekit()
    assert all(name in done.sentence for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["exprot"], ["export", "--targett", "host"], ["run"], ["inspect"]])
def test_what_cannot_be_understood_is_exit_2(edgekit: Any, arguments: list[str]) -> None:
    done = edgekit(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err


CASES: dict[str, tuple[list[str], int, str]] = {
    "target": (["export", "--target", "orin-nanno"], 2, "orin-nano"),
    "model": (["export", "--target", "host", "--model", "femtodett"], 2, "femtodet"),
    "onnx": (["export", "--target", "host", "--model", "missing.onnx"], 2, "missing.onnx"),
    "trust": (["export", "--target", "host", "--model", "module:function"], 2, "--trust-code"),
    "pt2": (["export", "--target", "host", "--model", "missing.pt2"], 2, "--trust-code"),
    "config": (["export", "--config", "missing.toml"], 2, "missing.toml"),
    "data": (["export", "--target", "host", "--data", "empty"], 2, "empty"),
    "spec": (["export", "--target", "host", "--spec", "missing.json"], 2, "missing.json"),
    "output": (["export", "--target", "host", "--model", "{detector}", "-o", "file/b"], 2, "file/b"),
    "precision": (["export", "--target", "snapdragon-865", "--model", "{detector}", "--precision", "fp16"], 3, "fp16"),
    "bundle": (["inspect", "missing"], 2, "missing"),
    "verify": (["verify", "missing"], 2, "missing"),
    "prove": (["prove", "missing"], 2, "missing"),
    "attest": (["attest", "missing"], 2, "missing"),
    "profile": (["profile", "missing"], 2, "missing"),
    "picture": (["run", "missing", "missing.png"], 2, "missing.png"),
    "key": (["verify", "missing", "--key", "missing.pub"], 2, "missing"),
    "sign": (["sign", "missing", "--key", "missing.key"], 2, "missing"),
    "targets": (["targets", "orin-nanno"], 2, "orin-nano"),
    "init": (["init", "--target", "orin-nanno"], 2, "orin-nano"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_goes_wrong_has_its_exit_code_and_names_the_culprit(
    edgekit: Any, folder: Path, detector: Path, case: str
) -> None:
    arguments, code, named = CASES[case]
    if arguments[0] == "export":
        pytest.importorskip("torch")
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    words = [word.format(detector=detector) for word in arguments]
    done = edgekit(*words)
    assert (done.code, done.out) == (code, "")
    error = done.err[done.err.index("error: ") :]
    assert named in error
    assert error.count("\nerror: ") == 0
    as_json = edgekit(*words, "--json")
    assert (as_json.code, as_json.err) == (code, "")
    assert as_json.document["exit_code"] == code
    assert set(as_json.document) == {"error", "what", "where", "why", "fix", "exit_code"}
    assert as_json.document["what"] in error


def test_an_unwritable_output_folder_is_exit_2(
    edgekit: Any, detector: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    pytest.importorskip("torch")
    opened = os.open

    def refuse(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_CREAT and ".partial-" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    done = edgekit("export", "--target", "host", "--model", detector, "-o", "b.edgekit")
    assert done.code == 2
    assert "this cannot be written" in done.err and "Permission denied" in done.err
    assert list(folder.iterdir()) == []


def test_a_missing_package_is_exit_4_with_the_command_that_gets_it(
    edgekit: Any, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = edgekit("export", "--target", "intel", "--model", Path(__file__).parents[1] / "runtimes/data/detector.onnx")
    assert done.code == 4
    assert "fix: pip install 'edgekit[openvino]'" in done.err


def test_a_bug_of_ours_is_exit_1_with_its_traceback(folder: Path) -> None:
    code = (
        "import sys, edgekit.cli.main as main, edgekit.doctor as doctor\n"
        "doctor.examine = lambda: 1 / 0\nsys.argv = ['edgekit', 'doctor']\nmain.main()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


# --- the small commands


def test_init_writes_once(edgekit: Any, folder: Path) -> None:
    done = edgekit("init")
    assert (done.code, done.out) == (0, "wrote edgekit.toml; next: edgekit export\n")
    before = (folder / "edgekit.toml").read_text()
    done = edgekit("init", "--target", "host")
    assert done.code == 2
    assert "edgekit.toml exists" in done.err
    assert (folder / "edgekit.toml").read_text() == before


def test_init_lists_what_an_onnx_file_takes_and_gives(edgekit: Any, folder: Path, detector: Path) -> None:
    pytest.importorskip("torch")
    assert edgekit("init", "--source", "missing.onnx").code == 2
    assert list(folder.iterdir()) == []
    assert edgekit("init", "--source", detector).code == 0
    text = (folder / "edgekit.toml").read_text()
    assert "#   input  image float32 (batch, 3, 32, 32)\n" in text
    assert "#   output head float32 (batch, 7, 4, 4)\n" in text


def test_targets_are_listed_with_their_aliases_and_shown_with_sources(edgekit: Any) -> None:
    listed = edgekit("targets").out
    for name in ("orin-nano", "orin-nano-jp72", "snapdragon-865", "snapdragon-cpu", "qcs6490", "intel-n100", "host"):
        assert name in listed
    document = edgekit("targets", "--json").document
    assert {"orin-nano", "intel-cpu"} <= {profile["name"] for profile in document}
    one = edgekit("targets", "orin-nano")
    assert "power mode" in one.out and "opset = 20" in one.out
    assert edgekit("targets", "intel", "--json").document["name"] == "intel-cpu"


def test_models_are_listed(edgekit: Any) -> None:
    pytest.importorskip("torch")
    assert "femtodet" in edgekit("models").out
    assert [row["name"] for row in edgekit("models", "--json").document] == ["femtodet"]


def test_keys_are_made_and_a_signed_bundle_verifies(edgekit: Any, detector: Path, folder: Path) -> None:
    pytest.importorskip("torch")
    assert edgekit("keygen", "mine").code == 0
    assert (folder / "mine.key").stat().st_mode & 0o777 == 0o600
    assert edgekit("keygen", "mine").code == 2
    assert edgekit("keygen", "other", "--json").document == {"private": "other.key", "public": "other.pub"}
    edgekit("export", "-t", "host", "--model", detector, "-o", "b")
    assert edgekit("verify", "b").out.endswith("files intact; signature: none\n")
    signed = edgekit("sign", "b", "--key", "mine.key", "--json").document
    assert edgekit("verify", "b", "--key", "mine.pub", "--json").document["signature"] == "valid"
    assert edgekit("verify", "b", "--json").document["signature"].startswith("present, not checked")
    assert edgekit("verify", "b", "--key", "other.pub").code == 3
    assert len(signed["key_id"]) == 16
    edgekit("export", "-t", "host", "--model", detector, "-o", "c", "--sign-key", "other.key")
    assert edgekit("verify", "c", "--key", "other.pub").code == 0


def test_doctor_names_each_gap_with_the_command_that_fixes_it(edgekit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = {row["what"]: row for row in edgekit("doctor", "--json").document}
    assert found["run openvino bundles"]["ready"] is False
    assert found["run openvino bundles"]["fix"] == "pip install 'edgekit[openvino]'"
    assert found["run tensorrt bundles"]["ready"] is False
    assert any(name.startswith("export for ") and "orin-nano" in name for name in found)
    table = edgekit("doctor")
    assert table.code == 0
    assert "pip install 'edgekit[openvino]'" in table.out


@pytest.fixture
def proven(edgekit: Any, detector: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle for a board that this machine then takes itself for, and a configuration folder of its own."""
    pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setattr("edgekit.prove.machine_names", lambda: ("A Board", "qcom,sm8250"))
    assert edgekit("export", "-t", "snapdragon-865", "--model", detector, "-o", "b.edgekit").code == 0
    return Path("b.edgekit")


def proof_beside(bundle: Path) -> Path:
    (found,) = bundle.parent.glob(f"{bundle.name}.*.proof.json")
    return found


def test_prove_prints_answers_and_writes_them_beside_the_bundle(edgekit: Any, proven: Path) -> None:
    done = edgekit("prove", proven)
    assert done.code == 0
    assert "parity-on-device   parity   passed" in done.out and "measured" in done.out
    written = proof_beside(proven)
    assert f"wrote {written.absolute()}" in done.err
    assert edgekit("prove", proven, "--json").document == json.loads(written.read_text())


def test_a_proof_on_another_machine_is_exit_5_and_leaves_the_questions_open(
    edgekit: Any, proven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.prove.machine_names", lambda: ("A Laptop",))
    done = edgekit("prove", proven, "--json")
    assert done.code == 5
    assert [answer["status"] for answer in done.document["answers"]] == ["passed", "open", "open"]
    assert "this machine calls itself 'A Laptop'" in done.err
    assert edgekit("prove", proven).code == 5
    key = Path("config/edgekit/device.pub")
    assert edgekit("verify", proven, "--proof", proof_beside(proven), "--device-key", key).code == 5


def test_a_failed_proof_is_exit_3_with_one_document_and_the_answers_in_it(
    edgekit: Any, proven: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.runtimes.onnxruntime import OnnxRuntimeEngine

    run = OnnxRuntimeEngine.run
    monkeypatch.setattr(
        OnnxRuntimeEngine, "run", lambda self, feeds: {name: out + 1 for name, out in run(self, feeds).items()}
    )
    done = edgekit("prove", proven, "--json")
    assert done.code == 3
    assert {answer["status"] for answer in done.document["answers"]} == {"failed", "measured"}
    assert "does not compute here what its parent did" in done.err
    assert json.loads(proof_beside(proven).read_text()) == done.document
    assert edgekit("prove", proven).code == 3
    key = Path("config/edgekit/device.pub")
    assert edgekit("verify", proven, "--proof", proof_beside(proven), "--device-key", key).code == 3


def test_verify_checks_a_proof_against_the_bundle_and_the_devices_key(
    edgekit: Any, proven: Path, detector: Path
) -> None:
    edgekit("prove", proven)
    edgekit("keygen", "other")
    edgekit("export", "-t", "snapdragon-865", "--model", detector, "--name", "c", "-o", "c.edgekit")
    proof, key = proof_beside(proven), "config/edgekit/device.pub"
    done = edgekit("verify", proven, "--proof", proof, "--device-key", key)
    assert done.code == 0
    assert done.out.endswith("; proof: 3 answers by A Board, none says no\n")
    as_json = edgekit("verify", proven, "--proof", proof, "--device-key", key, "--json")
    assert as_json.document["proof"] == "3 answers by A Board, none says no"
    assert edgekit("verify", proven, "--proof", proof, "--device-key", "other.pub").code == 3
    done = edgekit("verify", "c.edgekit", "--proof", proof, "--device-key", key)
    assert done.code == 3
    assert "the proof is about another bundle" in done.err
    proof.write_bytes(proof.read_bytes().replace(b'"measured"', b'"passed"'))
    assert edgekit("verify", proven, "--proof", proof, "--device-key", key).code == 3
    for half in (("--proof", proof), ("--device-key", key)):
        done = edgekit("verify", proven, *half)
        assert done.code == 2
        assert "--proof and --device-key belong together" in done.err
