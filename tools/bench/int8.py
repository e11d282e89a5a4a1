"""Int8 against float and against its peers, in ONNX Runtime and OpenVINO: latency, then accuracy.

    PYTHONPATH=tools/bench python tools/bench/int8.py [--models resnet50,cifar_deit,fastestdet] [--no-nncf] [--all]

Random-weight models of ImageNet's shapes are timed, those trained on CIFAR-10 are scored, detectors are both. One
thread, process CPU time, all entrants in turn in one process, f32 pinned in OpenVINO. Peers calibrate on the same
samples. Accuracy is judged by the paired bootstrap: a bar that the samples cannot decide is INCONCLUSIVE. Exits with 1
where a bar is missed.

Ours has two forms. `all int8` has every layer in int8 that can be, as the peers have: it is held against them.
`published`, of the detectors, is the bundle of `edgekit export --precision int8 --allow-slower`, whose search may have
returned layers to float until the held-out samples said yes. Its accuracy is what the bars of points are for; how often
the samples were asked stands beside it, and no bound is corrected for that. Against the peers its latency is judged as
well, its accuracy is not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

import cifar10
import numpy as np
import peers
import zoo
from detectors import DETECTORS, Detector, publish
from int8_judge import Latencies, Table

from edgekit import machine
from edgekit.compress.calibration import samples_of
from edgekit.compress.ptq import PtqOptions, prepare
from edgekit.errors import GateError, InconclusiveError
from edgekit.evaluate.bootstrap import share_drop
from edgekit.evaluate.evaluate import answers, drop, score
from edgekit.graph.graph import Graph
from edgekit.graph.qdq import lower
from edgekit.raceworker import LEAST_ROUNDS, LEAST_SAMPLE_NS, MOST_ROUNDS, WARMUP
from edgekit.runtimes.backend import Engine, EngineRequest
from edgekit.runtimes.session import backend_named
from edgekit.sources import open_source

RUNTIMES = ("onnxruntime", "openvino")
NAMES = (*zoo.NAMES, *DETECTORS)
TRANSFORMERS = ("deit_s", "cifar_deit")

SPEEDUP_BARS = {
    ("resnet50", "onnxruntime"): 3.2,
    ("resnet50", "openvino"): 3.4,
    ("mobilenetv2", "onnxruntime"): 2.2,
    ("mobilenetv2", "openvino"): 2.5,
    ("deit_s", "onnxruntime"): 2.2,
    ("deit_s", "openvino"): 2.6,
}
DROP_BARS = {"cifar_deit": 0.5}
"""Points of top-1 that may be lost; the other classifiers are held against their peers alone."""

TIMED_SAMPLES, CIFAR_SAMPLES, DETECTOR_SAMPLES = 8, 256, 128
BUDGET_S = 30.0
BATCH = 64

Feeds = Mapping[str, np.ndarray]
Forms = dict[tuple[str, str], EngineRequest]
"""By runtime and by who quantized: `fp32`, `ours` (all int8), `published`, `quantize_static`, `nncf`."""
OURS = ("ours", "published")


def main(arguments: Sequence[str] | None = None) -> bool:
    """Measure and print; true where no bar is missed."""
    asked = _asked(arguments)
    print(measured_on(), flush=True)
    table = Table()
    for name in (name for name in asked.models if name in zoo.RANDOM):
        time_random(table, name, asked.nncf)
    for name in (name for name in asked.models if name in DETECTORS):
        detector(table, name, asked.nncf)
    for name in (name for name in asked.models if name in zoo.TRAINED):
        score_trained(table, name, asked.nncf, None if asked.all else asked.images)
    return table.close()


def measured_on() -> str:
    """The machine and what ran on it, in a line."""
    versions = ", ".join(f"{name} {backend_named(name).version()}" for name in RUNTIMES)
    cpu, isa = machine.machine_names()[0], machine.instruction_set({})
    return f"measured_on: {cpu}, {isa}, {machine.system()}; {versions}, {peers.NNCF}; 1 thread, process CPU time"


def time_random(table: Table, name: str, with_nncf: bool) -> None:
    """Part A: the latency of one model with random weights."""
    graph, shape = _zoo_graph(name)
    random = np.random.default_rng(0)
    samples = [{"image": random.standard_normal((1, *shape)).astype(np.float32)} for _ in range(TIMED_SAMPLES)]
    forms = int8_forms(graph, samples, name in TRANSFORMERS, with_nncf)
    times = measure(forms, samples[0])
    for runtime in RUNTIMES:
        table.speedup(name, runtime, times, SPEEDUP_BARS[name, runtime])
        for form, who in _pairs(forms, runtime):
            table.against_peer(name, runtime, times, who, form)


def detector(table: Table, name: str, with_nncf: bool) -> None:
    """Parts B and C: a detector, its latency in each precision, and its AP50 on held-out pictures."""
    subject = DETECTORS[name]()
    graph, _ = subject.parent.to_graph(subject.spec, None, 20, 10)
    samples = list(samples_of(subject.calibration, subject.spec, DETECTOR_SAMPLES))
    forms = int8_forms(graph, samples, False, with_nncf) | published_forms(table, subject)
    bf16 = EngineRequest(graph.serialized(), settings={"INFERENCE_PRECISION_HINT": "bf16"}, threads=1)
    times = measure({**forms, ("openvino", "bf16"): bf16}, samples[0])
    for runtime in RUNTIMES:
        table.race(name, runtime, times)
        for form, who in _pairs(forms, runtime):
            table.against_peer(name, runtime, times, who, form)
    score_detector(table, subject, forms)


def published_forms(table: Table, subject: Detector) -> Forms:
    """What the export publishes for each runtime; where it publishes nothing, the table says so."""
    forms: Forms = {}
    for runtime in RUNTIMES:
        try:
            found = publish(subject, runtime, DETECTOR_SAMPLES)
        except (GateError, InconclusiveError) as error:
            table.refused(subject.name, runtime, error)
            continue
        table.published(subject.name, runtime, found)
        forms[runtime, "published"] = found.form
    return forms


def score_detector(table: Table, subject: Detector, forms: Forms) -> None:
    """AP50 of every form, its drop from fp32 in the same runtime, and ours against the peers'."""
    name, spec, data = subject.name, subject.spec, subject.held_out
    said = {key: answers(_open(key, form).run, spec, data) for key, form in forms.items()}
    for key in forms:
        runtime, who = key
        value = score(spec, said[key], data).value
        bar = subject.max_drop if who == "published" else None
        table.drop(name, runtime, who, value, drop(spec, said[runtime, "fp32"], said[key], data), bar)
    for runtime in RUNTIMES:
        for form, who in _pairs(forms, runtime):
            lost = drop(spec, said[runtime, who], said[runtime, form], data)
            table.drop_against_peer(name, runtime, who, lost, form)


