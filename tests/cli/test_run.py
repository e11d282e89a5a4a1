"""`edgekit run` and `edgekit validate`: what is found in pictures, where it is drawn, and how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
image = pytest.importorskip("PIL.Image")


def test_detections_are_printed_as_a_table_and_drawn(
    edgekit: Any, small_bundles: dict[str, Path], cells_png: Path, folder: Path
) -> None:
    done = edgekit("run", small_bundles["folder"], cells_png)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].endswith("2 found, drawn in cells-edgekit.png")
    assert lines[1].split() == ["label", "score", "box"]
    assert {line.split()[0] for line in lines[2:]} == {"red", "blue"}
    drawn = np.asarray(image.open(folder / "cells-edgekit.png").convert("RGB"))
    assert drawn.shape == (32, 32, 3)
    assert not np.array_equal(drawn, np.asarray(image.open(cells_png)))


def test_json_gives_labels_scores_and_boxes_in_pixels(
    edgekit: Any, small_bundles: dict[str, Path], cells_png: Path, cells_found: list[Any]
) -> None:
    done = edgekit("run", small_bundles["zip"], cells_png, "--json", "--picture", "out/drawn.png")
    (result,) = done.document
    assert (done.err, result["picture"]) == ("", "out/drawn.png")
    assert sorted((item["label"], item["box"]) for item in result["found"]) == cells_found
    assert all(0.3 <= item["score"] <= 1 for item in result["found"])
    assert Path("out/drawn.png").is_file()


def test_a_higher_bar_shows_less(edgekit: Any, small_bundles: dict[str, Path], cells_png: Path) -> None:
    done = edgekit("run", small_bundles["zip"], cells_png, "--json", "--min-score", "0.9999")
    assert done.document[0]["found"] == []


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_folder_is_run_in_batches_and_drawn_into_a_folder(
    edgekit: Any, small_bundles: dict[str, Path], cells: Any, folder: Path, batch: int
) -> None:
    (folder / "in").mkdir()
    for i in range(5):
        image.fromarray(np.roll(cells, 8 * i, axis=1)).save(folder / "in" / f"{i}.png")
    (folder / "in" / "notes.txt").write_text("no picture")
    done = edgekit("run", small_bundles["zip"], "in", "--picture", "out", "--batch", batch, "--json")
    assert [result["input"] for result in done.document] == [f"in/{i}.png" for i in range(5)]
    assert all(len(result["found"]) == 2 for result in done.document)
    reds = [box[0] for r in done.document for item in r["found"] if item["label"] == "red" for box in [item["box"]]]
    assert reds == [8, 16, 24, 0, 8]
    assert sorted(path.name for path in (folder / "out").iterdir()) == [f"{i}.png" for i in range(5)]


def test_a_glob_is_expanded_and_a_bar_shows_on_standard_error_only(
    edgekit: Any, small_bundles: dict[str, Path], cells: Any, folder: Path
) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        image.fromarray(cells).save(folder / name)
    done = edgekit("run", small_bundles["zip"], "*.png")
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["a.png", "b.png"]
    assert "2 pictures" in done.err


def test_pictures_of_the_same_name_do_not_overwrite_one_anothers_drawing(
    edgekit: Any, small_bundles: dict[str, Path], cells: Any, folder: Path
) -> None:
    for name in ("x/a.png", "y/a.png", "y/a-2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        image.fromarray(cells).save(folder / name)
    done = edgekit("run", small_bundles["zip"], "x/a.png", "y/a.png", "y/a-2.png", "--picture", "out", "--json")
    places = [result["picture"] for result in done.document]
    assert len(set(places)) == 3
    assert sorted(map(str, (folder / "out").iterdir())) == sorted(str(folder / place) for place in places)


@pytest.mark.parametrize("picture", [".", "cells.png"])
def test_a_drawing_never_replaces_the_picture_itself(
    edgekit: Any, small_bundles: dict[str, Path], cells_png: Path, picture: str
) -> None:
    before = cells_png.read_bytes()
    done = edgekit("run", small_bundles["zip"], "cells.png", "--picture", picture)
    assert done.code == 2
    assert "would replace the picture itself" in done.err
    assert cells_png.read_bytes() == before


def test_a_folder_with_a_dot_in_its_name_is_a_folder(
    edgekit: Any, small_bundles: dict[str, Path], cells_png: Path, folder: Path
) -> None:
    (folder / "results.png").mkdir()
    (folder / "results.png" / "thesis.txt").write_text("years of work")
    assert edgekit("run", small_bundles["zip"], cells_png, "--picture", "results.png").code == 0
    assert {path.name for path in (folder / "results.png").iterdir()} == {"thesis.txt", "cells.png"}


def test_a_suffix_that_is_no_format_of_pictures_is_a_usage_error(
    edgekit: Any, small_bundles: dict[str, Path], cells_png: Path, folder: Path
) -> None:
    done = edgekit("run", small_bundles["zip"], cells_png, "--picture", "drawn.xyz")
    assert done.code == 2
    assert "no format of pictures" in done.err
    assert [path.name for path in folder.iterdir()] == ["cells.png"]


def broken(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    if kind == "truncated":
        image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "array":
        np.save(path, np.zeros((4, 4, 3), np.float64))
        (folder / "array.png.npy").rename(path)
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["truncated", "array", "text", "empty", "folder", "missing"])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_what_is_no_picture_is_exit_2_and_named(
    edgekit: Any, small_bundles: dict[str, Path], folder: Path, kind: str, form: list[str]
) -> None:
    path = broken(folder, kind)
    done = edgekit("run", small_bundles["zip"], path, *form)
    assert done.code == 2
    error = done.document if form else None
    assert path.name in (error["where"] if error else done.err)
    assert done.err == "" if form else done.out == ""


def test_a_bundle_that_takes_no_pictures_says_what_is_missing(edgekit: Any, detector: Path, cells_png: Path) -> None:
    edgekit("export", "--source", detector, "-t", "host", "-o", "b")
    done = edgekit("run", "b", cells_png)
    assert done.code == 2
    assert "cannot take pictures" in done.err and "preprocessing" in done.err


def test_a_board_bundle_needs_its_board_or_an_explicit_runtime(
    edgekit: Any, femtodet_bundles: dict[str, Path], folder: Path
) -> None:
    from edgekit.smear import draw_smear

    smear = draw_smear()
    image.fromarray(smear.image).save(folder / "smear.png")
    done = edgekit("run", femtodet_bundles["orin-nano"], "smear.png")
    assert done.code == 4
    assert "TensorRT is not installed" in done.err
    done = edgekit("run", femtodet_bundles["orin-nano"], "smear.png", "--runtime", "onnxruntime", "--json")
    found = done.document[0]["found"]
    assert [item["label"] for item in found].count("WBC") == 1
    assert sorted(item["label"] for item in found) == sorted(smear.labels)


@pytest.mark.parametrize("runtime", ["snapdragon-865", "intel-n100"])
def test_the_shipped_model_finds_what_was_drawn(
    edgekit: Any, femtodet_bundles: dict[str, Path], folder: Path, runtime: str
) -> None:
    from edgekit.smear import draw_smear

    smear = draw_smear(seed=2)
    image.fromarray(smear.image).save(folder / "smear.png")
    done = edgekit("run", femtodet_bundles[runtime], "smear.png", "--json")
    assert sorted(item["label"] for item in done.document[0]["found"]) == sorted(smear.labels)


# --- validate


def scores_of(edgekit: Any, bundles: dict[str, Path], data: Path, *more: object) -> list[dict[str, Any]]:
    paths = (bundles["snapdragon-865"], bundles["intel-n100"])
    done = edgekit("validate", *paths, "--source", "femtodet", "--data", data, "--split", "test", "--json", *more)
    assert done.code == 0, done.sentence
    scores: list[dict[str, Any]] = done.document
    assert [score["runtime"].split()[0] for score in scores] == ["torch", "onnxruntime", "openvino"]
    return scores


def test_one_command_scores_torch_and_both_runtimes_alike(
    edgekit: Any, femtodet_bundles: dict[str, Path], data_folder: Path
) -> None:
    scores = scores_of(edgekit, femtodet_bundles, data_folder / "detection" / "bccd", "--samples", 16)
    assert {score["samples"] for score in scores} == {16}
    for score in scores[1:]:
        assert score["value"] == pytest.approx(scores[0]["value"], abs=0.1)
        for label, value in score["per_class"].items():
            assert value == pytest.approx(scores[0]["per_class"][label], abs=0.1)


@pytest.mark.slow
def test_the_shipped_weights_reach_their_bars_on_the_whole_test_split(
    edgekit: Any, femtodet_bundles: dict[str, Path], data_folder: Path
) -> None:
    scores = scores_of(edgekit, femtodet_bundles, data_folder / "detection" / "bccd")
    for score in scores:
        assert (score["metric"], score["samples"]) == ("ap50", 72)
        assert score["per_class"]["WBC"] >= 90
        assert score["per_class"]["RBC"] >= 75
        assert score["value"] == pytest.approx(scores[0]["value"], abs=0.1)


def test_validation_without_truth_metric_or_anything_to_score_is_a_usage_error(
    edgekit: Any, small_bundles: dict[str, Path], cells_png: Path, folder: Path
) -> None:
    (folder / "empty").mkdir()
    for arguments, said in [
        (["--data", "."], "nothing to score"),
        ([small_bundles["zip"], "--data", "."], "no labels"),
        ([small_bundles["zip"], "--data", "empty"], "no samples"),
        ([small_bundles["zip"], "--data", "nowhere"], "no such file or folder"),
        ([small_bundles["zip"], "--data", ".", "--metric", "f1"], "'f1' is not built in"),
        ([small_bundles["zip"], "--data", ".", "--samples", "0"], "samples"),
        ([small_bundles["zip"]], "data"),
    ]:
        done = edgekit("validate", *arguments)
        assert done.code == 2, arguments
        assert said in done.err, arguments


@pytest.fixture
def labelled(cells: Any, folder: Path) -> Path:
    """The picture of cells with its labels, in YOLO's layout."""
    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    image.fromarray(cells).save(folder / "data/images/a.png")
    (folder / "data/labels/a.txt").write_text("1 0.875 0.125 0.25 0.25\n0 0.375 0.625 0.25 0.25\n")
    return Path("data")


def test_a_table_shows_a_class_a_column(edgekit: Any, small_bundles: dict[str, Path], labelled: Path) -> None:
    done = edgekit("validate", small_bundles["folder"], "--data", labelled)
    header, row = done.out.splitlines()
    assert header.split()[-5:] == ["metric", "value", "blue", "red", "samples"]
    assert row.split()[-5:] == ["ap50", "100.00", "100.00", "100.00", "1"]


def test_a_strangers_source_is_scored_with_a_spec_of_its_own(
    edgekit: Any, detector: Path, spec_file: Path, labelled: Path
) -> None:
    pytest.importorskip("onnx")
    done = edgekit("validate", "--source", detector, "--spec", spec_file, "--data", labelled, "--json")
    assert done.code == 0, done.sentence
    (score,) = done.document
    assert (score["metric"], score["value"], score["samples"]) == ("ap50", pytest.approx(100.0), 1)
    assert edgekit("validate", "--source", detector, "--data", labelled).code == 2
