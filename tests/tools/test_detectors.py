"""The detectors of the int8 benchmark: real files, ranges and scores from different pictures, and the float's AP50."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgekit import candidates
from edgekit.bundle import Quality
from edgekit.errors import GateError, InconclusiveError, MissingError
from edgekit.evaluate.bootstrap import Drop
from edgekit.evaluate.evaluate import answers, score
from edgekit.graph.graph import Graph, opset_of
from edgekit.quality import QualityVerdict
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.onnxruntime import BACKEND

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"
NAMES = ("femtodet", "fastestdet")


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """`int8`, which knows `detectors` by their names."""
    sys.path.insert(0, str(BENCH))
    try:
        import int8

        yield int8
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture
def detector(bench: Any, request: pytest.FixtureRequest) -> Any:
    if not os.environ.get("EDGEKIT_DATA"):
        pytest.skip("EDGEKIT_DATA names no folder of real data")
    return bench.DETECTORS[request.param]()


def test_every_detector_is_a_row_that_can_be_asked_for(bench: Any) -> None:
    assert tuple(bench.DETECTORS) == NAMES
    assert bench._asked(["--models", "fastestdet"]).models == ["fastestdet"]
    with pytest.raises(SystemExit):
        bench._asked(["--models", "slowestdet"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("root", [None, "/nowhere"])
def test_without_its_data_a_detector_says_what_is_missing(
    bench: Any, monkeypatch: pytest.MonkeyPatch, name: str, root: str | None
) -> None:
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    if root:
        monkeypatch.setenv("EDGEKIT_DATA", root)
    with pytest.raises(MissingError, match=r"detection/\w+ is not on this machine"):
        bench.DETECTORS[name]()


@pytest.mark.parametrize("detector", NAMES, indirect=True)
def test_no_picture_is_calibrated_on_and_scored(detector: Any) -> None:
    calibrated, scored = (
        {path.read_bytes() for path in data.files if path.suffix == ".jpg"}
        for data in (detector.calibration, detector.held_out)
    )
    assert len(calibrated) >= 64 and len(scored) >= 72
    assert not calibrated & scored
    assert detector.held_out.has_truth and detector.spec.metric == "ap50"


@pytest.mark.parametrize("detector", ["fastestdet"], indirect=True)
def test_fastestdet_is_converted_to_an_opset_with_a_scale_per_channel(detector: Any) -> None:
    assert detector.max_drop == 0.8 and len(detector.spec.labels) == 80
    assert (len(detector.calibration), len(detector.held_out)) == (64, 128)
    assert opset_of(_graph(detector).model) == 20


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["fastestdet"], indirect=True)
def test_fastestdet_is_scored_as_an_independent_script_scored_it(detector: Any) -> None:
    pytest.importorskip("PIL")
    run = BACKEND.open(EngineRequest(_graph(detector).serialized())).run
    predictions = answers(run, detector.spec, detector.held_out)
    assert score(detector.spec, predictions, detector.held_out).value == pytest.approx(33.77, abs=0.15)


def _graph(detector: Any) -> Graph:
    graph: Graph = detector.parent.to_graph(detector.spec, None, 20, 10)[0]
    return graph


@pytest.fixture
def lost(bench: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The most points that each form loses; answers are named after who gave them, and peers lose more than ours."""
    upper = {"fp32": 0.0, "ours": 1.26, "published": 0.22, "nncf": 2.0, "quantize_static": 2.5}

    def drop(spec: Any, parent: str, bundle: str, data: Any) -> Drop:
        low, value, high = (-2.0, -1.0, -0.5) if parent in ("nncf", "quantize_static") else (-1.4, 0.1, upper[bundle])
        return Drop(value, high, low, 0.95, 1000, 128)

    monkeypatch.setattr(bench, "_open", lambda key, form: type("Engine", (), {"run": form}))
    monkeypatch.setattr(bench, "answers", lambda run, spec, data: run)
    monkeypatch.setattr(bench, "score", lambda spec, said, data: type("Score", (), {"value": 33.0}))
    monkeypatch.setattr(bench, "drop", drop)
    return upper


