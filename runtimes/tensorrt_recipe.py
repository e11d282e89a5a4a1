"""`build.json` as a value: what the exporter asks of the builder on the board."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from edgekit.bundle.strictjson import parse_json
from edgekit.errors import IntegrityError
from edgekit.structure import decode

RECIPE_SCHEMA = "edgekit/tensorrt-build/2"
MAX_BYTES = 1 << 20  # a recipe has a few thousand
# Precision stands in the ONNX of a strongly typed network, and TensorRT 11 has none of these flags any more.
_PRECISION_FLAGS = ("FP16", "INT8", "BF16", "FP8", "INT4", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS")


@dataclass(frozen=True)
class Sizes:
    """An input's smallest, usual and largest shape."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        ranks = {len(self.min), len(self.opt), len(self.max)}
        ordered = all(0 <= a <= b <= c for a, b, c in zip(self.min, self.opt, self.max, strict=False))
        if len(ranks) != 1 or not ordered:
            raise ValueError(f"min {self.min}, opt {self.opt} and max {self.max} are not in ascending order")


@dataclass(frozen=True)
class Versions:
    """TensorRT versions: `min` <= version < `below`."""

    min: str
    below: str | None = None


@dataclass(frozen=True)
class Workspace:
    """Scratch memory of the builder: a share of what is free on the board when it builds, and an upper bound."""

    rule: Literal["fraction-of-free-memory"]
    fraction: float
    at_most_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"a fraction is above 0 and at most 1, not {self.fraction}")


@dataclass(frozen=True)
class Memory:
    """What the build needs by estimate (None: unknown), and what must stay free meanwhile."""

    estimate_bytes: int | None = None
    floor_bytes: int = 0


@dataclass(frozen=True)
class BuildRecipe:
    """The builder's settings. Flags are names, since their numbers differ between TensorRT 10 and 11.

    Attributes:
        builder_flags_off: flags that TensorRT sets by itself and that are cleared, such as `TF32`.
        timing_cache: the name of a file in the cache folder.
        optimization_profiles: input name to its sizes.
        trtexec: TensorRT's major version to the command that does the same; for people.
    """

    schema: Literal["edgekit/tensorrt-build/2"]
    target: str
    tensorrt: Versions
    network_flags: tuple[str, ...]
    builder_flags: tuple[str, ...]
    builder_optimization_level: int
    workspace: Workspace
    memory: Memory
    profiling_verbosity: str
    timing_cache: str
    optimization_profiles: tuple[dict[str, Sizes], ...]
    trtexec: dict[str, str] = field(default_factory=dict)
    builder_flags_off: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for flag in (*self.network_flags, *self.builder_flags, *self.builder_flags_off, self.profiling_verbosity):
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*", flag):
                raise ValueError(f"{flag!r} is no name of a flag")
        loose = [flag for flag in self.builder_flags if flag in _PRECISION_FLAGS]
        if loose:
            raise ValueError(f"{loose[0]} contradicts a strongly typed network: precision stands in the ONNX")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.timing_cache):
            raise ValueError(f"{self.timing_cache!r} is no file name")
        if not self.optimization_profiles:
            raise ValueError("an engine needs at least one optimization profile")


def parse_recipe(raw: bytes) -> BuildRecipe:
    """Read `build.json`.

    Raises:
        IntegrityError: it is not of a format that this version reads.
        InputError: naming the first field that does not fit.
    """
    if len(raw) > MAX_BYTES:
        raise IntegrityError(
            "the recipe is too large", where="build.json", why=f"{len(raw)} bytes, at most {MAX_BYTES}"
        )
    data = parse_json(raw, "build.json")
    found = data.get("schema") if isinstance(data, dict) else None
    if found != RECIPE_SCHEMA:
        raise IntegrityError(
            f"this is no recipe of the format {RECIPE_SCHEMA}",
            where="build.json",
            why=f"its schema is {str(found)[:60]!a}",
            fix="export the bundle again with the edgekit that is installed here, or upgrade edgekit",
        )
    return decode(BuildRecipe, data, "build.json")
