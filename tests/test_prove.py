"""On the device: self-tests are replayed, questions answered and signed, and what stays open is said to be open."""

from __future__ import annotations

import getpass
import json
import re
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
    MeasuredOn,
    Quality,
    Question,
    RuntimeNeed,
    SelfTest,
    Source,
    TargetNeed,
    Variant,
    check_signature,
    encode_array,
    generate_keys,
    load_private_key,
    load_public_key,
    sign_bytes,
    write_bundle,
)
from edgekit.bundle.signing import key_id
from edgekit.errors import GateError, InconclusiveError, InputError, IntegrityError, MissingError
from edgekit.machine import is_device, machine_names
from edgekit.profiler.report import Energy, Joules
from edgekit.prove import (
    LATENCY_RUNS,
    Answer,
    device_key,
    prove,
    read_proof,
    require_passed,
    write_proof,
)
from edgekit.race import Lap, RaceResult
from edgekit.spec import ModelSpec

pytest.importorskip("onnxruntime")

PARITY = Question("parity-on-device", "parity", "same outputs", "another machine", tolerance=1e-4)
LATENCY = Question("latency-on-device", "latency", "median latency", "another machine", unit="ms")
ENERGY = Question("energy", "energy", "energy an inference", "no meter there", unit="mJ")
QUALITY = Question("quality", "quality", "AP50 on the device", "no data there")
N100 = TargetNeed("intel-n100", RuntimeNeed("onnxruntime", "1"), "fp32", identity=("n100",))
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
    least, most = latency.spread or (0.0, 0.0)
    assert 0 < least <= (latency.value or 0.0) <= most
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
    with pytest.raises(InconclusiveError):
        require_passed(proof)


def test_without_self_tests_parity_is_not_proven_and_latency_stays_open(make: Make) -> None:
    answers = by_id(prove(make(PARITY, LATENCY, tests=0)).answers)
    assert answers["parity-on-device"].status == "failed"
    assert "no self-test" in str(answers["parity-on-device"].reason)
    assert answers["latency-on-device"].status == "open"


@pytest.mark.parametrize(
    ("identity", "names", "same"),
    [
        (("n100",), ("Intel(R) N100",), True),
        (("orin nano",), ("NVIDIA Jetson Orin Nano Developer Kit Super", "nvidia,p3768"), True),
        (("sm8250",), ("Some Phone", "vendor,phone", "qcom,SM8250"), True),
        (("qcs6490", "qcm6490"), ("A Board", "qcom,qcm6490"), True),
        (("orin nano",), ("NVIDIA Jetson AGX Orin",), False),
        (("n100",), ("unknown",), False),
        ((), ("anything",), True),
    ],
)
def test_a_machine_is_the_device_where_its_own_names_hold_a_word_of_it(
    identity: tuple[str, ...], names: tuple[str, ...], same: bool
) -> None:
    assert is_device(identity, names) is same


