"""Building engines, against doubles of TensorRT and CUDA: what is kept, what is refused, and who is told why."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import (
    EdgekitError,
    GateError,
    InconclusiveError,
    InputError,
    IntegrityError,
    MissingError,
    UnsupportedError,
)
from edgekit.runtimes.backend import Builder
from edgekit.runtimes.onnxruntime import BACKEND as ORT
from edgekit.runtimes.openvino import BACKEND as OPENVINO
from edgekit.runtimes.tensorrt import BACKEND
from edgekit.runtimes.tensorrt_memory import free_memory, workspace_bytes
from edgekit.runtimes.tensorrt_recipe import Workspace

Request = Callable[..., Any]


def test_only_tensorrt_builds() -> None:
    assert isinstance(BACKEND, Builder)
    assert not isinstance(ORT, Builder) and not isinstance(OPENVINO, Builder)


def test_an_engine_is_built_once_checked_and_kept(board: Any, request_of: Request) -> None:
    stages: list[str] = []
    first = BACKEND.build(request_of(announce=stages.append))
    assert (first.built, first.reason, first.checks) == (True, "none was there", 1)
    assert first.relative is not None and first.relative <= 1e-3
    (engine,) = board.engines()
    assert engine.stat().st_size == first.size_bytes and str(engine.parent) == first.path and first.key in first.path
    assert stages == [
        *("parse the model", "build the engine", "Building Engine from Subgraph, 4 steps"),
        *("run 1 self-test(s)", "keep the engine"),
    ]
    second = BACKEND.build(request_of())
    assert (second.built, second.reason, second.checks, second.seconds) == (False, "it was in the cache", 1, None)
    third = BACKEND.build(request_of(), force=True)
    assert (third.built, third.reason, third.key) == (True, "it was asked for", first.key)
    assert board.engines() == [engine]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"tensorrt": "10.3.1"}, "TensorRT: built for 10.3.0, here is 10.3.1"),
        ({"capability": (9, 0)}, "compute capability: built for 8.7, here is 9.0"),
        ({"sm_count": 4}, "multiprocessors (power mode): built for 8, here is 4"),
        ({"driver": 13020}, "CUDA: built for 12.6, here is 13.2"),
    ],
)
def test_another_machine_builds_its_own_and_says_why(
    board: Any, request_of: Request, fault: dict[str, Any], said: str
) -> None:
    request = request_of()
    key = BACKEND.build(request).key
    board.become(**fault)
    other = BACKEND.build(request)
    assert other.built and other.key != key
    assert other.reason == f"an engine of this model is here, but {said}"
    assert len(board.engines()) == 2


def test_without_self_tests_nothing_is_kept(board: Any, request_of: Request, truth: Callable[..., Any]) -> None:
    engine = BACKEND.open(replace(request_of(), checks=None))
    feeds = {"image": np.ones((1, 3, 32, 32), np.float32)}
    np.testing.assert_array_equal(engine.run(feeds)["head"], truth(feeds, "head")["head"])
    engine.close()
    assert board.engines() == []


# --- wrong values -----------------------------------------------------------------------------------------------------


def test_wrong_values_keep_no_engine_and_name_the_layer(
    board: Any, request_of: Request, marks: Callable[[], bytes]
) -> None:
    request = request_of(landmarks=marks())
    board.become(wrong_from="cells")
    with pytest.raises(GateError, match="does not compute what the model did") as caught:
        BACKEND.build(request)
    assert caught.value.exit_code == 3
    why = str(caught.value.why)
    assert "selftest-0, output 'head': relative deviation" in why
    assert "the first to deviate is tensor 'cells' of node 'pool' (AveragePool) of module 'net.pool' (net.py:3)" in why
    assert board.engines() == []
    with pytest.raises(GateError):
        BACKEND.open(request)
    assert board.engines() == []


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"nan_from": "cells"}, "NaN or infinity where the reference has something else; allowed is 0.001"),
        ({"wrong_from": "head"}, "the first to deviate is tensor 'head' of node 'head' (Conv)"),
        ({"wrong_from": "cells", "only_fused": True}, "the fault is in how layers are fused"),
    ],
)
def test_other_faults_are_told_apart(
    board: Any, request_of: Request, marks: Callable[[], bytes], fault: dict[str, Any], said: str
) -> None:
    request = request_of(landmarks=marks())
    board.become(**fault)
    with pytest.raises(GateError) as caught:
        BACKEND.build(request)
    assert said in str(caught.value.why)
    assert board.engines() == []


def test_a_fault_after_the_last_landmark_is_said_to_be_there(
    board: Any, request_of: Request, marks: Callable[[], bytes]
) -> None:
    document = json.loads(marks())
    document["tensors"].pop()
    request = request_of(landmarks=json.dumps(document).encode())
    board.become(wrong_from="head")
    with pytest.raises(GateError, match="none of the 1 inner tensors deviates"):
        BACKEND.build(request)


@pytest.mark.parametrize(
    ("landmarks", "said"),
    [
        (None, "the bundle has no landmarks"),
        (b"{}", "could not be found: missing field"),
        (b'{"schema": "edgekit/landmarks/1", "selftest": 7, "tensors": []}', "of a self-test that is not there"),
    ],
)
def test_a_breach_is_told_where_the_layer_cannot_be_found(
    board: Any, request_of: Request, landmarks: bytes | None, said: str
) -> None:
    request = request_of(landmarks=landmarks)
    board.become(wrong_from="cells")
    with pytest.raises(GateError, match="does not compute what the model did") as caught:
        BACKEND.build(request)
    assert said in str(caught.value.why)


def test_an_engine_that_fails_when_it_is_checked_again_is_deleted(
    board: Any, request_of: Request, truth: Callable[..., Any]
) -> None:
    request = request_of()
    BACKEND.build(request)
    wrong = {"head": np.zeros((2, 7, 4, 4), np.float32)}
    with pytest.raises(GateError, match="does not compute"):
        BACKEND.build(request_of(wanted=wrong))
    assert board.engines() == []
    BACKEND.build(request)
    board.become(enqueue_fails=1)
    with pytest.raises(GateError, match="did not run"):
        BACKEND.build(request)


# --- what TensorRT refuses --------------------------------------------------------------------------------------------


def test_the_parser_names_the_node_that_it_refuses(board: Any, request_of: Request) -> None:
    request = request_of()
    board.become(refuse=("AveragePool",))
    with pytest.raises(UnsupportedError, match=r"does not take 1 node\(s\)") as caught:
        BACKEND.build(request)
    assert caught.value.exit_code == 3
    assert caught.value.where == "AveragePool pool"
    assert "No importer registered for op: AveragePool" in str(caught.value.why)
    assert board.engines() == []


def test_a_file_that_is_no_model_is_refused(board: Any, request_of: Request) -> None:
    with pytest.raises(UnsupportedError, match="parser does not take") as caught:
        BACKEND.build(replace(request_of(), model=b"this is no model"))
    assert "Failed to parse ONNX model" in str(caught.value.why)


def test_what_edgekits_rules_call_unsupported_the_double_refuses(board: Any, request_of: Request) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    tensors = [helper.make_tensor_value_info(name, 1, [1, 3, 32, 32]) for name in ("image", "head")]
    node = helper.make_node("NoSuchOperator", ["image"], ["head"], "odd", domain="")
    model = helper.make_model(
        helper.make_graph([node], "g", tensors[:1], tensors[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    request = replace(request_of(), model=model.SerializeToString())
    with pytest.raises(UnsupportedError) as caught:
        BACKEND.build(request)
    assert caught.value.where == "NoSuchOperator odd"


@pytest.mark.parametrize(
    ("log", "kind", "said"),
    [
        ("Error Code 10: Could not find any implementation for node {pool}", UnsupportedError, "node {pool}"),
        ("Error Code 2: OutOfMemory (Requested size was 4096 bytes.)", MissingError, "OutOfMemory"),
    ],
)
def test_the_builders_errors_come_out(
    board: Any, request_of: Request, log: str, kind: type[EdgekitError], said: str
) -> None:
    request = request_of()
    board.become(build_fails=log)
    with pytest.raises(kind) as caught:
        BACKEND.build(request)
    assert said in str(caught.value.why)
    assert board.engines() == []


@pytest.mark.parametrize(
    ("recipe", "kind", "said"),
    [
        ({"builder_flags": ["NO_SUCH_FLAG"]}, UnsupportedError, "has no builder flag NO_SUCH_FLAG"),
        ({"network_flags": ["NO_SUCH_FLAG"]}, UnsupportedError, "has no network flag NO_SUCH_FLAG"),
        ({"profiling_verbosity": "LOUD"}, UnsupportedError, "has no profiling verbosity LOUD"),
        ({"builder_flags": ["FP16"]}, InputError, "FP16 contradicts a strongly typed network"),
        ({"builder_flags": ["__class__"]}, InputError, "no name of a flag"),
        ({"timing_cache": "../../x"}, InputError, "no file name"),
        ({"schema": "edgekit/tensorrt-build/1"}, IntegrityError, "no recipe of the format"),
        ({"surprise": 1}, InputError, "unknown field 'surprise'"),
        ({"optimization_profiles": []}, InputError, "at least one optimization profile"),
        ({"workspace": {"rule": "fraction-of-free-memory", "fraction": 1.5}}, InputError, "a fraction is"),
        ({"optimization_profiles": [{"x": {"min": [1], "opt": [1], "max": [1]}}]}, UnsupportedError, "does not fit"),
        (
            {"optimization_profiles": [{"image": {"min": [2, 1], "opt": [1, 1], "max": [3, 1]}}]},
            InputError,
            "ascending order",
        ),
        (
            {"optimization_profiles": [{"image": {k: [1, 3, 32, 33] for k in ("min", "opt", "max")}}]},
            UnsupportedError,
            "cannot build the model",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    board: Any, request_of: Request, recipe: dict[str, Any], kind: type[EdgekitError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        BACKEND.build(request_of(**recipe))
    assert board.engines() == []


def test_flags_are_set_and_cleared_by_name(board: Any, request_of: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    seen = []
    plain = tensorrt.Builder.build_serialized_network

    def spy(self: Any, network: Any, config: Any) -> Any:
        seen.append({flag.name for flag in config._flags})
        return plain(self, network, config)

    monkeypatch.setattr(tensorrt.Builder, "build_serialized_network", spy)
    BACKEND.build(request_of(builder_flags=["SPARSE_WEIGHTS"], builder_flags_off=["TF32"]))
    assert seen == [{"SPARSE_WEIGHTS"}]


def test_tensorrt_11_needs_no_flag_for_typed_networks(board: Any, request_of: Request) -> None:
    board.become(tensorrt="11.4.0")
    request = request_of(tensorrt={"min": "10.3", "below": None})
    assert BACKEND.build(request).built


def test_tensorrt_10_is_told_that_the_network_is_typed(board: Any, request_of: Request) -> None:
    with pytest.raises(UnsupportedError, match="cannot build") as caught:
        BACKEND.build(request_of(network_flags=[]))
    assert "strongly typed" in str(caught.value.why)


# --- memory, time, and the user ---------------------------------------------------------------------------------------


def test_too_little_memory_is_said_before_anything_is_built(board: Any, request_of: Request) -> None:
    request = request_of(memory={"estimate_bytes": 600 << 20, "floor_bytes": 512 << 20})
    board.free(1100)
    with pytest.raises(MissingError, match="too little memory") as caught:
        BACKEND.build(request)
    assert caught.value.exit_code == 4
    assert caught.value.where == "1100 MiB free"
    board.free(1113)
    assert BACKEND.build(request).built


def test_a_build_stops_when_memory_runs_low(board: Any, request_of: Request) -> None:
    request = request_of()
    board.become(on_step=lambda: board.free(100))
    with pytest.raises(MissingError, match="stopped: memory ran low") as caught:
        BACKEND.build(request)
    assert caught.value.where == "100 MiB free"
    assert board.engines() == []


def test_on_a_discrete_gpu_its_own_memory_counts(board: Any, request_of: Request) -> None:
    board.free(10)
    board.become(integrated=False, memory=4 << 30)
    found = BACKEND.build(request_of())
    assert found.notes[0] == "workspace 2048 MiB: 50% of 4096 MiB free"
    assert free_memory(integrated=True) == 10 << 20


def test_the_drivers_count_stands_in_where_the_kernel_does_not_tell(board: Any) -> None:
    board.become(memory=123)
    board.meminfo.write_text("MemTotal: 5 kB\n")
    assert free_memory(integrated=True) == 123
    board.meminfo.unlink()
    assert free_memory(integrated=True) == 123


def test_the_workspace_is_a_share_with_a_bound() -> None:
    rule = Workspace("fraction-of-free-memory", 0.25)
    assert workspace_bytes(rule, 1000) == 250
    assert workspace_bytes(replace(rule, at_most_bytes=100), 1000) == 100


def test_ctrl_c_stops_the_build_and_is_no_crash(board: Any, request_of: Request) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only, and this worker runs tests in another")
    request = request_of()
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:  # what the kernel would call; a real signal could reach another handler of the worker's
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler) and handler is not before
        handler(signal.SIGINT, None)

    board.become(on_step=interrupt)
    with pytest.raises(InconclusiveError, match="the build was stopped") as caught:
        BACKEND.build(request)
    assert caught.value.exit_code == 5
    assert signal.getsignal(signal.SIGINT) is before
    assert board.engines() == []


def test_a_failure_in_a_callback_does_not_cross_tensorrt(board: Any, request_of: Request) -> None:
    def tell(stage: str) -> None:
        if "steps" in stage:
            raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        BACKEND.build(request_of(announce=tell))
    assert board.engines() == []


def test_the_builder_gets_the_threads(board: Any, request_of: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    made = []
    plain = tensorrt.Builder.create_network

    def spy(self: Any, flags: int = 0) -> Any:
        made.append(self.max_threads)
        return plain(self, flags)

    monkeypatch.setattr(tensorrt.Builder, "create_network", spy)
    BACKEND.build(replace(request_of(), threads=3))
    assert made == [3]


# --- what was learned about kernels -----------------------------------------------------------------------------------


def timing_files(board: Any) -> list[Path]:
    return sorted(board.cache.glob("*.timing"))


def test_the_timing_cache_grows_from_build_to_build(board: Any, request_of: Request) -> None:
    BACKEND.build(request_of())
    (file,) = timing_files(board)
    assert file.name.endswith("-orin-nano.timing")
    assert file.read_bytes() == b"a kernel "
    assert BACKEND.build(request_of(), force=True).notes == ("workspace 3072 MiB: 50% of 6144 MiB free",)
    assert file.read_bytes() == b"a kernel a kernel "
    board.become(sm_count=4)
    BACKEND.build(request_of())
    assert len(timing_files(board)) == 2


def test_a_timing_cache_that_is_not_usable_is_left_aside(board: Any, request_of: Request) -> None:
    BACKEND.build(request_of())
    board.become(timing_refused=True)
    assert "the timing cache was not usable" in BACKEND.build(request_of(), force=True).notes
    (file,) = timing_files(board)
    assert file.read_bytes() == b"a kernel "
    board.become(timing_refused=False)
    file.chmod(0o666)
    found = BACKEND.build(request_of(), force=True)
    assert any("the timing cache was not used: others can write" in note for note in found.notes)
    assert file.stat().st_mode & 0o777 == 0o600
