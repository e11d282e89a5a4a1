"""All twins by name. A twin is not a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from intel_n100 import intel_n100
from orin_nano import orin_nano
from snapdragon import snapdragon
from tree import Tree, build

TWINS: dict[str, Callable[[], Tree]] = {
    "orin-nano-jp5": partial(orin_nano, 5),
    "orin-nano-jp6": partial(orin_nano, 6),
    "orin-nano-jp6-pinned": partial(orin_nano, 6, pinned=True),
    "orin-nano-jp6-soc-fails": partial(orin_nano, 6, failing=(3,)),
    "orin-nano-jp7": partial(orin_nano, 7),
    "intel-n100": intel_n100,
    "intel-n100-roots-alone": partial(intel_n100, readable=False),
    "snapdragon-ua-negative": partial(snapdragon, "uA", -1),
    "snapdragon-ua-positive": partial(snapdragon, "uA", 1),
    "snapdragon-ma-negative": partial(snapdragon, "mA", -1),
    "snapdragon-ma-positive": partial(snapdragon, "mA", 1),
    "snapdragon-charging": partial(snapdragon, status="Charging"),
}


def build_twin(name: str, folder: Path) -> Path:
    """Build the twin of that name as a folder of its own below `folder`."""
    return build(folder / name, TWINS[name]())