def test_on_another_machine_questions_stay_open_and_only_the_self_tests_are_answered(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.prove.machine_names", lambda: ("A Laptop", "some,chip"))
    proof = prove(make(PARITY, LATENCY, target=N100))
    answers = by_id(proof.answers)
    assert [answer.status for answer in proof.answers] == ["passed", "passed", "open", "open"]
    reason = "the question is about intel-n100, and this machine calls itself 'A Laptop'"
    assert {answers[question.id].reason for question in (PARITY, LATENCY)} == {reason}
    assert answers["latency-on-device"].value is answers["latency-on-device"].spread is None
    with pytest.raises(InconclusiveError, match="2 question") as caught:
        require_passed(proof)
    assert caught.value.exit_code == 5
    assert (caught.value.where, caught.value.why) == ("parity-on-device, latency-on-device", reason)


def test_on_the_board_itself_they_are_answered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.prove.machine_names", lambda: ("Intel(R) N100",))
    proof = prove(make(PARITY, LATENCY, target=N100), threads=1)
    assert [answer.status for answer in proof.answers] == ["passed", "passed", "passed", "measured"]
    assert (proof.device["model"], proof.device["threads"]) == ("Intel(R) N100", "1")
    require_passed(proof)


def test_a_self_test_that_fails_says_no_on_any_machine(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.prove.machine_names", lambda: ("A Laptop",))
    with pytest.raises(GateError, match="selftest-0"):
        require_passed(prove(make(PARITY, target=N100, error=0.01)))


def system_files(patch: pytest.MonkeyPatch, root: Path, files: dict[str, str]) -> None:
    """Let `machine_names` find these files under /proc, and no others."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    patch.setattr("edgekit.machine.Path", lambda path: root / str(path).removeprefix("/proc/"))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (
            {"device-tree/model": "A Board\0", "device-tree/compatible": "maker,board\0qcom,sm8250\0"},
            ("A Board", "maker,board", "qcom,sm8250"),
        ),
        ({"cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) N100\nmodel name\t: Intel(R) N100\n"}, ("Intel(R) N100",)),
        ({"cpuinfo": "processor\t: 0\n"}, ("unknown",)),
        ({}, ("unknown",)),
    ],
    ids=["board", "computer", "nameless", "not Linux"],
)
def test_a_machine_names_itself_by_its_device_tree_or_its_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], names: tuple[str, ...]
) -> None:
    system_files(monkeypatch, tmp_path / "proc", files)
    assert machine_names() == names


def test_a_device_tree_that_users_may_not_read_leaves_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system_files(monkeypatch, tmp_path / "proc", {"device-tree/model": "?", "cpuinfo": "model name : A Chip\n"})
    read = Path.read_text

    def guarded(path: Path, *arguments: Any, **options: Any) -> str:
        if "device-tree" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", guarded)
    assert machine_names() == ("A Chip",)


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
    public = load_public_key(home / "edgekit" / "device.pub")
    stem = f"{name}.{key_id(public)}.proof"
    assert (written.name, signature.name) == (f"{stem}.json", f"{stem}.sig")
    assert written.parent == path.parent
    check_signature(public, written.read_bytes(), signature.read_bytes())
    document = json.loads(written.read_text())
    assert document["schema"] == "edgekit/proof/2"
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


def test_a_second_answer_of_this_device_replaces_its_first(make: Make) -> None:
    path = make(PARITY, LATENCY)
    first, _ = write_proof(prove(path), path)
    before = first.read_bytes()
    second, signature = write_proof(prove(path), path)
    assert second == first
    assert {entry for entry in path.parent.iterdir() if "proof" in entry.name} == {second, signature}
    assert json.loads(before)["manifest_sha256"] == json.loads(second.read_bytes())["manifest_sha256"]


def test_each_device_has_its_own_answer_beside_the_bundle(make: Make, tmp_path: Path) -> None:
    path = make(PARITY)
    proof = prove(path)
    other, _ = generate_keys(tmp_path / "other")
    assert not set(write_proof(proof, path)) & set(write_proof(proof, path, other))
    assert len([entry for entry in path.parent.iterdir() if "proof" in entry.name]) == 4


def test_a_written_proof_is_read_back_as_it_was(make: Make, home: Path) -> None:
    path = make(PARITY, LATENCY, ENERGY)
    proof = prove(path)
    written, _ = write_proof(proof, path)
    with Bundle.open(path) as bundle:
        assert read_proof(written, bundle, home / "edgekit" / "device.pub") == proof


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [
        ("forged", IntegrityError, "signature"),
        ("another key", IntegrityError, "signature|key"),
        ("another bundle", IntegrityError, "about another bundle"),
        ("no signature", InputError, "cannot be read"),
        ("no proof", InputError, "cannot be read"),
        ("older format", InputError, "'edgekit/proof/1' is not edgekit/proof/2"),
        ("one field more", InputError, "unknown field 'surprise'"),
    ],
)
def test_a_proof_that_does_not_hold_is_refused(
    make: Make, home: Path, tmp_path: Path, harm: str, error: type[Exception], said: str
) -> None:
    path = make(PARITY)
    written, signature = write_proof(prove(path), path)
    public = home / "edgekit" / "device.pub"
    if harm == "forged":
        written.write_bytes(written.read_bytes().replace(b'"passed"', b'"failed"'))
    elif harm == "another key":
        _, public = generate_keys(tmp_path / "other")
    elif harm == "another bundle":
        path = make(PARITY, name="other.edgekit", version=5)
    elif harm in ("older format", "one field more"):
        change = {"schema": "edgekit/proof/1"} if harm == "older format" else {"surprise": 1}
        raw = json.dumps({**json.loads(written.read_text()), **change}).encode()
        written.write_bytes(raw)
        signature.write_bytes(sign_bytes(load_private_key(device_key()), raw))
    else:
        (signature if harm == "no signature" else written).unlink()
    with Bundle.open(path) as bundle, pytest.raises(error, match=said):
        read_proof(written, bundle, public)


def test_the_answer_names_neither_the_machine_nor_its_user(make: Make) -> None:
    path = make(PARITY, LATENCY, ENERGY)
    written, _ = write_proof(prove(path), path)
    text = written.read_text()
    document = json.loads(text)
    assert set(document["device"]) == {"machine", "model", "threads", "system", "python", "runtime"}
    assert document["device"]["model"] != ""
    for secret in (socket.gethostname(), str(Path.home()), str(path.parent)):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text)
    assert f'"{getpass.getuser()}"' not in text


def test_it_carries_a_short_profile_with_bounds_and_conditions(make: Make) -> None:
    short = prove(make(), threads=1).profile
    assert short.runs == 30 and short.warmup_runs >= 1
    assert short.median_ms.value > 0
    assert (short.p99_ms.value_ms, short.p99_ms.reason) == (None, "30 < 299")
    assert not short.steady and short.steady_reason
    assert short.energy is not None or (short.energy_unknown is not None and short.energy_unknown.reason)
    assert {"device", "kernel"} <= {row.name for row in short.conditions}
    assert {row.source for row in short.conditions} == {None}
    assert re.fullmatch("[0-9a-f]{64}", short.conditions_sha256)
    assert not short.certificate.valid


JOULES = {"value_mj": 12.0, "uncertainty_mj": 0.4}


@pytest.mark.parametrize(
    ("bar", "valid", "status"),
    [
        (None, True, "measured"),
        (12.5, True, "passed"),
        (11.5, True, "failed"),
        (12.1, True, "open"),
        (12.5, False, "open"),
    ],
)
def test_where_there_is_a_meter_energy_is_answered_by_its_interval(
    make: Make, monkeypatch: pytest.MonkeyPatch, bar: float | None, valid: bool, status: str
) -> None:
    joules = Joules(**JOULES)
    window = (6.6, 10.0, 800)
    energy = Energy(
        *("ina3221 VDD_IN", "the module", *window, joules, joules, 11.0, 0.2, 4.0, False, None, 11.0, 1500, 1480.0),
        valid=valid,
        reasons=() if valid else ("a gap",),
    )
    measured = lambda *_, **__: energy  # noqa: E731
    monkeypatch.setattr("edgekit.profiler.short._energy", measured)
    answer = by_id(prove(make(replace(ENERGY, tolerance=bar))).answers)["energy"]
    assert answer.status == status
    assert (answer.value, answer.spread, answer.unit, answer.samples) == (12.0, (11.6, 12.4), "mJ", 800)


def test_a_configuration_folder_that_cannot_be_made_is_an_input_error(make: Make, home: Path) -> None:
    home.write_text("a file")
    path = make(PARITY)
    with pytest.raises(InputError, match="cannot be written"):
        write_proof(prove(path), path)


def test_a_bundle_that_was_exported_is_proven_in_openvino(
    tmp_path: Path, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("torch", "onnx", "openvino"):
        pytest.importorskip(package)
    from edgekit import pipeline
    from edgekit.config import Config, ModelOptions

    config = Config(model=ModelOptions(source=str(detector)))
    path = pipeline.export(config, "intel-n100", tmp_path / "intel.edgekit").path
    monkeypatch.setattr("edgekit.prove.machine_names", lambda: ("Intel(R) N100",))
    answers = by_id(prove(path).answers)
    assert answers["parity-on-device"].status == "passed"
    assert answers["latency-on-device"].status == "measured"


# --- bundles that carry variants --------------------------------------------------------------------------------------

RACE = Question("race-on-device", "race", "which of fp32 and int8 is faster", "another machine", unit="x")
INT8 = "variants/int8/model.onnx"


@pytest.fixture
def make_two(make: Make, detector: Path, tmp_path: Path) -> Make:
    """`make` with a variant `int8`, whose weights of 9 are `weight`; its self-tests have a tolerance of 0.5."""

    def write(*questions: Question, weight: float = 8.5, raw: bytes | None = None, **options: Any) -> Path:
        other = detector.read_bytes().replace(np.float32(9).tobytes(), np.float32(weight).tobytes())
        with Bundle.open(make(*questions, name="one.edgekit", **options)) as bundle:
            files = {entry.path: (entry.role, bundle.read(entry.path)) for entry in bundle.manifest.files}
            variant = Variant("int8", {"model": INT8}, {}, 0.5, bundle.manifest.quality)
            manifest = replace(bundle.manifest, files=(), variants=(variant,))
        path = tmp_path / "two.edgekit"
        write_bundle(path, manifest, {**files, INT8: ("variant", other if raw is None else raw)}).close()
        return path

    return write


def raced(monkeypatch: pytest.MonkeyPatch, speedup: tuple[float, float, float]) -> list[Any]:
    """Let races have this outcome; the entrants that were in them are recorded."""
    seen: list[Any] = []

    def fake(entrants: Any, feeds: Any, backend: str, threads: int) -> RaceResult:
        seen.append((entrants, feeds, backend, threads))
        on = MeasuredOn("A CPU", "x86_64", "Linux", backend, "AVX2 (all of this CPU)", threads)
        laps = (Lap("fp32", 4.0, 4.0, (1.0, 1.0, 1.0)), Lap("int8", 2.0, 2.0, speedup))
        return RaceResult(laps, on, "cpu", np.ones((40, 2)), np.ones((40, 2)))

    monkeypatch.setattr("edgekit.prove.race", fake)
    return seen


@pytest.mark.parametrize(
    ("speedup", "winner"), [((1.9, 2.0, 2.1), "int8"), ((0.9, 1.1, 1.2), "fp32"), ((0.4, 0.5, 0.6), "fp32")]
)
def test_a_race_on_the_device_says_which_precision_is_faster(
    make_two: Make, monkeypatch: pytest.MonkeyPatch, speedup: tuple[float, float, float], winner: str
) -> None:
    seen = raced(monkeypatch, speedup)
    proof = prove(make_two(PARITY, RACE), threads=2)
    answer = by_id(proof.answers)["race-on-device"]
    assert (answer.kind, answer.status, answer.unit, answer.samples) == ("race", "measured", "x", 40)
    assert (answer.value, answer.spread) == (speedup[1], (speedup[0], speedup[2]))
    assert f"{winner} is to be used" in str(answer.reason)
    ((entrants, feeds, backend, threads),) = seen
    assert [entrant.precision for entrant in entrants] == ["fp32", "int8"]
    assert entrants[0].request.model != entrants[1].request.model
    assert (list(feeds), backend, threads) == (["image"], "onnxruntime", 2)
    require_passed(proof)


def test_a_race_is_really_run(make_two: Make) -> None:
    answer = by_id(prove(make_two(RACE)).answers)["race-on-device"]
    assert answer.status == "measured"
    low, high = answer.spread or (0.0, 0.0)
    assert 0 < low <= (answer.value or 0.0) <= high


def test_float_is_the_reference_where_int8_is_the_main_model(make: Make, make_two: Make, monkeypatch: Any) -> None:
    seen = raced(monkeypatch, (1.9, 2.0, 2.1))
    with Bundle.open(make_two(RACE)) as bundle:
        manifest = bundle.manifest
        files = {entry.path: (entry.role, bundle.read(entry.path)) for entry in manifest.files}
    turned = replace(
        manifest,
        files=(),
        target=replace(manifest.target, precision="int8"),
        variants=(replace(manifest.variants[0], precision="fp32"),),
    )
    path = Path(str(make(name="x.edgekit"))).with_name("turned.edgekit")
    write_bundle(path, turned, files).close()
    answers = by_id(prove(path).answers)
    assert [entrant.precision for entrant in seen[0][0]] == ["fp32", "int8"]
    assert {"selftest-0", "selftest-0-fp32", "race-on-device"} <= set(answers)


def test_on_another_machine_a_race_stays_open_and_is_not_run(make_two: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.prove.machine_names", lambda: ("A Laptop",))
    seen = raced(monkeypatch, (1.9, 2.0, 2.1))
    proof = prove(make_two(RACE, target=N100))
    answer = by_id(proof.answers)["race-on-device"]
    assert (answer.status, answer.value, seen) == ("open", None, [])
    assert "the question is about intel-n100" in str(answer.reason)
    with pytest.raises(InconclusiveError):
        require_passed(proof)


def test_each_variant_replays_the_self_tests_with_its_own_tolerance(make_two: Make) -> None:
    answers = by_id(prove(make_two(PARITY)).answers)
    assert list(answers) == ["selftest-0", "selftest-1", "selftest-0-int8", "selftest-1-int8", "parity-on-device"]
    main, variant = answers["selftest-0"], answers["selftest-0-int8"]
    assert (main.status, main.tolerance, variant.status, variant.tolerance) == ("passed", 1e-3, "passed", 0.5)
    assert (variant.value or 0.0) > 1e-3 > (main.value or 0.0)
    assert answers["parity-on-device"].value == max(answers[f"selftest-{i}"].value or 0.0 for i in (0, 1))


def test_a_variant_that_computes_something_else_fails_and_cannot_win(
    make_two: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced(monkeypatch, (1.9, 2.0, 2.1))
    proof = prove(make_two(PARITY, RACE, weight=900.0))
    answers = by_id(proof.answers)
    assert (answers["selftest-0"].status, answers["selftest-0-int8"].status) == ("passed", "failed")
    assert answers["parity-on-device"].status == "passed"
    assert "fp32 is to be used" in str(answers["race-on-device"].reason)
    with pytest.raises(GateError, match="selftest-0-int8"):
        require_passed(proof)


def test_a_variant_that_cannot_be_loaded_here_fails_and_leaves_the_race_open(make_two: Make) -> None:
    answers = by_id(prove(make_two(RACE, raw=b"no model")).answers)
    assert answers["selftest-0-int8"].status == "failed"
    assert "cannot load the model" in str(answers["selftest-0-int8"].reason)
    assert answers["race-on-device"].status == "open"
    assert "int8: ONNX Runtime cannot load the model" in str(answers["race-on-device"].reason)


def test_a_race_needs_a_variant_and_an_input(make: Make, make_two: Make) -> None:
    assert "no variant to race against" in str(by_id(prove(make(RACE)).answers)["race-on-device"].reason)
    assert "no self-test to run" in str(by_id(prove(make_two(RACE, tests=0)).answers)["race-on-device"].reason)


@pytest.mark.parametrize(("bar", "status"), [(1.5, "passed"), (2.5, "failed")])
def test_a_race_with_a_bar_passes_or_fails(make_two: Make, monkeypatch: Any, bar: float, status: str) -> None:
    raced(monkeypatch, (1.9, 2.0, 2.1))
    assert by_id(prove(make_two(replace(RACE, tolerance=bar))).answers)["race-on-device"].status == status
