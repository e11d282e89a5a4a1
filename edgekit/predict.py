"""Predictions in words: what `run` prints and draws."""

from __future__ import annotations

from typing import Any

from edgekit.processing.detect import Detections
from edgekit.runtimes.session import Prediction
from edgekit.spec import ModelSpec


def describe(prediction: Prediction, spec: ModelSpec, min_score: float) -> list[dict[str, Any]]:
    """A table: `label`, `score`, and for detections `box` (corners in pixels of the picture), best first."""
    if isinstance(prediction, Detections):
        rows = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), strict=True)
        return [
            {"label": label_name(spec, label), "score": score, "box": box}
            for label, score, box in rows
            if score >= min_score
        ]
    return [{"label": label_name(spec, label), "score": score} for label, score in prediction]


def label_name(spec: ModelSpec, label: int) -> str:
    """The class's name, or its number where the model brings no names."""
    return spec.labels[label] if label < len(spec.labels) else str(label)