@pytest.mark.parametrize(("most", "word"), [(0.22, "ok"), (1.26, "INCONCLUSIVE")])
def test_the_bar_is_for_the_published_form_and_peers_are_held_against_all_int8(
    bench: Any, lost: dict[str, float], most: float, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lost["published"] = most
    forms = {("onnxruntime", who): who for who in ("fp32", "ours", "published", "quantize_static", "nncf")}
    table = bench.Table()
    bench.score_detector(table, bench.Detector("fastestdet", None, None, None, None, 0.8), forms)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "fastestdet onnxruntime fp32 33.00 % n=128"
    assert lines[1].endswith("ours, all int8 33.00 % drop +0.10 (-1.40 to +1.26)")
    assert lines[2].endswith(f"ours, published 33.00 % drop +0.10 (-1.40 to +{most:.2f}) bar <= 0.8 {word}")
    against = [line.removeprefix("fastestdet onnxruntime ") for line in lines[5:]]
    assert [line.split(" points")[0] for line in against] == [
        f"{peer} minus ours, {form}" for form in ("all int8", "published") for peer in ("quantize_static", "nncf")
    ]
    assert [line.endswith("bar <= 0 ok") for line in against] == [True, True, False, False]
    assert all(line.endswith("no bar: peers do not search") for line in against[2:])
    assert sum(table.verdicts.values()) == 3 and table.verdicts["ok"] == (3 if word == "ok" else 2)


def published(*tried: str) -> Any:
    return sys.modules["detectors"].Published(
        EngineRequest(b""), "snapdragon-865", 0.8556, 19 if tried else 0, tried, -0.04, 0.215
    )


NO_SCORE = QualityVerdict(Quality(status="unknown", reason="none"), "inconclusive")
FIRST = "all in int8: " + candidates._lost(replace(NO_SCORE, drop=Drop(1.03, 2.68, 0.0, 0.95, 1000, 72)))
UNASKED = "3 layers returned to float: outputs deviate no less from float on calibration data"
STRANGE = "2 layers returned to float: " + candidates._lost(NO_SCORE)


@pytest.mark.parametrize(
    ("tried", "looks"), [((), 1), ((FIRST,), 2), ((FIRST, UNASKED), 2), ((FIRST, UNASKED, STRANGE), 3)]
)
def test_the_table_tells_how_often_the_held_out_samples_were_asked(
    bench: Any, tried: tuple[str, ...], looks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = published(*tried)
    assert found.looks == looks
    bench.Table().published("femtodet", "onnxruntime", found)
    line = capsys.readouterr().out
    assert "published for snapdragon-865: 85.6 % of MACs in int8" in line
    assert f"{looks} look{'s' if looks > 1 else ''} at the held-out samples" in line
    assert all(each in line for each in tried) and "the export saw -0.04 points lost, at most 0.21" in line


@pytest.mark.parametrize(
    ("raised", "word"), [(InconclusiveError("cannot decide"), "INCONCLUSIVE"), (GateError("fell"), "MISSED")]
)
def test_an_export_that_publishes_nothing_is_a_verdict(
    bench: Any, raised: Exception, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def publish(subject: Any, runtime: str, samples: int) -> Any:
        if runtime == "onnxruntime":
            raise raised
        return published()

    monkeypatch.setattr(bench, "publish", publish)
    table = bench.Table()
    forms = bench.published_forms(table, bench.Detector("fastestdet", None, None, None, None, 0.8))
    assert list(forms) == [("openvino", "published")]
    assert dict(table.verdicts) == {word: 1} and f"publishes no int8: {raised}" in capsys.readouterr().out


def test_latencies_name_the_form_and_only_what_is_published_can_be_the_fastest(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spread = 1 + 0.001 * np.sin(np.arange(60))
    times = {
        ("onnxruntime", who): ms * spread
        for who, ms in {"fp32": 10, "ours": 5, "published": 8, "quantize_static": 5.5}.items()
    }
    table = bench.Table()
    table.race("femtodet", "onnxruntime", times)
    for form, who in bench._pairs(dict.fromkeys(times), "onnxruntime"):
        table.against_peer("femtodet", "onnxruntime", times, who, form)
    out = capsys.readouterr().out
    assert "all int8 5.00 ms" in out and "of what can be published the fastest is published int8" in out
    assert "ours, all int8 / quantize_static" in out and "ours, published / quantize_static" in out
    assert dict(table.verdicts) == {"ok": 1, "MISSED": 1}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("detector", ["femtodet"], indirect=True)
def test_what_is_scored_is_what_the_export_published(bench: Any, detector: Any, runtime: str) -> None:
    pytest.importorskip(runtime)
    found = bench.publish(detector, runtime, bench.DETECTOR_SAMPLES)
    engine = bench._open((runtime, "published"), found.form)
    said = answers(engine.run, detector.spec, detector.held_out)
    plain = answers(detector.parent.run, detector.spec, detector.held_out)
    lost = bench.drop(detector.spec, plain, said, detector.held_out)
    assert (lost.value, lost.upper) == pytest.approx((found.drop, found.drop_upper), abs=0.05)
    assert lost.upper <= detector.max_drop and found.coverage >= 0.7
