"""Trains the shipped FemtoDet on BCCD, and writes its weights, its card and the calibration statistics.

    python tools/train_femtodet_bccd.py --data $EDGEKIT_DATA/detection/bccd

Trains on `train`, selects the epoch on `val`, and scores `test` once, at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from edgekit import tooling
from edgekit.compress import DEFAULT_RECIPE, Recipe
from edgekit.compress.calibration import Need, calibrate, samples_of
from edgekit.compress.statistics import HistogramOf
from edgekit.evaluate.datasets import Boxes, Dataset, open_dataset
from edgekit.evaluate.evaluate import Score, evaluate
from edgekit.graph.from_torch import export_torch
from edgekit.models.femtodet import MEAN, STD, STRIDE, FemtoDet, FemtoDetConfig, femtodet_spec
from edgekit.spec import ModelSpec
from edgekit.train.augment import Augmentation, Picture
from edgekit.train.detection import DetectionSchedule, train_detector
from edgekit.train.losses import Truth

LABELS = ("RBC", "WBC", "Platelets")
SCHEDULE = DetectionSchedule(
    sizes=((0.0, 320), (0.6, 416)),
    stride=STRIDE,
    mean=MEAN,
    std=STD,
    epochs=200,
    batch=8,
    learning_rate=0.015,
    weight_decay=2e-4,
    hard_classes=0.5,
    ema=0.999,
    augmentation=Augmentation(mosaic=0.25, zoom=(0.8, 1.3), shift=0.1, colour=0.1),
)
SELECT_EVERY = 10  # epochs
CALIBRATION_PICTURES = 64
CALIBRATION_BINS = 1024


def main() -> None:
    """Train, select, report, write."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SCHEDULE.seed)
    spec = femtodet_spec(LABELS)
    schedule = replace(SCHEDULE, epochs=arguments.epochs)
    train, val, test = (open_dataset(arguments.data, spec, split) for split in ("train", "val", "test"))

    best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})

    def select(epoch: int, loss: float, model: nn.Module) -> None:
        nonlocal best
        line = f"epoch {epoch} loss {loss:.3f}"
        if epoch % SELECT_EVERY == 0:
            score = _score(model, spec, val)
            line += f" val {_in_words(score)}"
            if score.value > best[0]:
                best = (score.value, epoch, {k: v.clone().contiguous() for k, v in model.state_dict().items()})
        print(line, flush=True)

    pictures = [_picture(dataset_sample) for dataset_sample in train.samples]
    train_detector(FemtoDet(FemtoDetConfig(len(LABELS))), pictures, schedule, select)
    value, epoch, state = best
    model = FemtoDet(FemtoDetConfig(len(LABELS))).eval()
    model.load_state_dict(state)
    scores = {"val": _score(model, spec, val), "test": _score(model, spec, test)}
    print(f"selected epoch {epoch}: val {value:.2f}; test {_in_words(scores['test'])}")

    weights = save_tensors(state)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "femtodet-bccd.safetensors").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    (arguments.output / "femtodet-bccd.calibration.safetensors").write_bytes(_calibration(model, spec, train, digest))
    (arguments.output / "femtodet-bccd.md").write_text(_card(schedule, epoch, scores, train, digest), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD in its VOC layout")
    parser.add_argument("--output", type=Path, default=Path("edgekit/models"))
    parser.add_argument("--epochs", type=int, default=SCHEDULE.epochs)
    parser.add_argument("--threads", type=int, default=1, help="one thread gives the same weights again")
    return parser.parse_args()


def _picture(sample: object) -> Picture:
    image, truth = sample.read(), sample.truth  # type: ignore[attr-defined]
    assert isinstance(truth, Boxes)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return Picture(pixels, Truth(torch.from_numpy(truth.boxes.copy()), torch.from_numpy(truth.labels.copy())))


def _score(model: nn.Module, spec: ModelSpec, data: Dataset) -> Score:
    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"head": model(torch.from_numpy(feeds["image"])).numpy()}

    return evaluate(run, spec, data)


def _in_words(score: Score) -> str:
    each = ", ".join(f"{label} {value:.2f}" for label, value in score.per_class.items() if value is not None)
    return f"AP50 {score.value:.2f} ({each})"


def _calibration(model: FemtoDet, spec: ModelSpec, train: Dataset, digest: str) -> bytes:
    """Ranges and histograms of every tensor of the deployed graph, by its name there."""
    example = (torch.randn(2, 3, 416, 416),)
    deployed, _ = Recipe.parse(DEFAULT_RECIPE).apply(model, example)
    graph = export_torch(deployed, example, spec, opset=20, ir_version=10)
    chosen = train.first(CALIBRATION_PICTURES)

    proto = graph.model.graph
    computed = {name for node in proto.node for name in node.output} | {value.name for value in proto.input}
    typed = [*proto.input, *proto.value_info, *proto.output]
    floats = {value.name for value in typed if value.type.tensor_type.elem_type == TensorProto.FLOAT} & computed
    needs = [Need(name, HistogramOf(CALIBRATION_BINS)) for name in sorted(floats)]
    arrays = {}
    for need, seen in calibrate(graph, needs, samples_of(chosen, spec, len(chosen))).found.items():
        arrays[f"{need.tensor}/range"] = np.asarray([seen.low, seen.high], np.float32)
        arrays[f"{need.tensor}/histogram"] = seen.counts.astype(np.int32)
        arrays[f"{need.tensor}/width"] = np.float32([seen.width])
        arrays[f"{need.tensor}/zeros"] = np.asarray([seen.zeros], np.int64)
    metadata = {
        "schema": "edgekit/calibration-statistics/2",
        "weights_sha256": digest,
        "graph_sha256": hashlib.sha256(graph.serialized()).hexdigest(),
        "data_sha256": train.sha256,
        "samples": str(len(chosen)),
    }
    return save_arrays(arrays, metadata=metadata)


def _card(schedule: DetectionSchedule, epoch: int, scores: dict[str, Score], train: Dataset, digest: str) -> str:
    rows = "\n".join(
        f"| {split} ({score.samples} pictures) | {score.value:.2f} | "
        + " | ".join(f"{score.per_class[label] or 0.0:.2f}" for label in LABELS)
        + " |"
        for split, score in scores.items()
    )
    settings = json.dumps(asdict(schedule), indent=1)
    return f"""# femtodet-bccd

FemtoDet (width 0.25, 67,669 parameters to train) that finds red cells, white cells and platelets in pictures of blood
smears, 416x416.

| split | AP50 | {" | ".join(LABELS)} |
|---|---|---|---|---|
{rows}

COCO-style AP at IoU 0.5 (101 points), in percent, computed by torch {tooling.installed_version("torch")} on a CPU.
Platelets are hardly larger than one cell of the detector's grid, and are found least well.

- Data: BCCD (Shenggan/BCCD_Dataset, MIT), {len(train)} training pictures, SHA-256 of the set {train.sha256}.
  Trained on `train`, epoch {epoch} selected on `val`, `test` scored once.
- Made by `tools/train_femtodet_bccd.py`, from random weights, seed {schedule.seed}, a plain schedule.
- Weights: SHA-256 {digest}.
- `femtodet-bccd.calibration.safetensors`: range and histogram of every tensor of the deployed graph on
  {CALIBRATION_PICTURES} training pictures, by tensor name, for int8. The pictures themselves are not shipped.
- Not a medical device.

```json
{settings}
```
"""


if __name__ == "__main__":
    main()
