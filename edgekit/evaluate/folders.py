"""Data sets that are folders of pictures: VOC, YOLO, one folder a class, or just pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgekit.errors import InputError
from edgekit.evaluate.datasets import DEFAULT_SPLITS, Boxes, Dataset, Sample
from edgekit.evaluate.images import SUFFIXES, image_size

Row = tuple[tuple[float, float, float, float], int, bool]  # corners, label, ignore


def open_voc(root: Path, split: str | None, labels: Sequence[str]) -> Dataset:
    """Pascal VOC's layout. Without `ImageSets/Main` and without a split, every annotated picture."""
    lists = root / "ImageSets" / "Main"
    available = {path.stem for path in lists.glob("*.txt")} if lists.is_dir() else set()
    split = _choose(split, available, root)
    if split is None:
        names = [path.stem for path in sorted((root / "Annotations").glob("*.xml"))]
        files = []
    else:
        listing = lists / f"{split}.txt"
        names = [line.split()[0] for line in _text(listing).splitlines() if line.strip()]
        files = [listing]
    samples = []
    for name in names:
        annotation = root / "Annotations" / f"{name}.xml"
        image = _picture(root / "JPEGImages", name)
        samples.append(Sample(name, image, truth=_boxes(_voc_rows(annotation, labels))))
        files += [image, annotation]
    return Dataset("voc", root, split, tuple(samples), tuple(files))


def is_yolo(root: Path) -> bool:
    """Whether the folder has pictures and labels side by side."""
    return bool(_yolo_splits(root)) or ((root / "images").is_dir() and (root / "labels").is_dir())


def open_yolo(root: Path, split: str | None, labels: Sequence[str]) -> Dataset:
    """Ultralytics' layout, or the same with the split in the folder's name."""
    splits = _yolo_splits(root)
    split = _choose(split, set(splits), root)
    images, annotations = splits[split] if split else (root / "images", root / "labels")
    samples, files = [], []
    for image in _pictures(images):
        annotation = annotations / f"{image.stem}.txt"
        files.append(image)
        rows: list[Row] = []
        if annotation.is_file():
            rows = _yolo_rows(annotation, image, len(labels))
            files.append(annotation)
        samples.append(Sample(image.stem, image, truth=_boxes(rows)))
    return Dataset("yolo", root, split, tuple(samples), tuple(files))


def open_class_folders(root: Path, split: str | None, labels: Sequence[str]) -> Dataset:
    """`CLASS/*.jpg` or `SPLIT/CLASS/*.jpg`; with neither, pictures of which nothing is known."""
    top = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    nested = {folder.name for folder in top if any(child.is_dir() for child in folder.iterdir())}
    split = _choose(split, nested, root)
    classes = [folder for folder in sorted((root / split).iterdir()) if folder.is_dir()] if split else top
    if not classes:
        return open_images(root)
    order = list(labels) or [folder.name for folder in classes]
    samples = []
    for folder in classes:
        label = label_index(folder.name, order, folder)
        samples += [Sample(f"{folder.name}/{image.name}", image, truth=label) for image in _pictures(folder)]
    files = tuple(sample.image for sample in samples if isinstance(sample.image, Path))
    return Dataset("class-folders", root, split, tuple(samples), files)


def open_images(root: Path) -> Dataset:
    """Pictures without truth, for calibration and for comparing two runs."""
    images = tuple(_pictures(root))
    return Dataset("images", root, None, tuple(Sample(image.name, image) for image in images), images)


def label_index(name: str, labels: Sequence[str], where: Path) -> int:
    """The index of a class by its name.

    Raises:
        InputError: the model does not know it.
    """
    if name in labels:
        return labels.index(name)
    raise InputError(
        f"unknown class {name!r}",
        where=str(where),
        why="the model's labels are: " + (", ".join(labels) or "none"),
        fix="name the classes in `labels`, in the order of the model's outputs",
    )


def _choose(split: str | None, available: set[str], root: Path) -> str | None:
    if split is None:
        if not available:
            return None
        for name in DEFAULT_SPLITS:
            if name in available:
                return name
    elif split in available:
        return split
    raise InputError(
        "the data set has no split " + (repr(split) if split else " or ".join(map(repr, DEFAULT_SPLITS))),
        where=str(root),
        why="it has: " + (", ".join(sorted(available)) or "none"),
        fix="name one of them" if available else "leave the split out",
    )


def _yolo_splits(root: Path) -> dict[str, tuple[Path, Path]]:
    flat = [(path.name[7:], path, root / f"labels-{path.name[7:]}") for path in root.glob("images-*")]
    nested = [(path.name, path, root / "labels" / path.name) for path in root.glob("images/*") if path.is_dir()]
    return {name: (images, labels) for name, images, labels in flat + nested if labels.is_dir()}


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), why="the layout of the data set asks for it")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _picture(folder: Path, stem: str) -> Path:
    for suffix in SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise InputError("the picture is missing", where=str(folder / stem), why="the split lists it")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the annotations", where=str(path), why=str(error)) from error


def _voc_rows(path: Path, labels: Sequence[str]) -> Iterable[Row]:
    text = _text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(
            "the annotation declares entities", where=str(path), why="VOC has none; they can exhaust memory"
        )
    try:
        document = ET.fromstring(text)  # noqa: S314 - no entities, see above
        for item in document.iter("object"):
            corners = [float(item.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
            label = label_index((item.findtext("name") or "").strip(), labels, path)
            difficult = (item.findtext("difficult") or "0").strip() == "1"
            yield (corners[0], corners[1], corners[2], corners[3]), label, difficult
    except (ET.ParseError, ValueError) as error:
        raise InputError("the annotation is malformed", where=str(path), why=str(error)) from error


def _yolo_rows(path: Path, image: Path, classes: int) -> list[Row]:
    height, width = image_size(image)
    rows: list[Row] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            name, *numbers = line.split()
            label, (x, y, w, h) = int(name), map(float, numbers)
        except ValueError as error:
            raise InputError(
                "a label line is not `class cx cy w h`", where=f"{path}:{number}", why=f"it reads {line!r}"
            ) from error
        if not 0 <= label < classes:
            raise InputError(
                f"unknown class {label}",
                where=f"{path}:{number}",
                why=f"the model has {classes} labels",
                fix="name the classes in `labels`, in the order of the model's outputs",
            )
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        rows.append((corners, label, False))
    return rows


def _boxes(rows: Iterable[Row]) -> Boxes:
    listed = list(rows)
    return Boxes(
        np.array([corners for corners, _, _ in listed], np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in listed], np.int64),
        np.array([ignore for _, _, ignore in listed], np.bool_),
    )
