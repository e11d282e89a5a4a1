"""The main job on a fresh machine: export FemtoDet for three targets, run it in two runtimes, and check what it finds.

    make demo

The picture is a blood smear that the demo draws, with known cells; where `EDGEKIT_DATA` is set it is a real one, with
its annotated boxes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.evaluate.datasets import Boxes, open_dataset
from edgekit.models.femtodet import femtodet_spec
from edgekit.smear import draw_smear

TARGETS = ("orin-nano", "intel-n100", "snapdragon-865")
RUNNABLE = ("intel-n100", "snapdragon-865")  # OpenVINO and ONNX Runtime exist on this machine, TensorRT does not
LABELS = ("RBC", "WBC", "Platelets")
MIN_IOU, MIN_SCORE = 0.5, 0.3
MIN_FOUND = 0.6  # of the cells in a real picture: they overlap and are cut off, and annotators miss some


def main() -> None:
    """Run the demo; exits with 1 where the detections do not match the picture."""
    folder = Path("demo")
    folder.mkdir(exist_ok=True)
    picture, boxes, labels, need = _picture(folder)
    exported = _edgekit("export", *(f"--target={t}" for t in TARGETS), "--output", str(folder), "--json")
    print(f"picture   {picture}, {len(labels)} known cells")
    for bundle in exported:
        parity = max(record["relative"] for record in bundle["parity"])
        print(f"bundle    {bundle['bundle']}  {bundle['target']['precision']}, parity {parity:.1e}")
    for target in RUNNABLE:
        drawn = folder / f"found-{target}.png"
        bundle = folder / f"{target}.edgekit"
        found = _edgekit("run", str(bundle), str(picture), "--picture", str(drawn), "--json")[0]["found"]
        matched = _matched(found, boxes, labels)
        print(f"run       {target}: {len(found)} found, {matched} of {len(labels)} known cells; drawn in {drawn}")
        if matched < need * len(labels):
            sys.exit(f"demo: {target} found {matched} of {len(labels)} cells, expected {need:.0%}")
    print(f"numbers   edgekit inspect {folder}/orin-nano.edgekit")


def _picture(folder: Path) -> tuple[Path, np.ndarray, list[str], float]:
    """A picture, its boxes and class names, and the share of them that must be found."""
    data = os.environ.get("EDGEKIT_DATA")
    if data and (Path(data) / "detection/bccd").is_dir():
        sample = open_dataset(Path(data) / "detection/bccd", femtodet_spec(LABELS), "test").samples[0]
        assert isinstance(sample.image, Path) and isinstance(sample.truth, Boxes)
        large = sample.truth.labels != LABELS.index("Platelets")  # the model's card says that it misses platelets
        return sample.image, sample.truth.boxes[large], [LABELS[i] for i in sample.truth.labels[large]], MIN_FOUND
    smear = draw_smear()
    path = folder / "smear.png"
    Image.fromarray(smear.image).save(path)
    return path, smear.boxes, list(smear.labels), 1.0


def _edgekit(*arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "edgekit.cli.main", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"demo: edgekit {' '.join(arguments)} exited with {done.returncode}\n{done.stdout}")
    return json.loads(done.stdout)


def _matched(found: list[dict], boxes: np.ndarray, labels: list[str]) -> int:
    """How many known cells have a detection of their class at an IoU of at least `MIN_IOU`."""
    return sum(
        any(
            item["label"] == label and item["score"] >= MIN_SCORE and _iou(np.asarray(item["box"]), box) >= MIN_IOU
            for item in found
        )
        for box, label in zip(boxes, labels, strict=True)
    )


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = float(np.prod(side.clip(0)))
    return overlap / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - overlap)


if __name__ == "__main__":
    main()
