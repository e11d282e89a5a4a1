"""The detectors of the int8 benchmark: real files, ranges and scores from different pictures, and the float's AP50."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgekit.errors import MissingError
from edgekit.evaluate.bootstrap import Drop
from edgekit.evaluate.evaluate import answers, score
from edgekit.graph.graph import Graph, opset_of
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


def test_a_row_judges_ours_alone_by_the_bar_and_the_peers_against_ours(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers are named after who gave them: ours loses up to 1.26 of 0.8 points, and less than either peer."""
    upper = {"ours": 1.26, "nncf": 2.0, "quantize_static": 2.5}

    def lost(spec: Any, parent: str, bundle: str, data: Any) -> Drop:
        low, value, high = (-2.0, -1.0, -0.5) if parent in ("nncf", "quantize_static") else (-1.4, 0.1, upper[bundle])
        return Drop(value, high, low, 0.95, 1000, 128)

    forms = {("onnxruntime", who): who for who in ("fp32", "ours", "quantize_static", "nncf")}
    upper["fp32"] = 0.0
    monkeypatch.setattr(bench, "_open", lambda key, form: type("Engine", (), {"run": form}))
    monkeypatch.setattr(bench, "answers", lambda run, spec, data: run)
    monkeypatch.setattr(bench, "score", lambda spec, said, data: type("Score", (), {"value": 33.0}))
    monkeypatch.setattr(bench, "drop", lost)
    table = bench.Table()
    subject = bench.Detector("fastestdet", None, None, None, None, 0.8)
    bench.score_detector(table, subject, forms)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "fastestdet onnxruntime fp32 33.00 % n=128"
    assert lines[1].endswith("ours 33.00 % drop +0.10 (-1.40 to +1.26) bar <= 0.8 INCONCLUSIVE")
    assert [line.count("bar") for line in lines] == [0, 1, 0, 0, 1, 1]
    assert dict(table.verdicts) == {"INCONCLUSIVE": 1, "ok": 2}
