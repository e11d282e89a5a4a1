"""How often `compare` finds one more layer of 33, and how often it calls the same bundle under another name no change.

Three bundles race in each trial: 33 equal convolutions, the same bytes again, and 34 convolutions: 3 % more work. The
true ratio is that of all trials together. Prints one line a trial; exits with 1 where fewer than 9 in 10 are right.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle import Manifest, Quality, RuntimeNeed, Source, TargetNeed, write_bundle
from edgekit.profiler.latency import Measured, Plan
from edgekit.profiler.turns import Race, compare_bundles
from edgekit.profiler.worker import Task, measure_apart
from edgekit.spec import ModelSpec, TensorSpec

LAYERS, CHANNELS, SIDE = 33, 16, 32
ENOUGH = 0.9


def main(arguments: argparse.Namespace) -> bool:
    """Race and print; true where both figures reach 9 in 10."""
    quiet: list[float] = []

    def measure(task: Task) -> Measured:
        found = measure_apart(task)
        if Path(task.bundle).name != "more":
            quiet.append(float(np.quantile(found.laps.latency_ms, 0.1)))
        return found

    race = Race(arguments.rounds, Plan(runs=arguments.runs, warmup_s=0.5), threads=1, layers=False)
    outcomes: dict[str, Counter[str]] = {"again": Counter(), "more": Counter()}
    logs: dict[str, list[float]] = {"again": [], "more": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("base", "again", "more")]
        for path, layers in zip(paths, (LAYERS, LAYERS, LAYERS + 1), strict=True):
            write(path, layers)
        for trial in range(arguments.trials):
            shown = []
            for pair in compare_bundles(paths, race, measure=measure).pairs:
                ends = "" if pair.ratio.low is None else f" [{pair.ratio.low:.4f}, {pair.ratio.high:.4f}]"
                wrong = pair.outcome == "changed" and pair.ratio.value < 1
                outcomes[pair.other]["changed the wrong way" if wrong else pair.outcome] += 1
                logs[pair.other].append(np.log(pair.ratio.value))
                shown.append(f"{pair.other} {pair.ratio.value:.4f}{ends} {pair.outcome}")
            print(f"trial {trial + 1}: {'; '.join(shown)}", flush=True)
    found, kept = outcomes["more"]["changed"] / arguments.trials, outcomes["again"]["no change"] / arguments.trials
    for name, counted in outcomes.items():
        print(f"{name}: ratio over all {np.exp(np.mean(logs[name])):.4f}, {dict(counted)}")
    apart = np.abs(np.log(np.array(quiet)[:, None] / np.array(quiet)[None, :]))[np.triu_indices(len(quiet), 1)]
    print(f"two processes of one bundle: 95 % of first deciles are within {np.exp(np.quantile(apart, 0.95)) - 1:.1%}")
    print(f"slowdown found {found:.0%}, no change kept {kept:.0%}: bar {ENOUGH:.0%} each")
    return found >= ENOUGH and kept >= ENOUGH


def write(path: Path, layers: int) -> None:
    """A bundle of so many equal 3x3 convolutions in a row."""
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(9 * CHANNELS)
    nodes, weights = [], []
    for index in range(layers):
        weight = (scale * rng.standard_normal((CHANNELS, CHANNELS, 3, 3))).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        names = [f"x{index}", f"w{index}"], [f"x{index + 1}"]
        nodes.append(helper.make_node("Conv", *names, f"conv{index}", pads=[1, 1, 1, 1]))
    shape = (1, CHANNELS, SIDE, SIDE)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    inputs, outputs = ((TensorSpec(name, "float32", shape),) for name in ("x0", f"x{layers}"))
    manifest = Manifest(
        name=path.name,
        version=1,
        model=ModelSpec("chain", "tensor", inputs, outputs),
        target=TargetNeed("host", RuntimeNeed("onnxruntime", "1.0", None), "fp32"),
        files=(),
        source=Source("onnx", path.name, "0" * 64),
        history=(),
        parity=(),
        quality=Quality("unknown", reason="a chain of random weights"),
        questions=(),
        selftest=(),
        tools={},
        origins={},
    )
    write_bundle(path, manifest, {"model.onnx": ("model", model.SerializeToString())}).close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=400)
    raise SystemExit(not main(parser.parse_args()))
