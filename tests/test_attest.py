"""Reports for strangers: signed, scored, and without anything that tells who or where somebody is."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.anonymous import own_names, private_parts, without_paths
from edgekit.attest import (
    SUFFIX,
    Attestation,
    anonymous,
    attest,
    read_attestation,
    require_anonymous,
    scores,
    signature_of,
    write_attestation,
)
from edgekit.bundle import Bundle, Question, generate_keys, load_private_key, sign_bytes
from edgekit.bundle.strictjson import render_json
from edgekit.errors import EdgekitError, InputError, IntegrityError
from edgekit.profiler.report import Certificate, Condition, Energy, Interval, Joules, Quantile, Unknown
from edgekit.profiler.short import ShortProfile, conditions_digest
from edgekit.prove import Answer, Proof
from edgekit.structure import encode

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from check_reports import FOLDER, findings, main

ROWS = (
    Condition("governor cpu 0-5", "performance"),
    Condition("temperature cpu", "51.0", "55.5", "degC"),
    Condition("kernel", "5.15.148-johns-build"),
    Condition("virtual machine", "Acme Cloud m5"),
    Condition("jetpack", "6.2"),
)
JOULES = Joules(12.0, 0.4)
ENERGY = Energy(
    *("ina3221 VDD_IN", "the module", 6.6, 10.0, 800, JOULES, JOULES, 11.0, 0.2, 4.0, False, None, 11.0, 1500, 1480.0),
    valid=True,
    reasons=(),
    samples="energy_w.npy",
)
PROFILE = ShortProfile(
    median_ms=Interval(4.0, 3.9, 4.1),
    p99_ms=Quantile(0.99, 5.0, 5.5, 4.8, needed=299),
    runs=800,
    warmup_runs=600,
    steady=True,
    steady_reason=None,
    energy=ENERGY,
    energy_unknown=None,
    certificate=Certificate(True, (), ("clocks: not pinned: see /sys/devices/system/cpu/cpu0/cpufreq",)),
    conditions=ROWS,
    conditions_sha256=conditions_digest(ROWS),
)
DEVICE = {
    "machine": "aarch64",
    "model": "NVIDIA Jetson Orin Nano Developer Kit Super",
    "threads": "the runtime's choice",
    "system": "Linux 5.15.148-tegra",
    "python": "3.10.12",
    "runtime": "tensorrt 10.3.0.26",
}


@pytest.fixture
def bundle(small_bundle: Path) -> Any:
    with Bundle.open(small_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, detector: Path, detector_spec: Any) -> Path:
    """The detector with two predictions."""
    from edgekit.bundle import Manifest, Quality, RuntimeNeed, Source, TargetNeed, write_bundle

    manifest = Manifest(
        name="cells",
        version=4,
        model=detector_spec,
        target=TargetNeed("orin-nano", RuntimeNeed("tensorrt", "10.3"), "fp16", identity=("orin nano",)),
        files=(),
        source=Source("onnx", "detector.onnx", "1" * 64),
        history=(),
        parity=(),
        quality=Quality("unknown", reason="it is a test"),
        questions=(
            Question("l", "latency", "median latency", "another machine", prediction=5.0, unit="ms"),
            Question("e", "energy", "energy", "no meter there", prediction=9.0, unit="mJ"),
        ),
        selftest=(),
        tools={},
        origins={},
    )
    path = tmp_path_factory.mktemp("attest") / "cells.edgekit"
    write_bundle(path, manifest, {"model.onnx": ("model", detector.read_bytes())}).close()
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return generate_keys(tmp_path / "device")[0]


@pytest.fixture
def found(bundle: Bundle, key: Path) -> Attestation:
    return attest(bundle, proof_of(bundle), key)


def proof_of(bundle: Bundle, profile: ShortProfile = PROFILE, **device: str) -> Proof:
    answers = (Answer("selftest-0", "parity", "passed", 1e-7, reason="see /home/john/model.onnx"),)
    return Proof("edgekit/proof/2", "cells", 4, bundle.digest, False, {**DEVICE, **device}, answers, profile)


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_device_versions_and_figures_stay(found: Attestation) -> None:
    assert found.device.model == DEVICE["model"] and found.device.runtime == "tensorrt 10.3.0.26"
    assert (found.device.jetpack, found.device.system) == ("6.2", "Linux 5.15.148")
    assert (found.target, found.precision, found.on_target, found.source_sha256) == (
        "orin-nano",
        "fp16",
        True,
        "1" * 64,
    )
    assert found.profile.median_ms == PROFILE.median_ms and found.profile.p99_ms == PROFILE.p99_ms
    assert found.profile.energy is not None and found.profile.energy.total == JOULES
    assert found.outcomes[0].status == "passed"


def test_what_may_name_somebody_goes(found: Attestation) -> None:
    text = render_json(encode(found), "x").decode()
    for private in ("john", "Acme", "/home", "/sys", "energy_w.npy"):
        assert private not in text
    names = [row.name for row in found.profile.conditions]
    assert names == ["governor cpu 0-5", "temperature cpu", "virtual machine", "jetpack"]
    assert found.profile.certificate.notes == ("clocks: not pinned: see ...",)


def test_the_digest_is_that_of_settings_only() -> None:
    warm = (*ROWS[:1], Condition("temperature cpu", "60.0", "61.0", "degC"), *ROWS[2:])
    assert conditions_digest(warm) == conditions_digest(ROWS)
    assert conditions_digest((Condition("governor cpu 0-5", "powersave"), *ROWS[1:])) != conditions_digest(ROWS)
    assert conditions_digest((*ROWS, Condition("load of other processes in the run", "9"))) == conditions_digest(ROWS)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_predictions_are_scored_with_the_ends_of_what_was_measured(found: Attestation) -> None:
    latency, energy = found.scores
    assert (latency.predicted, latency.measured, latency.reason) == (5.0, 4.0, None)
    assert (latency.low, latency.error, latency.high) == pytest.approx((5 / 4.1 - 1, 0.25, 5 / 3.9 - 1))
    assert (energy.low, energy.error, energy.high) == pytest.approx((9 / 12.4 - 1, -0.25, 9 / 11.6 - 1))


@pytest.mark.parametrize(
    ("change", "here", "latency", "energy"),
    [
        ({"energy": None, "energy_unknown": Unknown("none")}, True, None, "it was not measured: no meter gave a value"),
        ({"energy": replace(ENERGY, valid=False)}, True, None, "it was not measured: the energy window is not valid"),
        ({"steady": False, "steady_reason": "it drifts"}, True, "it was not measured: it drifts", None),
        ({}, False, *["the device is not one that the bundle was exported for"] * 2),
    ],
)
def test_what_cannot_be_scored_says_why(
    bundle: Bundle, change: dict[str, Any], here: bool, latency: str | None, energy: str | None
) -> None:
    made = scores(bundle, replace(PROFILE, **change), here)
    assert [one.reason for one in made] == [latency, energy]
    assert [one.error is None for one in made] == [latency is not None, energy is not None]


def test_a_bundle_that_predicts_nothing_says_so(bundle: Bundle) -> None:
    class Silent:
        manifest = replace(bundle.manifest, questions=())

    made = scores(Silent(), PROFILE, True)  # type: ignore[arg-type]
    assert {one.reason for one in made} == {"the bundle predicts none"} and {one.error for one in made} == {None}


# --- privacy ----------------------------------------------------------------------------------------------------------

PRIVATE = [
    *("see /home/john/x.onnx", "/root", "~/models", "C:\\Users\\x", "john@laptop", "john@example.org", "192.168.0.7"),
    *("fe80:0:0:0:1c2d", "a4:bb:6d:01:02:03", "1421022012345", "Serial 12", "0f" * 10),
    "123e4567-e89b-12d3-a456-426614174000",
]
PUBLIC = [
    *(
        "NVIDIA Jetson Orin Nano Developer Kit Super",
        "AMD EPYC",
        "Linux 6.8.0",
        "11th Gen Intel(R) Core(TM) i7 @ 2.8GHz",
    ),
    *(
        "0.12 0.30 0.44",
        "1, 5, 15 min",
        "gpu 17000000.gpu",
        "0x1000065",
        "p99 is n/a (98 < 299)",
        "m/s",
        "ina3221 VDD_IN",
    ),
    "Debian GNU/Linux 12 (bookworm)",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_data_are_seen(text: str) -> None:
    assert private_parts(text)


@pytest.mark.parametrize("text", PUBLIC)
def test_names_of_products_are_not(text: str) -> None:
    assert private_parts(text) == ()


def test_names_of_this_machine_are_seen_as_words() -> None:
    assert private_parts("built on gandalf today", ("gandalf",))
    assert private_parts("gandalfs", ("gandalf",)) == ()
    assert "root" not in own_names()


def test_paths_are_taken_out() -> None:
    assert without_paths("no file (/sys/class/powercap/x:0): denied") == "no file (...): denied"
    assert without_paths("/sys/class/powercap/intel-rapl:*, /sys/b: none") == "..., ...: none"


@pytest.mark.parametrize("text", PRIVATE)
def test_a_document_with_private_data_is_refused_wherever_they_stand(found: Attestation, text: str) -> None:
    places: list[Callable[[str], Attestation]] = [
        lambda t: replace(found, bundle=t),
        lambda t: replace(found, device=replace(found.device, model=t)),
        lambda t: replace(found, profile=replace(found.profile, conditions=(Condition(t, "x"),))),
        lambda t: replace(found, profile=replace(found.profile, certificate=Certificate(False, (t,)))),
    ]
    for place in places:
        with pytest.raises(InputError, match="would tell strangers"):
            require_anonymous(place(text), "r")


@pytest.mark.parametrize("runtime", ["tensorrt", "10.3", "tensorrt 10.3 on gandalf", "/opt/x 1.0", "a b 1"])
def test_a_runtime_is_a_name_and_a_version(found: Attestation, runtime: str) -> None:
    with pytest.raises(InputError, match="a name and a version"):
        require_anonymous(replace(found, device=replace(found.device, runtime=runtime)), "r")


def test_this_machines_own_name_is_refused(bundle: Bundle, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "gandalf.shire")
    with pytest.raises(InputError, match="a name of this machine"):
        attest(bundle, proof_of(bundle, model="gandalf"), key)


def test_a_meter_named_by_its_command_and_other_reasons_lose_their_paths() -> None:
    energy = replace(ENERGY, meter="/home/john/meter --port /dev/ttyUSB0", reasons=("a gap in /tmp/x.csv",))
    made = anonymous(replace(PROFILE, energy=energy))
    assert made.energy is not None and made.energy.meter == "meter" and made.energy.reasons == ("a gap in ...",)
    unknown = Unknown("no sensor (/sys/class/powercap): denied", "sudo chmod a+r /sys/class/powercap")
    made = anonymous(replace(PROFILE, energy=None, energy_unknown=unknown))
    assert made.energy_unknown == Unknown("no sensor (...): denied", None)


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_under_its_own_name(found: Attestation, key: Path, tmp_path: Path) -> None:
    document, signature = write_attestation(found, tmp_path, key)
    assert document.name == found.file_name and document.name.startswith("cells-4_orin-nano_")
    assert signature == signature_of(document)
    assert read_attestation(document) == found


def resigned(path: Path, key: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    raw = render_json(data, "x")
    path.write_bytes(raw)
    signature_of(path).write_bytes(sign_bytes(load_private_key(key), raw))


HARM: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "tampered figure": (lambda p, k: p.write_bytes(p.read_bytes().replace(b"4.0,", b"2.0,")), "does not fit"),
    "tampered signature": (
        lambda p, k: signature_of(p).write_bytes(sign_bytes(load_private_key(k), b"other")),
        "does not fit",
    ),
    "another key": (
        lambda p, k: signature_of(p).write_bytes(
            sign_bytes(load_private_key(generate_keys(k.with_name("o"))[0]), p.read_bytes())
        ),
        "key",
    ),
    "no signature": (lambda p, k: signature_of(p).unlink(), "cannot be read"),
    "unknown schema": (lambda p, k: resigned(p, k, lambda d: d.update(schema="edgekit/attestation/2")), "this format"),
    "one field more": (lambda p, k: resigned(p, k, lambda d: d.update(host="gandalf")), "unknown field 'host'"),
    "one field less": (lambda p, k: resigned(p, k, lambda d: d.pop("device")), "missing field 'device'"),
    "private data": (
        lambda p, k: resigned(p, k, lambda d: d["device"].update(model="john@laptop")),
        "would tell strangers",
    ),
    "wrong digest": (
        lambda p, k: resigned(p, k, lambda d: d["profile"].update(conditions_sha256="0" * 64)),
        "not that of its conditions",
    ),
    "other bytes": (
        lambda p, k: (
            p.write_bytes(p.read_bytes() + b" "),
            signature_of(p).write_bytes(sign_bytes(load_private_key(k), p.read_bytes())),
        ),
        "not those that edgekit writes",
    ),
    "no JSON": (lambda p, k: p.write_bytes(b"{"), "JSON|malformed"),
    "a stranger": (lambda p, k: p.with_name("notes.txt").write_text("x"), "does not belong here"),
    "too large": (lambda p, k: p.write_bytes(b" " * (2 << 20)), "no report"),
}


@pytest.mark.parametrize("name", HARM)
def test_the_validator_finds_what_is_wrong(found: Attestation, key: Path, tmp_path: Path, name: str, capsys) -> None:
    import re

    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "README.md").write_text("x")
    document, _ = write_attestation(found, folder, key)
    assert main(folder) == 0 and capsys.readouterr().out == ""
    harm, said = HARM[name]
    harm(document, key)
    assert main(folder) == 1
    told = capsys.readouterr().out
    assert re.search(said, told), told
    assert len(told.splitlines()) == 1


def test_a_renamed_report_and_a_lone_signature_are_found(found: Attestation, key: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    document, signature = write_attestation(found, folder, key)
    other = document.with_name("mine" + SUFFIX)
    document.rename(other)
    signature.rename(signature_of(other))
    assert any("another name" in line for line in findings(folder))
    other.unlink()
    assert any("signs no report" in line for line in findings(folder))
    assert list(findings(tmp_path / "missing"))


def test_another_key_than_the_named_one_does_not_sign(found: Attestation, tmp_path: Path) -> None:
    other, _ = generate_keys(tmp_path / "other")
    with pytest.raises(IntegrityError, match="another key"):
        write_attestation(found, tmp_path, other)


def test_a_proof_of_another_bundle_is_refused(bundle: Bundle, key: Path) -> None:
    with pytest.raises(EdgekitError, match="another bundle"):
        attest(bundle, replace(proof_of(bundle), manifest_sha256="0" * 64), key)


def test_the_reports_of_this_repository_are_in_order() -> None:
    assert list(findings(FOLDER)) == []
    assert list(FOLDER.glob(f"*{SUFFIX}"))
