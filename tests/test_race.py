"""Races: every entrant runs in every round, only a certain gain over float wins, and what does not count is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit import machine, profiles, raceworker
from edgekit.bundle import MeasuredOn
from edgekit.errors import EdgekitError, InconclusiveError, InputError, MissingError, UsageError
from edgekit.race import Entrant, Lap, RaceResult, race, race_problem, ratio_interval, reference_first
from edgekit.raceworker import Runner, clock_for, interleaved
from edgekit.runtimes.backend import EngineRequest

ON = MeasuredOn("A CPU", "x86_64", "Linux 6", "onnxruntime 1", "AVX2 (all of this CPU)", 1)


def result(*laps: tuple[str, tuple[float, float, float]]) -> RaceResult:
    made = tuple(Lap(name, 1.0 / speedup[1], 1.0 / speedup[1], speedup) for name, speedup in laps)
    samples = np.ones((30, len(laps)))
    return RaceResult(made, ON, "cpu", samples, samples)


FLOAT = ("fp32", (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("others", "winner", "why"),
    [
        ([("int8", (2.1, 2.2, 2.3))], "int8", "int8 is 2.20x (2.10 to 2.30) as fast as fp32"),
        ([("int8", (0.99, 1.2, 1.4))], "fp32", "int8 is 1.20x (0.99 to 1.40) as fast as fp32: no certain gain"),
        ([("int8", (0.5, 0.6, 0.7))], "fp32", "no certain gain"),
        ([("int8", (1.0, 1.1, 1.2))], "fp32", "no certain gain"),
        ([("bf16", (1.7, 1.8, 1.9)), ("int8", (2.1, 2.2, 2.3))], "int8", "int8"),
        ([("bf16", (1.7, 1.8, 1.9)), ("int8", (0.9, 2.2, 2.3))], "bf16", "bf16"),
    ],
    ids=["faster", "uncertain", "slower", "just not", "fastest", "fastest that is certain"],
)
def test_the_fastest_whose_gain_over_float_is_certain_wins_and_else_float_stays(
    others: list[Any], winner: str, why: str
) -> None:
    found, reason = result(FLOAT, *others).winner()
    assert found == winner
    assert why in reason


def test_what_is_not_eligible_does_not_win_however_fast() -> None:
    ran = result(FLOAT, ("bf16", (1.7, 1.8, 1.9)), ("int8", (2.1, 2.2, 2.3)))
    assert ran.winner({"fp32", "bf16"})[0] == "bf16"
    assert ran.winner(set()) == ("fp32", "nothing may take the place of fp32")
    assert ran.lap("int8").speedup == (2.1, 2.2, 2.3)


times = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(1.0, 1e9))


@settings(max_examples=25)
@given(times, st.floats(0.1, 10.0), st.integers(0, 5))
def test_the_interval_holds_its_value_and_scales_with_the_times(ran: np.ndarray, factor: float, seed: int) -> None:
    other = ran[::-1].copy()
    low, value, high = ratio_interval(ran, other, seed)
    assert 0 < low <= value <= high
    np.testing.assert_allclose(ratio_interval(ran * factor, other, seed), np.array([low, value, high]) * factor)
    assert ratio_interval(ran, ran, seed) == (1.0, 1.0, 1.0)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_noise_that_all_share_leaves_the_ratio_of_pairs_certain(seed: int) -> None:
    random = np.random.default_rng(seed)
    other = random.uniform(1e6, 3e6, 60)  # a machine that is up to three times slower at times
    low, value, high = ratio_interval(2.0 * other, other, seed)
    assert low == pytest.approx(2.0) and value == pytest.approx(2.0) and high == pytest.approx(2.0)


class Clock:
    """Time that passes only while something is run; a fifth of it on the CPU."""

    def __init__(self) -> None:
        self.now = 0
        self.ran: list[str] = []

    def lap(self, name: str, cost_ns: int) -> Callable[[], None]:
        def run() -> None:
            self.now += cost_ns
            self.ran.append(name)

        return run

    def perf_counter_ns(self) -> int:
        return self.now

    def process_time_ns(self) -> int:
        return self.now // 5


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(raceworker, "time", clock)
    return clock


def test_all_run_once_a_round_in_an_order_that_changes(clock: Clock) -> None:
    samples = interleaved([clock.lap("a", 4_000_000), clock.lap("b", 2_000_000)], 40, 1.0, seed=3)
    assert samples.shape == (2, 40, 2)
    np.testing.assert_array_equal(samples[1], [[4e6, 2e6]] * 40)
    np.testing.assert_array_equal(samples[0], [[8e5, 4e5]] * 40)
    rounds = [tuple(clock.ran[i : i + 2]) for i in range(2, len(clock.ran), 2)]  # the first two are estimates
    assert set(rounds) == {("a", "b"), ("b", "a")}
    assert len(rounds) == 40


@pytest.mark.parametrize(
    ("cost_ns", "rounds"), [(20_000_000, 100), (2_000_000_000, 30), (1_000_000, 200)], ids=["budget", "least", "most"]
)
def test_there_are_as_many_rounds_as_the_budget_allows_within_bounds(clock: Clock, cost_ns: int, rounds: int) -> None:
    assert interleaved([clock.lap("a", cost_ns), clock.lap("b", cost_ns // 2)], None, 3.0, 0).shape == (2, rounds, 2)


def test_quick_models_run_several_times_a_sample_and_the_figures_are_of_one_run(clock: Clock) -> None:
    samples = interleaved([clock.lap("a", 1000), clock.lap("b", 500_000)], 30, 1.0, seed=0)
    np.testing.assert_array_equal(samples[1], [[1000, 500_000]] * 30)
    assert (clock.ran.count("a"), clock.ran.count("b")) == (1 + 30 * 1000, 1 + 30 * 2)


class Device:
    def __init__(self, *devices: str) -> None:
        self.devices = devices


@pytest.mark.parametrize(
    ("devices", "threads", "clock"), [(("cpu",), 1, "cpu"), (("cpu",), 4, "wall"), (("gpu",), 1, "wall")]
)
def test_cpu_time_is_for_one_thread_on_a_cpu(devices: tuple[str, ...], threads: int, clock: str) -> None:
    assert clock_for(Device(*devices), threads) == clock  # type: ignore[arg-type]


def test_the_reference_is_the_widest_float() -> None:
    assert reference_first(["int8", "bf16", "fp32"]) == ["fp32", "bf16", "int8"]
    assert reference_first(["int8", "fp16"]) == ["fp16", "int8"]


# --- in a process of its own, with models -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """A light and a heavy convolution of the same input, (1, 8, 16, 16) float32."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    def convolution(size: int) -> bytes:
        weight = numpy_helper.from_array(np.ones((8, 8, size, size), np.float32), "weight")
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[size // 2] * 4)],
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 16, 16])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8, 16, 16])],
            [weight],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return bytes(made.SerializeToString())

    return {"fp32": convolution(7), "int8": convolution(1)}


