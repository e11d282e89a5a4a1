"""Bundles of a detector so small that it can be read: it finds cells of 8x8 pixels that are red or blue.

`data/detector.onnx` was made by onnx 1.23.2 with these lines, so that no test here needs onnx:

    weight = np.array([*[[0, 0, 0]] * 4, [4, 4, 4], [9, 0, -9], [-9, 0, 9]], np.float32).reshape(7, 3, 1, 1)
    bias = np.array([0.5, 0.5, 0, 0, -2, 0, 0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["cells"], "pool", kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Conv", ["cells", "weight", "bias"], ["head"], "head"),
        ],
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("head", TensorProto.FLOAT, ["batch", 7, 4, 4])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)

`data/classifier.onnx` likewise, of a GlobalAveragePool from "image" to "mean" and a Flatten to "logits" (batch, 3).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import Manifest, Quality, RuntimeNeed, Source, TargetNeed, write_bundle
from edgekit.spec import ModelSpec

# As every profile for OpenVINO has it: some processors compute in bf16 by default.
PINNED = {"openvino": {"INFERENCE_PRECISION_HINT": "f32"}}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, detector: Path, detector_spec: ModelSpec) -> Make:
    """Write a bundle of the detector and return its path: `make("b.edgekit", runtime="openvino", isa=("riscv64",))`."""

    def write(
        name: str = "cells",
        *,
        runtime: str = "onnxruntime",
        needs: tuple[str, str | None] = ("1.0", None),
        isa: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
        spec: ModelSpec = detector_spec,
        files: Mapping[str, tuple[str, bytes]] | None = None,
        private_key: Any = None,
        **fields: Any,
    ) -> Path:
        need = RuntimeNeed(runtime, *needs)
        manifest = Manifest(
            name="cells",
            version=1,
            model=spec,
            target=TargetNeed(
                "host", need, "fp32", isa, PINNED.get(runtime, {}) if settings is None else dict(settings)
            ),
            files=(),
            source=Source("onnx", "detector.onnx", "0" * 64),
            history=(),
            parity=(),
            quality=Quality("unknown", reason="it is a test"),
            questions=(),
            selftest=(),
            tools={},
            origins={},
        )
        contents = files if files is not None else {"model.onnx": ("model", detector.read_bytes())}
        path = tmp_path / name
        write_bundle(path, replace(manifest, **fields), contents, private_key=private_key).close()
        return path

    return write


ONE_OR_MORE = {"image": {"min": [1, 3, 32, 32], "opt": [1, 3, 32, 32], "max": [8, 3, 32, 32]}}


def build_recipe(**changes: Any) -> dict[str, Any]:
    """`build.json` of the detector for JetPack 6.2."""
    return {
        "schema": "edgekit/tensorrt-build/2",
        "target": "orin-nano",
        "tensorrt": {"min": "10.3", "below": "10.4"},
        "network_flags": ["STRONGLY_TYPED"],
        "builder_flags": [],
        "builder_optimization_level": 3,
        "workspace": {"rule": "fraction-of-free-memory", "fraction": 0.5, "at_most_bytes": None},
        "memory": {"estimate_bytes": 1 << 20, "floor_bytes": 512 << 20},
        "profiling_verbosity": "DETAILED",
        "timing_cache": "orin-nano.timing",
        "optimization_profiles": [ONE_OR_MORE],
        "trtexec": {"10": "trtexec --onnx=model.onnx --stronglyTyped", "11": "trtexec --onnx=model.onnx"},
        **changes,
    }


def pictures(count: int, seed: int = 0) -> dict[str, Any]:
    """Random input of the detector."""
    import numpy as np

    return {"image": np.random.default_rng(seed).random((count, 3, 32, 32), np.float32)}


@pytest.fixture
def truth(detector: Path) -> Callable[..., Any]:
    """What ONNX Runtime computes of the detector's tensors: `truth(feeds, "head", "cells")` by name."""
    from edgekit.runtimes.backend import EngineRequest
    from edgekit.runtimes.onnxruntime import BACKEND

    def run(feeds: Any, *names: str) -> dict[str, Any]:
        import onnxwire

        model = onnxwire.with_outputs(detector.read_bytes(), [name for name in names if name != "head"])
        return BACKEND.open(EngineRequest(model)).run(feeds)

    return run


@pytest.fixture
def marks(truth: Callable[..., Any]) -> Callable[[], bytes]:
    """`landmarks.json` of the detector on `pictures(2)`."""

    def write() -> bytes:
        import numpy as np

        from edgekit.bundle.landmarks import SCHEMA, Landmark, Landmarks, write_landmarks

        found = truth(pictures(2), "cells", "head")
        nodes = {"cells": ("pool", "AveragePool", "net.pool", "net.py:3"), "head": ("head", "Conv", None, None)}
        tensors = []
        for name, (node, operator, module, line) in nodes.items():
            flat = found[name].reshape(-1)
            at = tuple(range(0, flat.size, flat.size // 8))[:8]
            values = tuple(float(value) for value in flat[list(at)])
            largest = float(np.abs(flat).max())
            tensors.append(Landmark(name, node, operator, module, line, found[name].shape, at, values, largest))
        return write_landmarks(Landmarks(SCHEMA, 0, tuple(tensors)))

    return write


@pytest.fixture
def request_of(detector: Path, truth: Callable[..., Any]) -> Callable[..., Any]:
    """An `EngineRequest` of the detector with a self-test: `request_of(landmarks=..., builder_flags=[...])`.

    What `EngineRequest` knows goes there, the rest into the recipe; `wanted` replaces the right answer.
    """
    from edgekit.runtimes.backend import Check, EngineRequest

    def write(**changes: Any) -> Any:
        known = {name: changes.pop(name) for name in ("landmarks", "settings", "announce", "checks") if name in changes}
        feeds = pictures(2)
        wanted = changes.pop("wanted", None) or truth(feeds, "head")
        recipe = changes.pop("recipe", None) or json.dumps(build_recipe(**changes)).encode()
        asked = {"checks": lambda: [Check("selftest-0", feeds, wanted, 1e-3)], **known}
        return EngineRequest(detector.read_bytes(), outputs=("head",), recipe=recipe, **asked)

    return write
