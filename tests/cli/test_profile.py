"""`edgekit profile` end to end, with short times: report, budgets, exit codes, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

QUICK = ("--most", "1", "--no-cold", "--threads", "1")
BARE = (*QUICK, "--no-layers", "--no-energy", "--runs", "320")


@pytest.fixture(autouse=True)
def no_long_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up of 3 s at most, and a board without sensors."""
    from edgekit.profiler import joules, latency
    from edgekit.profiler.latency import Plan
    from edgekit.profiler.report import Unknown

    def plan(**options: Any) -> Plan:
        return Plan(**{"warmup_s": 3.0, **options})

    monkeypatch.setattr(latency, "Plan", plan)
    monkeypatch.setattr(joules, "find_meter", lambda device: Unknown("no sensor here", "get one"))


def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is shared: a run counts as steady here, so that budgets are decided by figures alone."""
    from dataclasses import replace

    from edgekit.profiler import profile

    summarise = profile.summarise
    monkeypatch.setattr(
        profile, "summarise", lambda *given: replace(summarise(*given), steady=True, steady_reason=None)
    )


@pytest.mark.parametrize(("target", "runtime"), [("snapdragon-865", "onnxruntime"), ("intel-n100", "openvino")])
def test_a_bundle_is_profiled_in_its_runtime(
    edgekit: Any, femtodet_bundles: dict[str, Path], folder: Path, target: str, runtime: str
) -> None:
    from edgekit.profiler.storage import read_report

    done = edgekit("profile", femtodet_bundles[target], *QUICK, "-o", "out", "--json")
    assert done.code == 0
    document = done.document
    assert document["kind"] == "measured" and document["subject"]["runtime"].startswith(runtime)
    assert document["energy"] is None
    assert document["unknown"]["energy"] == {"reason": "no sensor here", "fix": "get one"}
    assert document["cold"] is None and "not asked for" in document["unknown"]["cold"]["reason"]
    assert document["latency"]["median_ms"]["value"] > 0 and document["layers"]
    report, arrays = read_report(folder / "out.profile.json")
    assert len(arrays["latency_ms.npy"]) == report.latency.runs
    assert json.loads((folder / "out.profile.json").read_text()) == document


def test_the_table_says_what_is_not_there_and_why(edgekit: Any, small_bundles: dict[str, Path]) -> None:
    done = edgekit("profile", small_bundles["zip"], *QUICK, "--no-layers")
    assert done.code == 0
    for words in ("median", "p99", "n/a: no sensor here", "fix: get one", "Conditions", "Certificate"):
        assert words in done.out


def test_streams_and_a_held_rate_are_told(edgekit: Any, small_bundles: dict[str, Path], monkeypatch) -> None:
    from functools import partial

    from edgekit.profiler import profile
    from edgekit.profiler.rates import Search

    monkeypatch.setattr(profile, "throughput", partial(profile.throughput, seconds=0.5, warmup_s=0.1))
    search = Search(probe_s=0.2, most_probe_s=0.5, warmup_s=0.1)
    monkeypatch.setattr(profile, "highest_rate", partial(profile.highest_rate, search=search))
    options = ("--streams", 1, "--streams", 2, "--hold-p99", 1000, "--batch", 2)
    done = edgekit("profile", small_bundles["zip"], *BARE, *options, "--json")
    assert done.code == 0
    rates = done.document["throughput"]
    assert [(one["batch"], one["streams"], one["threads"]) for one in rates] == [(2, 1, 1), (2, 2, 1)]
    assert all(one["per_second"]["value"] > 0 for one in rates)
    assert done.document["held"]["budget_ms"] == 1000 and done.document["held"]["probes"] >= 1


def test_a_soak_is_told_and_its_samples_are_kept(
    edgekit: Any, small_bundles: dict[str, Path], folder: Path, monkeypatch
) -> None:
    from edgekit.profiler import profile
    from edgekit.profiler.soak import soak

    def short(call: Any, seconds: float, look: Any, **options: Any) -> Any:
        return soak(call, seconds / 100, look, bucket_s=0.1, **options)

    monkeypatch.setattr(profile, "soak", short)
    done = edgekit("profile", small_bundles["zip"], *BARE, "--soak", "50s", "-o", "out", "--json")
    assert done.code == 0
    assert len(done.document["soak"]["medians_ms"]) == 5
    assert 0 < done.document["soak"]["sustained_ratio"] <= 1
    assert (folder / "out.profile" / "soak_ms.npy").is_file()


@pytest.mark.parametrize(
    ("budget", "code", "outcome"),
    [
        ("latency_median_ms=1e6", 0, "PASS"),
        ("latency_median_ms=1e-6", 3, "FAIL"),
        ("energy_mj=1e9", 3, "FAIL"),
        ("latency_p999_ms=1e6", 5, "INCONCLUSIVE"),
    ],
)
def test_budgets_decide_the_exit_code(
    edgekit: Any, small_bundles: dict[str, Path], monkeypatch, budget: str, code: int, outcome: str
) -> None:
    steady(monkeypatch)
    if "median" in budget:
        budget = budget.replace("median", "p50")  # its bound needs no independence, which a busy machine may not give
    done = edgekit("profile", small_bundles["zip"], *BARE, "--budget", budget, "--json")
    assert done.code == code
    assert [one["outcome"] for one in done.document["verdicts"]] == [outcome]
    if code == 5:
        assert done.document["verdicts"][0]["more_runs"] == 2995 - 320


def test_what_is_not_steady_is_exit_5(edgekit: Any, small_bundles: dict[str, Path], monkeypatch) -> None:
    from edgekit.profiler import latency

    plan = latency.Plan
    monkeypatch.setattr(latency, "Plan", lambda **options: plan(**{**options, "warmup_s": 0.1}))
    done = edgekit("profile", small_bundles["zip"], *BARE, "--budget", "latency_p99_ms=1e6", "--json")
    assert done.code == 5 and "steady" in done.document["verdicts"][0]["reason"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--rate", "-1"), 2, "above 0"),
        (("--rate", "0"), 2, "above 0"),
        (("--rate", "nan"), 2, "above 0"),
        (("--budget", "latency_p98_ms=1"), 2, "unknown budget 'latency_p98_ms'"),
        (("--budget", "latency_p99_ms=fast"), 2, "NAME=NUMBER"),
        (("--streams", "0"), 2, "streams"),
        (("--hold-p99", "-2"), 2, "above 0"),
        (("--soak", "20"), 2, "a duration"),
        (("--soak", "10s"), 2, "too short"),
        (("--runs", "0"), 2, "runs"),
        (("--precision", "int3"), 2, "int3"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    edgekit: Any, small_bundles: dict[str, Path], folder: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    done = edgekit("profile", small_bundles["zip"], *QUICK, *options)
    assert done.code == code and said in done.err
    assert not list(folder.iterdir())


def test_a_missing_bundle_and_a_wrong_key_are_refused(edgekit: Any, small_bundles: dict[str, Path]) -> None:
    assert edgekit("profile", "missing.edgekit").code == 2
    assert edgekit("profile", small_bundles["zip"], "--key", small_bundles["stranger"]).code == 3


def test_a_tampered_bundle_is_refused(edgekit: Any, small_bundles: dict[str, Path], folder: Path) -> None:
    shutil.copytree(small_bundles["folder"], folder / "b")
    model = folder / "b" / "model.onnx"
    raw = bytearray(model.read_bytes())
    raw[-1] ^= 1
    model.write_bytes(raw)
    done = edgekit("profile", "b", *BARE)
    assert done.code == 3 and "changed or damaged" in done.err
    assert not list(folder.glob("*.profile*"))


def test_attest_writes_a_report_that_the_validator_takes(
    edgekit: Any, small_bundles: dict[str, Path], folder: Path, monkeypatch
) -> None:
    from edgekit.attest import read_attestation

    (folder / "out").mkdir()
    done = edgekit("attest", small_bundles["zip"], "--sign-key", small_bundles["private"], "-o", "out", "--json")
    assert done.code == 0
    document = next((folder / "out").glob("*.attest.json"))
    found = read_attestation(document)
    assert done.document["manifest_sha256"] == found.manifest_sha256
    assert {one.reason for one in found.scores if one.predicted is None} != {None}
    assert str(folder) not in document.read_text()
