"""Bundles in turns: who goes first, what disturbs both, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Manifest, Quality, RuntimeNeed, Source, TargetNeed, write_bundle
from edgekit.errors import EdgekitError, UsageError
from edgekit.profiler.latency import Measured
from edgekit.profiler.loops import Laps
from edgekit.profiler.steady import Steady
from edgekit.profiler.turns import Race, compare_bundles
from edgekit.spec import ModelSpec, TensorSpec

DETECTOR = Path(__file__).parents[1] / "runtimes" / "data" / "detector.onnx"


@pytest.fixture
def bundles(tmp_path):
    """Three bundles of one small model, versions 1 to 3."""
    paths = []
    for version in (1, 2, 3):
        manifest = Manifest(
            name="cells",
            version=version,
            model=ModelSpec(
                "cells",
                "tensor",
                (TensorSpec("image", "float32", ("batch", 3, 32, 32)),),
                (TensorSpec("head", "float32", ("batch", 7, 4, 4)),),
            ),
            target=TargetNeed("host", RuntimeNeed("onnxruntime", "1.0", None), "fp32"),
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
        paths.append(tmp_path / f"v{version}.edgekit")
        write_bundle(paths[-1], manifest, {"model.onnx": ("model", DETECTOR.read_bytes())}).close()
    return paths


class Machine:
    """Measures in no time: bundle k takes `levels[k]` ms, times what the machine is slowed down by at that moment."""

    def __init__(self, levels, drift=0.0, disturbed=()):
        self.levels, self.drift, self.disturbed = levels, drift, set(disturbed)
        self.turns: list[str] = []
        self.rng = np.random.default_rng(0)

    def __call__(self, task):
        name = Path(task.bundle).name
        number = len(self.turns)
        self.turns.append(name)
        slow = (1 + self.drift * number) * (3.0 if number in self.disturbed else 1.0)
        level = self.levels[int(name[1]) - 1] * slow * np.exp(0.002 * self.rng.standard_normal())
        ends = np.cumsum(1e6 * level * (1 + 0.01 * self.rng.standard_normal(200))).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1]])
        return Measured(Laps(starts, starts, ends), 10, Steady(True, 0.0, 0.0))


QUIET = Race(rounds=12, layers=False)


def test_each_is_compared_with_the_first_and_turns_are_reversed_in_every_other_round(bundles):
    machine, told = Machine([5.0, 5.0, 5.15]), []
    pairs = compare_bundles(bundles, QUIET, measure=machine, told=told.append).pairs
    assert [(one.base, one.other, one.outcome) for one in pairs] == [
        ("v1.edgekit", "v2.edgekit", "no change"),
        ("v1.edgekit", "v3.edgekit", "changed"),
    ]
    assert machine.turns[:6] == [f"v{i}.edgekit" for i in (1, 2, 3, 3, 2, 1)] and len(machine.turns) == 36
    assert told[0] == "round 1 of 12" and len(told) == 12
    assert pairs[1].method == "interleaved processes"
    assert pairs[1].ratio.low < 1.03 < pairs[1].ratio.high
    assert pairs[1].base_ms == pytest.approx(5.0, rel=0.01) and pairs[1].other_ms == pytest.approx(5.15, rel=0.01)


def test_a_machine_that_slows_down_slows_both(bundles):
    machine = Machine([5.0, 5.0, 5.15], drift=0.02)
    pairs = compare_bundles(bundles[:2], QUIET, measure=machine).pairs
    assert pairs[0].outcome != "changed"
    assert pairs[0].ratio.value == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("when", [0, 5, 23])
def test_a_disturbed_turn_changes_nothing(bundles, when):
    for levels, outcome in (([5.0, 5.0], "no change"), ([5.0, 5.15], "changed")):
        pair = compare_bundles(bundles[:2], QUIET, measure=Machine(levels, disturbed=[when])).pairs[0]
        assert pair.outcome == outcome, pair.reason


def test_what_only_the_slower_runs_show_is_found_in_the_medians(bundles):
    class Jittery(Machine):
        def __call__(self, task):
            measured = super().__call__(task)
            if Path(task.bundle).name == "v2.edgekit":
                laps = measured.laps
                late = np.arange(len(laps.end_ns)) % 10 < 6
                ends = laps.end_ns + (late * 0.2 * (laps.end_ns - laps.start_ns)).astype(np.int64)
                return Measured(Laps(laps.due_ns, laps.start_ns, ends), 10, measured.steady)
            return measured

    pair = compare_bundles(bundles[:2], QUIET, measure=Jittery([5.0, 5.0])).pairs[0]
    assert pair.outcome == "changed" and "in medians" in pair.reason
    assert pair.ratio.value == pytest.approx(1.0, abs=0.01) and pair.medians.low > 1.02


def test_the_turns_of_others_are_not_taken_for_a_change(bundles):
    """Up to 70 % of the runs of a turn lose the processor for a while, more in some turns than in others."""

    class Shared(Machine):
        def __call__(self, task):
            measured = super().__call__(task)
            laps = measured.laps
            lost = self.rng.random(len(laps.end_ns)) < self.rng.uniform(0, 0.7)
            return Measured(Laps(laps.due_ns, laps.start_ns, laps.end_ns + lost * 3_000_000), 10, measured.steady)

    for levels, outcome in (([5.0, 5.0], "no change"), ([5.0, 5.15], "changed")):
        pair = compare_bundles(bundles[:2], QUIET, measure=Shared(levels)).pairs[0]
        assert pair.outcome == outcome, pair.reason


def test_layers_and_conditions_are_those_of_the_bundles(bundles):
    pair = compare_bundles(bundles[:2], Race(rounds=6, threads=1), measure=Machine([5.0, 5.0])).pairs[0]
    assert pair.layers is not None and pair.layers_reason is None
    assert {one.name for one in pair.conditions} == {"bundle", "manifest"}
    quiet = compare_bundles(bundles[:2], Race(rounds=6, layers=False), measure=Machine([5.0, 5.0])).pairs[0]
    assert quiet.layers is None and quiet.layers_reason == "layers were not asked for"


def test_requests_that_make_no_sense_are_refused_before_anything_runs(bundles, tmp_path):
    machine = Machine([5.0, 5.0])
    with pytest.raises(UsageError, match="too few rounds"):
        Race(rounds=5)
    with pytest.raises(UsageError, match="nothing to compare"):
        compare_bundles(bundles[:1], QUIET, measure=machine)
    with pytest.raises(EdgekitError):
        compare_bundles([bundles[0], tmp_path / "none.edgekit"], QUIET, measure=machine)
    (tmp_path / "bad.edgekit").write_bytes(b"x" * 100)
    with pytest.raises(EdgekitError):
        compare_bundles([bundles[0], tmp_path / "bad.edgekit"], QUIET, measure=machine)
    assert machine.turns == []
