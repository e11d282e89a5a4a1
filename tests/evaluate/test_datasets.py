"""Layouts on disk become samples; what does not fit the model is refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.evaluate.datasets import Boxes, open_dataset
from edgekit.spec import ModelSpec, TensorSpec

CELLS = ModelSpec("cells", "detection", (), (), labels=("RBC", "WBC"))
ANIMALS = ModelSpec("animals", "classification", (), (), labels=("cat", "dog"))
TENSORS = ModelSpec("t", "tensor", (TensorSpec("x", "float32", (1, 4)), TensorSpec("n", "int64", ("batch", 2))), ())


def write_picture(path, height=40, width=80):
    image_module = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image_module.fromarray(np.full((height, width, 3), 7, np.uint8)).save(path)


def write_voc(root, objects, name="a", split="val"):
    write_picture(root / "JPEGImages" / f"{name}.png")
    listed = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for label, b, difficult in objects
    )
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{listed}</annotation>")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / f"{split}.txt").open("a") as file:
        file.write(f"{name}\n")


def test_voc_takes_its_class_order_from_the_spec_and_difficult_as_ignored(tmp_path):
    write_voc(tmp_path, [("WBC", (1, 2, 30, 40), 0), ("RBC", (5, 6, 7, 8.5), 1)])
    data = open_dataset(tmp_path, CELLS)
    assert (data.kind, data.split, len(data), data.has_truth) == ("voc", "val", 1, True)
    truth = data.samples[0].truth
    assert isinstance(truth, Boxes)
    assert truth.boxes.tolist() == [[1, 2, 30, 40], [5, 6, 7, 8.5]]
    assert truth.labels.tolist() == [1, 0]
    assert truth.ignore.tolist() == [False, True]
    assert data.samples[0].read().shape == (40, 80, 3)


def test_a_class_that_the_model_does_not_know_is_an_error_that_names_class_and_file(tmp_path):
    write_voc(tmp_path, [("Platelets", (1, 2, 3, 4), 0)])
    with pytest.raises(InputError, match="'Platelets'") as caught:
        open_dataset(tmp_path, CELLS)
    assert "a.xml" in str(caught.value)
    assert "RBC, WBC" in str(caught.value)


def test_a_split_is_named_or_val_before_test(tmp_path):
    write_voc(tmp_path, [], "a", "test")
    assert open_dataset(tmp_path, CELLS).split == "test"
    write_voc(tmp_path, [], "b", "val")
    assert open_dataset(tmp_path, CELLS).split == "val"
    assert [sample.name for sample in open_dataset(tmp_path, CELLS, "test").samples] == ["a"]
    with pytest.raises(InputError, match="no split 'train'") as caught:
        open_dataset(tmp_path, CELLS, "train")
    assert "test, val" in str(caught.value)


def test_voc_without_lists_is_all_that_is_annotated(tmp_path):
    write_voc(tmp_path, [])
    (tmp_path / "ImageSets" / "Main" / "val.txt").unlink()
    data = open_dataset(tmp_path, CELLS)
    assert (data.split, len(data)) == (None, 1)


def test_a_listed_picture_that_is_missing_is_named(tmp_path):
    write_voc(tmp_path, [])
    (tmp_path / "JPEGImages" / "a.png").unlink()
    with pytest.raises(InputError, match="missing"):
        open_dataset(tmp_path, CELLS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<annotation><object>", "malformed"),
        ("<annotation><object><name>RBC</name></object></annotation>", "malformed"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "entities"),
    ],
)
def test_malformed_annotations_are_refused(tmp_path, text, why):
    write_voc(tmp_path, [])
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(InputError, match=why) as caught:
        open_dataset(tmp_path, CELLS)
    assert "a.xml" in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [("images-val", "labels-val", "val"), ("images/test", "labels/test", "test"), ("images", "labels", None)],
)
def test_yolo_labels_become_corners_in_pixels(tmp_path, images, labels, split):
    write_picture(tmp_path / images / "a.png", 40, 80)
    write_picture(tmp_path / images / "empty.png")
    (tmp_path / labels).mkdir(parents=True)
    (tmp_path / labels / "a.txt").write_text("1 0.5 0.25 0.5 0.5\n\n")
    data = open_dataset(tmp_path, CELLS)
    assert (data.kind, data.split, len(data)) == ("yolo", split, 2)
    first, second = (sample.truth for sample in data.samples)
    assert first.boxes.tolist() == [[20, 0, 60, 20]]
    assert first.labels.tolist() == [1]
    assert second.boxes.shape == (0, 4)


@pytest.mark.parametrize("line", ["2 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "1 0.5 0.5 0.1", "x 0.5 0.5 0.1 0.1"])
def test_a_wrong_yolo_line_is_named_with_its_number(tmp_path, line):
    write_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path, CELLS)
    assert "a.txt:2" in str(caught.value)


def test_folders_of_classes_are_labelled_by_the_order_of_the_spec(tmp_path):
    for name in ("dog/1.png", "cat/2.png", "dog/3.png"):
        write_picture(tmp_path / "val" / name)
    write_picture(tmp_path / "train" / "cat" / "4.png")
    data = open_dataset(tmp_path, ANIMALS)
    assert [(sample.name, sample.truth) for sample in data.samples] == [
        ("cat/2.png", 0),
        ("dog/1.png", 1),
        ("dog/3.png", 1),
    ]
    write_picture(tmp_path / "val" / "cow" / "5.png")
    with pytest.raises(InputError, match="'cow'"):
        open_dataset(tmp_path, ANIMALS)


def test_a_flat_folder_of_pictures_has_no_truth(tmp_path):
    write_picture(tmp_path / "b.png")
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    for spec in (None, CELLS, ANIMALS):
        data = open_dataset(tmp_path, spec)
        assert (data.kind, data.has_truth, [sample.name for sample in data.samples]) == (
            "images",
            False,
            ["a.jpg", "b.png"],
        )


def test_the_hash_is_that_of_the_contents_and_stays_for_a_part(tmp_path):
    write_voc(tmp_path, [("RBC", (1, 2, 3, 4), 0)], "a")
    write_voc(tmp_path, [("RBC", (1, 2, 3, 4), 0)], "b")
    data = open_dataset(tmp_path, CELLS)
    assert data.first(1).sha256 == data.sha256 == open_dataset(tmp_path, CELLS).sha256
    assert len(data.first(1)) == 1
    assert data.first(None) is data
    write_voc(tmp_path, [("RBC", (1, 2, 3, 5), 0)], "a", "other")
    assert open_dataset(tmp_path, CELLS).sha256 != data.sha256


def encoded_npz(path, count=3, **changes):
    image_module = pytest.importorskip("PIL.Image")
    pieces = []
    for i in range(count):
        buffer = io.BytesIO()
        image_module.fromarray(np.full((8, 9, 3), 10 * i, np.uint8)).save(buffer, "JPEG")
        pieces.append(buffer.getvalue())
    content = {
        "jpeg": np.frombuffer(b"".join(pieces), np.uint8),
        "offset": np.cumsum([0, *map(len, pieces)]),
        "label": (np.arange(count) % 2).astype(np.uint8),
        "classes": np.array(["dog", "cat"]),
    }
    np.savez(path, **{**content, **changes})


def test_encoded_pictures_are_mapped_to_the_classes_of_the_spec_by_name(tmp_path):
    encoded_npz(tmp_path / "a.npz")
    data = open_dataset(tmp_path / "a.npz", ANIMALS)
    assert [sample.truth for sample in data.samples] == [1, 0, 1]
    assert abs(int(data.samples[2].read().mean()) - 20) <= 1
    assert [sample.truth for sample in open_dataset(tmp_path / "a.npz").samples] == [0, 1, 0]
    assert len(data.sha256) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": np.array([0, 5, 3, 9])},
        {"offset": np.array([0, 5])},
        {"offset": np.array([0, 5, 9, 10**9])},
        {"jpeg": np.zeros(10, np.float32)},
        {"label": np.array([0, 1, 2], np.uint8)},
        {"label": np.array([0.0, 1.0, 1.0])},
        {"classes": np.array(["dog", "cow"])},
    ],
)
def test_encoded_pictures_that_do_not_fit_together_are_refused(tmp_path, changes):
    encoded_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(InputError):
        open_dataset(tmp_path / "a.npz", ANIMALS)


def test_decoded_pictures_come_with_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([1, 0]))
    data = open_dataset(tmp_path / "a.npz", ANIMALS)
    assert [sample.truth for sample in data.samples] == [1, 0]
    assert np.array_equal(data.samples[1].read(), images[1])


def test_tensors_are_split_along_the_first_axis(tmp_path):
    x, n = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(6).reshape(3, 2)
    np.savez(tmp_path / "a.npz", x=x, n=n)
    data = open_dataset(tmp_path / "a.npz", TENSORS)
    assert (data.kind, len(data), data.has_truth) == ("tensors", 3, False)
    feeds = data.samples[1].read()
    assert np.array_equal(feeds["x"], x[1:2])
    assert np.array_equal(feeds["n"], n[1:2])


def test_stacked_tensors_are_taken_apart(tmp_path):
    spec = ModelSpec("t", "tensor", (TensorSpec("x", "float32", (2, 4)),), ())
    np.save(tmp_path / "a.npy", np.zeros((5, 2, 4), np.float32))
    assert [sample.feeds["x"].shape for sample in open_dataset(tmp_path / "a.npy", spec).samples] == [(2, 4)] * 5
    np.save(tmp_path / "b.npy", np.zeros((6, 4), np.float32))
    assert [sample.feeds["x"].shape for sample in open_dataset(tmp_path / "b.npy", spec).samples] == [(2, 4)] * 3


@pytest.mark.parametrize(
    "content",
    [
        {"x": np.zeros((3, 4), np.float32)},
        {"x": np.zeros((3, 4), np.float64), "n": np.zeros((3, 2), np.int64)},
        {"x": np.zeros((3, 5), np.float32), "n": np.zeros((3, 2), np.int64)},
        {"x": np.zeros((3, 4), np.float32), "n": np.zeros((2, 2), np.int64)},
        {"x": np.float32(1), "n": np.zeros((2, 2), np.int64)},
    ],
)
def test_tensors_of_another_name_dtype_shape_or_number_are_refused(tmp_path, content):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(InputError):
        open_dataset(tmp_path / "a.npz", TENSORS)


def test_objects_in_arrays_are_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot read the arrays"):
        open_dataset(tmp_path / "a.npy", ModelSpec("t", "tensor", (TensorSpec("x", "float32", (1,)),), ()))


@pytest.mark.parametrize("name", ["a.npz", "b.npy"])
def test_garbage_in_an_array_file_is_an_input_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"garbage")
    with pytest.raises(InputError, match="cannot read the arrays"):
        open_dataset(tmp_path / name, ModelSpec("t", "tensor", (TensorSpec("x", "float32", (1,)),), ()))


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_dataset(tmp_path / "none", CELLS)
    with pytest.raises(InputError, match="no samples"):
        open_dataset(tmp_path, CELLS)


def real(*parts):
    if not os.environ.get("EDGEKIT_DATA"):
        pytest.skip("EDGEKIT_DATA names no folder of real data")
    return Path(os.environ["EDGEKIT_DATA"]).joinpath(*parts)


def test_bccd_has_the_pictures_and_boxes_that_its_authors_count():
    spec = ModelSpec("bccd", "detection", (), (), labels=("RBC", "WBC", "Platelets"))
    splits = [open_dataset(real("detection", "bccd"), spec, split) for split in ("train", "val", "test")]
    assert [len(data) for data in splits] == [205, 87, 72]
    labels = np.concatenate([sample.truth.labels for data in splits for sample in data.samples])
    assert np.bincount(labels).tolist() == [4155, 372, 361]


def test_cifar10_opens_lazily_and_reads():
    data = open_dataset(real("vision", "cifar10_test.npz"))
    assert len(data) == 10_000
    assert data.samples[-1].read().shape == (32, 32, 3)
    assert np.bincount([sample.truth for sample in data.samples]).tolist() == [1000] * 10
