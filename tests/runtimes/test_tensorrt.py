"""Running engines, against doubles of TensorRT and CUDA: shapes, memory, graphs, and failures that return nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import SelfTest, encode_array
from edgekit.errors import GateError, InputError, MissingError, UnsupportedError, UsageError
from edgekit.runtimes.session import load
from edgekit.runtimes.tensorrt import BACKEND

Request = Callable[..., Any]
PROFILES = {
    "open": {"image": {"min": [1, 3, 32, 32], "opt": [1, 3, 32, 32], "max": [8, 3, 32, 32]}},
    "fixed": {"image": {key: [2, 3, 32, 32] for key in ("min", "opt", "max")}},
}


def pictures(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).random((count, 3, 32, 32), np.float32)}


@pytest.mark.parametrize("integrated", [True, False], ids=["integrated", "discrete"])
@pytest.mark.parametrize("profile", PROFILES)
def test_an_engine_computes_what_the_model_says(
    board: Any, request_of: Request, truth: Callable[..., Any], integrated: bool, profile: str
) -> None:
    board.become(integrated=integrated)
    engine = BACKEND.open(request_of(optimization_profiles=[PROFILES[profile]]))
    counts = (1, 8, 3, 3, 2) if profile == "open" else (2, 2, 2)
    for seed, count in enumerate(counts):
        feeds = pictures(count, seed)
        np.testing.assert_array_equal(engine.run(feeds)["head"], truth(feeds, "head")["head"])
    engine.close()
    engine.close()


def test_inputs_of_any_strides_are_taken(board: Any, request_of: Request, truth: Callable[..., Any]) -> None:
    engine = BACKEND.open(request_of())
    feeds = {"image": np.asfortranarray(pictures(4)["image"])[::2]}
    np.testing.assert_array_equal(engine.run(feeds)["head"], truth(feeds, "head")["head"])
    engine.close()


def test_outputs_belong_to_the_caller(board: Any, request_of: Request) -> None:
    engine = BACKEND.open(request_of())
    first = engine.run(pictures(2, 0))["head"]
    kept = first.copy()
    engine.run(pictures(2, 1))
    engine.close()
    np.testing.assert_array_equal(first, kept)


def test_a_graph_is_recorded_where_all_shapes_are_fixed(board: Any, request_of: Request) -> None:
    engine = BACKEND.open(request_of(optimization_profiles=[PROFILES["fixed"]]))
    before = board.switches.calls["execute_async_v3"]
    engine.run(pictures(2))
    assert board.switches.calls["execute_async_v3"] == before
    assert engine.graph_reason is None
    engine.close()


@pytest.mark.parametrize(
    ("changes", "fault", "reason"),
    [
        ({}, {}, "the batch may vary"),
        ({"optimization_profiles": [PROFILES["fixed"]], "settings": {"cuda_graph": "off"}}, {}, "cuda_graph is off"),
        ({"optimization_profiles": [PROFILES["fixed"]]}, {"capture_fails": True}, "could not be recorded"),
    ],
)
def test_there_is_a_reason_where_no_graph_is_used(
    board: Any, request_of: Request, truth: Callable[..., Any], changes: Any, fault: Any, reason: str
) -> None:
    board.become(**fault)
    engine = BACKEND.open(request_of(**changes))
    assert reason in str(engine.graph_reason)
    feeds = pictures(2)
    np.testing.assert_array_equal(engine.run(feeds)["head"], truth(feeds, "head")["head"])
    engine.close()


def test_there_is_no_time_before_the_first_run_nor_after_a_failed_one(board: Any, request_of: Request) -> None:
    BACKEND.open(request_of()).close()
    engine = BACKEND.open(request_of())  # from the cache, so that no self-test ran on it
    assert engine.device_ms is None
    engine.run(pictures(2))
    assert engine.device_ms is not None
    board.become(enqueue_fails=1)
    with pytest.raises(GateError):
        engine.run(pictures(2))
    assert engine.device_ms is None
    engine.close()


@pytest.mark.parametrize("fault", ["enqueue_fails", "run_fails"])
@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_of_a_failed_run_is_returned(board: Any, request_of: Request, fault: str, profile: str) -> None:
    if (fault, profile) == ("enqueue_fails", "fixed"):
        pytest.skip("a recorded run is not enqueued again")
    engine = BACKEND.open(request_of(optimization_profiles=[PROFILES[profile]]))
    engine.run(pictures(2))
    board.become(**{fault: 1})
    with pytest.raises(GateError, match=r"did not run the model|the GPU failed") as caught:
        engine.run(pictures(2))
    assert caught.value.exit_code == 3
    board.become(**{fault: None})
    with pytest.raises(GateError, match="did not run") as caught:
        engine.run(pictures(2))
    assert caught.value.why == "an earlier run failed"
    engine.close()


@pytest.mark.parametrize(
    ("feeds", "where"),
    [
        (pictures(9), r"image.*\(9, 3, 32, 32\)"),
        ({"image": np.ones((1, 3, 32, 31), np.float32)}, "image"),
        ({"image": np.ones((3, 32, 32), np.float32)}, "image"),
        ({"image": np.ones((1, 3, 32, 32), np.float16)}, "float16"),
        ({"picture": np.ones((1, 3, 32, 32), np.float32)}, "picture"),
        ({}, ""),
    ],
)
def test_an_input_outside_the_profile_is_refused_and_does_no_harm(
    board: Any, request_of: Request, truth: Callable[..., Any], feeds: Any, where: str
) -> None:
    engine = BACKEND.open(request_of())
    with pytest.raises(InputError, match=f"(?s)cannot run on this input.*{where}"):
        engine.run(feeds)
    good = pictures(3)
    np.testing.assert_array_equal(engine.run(good)["head"], truth(good, "head")["head"])
    engine.close()


@pytest.mark.parametrize(
    ("fault", "kind", "what"),
    [
        ({"alloc_fails": True}, MissingError, "no memory left"),
        ({"no_context": True}, MissingError, "more memory than is free"),
        ({"data_dependent": ("head",)}, UnsupportedError, "size of output 'head' depends on the data"),
        ({"run_fails": 1}, GateError, "the GPU failed"),
        ({"enqueue_fails": 1}, GateError, "did not run the model"),
        ({"no_start": True}, MissingError, "TensorRT cannot start"),
        ({"devices": 0}, MissingError, "no GPU can be used"),
        ({"no_driver": True}, MissingError, "no GPU can be used"),
    ],
)
def test_what_cannot_be_opened_says_so_and_leaves_nothing_on_the_gpu(
    board: Any, request_of: Request, fault: Any, kind: type[Exception], what: str
) -> None:
    request = request_of()
    board.become(**fault)
    with pytest.raises(kind, match=what):
        BACKEND.open(request)
    assert board.engines() == []


@pytest.mark.parametrize("module", ["tensorrt", "cuda.bindings.runtime"])
def test_a_missing_package_is_named_with_what_gets_it(
    board: Any, request_of: Request, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    request = request_of()
    import cuda.bindings
    import tensorrt  # noqa: F401  # the double imports CUDA's

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        if module != "tensorrt":
            patch.delattr(cuda.bindings, "runtime")  # an attribute would be found instead
        with pytest.raises(MissingError, match="is not installed") as caught:
            BACKEND.open(request)
    assert caught.value.exit_code == 4
    assert {"tensorrt": "python3-libnvinfer", "cuda.bindings.runtime": "cuda-python"}[module] in str(caught.value.fix)


def test_a_bundle_without_a_recipe_is_refused(board: Any, request_of: Request) -> None:
    with pytest.raises(InputError, match="no recipe"):
        BACKEND.open(replace(request_of(), recipe=None))


# --- through bundles --------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(
    make: Callable[..., Path], detector: Path, request_of: Request, truth: Callable[..., Any]
) -> Callable[..., Path]:
    """A bundle of the detector for TensorRT, with a recipe and a self-test."""

    def write(tolerance: float = 1e-3, **fields: Any) -> Path:
        feeds = pictures(2)
        files = {
            "model.onnx": ("model", detector.read_bytes()),
            "build.json": ("recipe", request_of().recipe),
            "in.npy": ("selftest", encode_array(feeds["image"])),
            "out.npy": ("selftest", encode_array(truth(feeds, "head")["head"])),
        }
        test = SelfTest({"image": "in.npy"}, {"head": "out.npy"}, tolerance, "random")
        given = {"needs": ("10.3", "10.4"), "isa": ("aarch64",), "files": files, "selftest": (test,), **fields}
        return make(runtime="tensorrt", **given)

    return write


def test_the_first_load_builds_and_the_second_finds(
    board: Any, bundle: Callable[..., Path], cells: np.ndarray, cells_found: Any
) -> None:
    stages: list[str] = []
    path = bundle()
    with load(path, announce=stages.append) as session:
        assert session.runtime == "tensorrt 10.3.0"
        assert len(session.predict(cells)) == len(cells_found)  # type: ignore[arg-type]
    assert stages[0] == "parse the model" and "run 1 self-test(s)" in stages
    board.become(build_fails="it is not to be built again")
    with load(path, announce=stages.append) as session:
        assert session.device_ms is None
        session.warmup()
        assert session.device_ms is not None
    assert len(board.engines()) == 1


def test_a_bundle_for_another_tensorrt_is_refused(board: Any, bundle: Callable[..., Path]) -> None:
    path = bundle()
    board.become(tensorrt="10.16.1")
    with pytest.raises(MissingError, match=r"needs tensorrt >= 10\.3, < 10\.4") as caught:
        load(path)
    assert "JetPack" in str(caught.value.fix)


def test_a_variant_is_built_by_its_own_recipe_and_held_to_its_own_tolerance(
    board: Any, bundle: Callable[..., Path], detector: Path, request_of: Request
) -> None:
    from edgekit.bundle import Quality, Variant, write_bundle
    from edgekit.bundle.reader import Bundle

    plain = bundle()
    with Bundle.open(plain) as opened:
        manifest, files = (
            opened.manifest,
            {entry.path: (entry.role, opened.read(entry.path)) for entry in opened.manifest.files},
        )
    weights = detector.read_bytes().replace(np.float32(9).tobytes(), np.float32(8).tobytes())
    files |= {"v/model.onnx": ("variant", weights), "v/build.json": ("variant", request_of(timing_cache="v").recipe)}
    variant = Variant(
        "int8", {"model": "v/model.onnx", "recipe": "v/build.json"}, {}, 0.5, Quality("unknown", reason="a test")
    )
    path = plain.with_name("two")
    write_bundle(path, replace(manifest, files=(), variants=(variant,)), files).close()
    with load(path, precision="int8") as session:
        assert session.precision == "int8"
    assert len(board.engines()) == 1 and list(board.cache.glob("*-v"))
    strict = plain.with_name("strict")
    changed = replace(manifest, files=(), variants=(replace(variant, tolerance=1e-3),))
    write_bundle(strict, changed, {**files, "v/build.json": ("variant", request_of(timing_cache="w").recipe)}).close()
    with pytest.raises(GateError, match="does not compute what the model did"):
        load(strict, precision="int8")
    assert len(board.engines()) == 1


def test_a_closed_session_says_so(board: Any, bundle: Callable[..., Path]) -> None:
    session = load(bundle())
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run(pictures(1))
    assert session.device_ms is None
