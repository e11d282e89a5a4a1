"""FemtoDet checkpoints of the upstream project (yh-pengtu/FemtoDet, mmdetection layout), by their key names.

A checkpoint holds everything twice: the un-prefixed weights are already the exponential moving average, and the
`ema_*` copies are dropped. All other keys must be known.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from edgekit.errors import InputError
from edgekit.models.catalog import load_strictly
from edgekit.models.femtodet import STAGES, WIDTHS, FemtoDet, FemtoDetConfig, make_divisible

# Pascal VOC's classes in the order of mmdetection, on which upstream trains.
VOC_LABELS = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_FIXED = {
    "backbone.conv1.": "backbone.stem.",
    "neck.lateral_convs.": "neck.laterals.",
    "neck.stacked_convs.depthwise_conv.": "neck.depthwise.",
    "neck.stacked_convs.pointwise_conv.": "neck.pointwise.",
    "bbox_head.multi_level_conv_reg.0.": "head.box.",
    "bbox_head.multi_level_conv_obj.0.": "head.objectness.",
    "bbox_head.multi_level_conv_cls.0.": "head.classes.",
}
_BLOCK = re.compile(r"backbone\.layer(\d+)\.(\d+)\.conv\.(\d+)\.(.+)")
_PARTS = ("expand", "depthwise", "project")


def load_upstream_femtodet(path: Path) -> FemtoDet:
    """A FemtoDet in evaluation mode with the weights of an upstream `.pth` checkpoint.

    Width and number of classes follow from the weights.

    Raises:
        InputError: unreadable, not weights only, or not this architecture.
    """
    state = {rename(key, str(path)): value for key, value in _read(path).items() if not key.startswith("ema_")}
    stem, head = state.get("backbone.stem.conv.weight"), state.get("head.classes.weight")
    filters = stem.shape[0] if stem is not None and stem.ndim == 4 else None
    width = next((width for width in WIDTHS if filters == make_divisible(32 * width)), None)
    if width is None or head is None or head.ndim != 4 or not head.shape[0]:
        raise InputError(
            "this is not a FemtoDet checkpoint",
            where=str(path),
            why="stem or head are missing, or no width factor gives their sizes",
            fix="it must be a checkpoint of yh-pengtu/FemtoDet",
        )
    model = FemtoDet(FemtoDetConfig(classes=head.shape[0], width=width))
    load_strictly(model, state, str(path))
    return model.eval()


def rename(key: str, where: str) -> str:
    """Our name for an upstream key.

    Raises:
        InputError: the key is not part of the upstream network.
    """
    for theirs, ours in _FIXED.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    match = _BLOCK.fullmatch(key)
    if match:
        stage, block, part, rest = int(match[1]) - 1, match[2], int(match[3]), match[4]
        if 0 <= stage < len(STAGES):
            first = 0 if STAGES[stage][0] != 1 else 1  # a stage without expansion has no first convolution
            if part + first < len(_PARTS):
                return f"backbone.stages.{stage}.{block}.{_PARTS[part + first]}.{rest}"
    raise InputError(
        f"unknown key {key!r}", where=where, why="it is no part of the upstream FemtoDet", fix="check the file"
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            "the checkpoint cannot be read",
            where=str(path),
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="only checkpoints that hold nothing but weights and plain values are loaded",
        ) from error
    state = data.get("state_dict", data) if isinstance(data, dict) else None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError("the checkpoint holds no table of weights", where=str(path), why="state_dict is missing")
    return state
