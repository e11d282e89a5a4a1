"""What several rooms' tests share: FemtoDet, exported once a process because that takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # device-side tests run where neither torch nor onnx is installed
    from torch import nn

    from edgekit.graph.graph import Graph
    from edgekit.spec import ModelSpec

OPSET, IR = 20, 10  # of every profile that is shipped
EXPORTED = {"shipped_graph", "fused_graph"}
BUNDLED = {"femtodet_bundles"}


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


@pytest.fixture
def torch_seed() -> Iterator[None]:
    """Torch's global random state, seeded for the test and put back after it."""
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def femtodet_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped FemtoDet as users export it, by target: folders for two, a zip for OpenVINO. Copy one to change it."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    from edgekit import pipeline
    from edgekit.config import Config

    folder = tmp_path_factory.mktemp("bundles")
    places = {
        "snapdragon-865": folder / "snapdragon",
        "intel-n100": folder / "intel.edgekit",
        "orin-nano": folder / "orin",
    }
    return {target: pipeline.export(Config(), target, place).path for target, place in places.items()}


def _example() -> tuple[Any, ...]:
    import torch

    return (torch.randn(2, 3, 416, 416, generator=torch.Generator().manual_seed(0)),)


def _spec_of_20_classes() -> ModelSpec:
    from edgekit.models.femtodet import femtodet_spec

    return femtodet_spec(tuple(f"class {i}" for i in range(20)))


def _export(module: nn.Module, spec: ModelSpec) -> Graph:
    from edgekit.graph.from_torch import export_torch

    return export_torch(module, _example(), spec, OPSET, IR)