def score_trained(table: Table, name: str, with_nncf: bool, images: int | None) -> None:
    """Part B: top-1 on CIFAR-10's test pictures, the first `images` of them."""
    graph, _ = _zoo_graph(name)
    count = 50_000
    train = cifar10.normalise(cifar10.load("train", step=count // CIFAR_SAMPLES)[0])[:CIFAR_SAMPLES]
    pictures, labels = cifar10.load("test", stop=images)
    inputs = cifar10.normalise(pictures)
    samples = [{"image": train[i : i + 1]} for i in range(len(train))]
    forms = int8_forms(graph, samples, name in TRANSFORMERS, with_nncf)
    right = {key: (_classes(_open(key, form), inputs) == labels).tolist() for key, form in forms.items()}
    for (runtime, who), hits in right.items():
        bar = DROP_BARS.get(name) if who == "ours" else None
        table.drop(name, runtime, who, 100 * float(np.mean(hits)), share_drop(right[runtime, "fp32"], hits), bar)
    for runtime in RUNTIMES:
        for form, who in _pairs(forms, runtime):
            table.drop_against_peer(name, runtime, who, share_drop(right[runtime, who], right[runtime, form]), form)


def int8_forms(graph: Graph, samples: Sequence[Feeds], transformer: bool, with_nncf: bool) -> Forms:
    """The float model and everybody's int8 of it; `quantize_static` in OpenVINO as well, since users run it there."""
    model = graph.serialized()
    static = peers.quantize_static(model, samples)
    forms: Forms = {}
    for runtime in RUNTIMES:
        prepared, quant = prepare(graph, samples, PtqOptions(), runtime=runtime).spec()
        forms[runtime, "fp32"] = EngineRequest(model, threads=1)
        forms[runtime, "ours"] = EngineRequest(lower(prepared, quant, runtime).serialized(), threads=1)
        forms[runtime, "quantize_static"] = EngineRequest(static, threads=1)
    if with_nncf:
        xml, weights = peers.nncf_int8(model, samples, transformer)
        forms["openvino", "nncf"] = EngineRequest(xml, weights, threads=1)
    return forms


def _pairs(forms: Forms, runtime: str) -> list[tuple[str, str]]:
    """Each form of ours with each peer's."""
    names = [who for at, who in forms if at == runtime and who != "fp32"]
    return [(form, who) for form in OURS if form in names for who in names if who not in OURS]


def measure(forms: Forms, feeds: Feeds) -> Latencies:
    """Milliseconds of process CPU time, float64 (rounds,), of every form, one each a round, in drawn order.

    An untimed call goes before each timed one, since a model in use finds its weights in the caches that it left, and
    not those of six others. Quick models are called several times a sample, as in `edgekit.raceworker`.
    """
    engines = {key: _open(key, form) for key, form in forms.items()}
    for engine in engines.values():
        for _ in range(WARMUP):
            engine.run(feeds)
    single = {key: _sample(engine, feeds, 1) for key, engine in engines.items()}
    repeats = {key: max(1, round(LEAST_SAMPLE_NS / 1e6 / each)) for key, each in single.items()}
    round_s = sum((1 + repeats[key]) * single[key] for key in engines) / 1e3
    rounds = int(np.clip(BUDGET_S / round_s, LEAST_ROUNDS, MOST_ROUNDS))
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in engines}
    order, random = list(engines), np.random.default_rng(0)
    for _ in range(rounds):
        for index in random.permutation(len(order)):
            key = order[index]
            engines[key].run(feeds)
            taken[key].append(_sample(engines[key], feeds, repeats[key]))
    for engine in engines.values():
        engine.close()
    return {key: np.array(each) for key, each in taken.items()}


def _sample(engine: Engine, feeds: Feeds, repeats: int) -> float:
    start = time.process_time_ns()
    for _ in range(repeats):
        engine.run(feeds)
    return (time.process_time_ns() - start) / 1e6 / repeats


def _open(key: tuple[str, str], form: EngineRequest) -> Engine:
    return backend_named(key[0]).open(form)


def _classes(engine: Engine, inputs: np.ndarray) -> np.ndarray:
    """The best class of each picture, int64 (n,)."""
    best = []
    for start in range(0, len(inputs), BATCH):
        (logits,) = engine.run({"image": inputs[start : start + BATCH]}).values()
        best.append(np.asarray(logits).argmax(axis=1))
    engine.close()
    return np.concatenate(best)


def _zoo_graph(name: str) -> tuple[Graph, tuple[int, ...]]:
    parent = open_source(f"zoo:{name}", trust_code=True)
    _, spec = zoo.model(name)
    shape = tuple(dim for dim in spec.inputs[0].shape[1:] if isinstance(dim, int))
    return parent.to_graph(spec, None, 20, 10)[0], shape


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(NAMES), help="comma-separated, of " + ", ".join(NAMES))
    parser.add_argument("--no-nncf", dest="nncf", action="store_false", help="without NNCF, which is downloaded")
    parser.add_argument("--images", type=int, default=2000, help="CIFAR-10's test pictures to score")
    parser.add_argument("--all", action="store_true", help="score all 10,000")
    asked = parser.parse_args(arguments)
    asked.models = asked.models.split(",")
    unknown = [name for name in asked.models if name not in NAMES]
    if unknown:
        parser.error(f"no model {unknown[0]!r}; there are {', '.join(NAMES)}")
    return asked


if __name__ == "__main__":
    sys.exit(not main())
