"""FemtoDet is the network of the study: every parameter and every multiply-accumulate is accounted for."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edgekit.compress import fuse  # noqa: E402
from edgekit.graph.graph import Graph  # noqa: E402
from edgekit.graph.macs import macs_by_node  # noqa: E402
from edgekit.models.blocks import IBEConv  # noqa: E402
from edgekit.models.femtodet import (  # noqa: E402
    FemtoDet,
    FemtoDetConfig,
    femtodet_spec,
    make_divisible,
)

IBE_LAYERS = 13

# The deployed network, layer by layer, at 416 and 20 classes: module, fused parameters, MMAC (research study, 1.2).
TABLE = [
    ("backbone.stem", 224, 9.345),
    ("backbone.stages.0.0.depthwise", 80, 3.115),
    ("backbone.stages.0.0.project", 72, 2.769),
    ("backbone.stages.1.0.expand", 288, 11.076),
    ("backbone.stages.1.0.depthwise", 320, 3.115),
    ("backbone.stages.1.0.project", 264, 2.769),
    ("backbone.stages.1.1.expand", 288, 2.769),
    ("backbone.stages.1.1.depthwise", 320, 3.115),
    ("backbone.stages.1.1.project", 264, 2.769),
    ("backbone.stages.2.0.expand", 288, 2.769),
    ("backbone.stages.2.0.depthwise", 320, 0.779),
    ("backbone.stages.2.0.project", 264, 0.692),
    ("backbone.stages.2.1.expand", 288, 0.692),
    ("backbone.stages.2.1.depthwise", 320, 0.779),
    ("backbone.stages.2.1.project", 264, 0.692),
    ("backbone.stages.3.0.expand", 288, 0.692),
    ("backbone.stages.3.0.depthwise", 320, 0.195),
    ("backbone.stages.3.0.project", 528, 0.346),
    ("backbone.stages.3.1.expand", 1088, 0.692),
    ("backbone.stages.3.1.depthwise", 640, 0.389),
    ("backbone.stages.3.1.project", 1040, 0.692),
    ("backbone.stages.3.2.expand", 1088, 0.692),
    ("backbone.stages.3.2.depthwise", 640, 0.389),
    ("backbone.stages.3.2.project", 1040, 0.692),
    ("backbone.stages.4.0.expand", 1088, 0.692),
    ("backbone.stages.4.0.depthwise", 640, 0.389),
    ("backbone.stages.4.0.project", 1560, 1.038),
    ("backbone.stages.4.1.expand", 2400, 1.558),
    ("backbone.stages.4.1.depthwise", 960, 0.584),
    ("backbone.stages.4.1.project", 2328, 1.558),
    ("backbone.stages.5.0.expand", 2400, 1.558),
    ("backbone.stages.5.0.depthwise", 960, 0.146),
    ("backbone.stages.5.0.project", 1960, 0.324),
    ("backbone.stages.5.1.expand", 6560, 1.082),
    ("backbone.stages.5.1.depthwise", 1600, 0.243),
    ("backbone.stages.5.1.project", 3240, 0.541),
    ("backbone.stages.6.0.expand", 6560, 1.082),
    ("backbone.stages.6.0.depthwise", 1600, 0.243),
    ("backbone.stages.6.0.project", 6480, 1.082),
    ("neck.laterals.0", 576, 1.384),
    ("neck.laterals.1", 1600, 1.038),
    ("neck.laterals.2", 5184, 0.865),
    ("neck.depthwise", 640, 0.389),
    ("neck.pointwise", 4160, 2.769),
    ("head.classes", 1300, 0.865),
    ("head.box", 260, 0.173),
    ("head.objectness", 65, 0.043),
]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def fused(network: FemtoDet) -> nn.Module:
    return fuse(network.eval(), (torch.zeros(1, 3, 64, 64),))


def convolution_macs(module: nn.Module, size: int) -> int:
    """MACs of all convolutions as torch counts them while they run: an independent count for `graph.macs`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


@pytest.fixture(scope="module")
def deployed() -> nn.Module:
    return fused(FemtoDet())


@pytest.fixture(scope="module")
def graph_macs(fused_graph: Graph) -> dict[str, int]:
    """MACs by torch module, through the map from nodes to modules."""
    return {
        fused_graph.origins[node].module.removesuffix(".0")
        if "head" not in fused_graph.origins[node].module
        else fused_graph.origins[node].module: count
        for node, count in macs_by_node(fused_graph.model).items()
    }


@pytest.mark.parametrize(
    ("classes", "width", "training", "deployed"),
    [
        (20, 0.25, 68_774, 64_657),
        (1, 0.25, 67_539, 63_422),
        (3, 0.25, 67_669, 63_552),
        (80, 0.25, 72_674, 68_557),
        (20, 0.5, 210_230, None),
        (20, 0.75, 434_294, None),
        (80, 1.0, 732_834, 717_909),
    ],
)
def test_parameters_are_those_of_the_study(classes: int, width: float, training: int, deployed: int | None) -> None:
    network = FemtoDet(FemtoDetConfig(classes, width))
    assert parameters(network) == training
    if deployed is not None:
        assert parameters(fused(network)) == deployed


