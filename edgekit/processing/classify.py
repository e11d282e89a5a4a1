"""From a classifier's output to its best classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError
from edgekit.spec import ClassificationPostprocess

Ranking = list[tuple[int, float]]
"""Class index and probability, best first."""


def top_k(spec: ClassificationPostprocess, outputs: Mapping[str, npt.NDArray[Any]]) -> list[Ranking]:
    """The `spec.top_k` best classes of every sample; all of them where there are fewer.

    Args:
        spec: which output to read, and whether it holds logits (`softmax`) or probabilities.
        outputs: the model's outputs by name; the one read has shape (n, classes), further axes of size 1 allowed.

    Raises:
        InputError: the output is missing, has another shape, or holds NaN.
    """
    name = spec.outputs[0]
    if name not in outputs:
        raise InputError(
            f"the model returned no output {name!r}",
            where="postprocess.outputs",
            why="postprocessing reads it; the model returned " + (", ".join(outputs) or "nothing"),
        )
    values = outputs[name]
    if values.ndim < 2 or values.size == 0 or values.size != values.shape[0] * values.shape[1]:
        raise InputError(f"expected (n, classes), got {values.shape}", where=f"output {name!r}")
    values = values.reshape(values.shape[:2]).astype(np.float32, copy=False)
    if np.isnan(values).any():
        raise InputError("the model's output holds NaN", where=f"output {name!r}", why="its arithmetic overflowed")
    probabilities = _softmax(values) if spec.softmax else values
    order = np.argsort(-values, axis=1, kind="stable")[:, : spec.top_k]
    return [[(int(label), float(row[label])) for label in best] for row, best in zip(probabilities, order, strict=True)]


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares
