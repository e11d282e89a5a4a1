"""Bundles whose graph finds the boxes itself: the same answers, held to the same gates, and a gate of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("openvino")

import edgekit
from edgekit import pipeline
from edgekit.bundle import Bundle
from edgekit.cli.main import main
from edgekit.config import Config, ExportOptions, ModelOptions
from edgekit.errors import GateError, UsageError
from edgekit.processing.detect import Detections
from edgekit.prove import prove
from edgekit.runtimes.onnxruntime import BACKEND
from edgekit.smear import draw_smear
from edgekit.spec import DetectionPostprocess, ModelSpec, TensorSpec
from edgekit.validate import validate_bundle

Array = np.ndarray
ENDED = ExportOptions(end_to_end=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of each test, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def femtodet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """FemtoDet for this machine, plain and end to end."""
    place = tmp_path_factory.mktemp("bundles")
    plain = pipeline.export(Config(export=ExportOptions(precision="fp32")), "host", place / "plain")
    ended = pipeline.export(Config(export=replace(ENDED, precision="fp32")), "host", place / "ended")
    return plain.path, ended.path


@pytest.fixture
def small(tmp_path: Path, detector: Path, detector_spec: ModelSpec) -> Config:
    """The small detector, end to end."""
    (tmp_path / "spec.json").write_text(json.dumps(detector_spec.as_json()))
    return Config(model=ModelOptions(source=str(detector), spec=str(tmp_path / "spec.json")), export=ENDED)


def same(one: Any, other: Any) -> None:
    assert isinstance(one, Detections) and isinstance(other, Detections)
    assert one.labels.tolist() == other.labels.tolist()
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)


def test_the_bundle_finds_what_the_plain_one_finds(femtodet: tuple[Path, Path]) -> None:
    pictures = [draw_smear(seed).image for seed in range(3)]
    with edgekit.load(femtodet[0]) as plain, edgekit.load(femtodet[1]) as ended:
        assert [tensor.name for tensor in ended.spec.outputs] == ["head", "detections"]
        assert ended.spec.outputs[1] == TensorSpec("detections", "float32", ("batch", 300, 6))
        assert isinstance(ended.spec.postprocess, DetectionPostprocess)
        assert ended.spec.postprocess.decode == "detections"
        for one, other in zip(plain.predict_batch(pictures), ended.predict_batch(pictures), strict=True):
            assert len(one) > 5
            same(one, other)


def test_its_selftests_hold_raw_outputs_and_are_proved(femtodet: tuple[Path, Path]) -> None:
    with Bundle.open(femtodet[1]) as bundle:
        assert all(set(test.outputs) == {"head"} for test in bundle.manifest.selftest)
        assert any("end-to-end" in step.result.get("passes", ()) for step in bundle.manifest.history)
    proof = prove(femtodet[1])
    assert {answer.status for answer in proof.answers} <= {"passed", "measured"}


def test_ap50_on_pictures_of_blood_is_the_plain_ones(femtodet: tuple[Path, Path], data_folder: Path) -> None:
    blood = data_folder / "detection" / "bccd"
    plain, ended = (validate_bundle(path, blood, "test", samples=12) for path in femtodet)
    assert plain.samples == ended.samples == 12
    assert plain.value > 50
    assert ended.value == pytest.approx(plain.value, abs=0.01)


@pytest.mark.parametrize("target", ["host", "intel-n100", "orin-nano"])
@pytest.mark.parametrize("input", ["as-is", "uint8-nhwc"])
def test_every_family_takes_it(small: Config, cells: Array, target: str, input: Any) -> None:
    ended = pipeline.export(replace(small, export=replace(ENDED, input=input)), target, Path("ended")).path
    plain = pipeline.export(replace(small, export=ExportOptions()), target, Path("plain")).path
    runtime = "onnxruntime" if target == "orin-nano" else None
    with edgekit.load(plain, runtime=runtime) as one, edgekit.load(ended, runtime=runtime) as other:
        assert len(one.predict(cells)) >= 2
        same(one.predict(cells), other.predict(cells))


def test_quality_is_judged_on_the_detections(small: Config, cells: Array, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    image.fromarray(cells).save(tmp_path / "data" / "images" / "a.png")
    (tmp_path / "data" / "labels" / "a.txt").write_text("1 0.875 0.125 0.25 0.25\n0 0.375 0.625 0.25 0.25\n")
    data = str(tmp_path / "data")
    quality = pipeline.export(replace(small, model=replace(small.model, data=data)), "host").manifest.quality
    assert quality.status == "measured"
    assert quality.parent == quality.bundle == pytest.approx(100)


@pytest.mark.parametrize("column", [0, 4, 5])
def test_detections_that_are_not_numpys_are_refused_and_leave_nothing(
    small: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, column: int
) -> None:
    opened = BACKEND.open

    def spoilt(request: Any) -> Any:
        engine = opened(request)
        run = engine.run

        def wrong(feeds: Any) -> Any:
            outputs = run(feeds)
            for table in outputs.get("detections", ()):
                table[0, column] += {0: 3.0, 4: 0.5, 5: 1.0}[column]
            return outputs

        monkeypatch.setattr(engine, "run", wrong, raising=False)
        return engine

    before = set(folder.iterdir())
    monkeypatch.setattr(type(BACKEND), "open", lambda _, request: spoilt(request))
    with pytest.raises(GateError, match="detections: the graph's differ") as refused:
        pipeline.export(small, "host")
    assert "is no candidate" in str(refused.value.why) or "order of score" in str(refused.value.why)
    assert set(folder.iterdir()) == before


def test_a_model_that_finds_nothing_is_a_usage_error(small: Config, detector: Path) -> None:
    with pytest.raises(UsageError, match="needs a detector"):
        pipeline.export(Config(model=ModelOptions(source=str(detector)), export=ENDED), "host")


def test_the_command_takes_the_flag(
    small: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--source", small.model.source, "--spec", str(small.model.spec), "-t", "host", "-o", "out"]
    monkeypatch.setattr("sys.argv", ["edgekit", "export", "--end-to-end", "--precision", "fp32", *flags])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0, capsys.readouterr().err
    with edgekit.load("out") as session:
        assert session.spec.outputs[-1].name == "detections"