FEEDS = {"x": np.ones((1, 8, 16, 16), np.float32)}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_race_of_two_models_gives_figures_of_both_and_the_machine(models: dict[str, bytes], runtime: str) -> None:
    pytest.importorskip(runtime)
    entrants = [Entrant(name, EngineRequest(model, outputs=("y",))) for name, model in models.items()]
    ran = race(entrants, FEEDS, runtime, rounds=30)
    assert [lap.precision for lap in ran.laps] == ["fp32", "int8"]
    assert ran.laps[0].speedup == (1.0, 1.0, 1.0)
    assert ran.cpu_ns.shape == ran.wall_ns.shape == (30, 2)
    assert (ran.cpu_ns > 0).all() and (ran.wall_ns > 0).all()
    assert (ran.rounds, ran.clock) == (30, "cpu")
    assert ran.laps[1].latency_ms == np.median(ran.cpu_ns[:, 1]) / 1e6
    assert ran.laps[1].speedup[1] == pytest.approx(np.median(ran.cpu_ns[:, 0]) / np.median(ran.cpu_ns[:, 1]))
    assert ran.measured_on.runtime.startswith(f"{runtime} ")
    assert ran.measured_on == replace(ran.measured_on, machine=machine.machine(), system=machine.system(), threads=1)
    assert ran.measured_on.instruction_set == machine.instruction_set({})