def test_each_stage_has_the_parameters_of_the_study() -> None:
    network = FemtoDet()
    assert parameters(network.backbone.stem) == 232
    stages = [parameters(stage) for stage in network.backbone.stages]
    assert stages == [185, 2_018, 2_018, 7_363, 9_666, 17_826, 15_361]
    assert [parameters(part) for part in (network.backbone, network.neck, network.head)] == [54_669, 12_480, 1_625]


def test_there_are_thirteen_ibe_convolutions_with_a_scalar_theta_each() -> None:
    layers = [part for part in FemtoDet().modules() if isinstance(part, IBEConv)]
    assert len(layers) == IBE_LAYERS
    assert all(layer.theta.shape == (1,) and layer.theta.item() == 0.0 for layer in layers)


@pytest.mark.parametrize(("module", "count", "mmac"), TABLE)
def test_each_deployed_layer_has_the_parameters_and_macs_of_the_study(
    deployed: nn.Module, graph_macs: dict[str, int], module: str, count: int, mmac: float
) -> None:
    assert parameters(deployed.get_submodule(module)) == count
    assert round(graph_macs[module] / 1e6, 3) == mmac


def test_the_table_leaves_no_layer_out(graph_macs: dict[str, int]) -> None:
    assert set(graph_macs) == {module for module, _, _ in TABLE}
    assert sum(count for _, count, _ in TABLE) == 64_657


def test_macs_of_the_fused_graph_are_those_of_the_study(fused_graph: Graph, deployed: nn.Module) -> None:
    assert sum(macs_by_node(fused_graph.model).values()) == 71_672_224
    assert convolution_macs(deployed, 416) == 71_672_224


def test_the_difference_convolutions_cost_a_million_and_a_half_macs_more(deployed: nn.Module) -> None:
    unfused = convolution_macs(FemtoDet().eval(), 416)
    assert round((unfused - convolution_macs(deployed, 416)) / 1e6, 2) == 1.50


@pytest.mark.parametrize(("size", "mmac"), [(224, 20.8), (256, 27.1), (320, 42.4), (640, 169.6)])
def test_macs_at_other_sizes_are_those_of_the_study(deployed: nn.Module, size: int, mmac: float) -> None:
    assert round(convolution_macs(deployed, size) / 1e6, 1) == mmac


def test_there_are_676_priors_at_416() -> None:
    with torch.no_grad():
        head = FemtoDet().eval()(torch.zeros(1, 3, 416, 416))
    assert head.shape == (1, 25, 26, 26)
    assert head.shape[2] * head.shape[3] == 676


def test_inputs_are_added_where_stride_and_channels_allow_and_nowhere_else() -> None:
    blocks = {f"{i}.{j}": block for i, stage in enumerate(FemtoDet().backbone.stages) for j, block in enumerate(stage)}
    added = {name for name, block in blocks.items() if block.residual}
    assert added == {"0.0", "1.1", "2.1", "3.1", "3.2", "4.1", "5.1"}


def test_projections_are_grouped_in_the_last_two_stages_only() -> None:
    groups = [[block.project.conv.groups for block in stage] for stage in FemtoDet().backbone.stages]
    assert groups == [[1], [1, 1], [1, 1], [1, 1, 1], [1, 1], [2, 2], [2]]


def test_an_untrained_head_expects_one_object_in_a_hundred_cells() -> None:
    head = FemtoDet().head
    assert torch.allclose(head.objectness.bias.sigmoid(), torch.tensor(0.01))
    assert torch.allclose(head.classes.bias.sigmoid(), torch.full((20,), 0.01))


@pytest.mark.parametrize(("value", "rounded"), [(4.0, 8), (8.0, 8), (11.9, 16), (12.0, 16), (30.0, 32), (17.8, 24)])
def test_widths_are_rounded_to_eights_but_never_below_nine_tenths(value: float, rounded: int) -> None:
    assert make_divisible(value) == rounded


@pytest.mark.parametrize(("classes", "width"), [(0, 0.25), (-1, 0.25), (3, 0.3)])
def test_an_architecture_that_does_not_exist_is_refused(classes: int, width: float) -> None:
    with pytest.raises(ValueError, match=r"class|width"):
        FemtoDetConfig(classes, width)


@pytest.mark.parametrize("size", [0, 16, 400, 416.0, -32])
def test_a_size_that_is_no_multiple_of_32_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        femtodet_spec(("cell",), size)


def test_the_spec_describes_what_the_network_returns() -> None:
    spec = femtodet_spec(("a", "b"), 320)
    with torch.no_grad():
        head = FemtoDet(FemtoDetConfig(2)).eval()(torch.zeros(3, 3, 320, 320))
    assert spec.outputs[0].shape == ("batch", *head.shape[1:])
    assert spec.preprocess is not None and spec.preprocess.pad_value == 114
    assert (spec.preprocess.mean, spec.preprocess.std) == ((123.675, 116.28, 103.53), (58.82,) * 3)
