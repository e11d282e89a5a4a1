"""The recipe that a TensorRT bundle carries: builder settings as data, and the same as command lines for `trtexec`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.profiles import DeviceProfile
from edgekit.spec import ModelSpec

BUILD_SCHEMA = "edgekit/tensorrt-build/2"
# Sizes of a symbolic batch dimension in the optimization profile: minimum, optimum, maximum.
BATCH = (1, 1, 8)
# Of the memory free when the board builds: CPU and GPU share it, and the builder needs room beside its workspace.
WORKSPACE_FRACTION = 0.5
# A build is stopped when less than this is left: the system's own processes live in the same memory.
FLOOR_BYTES = 512 * 2**20
# The builder's default, of 0 to 5 (TensorRT API, IBuilderConfig.builder_optimization_level).
OPTIMIZATION_LEVEL = 3
# trtexec of TensorRT 10 wants to be told; 11 knows strongly typed networks only (NVIDIA, migration guide 10 to 11).
_TRTEXEC = {"10": ("--stronglyTyped",), "11": ()}
_MIB_FREE = f"$(awk '/MemAvailable/ {{print int($2 / 1024 * {WORKSPACE_FRACTION})}}' /proc/meminfo)"

Shapes = Mapping[str, Mapping[str, list[int]]]


def recipe_json(spec: ModelSpec, profile: DeviceProfile, estimate_bytes: int) -> bytes:
    """The file `build.json`, read by `edgekit build` on the board.

    Strongly typed networks need a flag on TensorRT 10 and are the only kind on 11; precision stands in the ONNX file.

    Args:
        estimate_bytes: what the weights and the live activations of the largest batch take, estimated.
    """
    shapes = optimization_profile(spec)
    cache = f"{profile.name}.timing"
    recipe = {
        "schema": BUILD_SCHEMA,
        "target": profile.name,
        "tensorrt": {"min": profile.runtime_min, "below": profile.runtime_below},
        "network_flags": ["STRONGLY_TYPED"],
        "builder_flags": [],
        "builder_flags_off": ["TF32"],  # on by itself; what the file keeps in fp32 is meant so
        "builder_optimization_level": OPTIMIZATION_LEVEL,
        "profiling_verbosity": "DETAILED",
        "workspace": {"rule": "fraction-of-free-memory", "fraction": WORKSPACE_FRACTION, "at_most_bytes": None},
        "memory": {"estimate_bytes": estimate_bytes, "floor_bytes": FLOOR_BYTES},
        "timing_cache": cache,
        "optimization_profiles": [shapes],
        "trtexec": {version: trtexec(version, shapes, cache) for version in _TRTEXEC},
    }
    return (json.dumps(recipe, indent=1, sort_keys=True) + "\n").encode()


def optimization_profile(spec: ModelSpec) -> dict[str, dict[str, list[int]]]:
    """Input to its smallest, usual and largest shape; all three are equal where no dimension is open."""
    return {
        tensor.name: {
            label: [dim if isinstance(dim, int) else size for dim in tensor.shape]
            for label, size in zip(("min", "opt", "max"), BATCH, strict=True)
        }
        for tensor in spec.inputs
    }


def trtexec(version: str, shapes: Shapes, timing_cache: str) -> str:
    """The same build by NVIDIA's own tool, for a shell on the board that resolves the workspace there.

    Args:
        version: TensorRT's major version, `10` or `11`.
    """
    options: list[Any] = [
        "--onnx=model.onnx",
        *_TRTEXEC[version],
        f"--memPoolSize=workspace:{_MIB_FREE}M",
        f"--builderOptimizationLevel={OPTIMIZATION_LEVEL}",
        f"--timingCacheFile={timing_cache}",
        "--profilingVerbosity=detailed",
        "--noTF32",
    ]
    if any(shape["min"] != shape["max"] for shape in shapes.values()):
        options += [f"--{label}Shapes={_shapes(shapes, label)}" for label in ("min", "opt", "max")]
    return " ".join(["trtexec", *options, "--saveEngine=model.engine", "--skipInference"])


def _shapes(shapes: Shapes, label: str) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape[label]))}" for name, shape in shapes.items())
