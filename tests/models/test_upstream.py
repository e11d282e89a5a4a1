"""Checkpoints of the upstream project load by their documented key names, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from edgekit.errors import InputError  # noqa: E402
from edgekit.models.femtodet import FemtoDet, FemtoDetConfig  # noqa: E402
from edgekit.models.upstream import load_upstream_femtodet  # noqa: E402

State = dict[str, Tensor]


def randomised(classes: int, width: float) -> FemtoDet:
    network = FemtoDet(FemtoDetConfig(classes, width)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.num_batches_tracked.fill_(7)
    for name, parameter in network.named_parameters():
        if name.endswith("theta"):
            nn.init.uniform_(parameter, -2, 2)
    return network


def upstream_state(network: FemtoDet) -> State:
    """The network's weights under the names of yh-pengtu/FemtoDet, written out here a second time on purpose."""
    state: State = {}

    def take(theirs: str, ours: nn.Module) -> None:
        state.update({f"{theirs}.{key}": value for key, value in ours.state_dict().items()})

    take("backbone.conv1", network.backbone.stem)
    for k, stage in enumerate(network.backbone.stages):
        for j, block in enumerate(stage):
            parts = [block.depthwise, block.project] if k == 0 else [block.expand, block.depthwise, block.project]
            for i, part in enumerate(parts):
                take(f"backbone.layer{k + 1}.{j}.conv.{i}", part)
    for i, lateral in enumerate(network.neck.laterals):
        take(f"neck.lateral_convs.{i}", lateral)
    take("neck.stacked_convs.depthwise_conv", network.neck.depthwise)
    take("neck.stacked_convs.pointwise_conv", network.neck.pointwise)
    take("bbox_head.multi_level_conv_cls.0", network.head.classes)
    take("bbox_head.multi_level_conv_reg.0", network.head.box)
    take("bbox_head.multi_level_conv_obj.0", network.head.objectness)
    return state


def saved(path: Path, state: State) -> Path:
    ema = {"ema_" + key.replace(".", "_"): torch.zeros_like(value) for key, value in state.items()}
    torch.save({"meta": {"epoch": 300, "CLASSES": ("a", "b")}, "state_dict": {**state, **ema}}, path)
    return path


@pytest.mark.parametrize(("classes", "width"), [(20, 0.25), (1, 0.25), (80, 0.5), (3, 1.0)])
def test_a_checkpoint_loads_with_its_width_and_classes_and_gives_the_same_outputs(
    tmp_path: Path, torch_seed: None, classes: int, width: float
) -> None:
    network = randomised(classes, width)
    loaded = load_upstream_femtodet(saved(tmp_path / "epoch_300.pth", upstream_state(network)))
    assert loaded.config == FemtoDetConfig(classes, width)
    assert not any(module.training for module in loaded.modules())
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), network(image))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_documented_names_are_among_the_keys_of_the_checkpoint() -> None:
    keys = upstream_state(FemtoDet()).keys()
    assert {
        "backbone.conv1.conv.weight",
        "backbone.conv1.bn.num_batches_tracked",
        "backbone.layer1.0.conv.0.theta",
        "backbone.layer2.0.conv.1.bn2.running_var",
        "backbone.layer7.0.conv.2.bn.weight",
        "neck.lateral_convs.2.conv.weight",
        "neck.stacked_convs.pointwise_conv.bn.bias",
        "bbox_head.multi_level_conv_obj.0.bias",
    } <= keys


def renamed(state: State, old: str, new: str) -> State:
    return {new if key == old else key: value for key, value in state.items()}


def without(state: State, *keys: str) -> State:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda s: {**s, "backbone.layer8.0.conv.0.conv.weight": torch.zeros(1)}, "backbone.layer8.0.conv.0"),
        (lambda s: {**s, "backbone.layer1.0.conv.2.conv.weight": torch.zeros(1)}, "backbone.layer1.0.conv.2"),
        (lambda s: {**s, "optimizer.step": torch.zeros(1)}, "optimizer.step"),
        (lambda s: {**s, "backbone.layer2.0.conv.1.theta2": torch.zeros(1)}, "depthwise.theta2"),
        (lambda s: renamed(s, "backbone.layer2.0.conv.1.theta", "backbone.layer2.0.conv.1.theta2"), "theta"),
        (lambda s: without(s, "neck.lateral_convs.1.bn.running_mean"), "neck.laterals.1.bn.running_mean"),
        (lambda s: without(s, "backbone.layer4.1.conv.1.theta"), "depthwise.theta"),
        (lambda s: without(s, "backbone.conv1.conv.weight"), "stem or head"),
        (lambda s: without(s, "bbox_head.multi_level_conv_cls.0.weight"), "stem or head"),
        (lambda s: {**s, "backbone.conv1.conv.weight": torch.zeros(12, 3, 3, 3)}, "stem or head"),
        (lambda s: {**s, "backbone.conv1.conv.weight": torch.tensor(8.0)}, "stem or head"),
        (lambda s: {**s, "bbox_head.multi_level_conv_cls.0.weight": torch.zeros(20)}, "stem or head"),
        (lambda s: {**s, "bbox_head.multi_level_conv_cls.0.weight": torch.zeros(0, 64, 1, 1)}, "stem or head"),
        (lambda s: {**s, "neck.stacked_convs.depthwise_conv.conv.weight": torch.zeros(64, 1, 5, 5)}, "another shape"),
    ],
)
def test_a_checkpoint_that_is_not_exactly_this_network_is_refused(
    tmp_path: Path, damage: Callable[[State], State], told: str
) -> None:
    path = saved(tmp_path / "epoch_1.pth", damage(upstream_state(FemtoDet())))
    with pytest.raises(InputError) as caught:
        load_upstream_femtodet(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


class Hostile:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_checkpoint_with_pickled_code_is_refused_before_the_code_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "hostile.pth"
    torch.save({"state_dict": upstream_state(FemtoDet()), "meta": Hostile(trap)}, path)
    with pytest.raises(InputError, match="cannot be read"):
        load_upstream_femtodet(path)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a checkpoint\n", b"PK\x03\x04 torn", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_upstream_femtodet(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, part: float) -> None:
    whole = saved(tmp_path / "whole.pth", upstream_state(FemtoDet())).read_bytes()
    path = tmp_path / "torn.pth"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match="cannot be read"):
        load_upstream_femtodet(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"state_dict": {"a": 1}}, {1: torch.zeros(1)}])
def test_a_checkpoint_without_a_table_of_weights_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match="no table of weights"):
        load_upstream_femtodet(path)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_upstream_femtodet(tmp_path / "nowhere.pth")
