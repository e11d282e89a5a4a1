"""What several rooms' tests share: FemtoDet, exported once a process because that takes seconds."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # device-side tests run where neither torch nor onnx is installed
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from edgekit.graph.graph import Graph
    from edgekit.spec import ModelSpec

OPSET, IR = 20, 10  # of every profile that is shipped
EXPORTED = {"shipped_graph", "fused_graph"}
BUNDLED = {"femtodet_bundles"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need FemtoDet's graphs share one xdist worker, and so do those of its bundles: no two export."""
    for item in items:
        wanted = set(getattr(item, "fixturenames", ()))
        if EXPORTED & wanted:
            item.add_marker(pytest.mark.xdist_group("femtodet-graphs"))
        elif BUNDLED & wanted:
            item.add_marker(pytest.mark.xdist_group("femtodet-bundles"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data that EDGEKIT_DATA names; the test skips where there is none."""
    if "EDGEKIT_DATA" not in os.environ:
        pytest.skip("EDGEKIT_DATA names no folder with real data")
    return Path(os.environ["EDGEKIT_DATA"]).absolute()


@pytest.fixture(scope="session")
def shipped() -> tuple[nn.Module, ModelSpec]:
    """FemtoDet with its shipped weights, as it was trained, and its spec."""
    pytest.importorskip("torch")
    from edgekit.models.catalog import CATALOG

    module, spec, _ = CATALOG["femtodet"].load()
    return module, spec


@pytest.fixture(scope="session")
def shipped_graph(shipped: tuple[nn.Module, ModelSpec]) -> Graph:
    """The shipped FemtoDet, fused and rewritten, as the canonical graph."""
    from edgekit.compress import DEFAULT_RECIPE, Recipe

    module, spec = shipped
    deployed, _ = Recipe.parse(DEFAULT_RECIPE).apply(module, _example())
    return _export(deployed, spec)


@pytest.fixture(scope="session")
def fused_graph() -> Graph:
    """An untrained FemtoDet of 20 classes, fused but not rewritten: the graph that the study counts."""
    pytest.importorskip("torch")
    from edgekit.compress import fuse
    from edgekit.models.femtodet import FemtoDet

    return _export(fuse(FemtoDet().eval(), _example()), _spec_of_20_classes())


@pytest.fixture(autouse=True)
def short_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed answers carry a profile of 30 runs here, not of seconds; the process counts as warm at once."""
    from edgekit.profiler.latency import Plan

    monkeypatch.setattr("edgekit.profiler.short.PLAN", Plan(runs=30, warmup_s=0.05))


@pytest.fixture
def torch_seed() -> Iterator[None]:
    """Torch's global random state, seeded for the test and put back after it."""
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def detector() -> Path:
    """An ONNX file that finds cells of 8x8 pixels which are red or blue; see tests/runtimes/conftest.py."""
    return Path(__file__).parent / "runtimes" / "data" / "detector.onnx"


@pytest.fixture(scope="session")
def detector_spec() -> ModelSpec:
    """What `detector` is for the outside."""
    from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec

    return ModelSpec(
        name="cells",
        task="detection",
        inputs=(TensorSpec("image", "float32", ("batch", 3, 32, 32)),),
        outputs=(TensorSpec("head", "float32", ("batch", 7, 4, 4)),),
        preprocess=ImagePreprocess("image", 32, 32, std=(255.0, 255.0, 255.0), pad_value=0),
        postprocess=DetectionPostprocess(("head",), "yolox-grid", stride=8, score_threshold=0.3),
        labels=("red", "blue"),
        metric="ap50",
    )


@pytest.fixture
def cells() -> NDArray[np.uint8]:
    """A black picture, 32x32, with a red cell in column 1, row 2 and a blue one in column 3, row 0."""
    import numpy as np

    image = np.zeros((32, 32, 3), np.uint8)
    image[16:24, 8:16, 0] = 255
    image[0:8, 24:32, 2] = 255
    return image


@pytest.fixture
def cells_found() -> list[tuple[str, list[float]]]:
    """What is in `cells`: labels and boxes, by label."""
    return [("blue", [24, 0, 32, 8]), ("red", [8, 16, 16, 24])]


@pytest.fixture(scope="session")
def femtodet_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped FemtoDet as users export it, by target: two folders and a zip. Copy one to change it."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    from edgekit import pipeline
    from edgekit.config import Config
    from edgekit.intake import take_in

    folder = tmp_path_factory.mktemp("bundles")
    places = {
        "snapdragon-865": folder / "snapdragon",
        "intel-n100": folder / "intel.edgekit",
        "orin-nano": folder / "orin",
    }
    intake = take_in(Config())  # taken in once, they share one graph too, and making it takes most of the time
    return {target: pipeline.export(Config(), target, place, None, intake).path for target, place in places.items()}


def _example() -> tuple[Any, ...]:
    import torch

    return (torch.randn(2, 3, 416, 416, generator=torch.Generator().manual_seed(0)),)


def _spec_of_20_classes() -> ModelSpec:
    from edgekit.models.femtodet import femtodet_spec

    return femtodet_spec(tuple(f"class {i}" for i in range(20)))


def _export(module: nn.Module, spec: ModelSpec) -> Graph:
    from edgekit.graph.from_torch import export_torch

    return export_torch(module, _example(), spec, OPSET, IR)


@dataclass(frozen=True)
class Classifier:
    """A small convolutional classifier as an ONNX file, pictures whose classes are its own answers, and its options."""

    options: Any
    train: Path
    test: Path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Four layers, 16x16 pictures, five classes: enough for int8 to differ, and to lose a point or two."""
    np = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    from edgekit.config import ModelOptions
    from edgekit.graph.from_torch import export_torch
    from edgekit.spec import ClassificationPostprocess, ModelSpec, TensorSpec

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 1, 1), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(32, 32, 3, 1, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(32, 5)).eval()
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (432, 4, 4, 3), dtype=np.uint8)
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    tensors = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    with torch.no_grad():
        logits = net(tensors)
        net[-1].bias -= logits.mean(dim=0)
        net[-1].weight *= 4 / logits.std()
        labels = net(tensors).argmax(dim=1).numpy()
    folder = tmp_path_factory.mktemp("classifier")
    inputs = (TensorSpec("image", "float32", ("batch", 3, 16, 16)),)
    spec = ModelSpec("classifier", "tensor", inputs, (TensorSpec("logits", "float32", ("batch", 5)),))
    graph = export_torch(net, (tensors[:2],), spec, OPSET, IR)
    (folder / "classifier.onnx").write_bytes(graph.serialized())
    for name, part in (("train", slice(400, 432)), ("test", slice(0, 400))):
        np.savez(folder / f"{name}.npz", images=images[part], labels=labels[part])
    options = ModelOptions(
        source=str(folder / "classifier.onnx"),
        labels=tuple("abcde"),
        preprocess={"resize": "stretch", "std": [255.0, 255.0, 255.0]},
        postprocess=ClassificationPostprocess(("logits",)),
    )
    return Classifier(options, folder / "train.npz", folder / "test.npz")


DOUBLES = Path(__file__).parent / "doubles"
DOUBLED = ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.runtime", "switches", "onnxwire")


@dataclass(frozen=True)
class Board:
    """A machine that has doubles of TensorRT and CUDA instead of the real ones; see tests/doubles/README.md.

    Attributes:
        switches: what it pretends to be, and its faults.
        meminfo: the file that stands for /proc/meminfo.
        cache: the folder of engines.
    """

    switches: Any
    meminfo: Path
    cache: Path

    def become(self, **fields: Any) -> None:
        """Change the switches; TensorRT is imported anew, as in another process."""
        for name, value in fields.items():
            assert hasattr(self.switches, name), name
            setattr(self.switches, name, value)
        sys.modules.pop("tensorrt", None)

    def free(self, mib: int) -> None:
        """Let the kernel call so much memory available."""
        self.meminfo.write_text(f"MemTotal:        8000000 kB\nMemAvailable:   {mib * 1024} kB\n")

    def engines(self) -> list[Path]:
        """The engines in the cache."""
        return sorted(self.cache.glob("*/engine.plan"))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Board]:
    """A double of a Jetson with JetPack 6.2, 6 GiB free and an empty cache; what is left on its GPU fails the test."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(sys, "path", [str(DOUBLES), *sys.path])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr("edgekit.runtimes.tensorrt_memory.MEMINFO", tmp_path / "meminfo")
    for name in DOUBLED:
        sys.modules.pop(name, None)
    found = Board(import_module("switches").NOW, tmp_path / "meminfo", tmp_path / "cache" / "edgekit" / "engines")
    found.free(6 * 1024)
    try:
        yield found
        assert import_module("cuda.bindings.runtime").live() == {}
    finally:
        for name in DOUBLED:
            sys.modules.pop(name, None)
