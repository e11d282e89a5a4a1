"""A recipe is checked before anything is touched, applies exact rewrites, and records what it did."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from edgekit.compress import DEFAULT_RECIPE, Applied, Recipe, fuse  # noqa: E402
from edgekit.errors import GateError, InputError, UsageError  # noqa: E402
from edgekit.models.femtodet import FemtoDet, FemtoDetConfig  # noqa: E402


@pytest.fixture
def network(torch_seed: None) -> FemtoDet:
    network = FemtoDet(FemtoDetConfig(5)).double()
    network.train()(torch.randn(4, 3, 64, 64, dtype=torch.float64))  # gives the norms statistics that are not trivial
    return network.eval()


@pytest.fixture
def image(torch_seed: None) -> Tensor:
    return torch.randn(2, 3, 96, 64, dtype=torch.float64)


def test_the_rewritten_network_equals_the_fused_one_exactly_enough(network: FemtoDet, image: Tensor) -> None:
    fused = fuse(network, (image,))
    assert isinstance(fused, FemtoDet)
    rewritten = fused.rewritten()
    with torch.no_grad():
        assert torch.allclose(rewritten(image), fused(image), rtol=0, atol=1e-12)
    lateral, head = rewritten.neck.laterals[0], rewritten.head
    assert lateral[0].stride == (2, 2) and rewritten.neck.scales == [1.0, 1.0, 2.0]
    assert isinstance(head, nn.Conv2d) and head.out_channels == 10


def test_a_strided_lateral_equals_convolution_and_nearest_resizing(network: FemtoDet, image: Tensor) -> None:
    fused = fuse(network, (image,))
    assert isinstance(fused, FemtoDet)
    tap = torch.randn(1, 8, 10, 6, dtype=torch.float64)
    with torch.no_grad():
        resized = nn.functional.interpolate(fused.neck.laterals[0](tap), scale_factor=0.5, mode="nearest")
        assert torch.allclose(fused.rewritten().neck.laterals[0](tap), resized, rtol=0, atol=1e-14)


def test_rewriting_twice_changes_nothing_and_the_original_stays(network: FemtoDet, image: Tensor) -> None:
    fused = fuse(network, (image,))
    assert isinstance(fused, FemtoDet)
    before = copy.deepcopy(fused.state_dict())
    once = fused.rewritten()
    twice = once.rewritten()
    with torch.no_grad():
        assert torch.equal(once(image), twice(image))
    assert all(torch.equal(value, fused.state_dict()[key]) for key, value in before.items())
    assert fused.neck.scales == [0.5, 1.0, 2.0]


def test_a_network_that_is_not_fused_keeps_its_lateral_when_rewritten(network: FemtoDet, image: Tensor) -> None:
    rewritten = network.rewritten()
    assert rewritten.neck.scales == [0.5, 1.0, 2.0]
    with torch.no_grad():
        assert torch.allclose(rewritten(image), network(image), rtol=0, atol=1e-12)


def test_the_default_recipe_records_each_step_with_its_result(network: FemtoDet, image: Tensor) -> None:
    _, history = Recipe.parse(DEFAULT_RECIPE).apply(network, (image,))
    assert [step.step for step in history] == ["fuse", "rewrite"]
    before = sum(parameter.numel() for parameter in network.parameters())
    assert history[0] == Applied("fuse", {}, {"parameters_before": before, "parameters_after": before - 4_117})
    assert 0 <= history[1].result["deviation"] <= 1e-10


def test_a_recipe_leaves_its_module_untouched(network: FemtoDet, image: Tensor) -> None:
    before = copy.deepcopy(network.state_dict())
    Recipe.parse(DEFAULT_RECIPE).apply(network, (image,))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


def test_an_empty_recipe_does_nothing(network: FemtoDet, image: Tensor) -> None:
    module, history = Recipe.parse([]).apply(network, (image,))
    assert module is network and history == ()


@pytest.mark.parametrize("steps", [["rewrite"], ["rewrite", "fuse"], ["fuse", "fuse"], ["fuse", "rewrite", "fuse"]])
def test_an_illegal_order_is_refused_before_anything_runs(steps: list[str]) -> None:
    with pytest.raises(UsageError, match="cannot follow"):
        Recipe.parse(steps)


@pytest.mark.parametrize(
    ("items", "error"),
    [
        (["melt"], UsageError),
        ([{"step": "fuse", "strength": 3}], InputError),
        ([{"strength": 3}], UsageError),
        ([{"step": ["fuse"]}], UsageError),
    ],
)
def test_a_step_that_does_not_exist_or_has_no_such_option_is_refused(items: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        Recipe.parse(items, "edgekit.toml: recipe.steps")
    assert "edgekit.toml: recipe.steps[0]" in str(caught.value)


def test_a_network_without_rewrites_of_its_own_passes_through() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    module, history = Recipe.parse(DEFAULT_RECIPE).apply(network, (torch.randn(1, 3, 4, 4),))
    assert history[1].result == {"deviation": 0.0}
    assert isinstance(module, nn.Sequential) and isinstance(module[1], nn.Identity)


class Liar(nn.Module):
    """Offers a rewrite that computes something else."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def rewritten(self) -> nn.Module:
        return Liar(1.001).eval()


def test_a_rewrite_that_is_not_exact_is_caught() -> None:
    with pytest.raises(GateError, match="rewrite changed what the network computes"):
        Recipe.parse(DEFAULT_RECIPE).apply(Liar().eval(), (torch.ones(1, 3),))
