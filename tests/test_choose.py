"""Which precision is published: by race, by policy, as asked, and never a slower or a worse one by accident."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgekit import candidates, choose, pipeline
from edgekit.bundle import Bundle, MeasuredOn
from edgekit.config import (
    CalibrationOptions,
    Config,
    ExportOptions,
    QualityOptions,
    QuantizationOptions,
)
from edgekit.errors import GateError, InconclusiveError, InputError, UnsupportedError, UsageError
from edgekit.race import Lap, RaceResult

MEASURED = MeasuredOn("a CPU", "x86_64", "Linux", "onnxruntime 1", "AVX2", 1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(classifier: Any) -> Any:
    """A configuration for the classifier: `config(target, precision="int8", data=None, calibrate=8)`."""

    def build(target: str = "host", precision: str = "auto", **options: Any) -> Config:
        calibration = CalibrationOptions(options.pop("calibration_data", str(classifier.train)))
        data = options.pop("data", str(classifier.test))
        return Config(
            model=replace(classifier.options, data=data),
            calibration=calibration,
            quantization=QuantizationOptions(**options.pop("quantization", {})),
            quality=QualityOptions(**{"max_drop": 10.0, **options.pop("quality", {})}),
            export=ExportOptions(target=target, precision=precision, **options),  # type: ignore[arg-type]
        )

    return build


def outcome(speedup: tuple[float, float, float], seen: list[Any]) -> Any:
    """A race with a known end; the test double measures nothing."""

    def race(entrants: Any, *arguments: Any) -> RaceResult:
        seen.append([entrant.precision for entrant in entrants])
        laps = (Lap("fp32", 10.0, 10.0, (1.0, 1.0, 1.0)), Lap("int8", 10.0 / speedup[1], 5.0, speedup))
        return RaceResult(laps, MEASURED, "cpu", np.ones((1, 2)), np.ones((1, 2)))

    return race


@pytest.mark.parametrize(
    ("speedup", "winner"), [((1.9, 2.0, 2.1), "int8"), ((0.9, 1.05, 1.2), "fp32"), ((0.4, 0.5, 0.6), "fp32")]
)
def test_auto_publishes_what_is_surely_faster_with_both_figures(
    config: Any, monkeypatch: pytest.MonkeyPatch, speedup: tuple[float, float, float], winner: str
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(choose, "race", outcome(speedup, seen))
    manifest = pipeline.export(config(), "host").manifest
    assert seen == [["fp32", "int8"]]
    assert manifest.choice is not None
    assert (manifest.target.precision, manifest.choice.chosen_by) == (winner, "race")
    assert manifest.choice.measured_on == MEASURED
    assert [(c.precision, c.speedup) for c in manifest.choice.candidates] == [
        ("fp32", (1.0, 1.0, 1.0)),
        ("int8", speedup),
    ]
    assert manifest.variants == ()


def test_a_real_race_says_what_it_was_measured_on(config: Any) -> None:
    choice = pipeline.export(config(), "host").manifest.choice
    assert choice is not None and choice.measured_on is not None
    assert choice.chosen_by == "race" and choice.measured_on.threads == 1
    assert all(candidate.latency_ms for candidate in choice.candidates)


def test_where_this_machine_is_not_the_target_policy_chooses_and_both_travel(config: Any) -> None:
    result = pipeline.export(config("snapdragon-865"), "snapdragon-865")
    manifest = result.manifest
    assert manifest.choice is not None
    assert (manifest.choice.chosen_by, manifest.choice.measured_on) == ("policy, not measured", None)
    assert manifest.precisions == ("fp32", "int8")  # far below the table's least size
    assert [candidate.latency_ms for candidate in manifest.choice.candidates] == [None, None]
    assert "race" in {question.kind for question in manifest.questions}
    with Bundle.open(result.path) as bundle:
        assert "variants/int8/model.onnx" in bundle.files_with_role("variant")
        assert "quant.json" in bundle.files_with_role("quantspec")


def test_int8_that_is_not_faster_needs_allow_slower(config: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(choose, "race", outcome((0.4, 0.5, 0.6), []))
    with pytest.raises(GateError, match="not faster") as caught:
        pipeline.export(config(precision="int8"), "host")
    assert "--allow-slower" in str(caught.value.fix)
    assert not list(folder.glob("*.edgekit"))
    manifest = pipeline.export(config(precision="int8", allow_slower=True), "host").manifest
    assert manifest.target.precision == "int8" and manifest.choice is not None and manifest.choice.chosen_by == "asked"


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_without_labelled_data_a_lossy_precision_needs_a_stated_bar(config: Any, precision: str) -> None:
    target = "intel-cpu" if precision == "bf16" else "host"
    with pytest.raises(GateError, match="without a bar"):
        pipeline.export(config(target, precision=precision, data=None), target)


def test_auto_without_data_stays_float_and_says_why(config: Any) -> None:
    choice = pipeline.export(config(data=None), "host").manifest.choice
    assert choice is not None and (choice.precision, choice.chosen_by) == ("fp32", "default")
    assert "no labelled held-out data" in str(choice.candidates[1].reason)


def test_w8a16_is_refused_with_the_reason(config: Any) -> None:
    with pytest.raises(UnsupportedError, match="w8a16") as caught:
        pipeline.export(config(precision="w8a16"), "host")
    assert "no int16 kernels" in str(caught.value.why)


def test_too_little_calibration_data_stops_int8_and_not_auto(config: Any, tmp_path: Path) -> None:
    few = tmp_path / "few.npz"
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.savez(few, images=images, labels=np.zeros(3, np.int64))
    with pytest.raises(InputError, match="too few"):
        pipeline.export(config(precision="int8", calibration_data=str(few)), "host")
    choice = pipeline.export(config(calibration_data=str(few)), "host").manifest.choice
    assert choice is not None and choice.precision == "fp32"
    assert "too few" in str(choice.candidates[1].reason)


def test_a_pattern_that_matches_nothing_is_never_passed_over(config: Any) -> None:
    with pytest.raises(UsageError, match="matches no layer"):
        pipeline.export(config(quantization={"keep_float": ("nowhere.*",)}), "host")


def undecided(monkeypatch: pytest.MonkeyPatch, answers: range) -> None:
    """Let the held-out samples decide nothing in those answers: 0 is asked of float, 1 of all in int8."""
    judged: list[int] = []
    real = candidates.judge_quality

    def judge(parent: Any, spec: Any, run: Any, max_drop: float) -> Any:
        verdict = real(parent, spec, run, max_drop)
        judged.append(1)
        return replace(verdict, verdict="inconclusive") if len(judged) - 1 in answers else verdict

    monkeypatch.setattr(candidates, "judge_quality", judge)


def test_the_search_returns_layers_until_the_quality_passes(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    undecided(monkeypatch, range(1, 2))
    monkeypatch.setattr(choose, "race", outcome((1.9, 2.0, 2.1), []))
    loose = config(quantization={"min_coverage": 0.0})
    manifest = pipeline.export(loose, "host").manifest
    step = next(step for step in manifest.history if step.step == "int8")
    returned = step.result["returned_to_float"]
    assert 0 < len(returned) < len(returned) + step.result["int8_layers"]
    assert all(step.result["float_layers"][name] == "returned to float by the search" for name in returned)
    (tried,) = step.result["tried"]
    assert tried.startswith("all in int8: ")


def test_a_search_that_finds_nothing_tells_of_every_try(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    undecided(monkeypatch, range(1, 9))
    with pytest.raises(InconclusiveError) as caught:
        pipeline.export(config(precision="int8", quantization={"min_coverage": 0.0}), "host")
    told = str(caught.value.why).partition("; tried: ")[2]
    assert told.startswith("all in int8: ")
    assert 1 <= told.count("returned to float: ") <= len(candidates.RETURNED)


def test_a_try_that_a_gate_refuses_is_told_beside_the_drop_before_it(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    undecided(monkeypatch, range(1, 9))
    real, asked = candidates.coverage_gate, []

    def gate(*arguments: Any) -> None:
        asked.append(1)
        if len(asked) == 2:
            raise GateError("coverage: 12.0 % of the multiply-accumulates run in int8")
        real(*arguments)

    monkeypatch.setattr(candidates, "coverage_gate", gate)
    with pytest.raises(InconclusiveError, match="cannot decide") as caught:
        pipeline.export(config(precision="int8", quantization={"min_coverage": 0.0}), "host")
    why = str(caught.value.why)
    assert "all in int8: " in why and "returned to float: coverage: 12.0 %" in why


def test_a_try_that_is_no_nearer_to_float_is_not_put_to_the_held_out_samples(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    undecided(monkeypatch, range(1, 9))
    errors = iter(range(1, 1000))
    monkeypatch.setattr(candidates.Judge, "error", lambda *arguments: float(next(errors)))
    with pytest.raises(InconclusiveError) as caught:
        pipeline.export(config(precision="int8", quantization={"min_coverage": 0.0}), "host")
    told = str(caught.value.why).partition("; tried: ")[2]
    assert "deviate no less from float on calibration data" in told
    assert told.count("points lost") == 1


def test_a_bar_that_leaves_nothing_to_return_is_told(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    undecided(monkeypatch, range(1, 9))
    with pytest.raises(InconclusiveError) as caught:
        pipeline.export(config(precision="int8", quantization={"min_coverage": 1.0}), "host")
    assert "no layer can be returned to float above the coverage bar of 100 %" in str(caught.value.why)


def test_coverage_below_the_bar_leaves_float(config: Any) -> None:
    first = pipeline.export(
        config(quantization={"min_coverage": 1.0, "keep_float": ("node_conv2d_2",)}), "host"
    ).manifest.choice
    assert first is not None and first.precision == "fp32"
    assert "coverage" in str(first.candidates[1].reason)


def test_int8_for_orin_is_rehearsed_and_counted_by_rule(config: Any) -> None:
    manifest = pipeline.export(config("orin-nano"), "orin-nano").manifest
    assert manifest.choice is not None and manifest.precisions == ("fp16", "int8")
    assert manifest.choice.chosen_by == "policy, not measured"
    covered = manifest.variants[0].coverage
    assert covered is not None and covered.source == "rule" and covered.share > 0.9


def test_layers_are_told_worst_first(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "race", outcome((1.9, 2.0, 2.1), []))
    layers = pipeline.export(config(), "host").manifest.layers
    assert len(layers) == 4 and [row.snr_db for row in layers] == sorted(row.snr_db for row in layers)
