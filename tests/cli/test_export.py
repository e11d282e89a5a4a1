"""`edgekit export` as it is typed: one word in an empty folder, options from the file, several targets, dry runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgekit import candidates, intake, pipeline
from edgekit.bundle import Bundle
from edgekit.config import Config
from edgekit.errors import GateError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, small_bundles: dict[str, Path]) -> list[tuple[Config, str, Path | None]]:
    """What the command asks the pipeline for; nothing is exported."""
    calls: list[tuple[Config, str, Path | None]] = []
    manifest = Bundle.open(small_bundles["zip"]).manifest
    result = pipeline.ExportResult(small_bundles["zip"], manifest, None, pipeline.Progress())  # type: ignore[arg-type]

    def export(config: Config, target: str, output: Path | None, progress: Any, given: Any) -> Any:
        assert given is taken
        calls.append((config, target, output))
        return result

    taken = object()
    monkeypatch.setattr(pipeline, "export", export)
    monkeypatch.setattr(intake, "take_in", lambda config: taken)
    return calls


def test_a_target_alone_exports_the_shipped_model_and_says_so(edgekit: Any, asked: list[Any]) -> None:
    done = edgekit("export", "--target", "orin-nano")
    assert done.code == 0
    assert "exporting the shipped FemtoDet" in done.err
    ((config, target, output),) = asked
    assert (config.model.source, target, output) == ("femtodet", "orin-nano", None)


def test_the_file_in_the_folder_is_read_and_named(edgekit: Any, asked: list[Any], folder: Path) -> None:
    (folder / "edgekit.toml").write_text('[model]\nsource = "a.onnx"\n[export]\ntarget = "intel"\noutput = "out"\n')
    done = edgekit("export")
    assert done.code == 0
    assert "options from edgekit.toml" in done.err
    ((config, target, output),) = asked
    assert (config.model.source, target, output) == ("a.onnx", "intel", Path("out"))


def test_every_flag_reaches_the_configuration(edgekit: Any, asked: list[Any]) -> None:
    flags = {
        "--source": "a.onnx", "--name": "n", "--spec": "s.json", "--labels": "l.txt", "--data": "d", "--split": "val",
        "--metric": "ap", "--calibration-data": "c", "--calibration-samples": "9", "--tolerance": "0.25",
        "--max-drop": "0", "--quality-samples": "7", "--input": "uint8-nhwc", "--precision": "fp32", "--output": "o",
        "--sign-key": "k", "--steps": "fuse, rewrite", "--shapes": 'x=["n", 3]', "--preprocess": '{resize="crop"}',
        "--postprocess": '{kind="classification", outputs=["y"]}', "--target": "host",
    }  # fmt: skip
    assert edgekit("export", "--trust-code", *(word for pair in flags.items() for word in pair)).code == 0
    config = asked[0][0]
    model, quality, out = config.model, config.quality, config.export
    assert (model.source, model.name, model.spec, model.labels) == ("a.onnx", "n", "s.json", "l.txt")
    assert (model.data, model.split, model.metric, model.trust_code) == ("d", "val", "ap", True)
    assert (model.shapes, model.preprocess) == ({"x": ("n", 3)}, {"resize": "crop"})
    assert model.postprocess.outputs == ("y",)
    assert config.recipe.steps == ("fuse", "rewrite")
    assert (config.calibration.calibration_data, config.calibration.calibration_samples) == ("c", 9)
    assert (quality.tolerance, quality.max_drop, quality.quality_samples) == (0.25, 0.0, 7)
    assert (out.targets, out.input, out.precision, out.output, out.sign_key) == (
        ("host",),
        "uint8-nhwc",
        "fp32",
        "o",
        "k",
    )


def test_no_steps_are_an_empty_recipe_and_not_the_usual_one(edgekit: Any, asked: list[Any]) -> None:
    edgekit("export", "-t", "host", "--steps", "")
    edgekit("export", "-t", "host")
    assert [call[0].recipe.steps for call in asked] == [(), None]


def test_trust_is_given_by_the_flag_alone(edgekit: Any, asked: list[Any], folder: Path) -> None:
    edgekit("export", "-t", "host", "--trust-code")
    edgekit("export", "-t", "host")
    assert [call[0].model.trust_code for call in asked] == [True, False]
    (folder / "edgekit.toml").write_text("[model]\ntrust_code = true\n")
    done = edgekit("export", "-t", "host", "--trust-code")
    assert done.code == 2
    assert "trust_code cannot be set in a file" in done.err


def test_several_targets_go_into_a_folder(edgekit: Any, asked: list[Any], folder: Path) -> None:
    assert edgekit("export", "-t", "host", "-t", "intel", "-o", "all").code == 0
    assert [(target, output) for _, target, output in asked] == [
        ("host", Path("all/host.edgekit")),
        ("intel", Path("all/intel.edgekit")),
    ]
    assert list(folder.iterdir()) == [], "only a bundle that passed its gates makes the folder"


def test_the_source_is_taken_in_once_for_all_targets(
    edgekit: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = intake.take_in(Config())
    configs: list[Config] = []
    monkeypatch.setattr(intake, "take_in", lambda config: configs.append(config) or taken)
    assert edgekit("export", "-t", "host", "-t", "intel", "-t", "orin-nano").code == 0
    assert (len(configs), len(asked)) == (1, 3)


def test_a_misspelt_target_is_told_before_anything_is_exported(edgekit: Any, asked: list[Any]) -> None:
    done = edgekit("export", "-t", "host", "-t", "orin-nanno")
    assert done.code == 2
    assert "did you mean orin-nano" in done.err
    assert asked == []


def test_no_target_is_a_usage_error(edgekit: Any) -> None:
    done = edgekit("export")
    assert done.code == 2
    assert "no target" in done.err and "edgekit targets" in done.err


def test_json_is_one_document_with_figures(edgekit: Any, detector: Path, folder: Path) -> None:
    done = edgekit("export", "--source", detector, "-t", "host", "--json")
    assert (done.code, done.err) == (0, "")
    (result,) = done.document
    assert (result["bundle"], result["version"], result["quality"]["status"]) == ("detector-host.edgekit", 1, "unknown")
    assert result["parity"][0]["passed"] is True
    assert result["costs"][0]["step"] == "load the model"
    assert (folder / result["bundle"]).is_file()


def test_people_read_where_it_is_what_was_checked_and_what_is_open(edgekit: Any, detector: Path) -> None:
    done = edgekit("export", "--source", detector, "-t", "snapdragon-865")
    assert done.code == 0
    assert done.out.startswith("detector-snapdragon-865.edgekit  detector v1 for snapdragon-865, fp32")
    for word in ("parity", "quality  unknown", "open", "edgekit prove detector-snapdragon-865.edgekit", "took"):
        assert word in done.out
    assert "snapdragon-865: export the graph" in done.err


def test_a_dry_run_prints_the_plan_and_writes_nothing(edgekit: Any, detector: Path, folder: Path) -> None:
    done = edgekit("export", "--source", detector, "-t", "host", "--dry-run")
    assert done.code == 0
    assert "host: onnxruntime, fp32" in done.out and "AveragePool" in done.out
    (plan,) = edgekit("export", "--source", detector, "-t", "host", "--dry-run", "--json").document
    assert [row["op"] for row in plan["rows"]] == ["AveragePool", "Conv"]
    assert list(folder.iterdir()) == []


def test_a_dry_run_of_what_cannot_run_is_exit_3_and_still_one_document(edgekit: Any, folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Det", ["m"], ["d"], "det")], "g", [], [])
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [3, 3]))
    graph.output.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, []))
    assert value
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "det.onnx")
    done = edgekit("export", "--source", "det.onnx", "-t", "orin-nano", "--dry-run", "--json")
    assert done.code == 3
    (plan,) = done.document
    assert plan["rows"][0]["problem"]
    assert "cannot run on orin-nano" in done.err
    done = edgekit("export", "--source", "det.onnx", "-t", "orin-nano", "--dry-run")
    assert done.code == 3
    assert "unsupported: Det det" in done.out


def test_a_gate_that_says_no_is_exit_3_with_what_where_why_fix(
    edgekit: Any, detector: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise GateError("parity: output 'y' deviates", where="node 'n'", why="0.5", fix="mend it")

    monkeypatch.setattr(candidates, "parity_gate", refuse)
    done = edgekit("export", "--source", detector, "-t", "host")
    assert done.code == 3
    assert done.err.endswith("error: parity: output 'y' deviates\n  where: node 'n'\n  why: 0.5\n  fix: mend it\n")
    done = edgekit("export", "--source", detector, "-t", "host", "--json")
    assert (done.code, done.err) == (3, "")
    assert done.document == {
        "error": "GateError", "what": "parity: output 'y' deviates", "where": "node 'n'", "why": "0.5",
        "fix": "mend it", "exit_code": 3,
    }  # fmt: skip
    assert list(folder.iterdir()) == []


def test_from_a_strangers_file_to_detections_in_three_commands(
    edgekit: Any, detector: Path, folder: Path, cells_png: Path
) -> None:
    assert edgekit("init", "--source", detector, "--target", "snapdragon-cpu").code == 0
    text = (folder / "edgekit.toml").read_text().replace(
        "[recipe]",
        'preprocess = { std = [255, 255, 255], pad_value = 0 }\nlabels = ["red", "blue"]\n'
        'postprocess = { kind = "detection", outputs = ["head"], decode = "yolox-grid", stride = 8 }\n[recipe]',
    )  # fmt: skip
    (folder / "edgekit.toml").write_text(text)
    assert edgekit("export").code == 0
    done = edgekit("run", "detector-qcs6490.edgekit", cells_png, "--json")
    assert sorted(item["label"] for item in done.document[0]["found"]) == ["blue", "red"]


def test_the_manifest_that_is_written_is_the_one_that_inspect_shows(edgekit: Any, detector: Path, folder: Path) -> None:
    edgekit("export", "--source", detector, "-t", "host", "-o", "b")
    shown = edgekit("inspect", "b", "--json").document
    written = json.loads((folder / "b" / "manifest.json").read_text())
    assert {**written, "signed": False} == shown
    text = edgekit("inspect", "b").out
    assert "detector v1 for host, fp32" in text and "model.onnx" in text
    assert np.isfinite(shown["parity"][0]["relative"])