def test_a_cap_reaches_the_process_and_is_told(models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "SSE41")
    seen: dict[str, str] = {}
    run = subprocess.run

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.update(options["env"])
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", spy)
    entrants = [Entrant(name, EngineRequest(model)) for name, model in models.items()]
    capped = race(entrants, FEEDS, "onnxruntime", {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, threads=2, rounds=2)
    assert seen["ONEDNN_MAX_CPU_ISA"] == "AVX2_VNNI"
    assert "DNNL_MAX_CPU_ISA" not in seen
    assert capped.measured_on.instruction_set == "ONEDNN_MAX_CPU_ISA=AVX2_VNNI"
    assert (capped.measured_on.threads, capped.clock) == (2, "wall")
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "SSE41"


@pytest.mark.parametrize(
    ("change", "backend", "feeds", "kind", "said"),
    [
        ({"int8": b"junk"}, "onnxruntime", FEEDS, InputError, "int8: ONNX Runtime cannot load the model"),
        ({}, "onnxruntime", {"x": np.ones(3, np.float32)}, InputError, "fp32: ONNX Runtime cannot run"),
        ({}, "tensorrt", FEEDS, MissingError, "TensorRT is not installed"),
        ({}, "onnxruntime", {"x": np.array(["text"])}, InputError, "cannot go"),
    ],
    ids=["no model", "wrong shape", "no runtime", "no numbers"],
)
def test_what_the_process_finds_comes_back_as_the_error_that_it_was(
    models: dict[str, bytes], change: dict[str, bytes], backend: str, feeds: Any, kind: type[EdgekitError], said: str
) -> None:
    pytest.importorskip("onnxruntime")
    entrants = [Entrant(name, EngineRequest(model)) for name, model in {**models, **change}.items()]
    with pytest.raises(kind, match=said) as caught:
        race(entrants, feeds, backend, rounds=2)
    assert type(caught.value) is kind


@pytest.mark.parametrize("names", [[], ["fp32"], ["fp32", "fp32"]])
def test_fewer_than_two_precisions_are_no_race(names: list[str]) -> None:
    with pytest.raises(UsageError, match="two different"):
        race([Entrant(name, EngineRequest(b"")) for name in names], {}, "onnxruntime")


TWO = [Entrant("fp32", EngineRequest(b"")), Entrant("int8", EngineRequest(b"", b"", {"A": "b"}))]


def test_a_process_that_dies_or_does_not_end_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(InconclusiveError, match="the race died") as caught:
            race(TWO, {}, "onnxruntime")
        assert "exit status 1" in str(caught.value.why)
    monkeypatch.setattr("edgekit.race.DEADLINE_S", 0.001)
    with pytest.raises(InconclusiveError, match="did not end"):
        race(TWO, {}, "onnxruntime")


def test_an_error_of_a_kind_that_is_not_ours_is_still_an_error_of_edgekit(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> Any:
        said = '{"error": "AcmeError", "what": "no licence", "where": "acme", "why": null, "fix": null}'
        Path(command[-1], "error.json").write_text(said)
        return subprocess.CompletedProcess(command, 1, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(EdgekitError, match="no licence") as caught:
        race(TWO, {}, "onnxruntime")
    assert caught.value.where == "acme"


def test_models_weights_and_settings_reach_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EngineRequest] = []

    class Recorder(Device):
        name = "recorder"

        def version(self) -> str:
            return "7"

        def open(self, request: EngineRequest) -> Any:
            asked.append(request)
            return self

        def run(self, feeds: Any) -> dict[str, Any]:
            assert feeds == {}
            return {}

        def close(self) -> None:
            asked.append(EngineRequest(b"closed"))

    monkeypatch.setattr(raceworker, "backend_named", lambda name: Recorder("cpu"))
    (tmp_path / "m").write_bytes(b"graph")
    (tmp_path / "w").write_bytes(b"numbers")
    runners = (Runner("fp32", "m"), Runner("int8", "m", "w", {"A": "b"}, ("y",)))
    order = raceworker.Order("recorder", {}, 3, 2, 1.0, 0, {}, runners)
    outcome, samples = raceworker.run(order, tmp_path)
    assert asked[:2] == [
        EngineRequest(b"graph", threads=3),
        EngineRequest(b"graph", b"numbers", {"A": "b"}, 3, ("y",)),
    ]
    assert asked[2:] == [EngineRequest(b"closed")] * 2
    assert (outcome.measured_on.runtime, samples.shape) == ("recorder 7", (2, 2, 2))


# --- what counts for which board --------------------------------------------------------------------------------------


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this machine be of another kind: `computer("x86_64", "avx2", "avx_vnni")`."""

    def become(kind: str, *flags: str) -> None:
        monkeypatch.setattr(machine, "machine", lambda: kind)
        monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags))

    return become


@pytest.mark.parametrize("name", ["snapdragon-865", "qcs6490", "orin-nano", "orin-nano-4gb-jp72"])
def test_a_race_on_x86_says_nothing_about_an_arm_board(computer: Callable[..., None], name: str) -> None:
    computer("x86_64", "avx512_vnni")
    assert race_problem(profiles.get(name)) == f"this machine is x86_64, {name} is aarch64"


def test_a_race_on_arm_counts_where_the_boards_runtime_is(computer: Callable[..., None]) -> None:
    pytest.importorskip("onnxruntime")
    computer("aarch64", "asimddp")
    assert race_problem(profiles.get("snapdragon-865")) is None
    assert "TensorRT is not installed" in str(race_problem(profiles.get("orin-nano")))
    assert race_problem(profiles.get("intel-n100")) == "this machine is aarch64, intel-n100 is x86_64"
    assert race_problem(profiles.get("host")) is None


@pytest.mark.parametrize(
    ("flags", "counts"),
    [(("avx2", "avx_vnni"), True), (("avx2", "avx512_vnni", "avx512bw"), False), (("avx2",), False)],
    ids=["AVX-VNNI", "AVX512-VNNI alone falls back to AVX2", "AVX2"],
)
def test_an_n100_is_raced_only_where_the_cap_leaves_its_own_instructions(
    computer: Callable[..., None], flags: tuple[str, ...], counts: bool
) -> None:
    pytest.importorskip("openvino")
    computer("x86_64", *flags)
    problem = race_problem(profiles.get("intel-n100"))
    assert (problem is None) is counts
    assert counts or "int8 on intel-n100 needs avx_vnni" in str(problem)


def test_bf16_counts_only_where_the_cpu_has_it(computer: Callable[..., None]) -> None:
    pytest.importorskip("openvino")
    intel = profiles.get("intel-cpu")
    computer("x86_64", "avx2", "avx_vnni")
    assert race_problem(intel) is None
    assert race_problem(intel, "int8") is None
    assert "avx512_bf16 or amx_bf16" in str(race_problem(intel, "bf16"))
    computer("x86_64", "amx_bf16")
    assert race_problem(intel, "bf16") is None


def test_a_runtime_outside_the_boards_range_does_not_count(computer: Callable[..., None]) -> None:
    pytest.importorskip("onnxruntime")
    computer("x86_64")
    old = replace(profiles.get("host"), runtime_min="0.1", runtime_below="0.2")
    assert "host has >= 0.1, < 0.2" in str(race_problem(old))


@pytest.mark.parametrize(
    ("caps", "flags", "told"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, ("avx512_vnni",), "ONEDNN_MAX_CPU_ISA=AVX2_VNNI"),
        ({"B": "2", "A": "1"}, (), "A=1, B=2"),
        ({}, ("avx2", "avx512bw", "avx512_vnni"), "AVX512_CORE_VNNI (all of this CPU)"),
        ({}, ("avx2", "avx_vnni"), "AVX2_VNNI (all of this CPU)"),
        ({}, ("avx2",), "AVX2 (all of this CPU)"),
        ({}, ("asimd", "asimddp"), "asimddp (all of this CPU)"),
        ({}, (), f"{machine.machine()} (all of this CPU)"),
    ],
)
def test_an_instruction_set_is_the_cap_or_the_highest_of_the_cpu(
    caps: dict[str, str], flags: tuple[str, ...], told: str
) -> None:
    assert machine.instruction_set(caps, flags) == told


def test_flags_are_those_that_every_core_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("Features\t: asimd asimddp\n\nFeatures\t: asimd\n")
    monkeypatch.setattr(machine, "Path", lambda path: tmp_path / Path(path).name)
    assert machine.cpu_flags() == {"asimd"}
    (tmp_path / "cpuinfo").unlink()
    assert machine.cpu_flags() == frozenset()
