"""The board-side path on a real GPU with the real TensorRT. It has never run where this was written: there is neither.

Everything skips, with the reason, where `tensorrt`, `cuda-python` or a device is missing. What the doubles of
tests/doubles promise is held here against the real thing: build, check, keep, load, run, fail, and give back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import EdgekitError, GateError, InputError
from edgekit.runtimes.backend import Check, EngineRequest
from edgekit.runtimes.tensorrt import BACKEND

MODEL = Path(__file__).parents[1] / "runtimes" / "data" / "detector.onnx"
TOLERANCE = 1e-2  # fp32 on tensor cores may use TF32, with 10 bits of mantissa


@pytest.fixture(scope="module", autouse=True)
def gpu() -> Any:
    """The GPU; skips where there is none, or no TensorRT."""
    from edgekit.runtimes import cuda

    try:
        BACKEND.version()
        return cuda.gpu()
    except EdgekitError as error:
        pytest.skip(f"{error.what}: {error.why}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "edgekit" / "engines"


def pictures(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).random((count, 3, 32, 32), np.float32)}


def reference(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The detector in numpy: means of cells of 8x8 pixels, and a 1x1 convolution. See tests/runtimes/conftest.py."""
    weight = np.array([*[[0, 0, 0]] * 4, [4, 4, 4], [9, 0, -9], [-9, 0, 9]], np.float32)
    bias = np.array([0.5, 0.5, 0, 0, -2, 0, 0], np.float32)
    image = feeds["image"]
    cells = image.reshape(len(image), 3, 4, 8, 4, 8).mean(axis=(3, 5))
    return {"head": np.einsum("oc,nchw->nohw", weight, cells) + bias[:, None, None]}


def request(low: int = 1, high: int = 8, **changes: Any) -> EngineRequest:
    sizes = {"min": [low, 3, 32, 32], "opt": [low, 3, 32, 32], "max": [high, 3, 32, 32]}
    recipe = {
        "schema": "edgekit/tensorrt-build/2",
        "target": "this GPU",
        "tensorrt": {"min": "10.3", "below": None},
        "network_flags": ["STRONGLY_TYPED"],
        "builder_flags": [],
        "builder_flags_off": ["TF32"],
        "builder_optimization_level": 1,
        "workspace": {"rule": "fraction-of-free-memory", "fraction": 0.25, "at_most_bytes": 1 << 28},
        "memory": {"estimate_bytes": None, "floor_bytes": 0},
        "profiling_verbosity": "DETAILED",
        "timing_cache": "test.timing",
        "optimization_profiles": [{"image": sizes}],
    }
    feeds = pictures(low)
    checks = [Check("selftest-0", feeds, reference(feeds), TOLERANCE)]
    plain = EngineRequest(MODEL.read_bytes(), recipe=json.dumps(recipe).encode(), checks=lambda: checks)
    return replace(plain, **changes)


def close(got: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> bool:
    return bool(np.allclose(got["head"], reference(feeds)["head"], atol=TOLERANCE))


def test_an_engine_is_built_checked_kept_and_found(cache: Path) -> None:
    first = BACKEND.build(request())
    assert first.built and first.checks == 1
    assert len(list(cache.glob("*/engine.plan"))) == 1
    assert list(cache.glob("*-test.timing"))
    second = BACKEND.build(request())
    assert not second.built and second.key == first.key


def test_any_batch_within_the_profile_runs() -> None:
    engine = BACKEND.open(request())
    for seed, count in enumerate((1, 8, 3, 3)):
        feeds = pictures(count, seed)
        assert close(engine.run(feeds), feeds)
        assert engine.device_ms is not None and engine.device_ms > 0
    assert engine.graph_reason is not None
    with pytest.raises(InputError):
        engine.run(pictures(9))
    assert close(engine.run(pictures(2)), pictures(2))
    engine.close()


def test_fixed_shapes_run_as_a_graph() -> None:
    engine = BACKEND.open(request(2, 2))
    assert engine.graph_reason is None
    for seed in range(3):
        feeds = pictures(2, seed)
        assert close(engine.run(feeds), feeds)
    engine.close()
    engine.close()


def test_shared_and_copied_memory_give_the_same(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.runtimes import cuda

    BACKEND.build(request())
    for integrated in (True, False):
        monkeypatch.setattr(cuda, "gpu", lambda integrated=integrated: replace(gpu, integrated=integrated))
        engine = BACKEND.open(request())
        feeds = pictures(4)
        assert close(engine.run(feeds), feeds)
        engine.close()


def test_wrong_values_keep_no_engine(cache: Path) -> None:
    feeds = pictures(1)
    wrong = [Check("selftest-0", feeds, {"head": reference(feeds)["head"] + 1}, TOLERANCE)]
    with pytest.raises(GateError, match="does not compute"):
        BACKEND.build(request(checks=lambda: wrong))
    assert not list(cache.glob("*/engine.plan"))


@pytest.mark.parametrize("model", [b"", b"this is no model", MODEL.read_bytes()[:-40]])
def test_what_is_no_model_is_refused(model: bytes, cache: Path) -> None:
    with pytest.raises(EdgekitError) as caught:
        BACKEND.build(request(model=model))
    assert caught.value.exit_code in (2, 3)
    assert not list(cache.glob("*/engine.plan"))


def test_inner_tensors_can_be_given_out() -> None:
    from edgekit.runtimes.tensorrt_builder import BuildOrder, build_plan
    from edgekit.runtimes.tensorrt_memory import MemoryWatch, free_memory
    from edgekit.runtimes.tensorrt_recipe import parse_recipe

    made = request()
    assert made.recipe is not None
    recipe = parse_recipe(made.recipe)
    watch = MemoryWatch(recipe.memory, lambda: free_memory(integrated=False))
    result = build_plan(BuildOrder(made.model, recipe, b"", watch, mark=("cells",)))
    assert result.marked == ("cells",)


def test_an_engine_that_was_changed_is_refused(cache: Path) -> None:
    BACKEND.build(request())
    (file,) = cache.glob("*/engine.plan")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EdgekitError, match="changed or damaged"):
        BACKEND.open(request())


def test_memory_comes_back(gpu: Any) -> None:
    from edgekit.runtimes import cuda

    run: Callable[[], None] = lambda: BACKEND.open(request()).close()  # noqa: E731
    for _ in range(3):
        run()
    before = cuda.free_bytes()
    for _ in range(10):
        run()
    assert cuda.free_bytes() > before - (32 << 20)
