"""RePaViT against the plain transformer, theta 0.75, one picture: ONNX Runtime and OpenVINO, fp32 and int8.

    PYTHONPATH=tools/bench python tools/bench/repavit.py [--models deit-small,deit-base,vit-large] [--int8 deit-base]

Random weights and statistics: they decide no latency. One thread, process CPU time, all forms in turn in one process.
`folded` is the paper's form with the identity inside the matrix; `added` keeps it apart, as int8 wants; `layer` keeps a
LayerNorm without affine part; `int8` is `added` through the same calibration and lowering as any export. Speedups are
ratios of medians over the plain fp32 transformer; beside them the ratio of minima, and the speedup as a share of the
ratio of multiply-accumulates (with attention's products). Exits with 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from int8 import RUNTIMES, Forms, measure, measured_on
from int8_judge import Latencies
from torch import nn

from edgekit.compress.ptq import PtqOptions, prepare
from edgekit.compress.recipe import Recipe
from edgekit.compress.repavit import Reparameterize
from edgekit.graph.from_torch import export_torch
from edgekit.graph.graph import Graph
from edgekit.graph.qdq import lower
from edgekit.models.counts import Counts, count
from edgekit.models.feedforward import FeedForward, IdleBody
from edgekit.models.vit import vit
from edgekit.runtimes.backend import EngineRequest
from edgekit.spec import ModelSpec, TensorSpec

THETA = 0.75
SPEEDUP_BARS = {"deit-small": 1.5, "deit-base": 1.5, "vit-large": 1.6}
INT8_BARS = {"deit-base": 4.2}  # in one of the runtimes
MAC_SHARE = 0.93
SAMPLES = 8
FORMS = {"folded": ("batch", True), "added": ("batch", False), "layer": ("layer", False)}


def main(arguments: Sequence[str] | None = None) -> bool:
    """Measure and print; true where every bar is met."""
    asked = _asked(arguments)
    print(measured_on(), flush=True)
    met = [model(name, asked.runtimes, name in asked.int8) for name in asked.models]
    return all(met)


def model(name: str, runtimes: Sequence[str], int8: bool) -> bool:
    """One transformer in all its forms; true where its bars are met."""
    graphs = {"vanilla": graph_of(vit(name), None)}
    costs = {"vanilla": count(vit(name).eval(), (1, 3, 224, 224))}
    for form, (normalization, fold) in FORMS.items():
        module = drawn(vit(name, theta=THETA, normalization=normalization))
        graphs[form] = graph_of(module, Reparameterize(fold_identity=fold))
        costs[form] = count(Reparameterize(fold).apply(module, example())[0], (1, 3, 224, 224))
    met, eightfold = True, []
    for runtime in runtimes:
        forms: Forms = {(runtime, form): EngineRequest(g.serialized(), threads=1) for form, g in graphs.items()}
        if int8:
            forms |= {(runtime, f"int8 {form}"): int8_of(graphs[form], runtime) for form in ("vanilla", "added")}
        times = measure(forms, {"image": example()[0].numpy()})
        met &= _fp32_rows(name, runtime, times, costs)
        if int8:
            eightfold.append(_int8_rows(name, runtime, times))
    bar = INT8_BARS.get(name)
    if eightfold and bar is not None and max(eightfold) < bar:
        print(f"{name}: int8 at most {max(eightfold):.2f}x, bar {bar}x in one runtime  MISSED", flush=True)
        met = False
    return met


@torch.no_grad()
def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and biases as training would leave them, so that merging has something to do; returns `module`."""
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, FeedForward) and isinstance(part.body, IdleBody):
            for norm in (part.body.norm, part.body.norm2):
                if isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None:
                    norm.running_mean.normal_(0, 0.5, generator=random)
                    norm.running_var.uniform_(0.3, 2, generator=random)
        elif isinstance(part, nn.Linear) and part.bias is not None:
            part.bias.normal_(0, 0.02, generator=random)
    return module.eval()


def example() -> tuple[torch.Tensor]:
    """A drawn picture, float32 (1, 3, 224, 224)."""
    return (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)),)


def graph_of(module: nn.Module, step: Reparameterize | None) -> Graph:
    """The canonical graph for a batch of one, after `step`."""
    recipe = Recipe(() if step is None else (step,))
    deployed, _ = recipe.apply(module.eval(), example())
    inputs = (TensorSpec("image", "float32", (1, 3, 224, 224)),)
    spec = ModelSpec("vit", "classification", inputs, (TensorSpec("logits", "float32", (1, 1000)),))
    return export_torch(deployed, example(), spec, opset=20, ir_version=10)


def int8_of(graph: Graph, runtime: str) -> EngineRequest:
    """The graph in int8 for `runtime`, calibrated on drawn pictures."""
    random = np.random.default_rng(0)
    samples = [{"image": random.standard_normal((1, 3, 224, 224)).astype(np.float32)} for _ in range(SAMPLES)]
    prepared, quant = prepare(graph, samples, PtqOptions(), runtime=runtime).spec()
    return EngineRequest(lower(prepared, quant, runtime).serialized(), threads=1)


def _fp32_rows(name: str, runtime: str, times: Latencies, costs: dict[str, Counts]) -> bool:
    met = True
    for form in FORMS:
        ratio, of_minima = _ratios(times, runtime, form)
        macs = costs["vanilla"].macs_all / costs[form].macs_all
        judged = form == "folded" and name in SPEEDUP_BARS
        passed = ratio >= SPEEDUP_BARS.get(name, 0.0) and ratio >= MAC_SHARE * macs
        bar = f"bar {SPEEDUP_BARS[name]}x and {MAC_SHARE:.0%}  {'ok' if passed else 'MISSED'}" if judged else ""
        print(
            f"{name:<11} {runtime:<12} {form:<8} {_median(times, runtime, form):7.2f} ms  {ratio:.2f}x "
            f"(minima {of_minima:.2f}x), {ratio / macs:.0%} of {macs:.2f}x MACs  {bar}",
            flush=True,
        )
        met &= passed or not judged
    return met


def _int8_rows(name: str, runtime: str, times: Latencies) -> float:
    for form in ("int8 vanilla", "int8 added"):
        ratio, of_minima = _ratios(times, runtime, form)
        print(
            f"{name:<11} {runtime:<12} {form:<12} {_median(times, runtime, form):7.2f} ms  {ratio:.2f}x "
            f"(minima {of_minima:.2f}x) over vanilla fp32",
            flush=True,
        )
    return _ratios(times, runtime, "int8 added")[0]


def _median(times: Latencies, runtime: str, form: str) -> float:
    return float(np.median(times[runtime, form]))


def _ratios(times: Latencies, runtime: str, form: str) -> tuple[float, float]:
    vanilla, other = times[runtime, "vanilla"], times[runtime, form]
    return float(np.median(vanilla) / np.median(other)), float(vanilla.min() / other.min())


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(SPEEDUP_BARS), help="comma-separated names of edgekit.models.vit")
    parser.add_argument("--int8", default=",".join(INT8_BARS), help="those of them that are measured in int8 as well")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    asked = parser.parse_args(arguments)
    asked.models, asked.int8, asked.runtimes = asked.models.split(","), asked.int8.split(","), asked.runtimes.split(",")
    return asked


if __name__ == "__main__":
    sys.exit(not main())
