"""The fused form equals the training form, in float64 to ten digits, and whatever is not equal is refused."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgekit.compress import fuse  # noqa: E402
from edgekit.compress.fuse import check_same  # noqa: E402
from edgekit.errors import GateError, UsageError  # noqa: E402
from edgekit.models.blocks import ConvBN, IBEConv, batch_norm_affine  # noqa: E402
from edgekit.models.femtodet import FemtoDet, FemtoDetConfig  # noqa: E402

EXACT = 1e-10  # in float64
SIZES = st.integers(1, 13)


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Random statistics, weights and thetas, as no training would leave them alike."""
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.uniform_(-1, 1, generator=random)
            part.running_var.uniform_(0.2, 3, generator=random)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.empty_like(parameter).uniform_(-1, 1, generator=random))
    return module.eval()


def deviation(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted, got = a(x), b(x)
    assert wanted.shape == got.shape
    return float((wanted - got).abs().max() / wanted.abs().max().clamp(min=1e-6))


@given(st.integers(1, 9), st.sampled_from([1, 2]), SIZES, SIZES, st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_fused_ibe_convolution_equals_its_training_form(
    channels: int, stride: int, height: int, width: int, seed: int
) -> None:
    block = randomise(IBEConv(channels, stride).double(), seed)
    x = torch.randn(2, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert deviation(block, block.fused(), x) <= EXACT


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]),
    SIZES,
    SIZES,
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_a_fused_convolution_equals_its_training_form(
    inner: int, outer: int, groups: int, kernel: int, stride: int, height: int, width: int, act: bool, seed: int
) -> None:
    block = randomise(ConvBN(inner * groups, outer * groups, kernel, stride, groups, act).double(), seed)
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, inner * groups, height, width, dtype=torch.float64, generator=random)
    assert deviation(block, block.fused(), x) <= EXACT


def test_an_ibe_convolution_is_what_the_paper_says() -> None:
    """y1 = W * x and y2 = sum over k of W_k (x_k - sigmoid(theta) x_center), written out tap by tap."""
    block = randomise(IBEConv(3, stride=2).double(), 5)
    x = torch.randn(1, 3, 7, 9, dtype=torch.float64)
    padded = F.pad(x, (1, 1, 1, 1))
    weight, sigma = block.conv.weight[:, 0], block.theta.sigmoid()
    local = torch.zeros(1, 3, 4, 5, dtype=torch.float64)
    boundary = torch.zeros_like(local)
    for i in range(4):
        for j in range(5):
            window = padded[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            center = padded[0, :, 2 * i + 1, 2 * j + 1]
            local[0, :, i, j] = (weight * window).sum((1, 2))
            boundary[0, :, i, j] = (weight * (window - sigma * center[:, None, None])).sum((1, 2))

    def normalise(y: Tensor, bn: nn.BatchNorm2d) -> Tensor:
        shape = (1, -1, 1, 1)
        scaled = (y - bn.running_mean.view(shape)) / (bn.running_var.view(shape) + bn.eps).sqrt()
        return scaled * bn.weight.view(shape) + bn.bias.view(shape)

    wanted = (normalise(local, block.bn) + normalise(boundary, block.bn2)).clamp(min=0)
    assert torch.allclose(block(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 32), (160, 224)])
def test_a_fused_network_equals_its_training_form_in_float64(height: int, width: int) -> None:
    network = randomise(FemtoDet(FemtoDetConfig(3)).double(), 1)
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    assert deviation(network, fuse(network, (x,)), x) <= EXACT


@pytest.mark.parametrize("size", [63, 97])
def test_a_fused_backbone_equals_its_training_form_for_odd_sizes(size: int) -> None:
    backbone = randomise(FemtoDet().backbone.double(), 2)
    x = torch.randn(1, 3, size, size + 4, dtype=torch.float64)
    fused = fuse(backbone, (x,))
    with torch.no_grad():
        for wanted, got in zip(backbone(x), fused(x), strict=True):
            assert float((wanted - got).abs().max() / wanted.abs().max()) <= EXACT


def test_a_fused_network_in_float32_is_within_rounding() -> None:
    network = randomise(FemtoDet(), 3)
    x = torch.randn(1, 3, 64, 64)
    fused = fuse(network, (x,))
    assert 0 < deviation(network, fused, x) <= 1e-5
    assert all(parameter.dtype == torch.float32 for parameter in fused.parameters())


def test_no_normalization_and_no_theta_are_left() -> None:
    fused = fuse(FemtoDet().eval(), (torch.zeros(1, 3, 64, 64),))
    assert not any(isinstance(part, nn.BatchNorm2d | IBEConv | ConvBN) for part in fused.modules())
    assert not any("theta" in name for name, _ in fused.named_parameters())


def test_fusing_twice_changes_nothing() -> None:
    x = torch.randn(1, 3, 64, 64)
    once = fuse(randomise(FemtoDet(), 4), (x,))
    twice = fuse(once, (x,))
    assert twice is not once
    assert once.state_dict().keys() == twice.state_dict().keys()
    assert all(torch.equal(value, twice.state_dict()[key]) for key, value in once.state_dict().items())


def test_the_module_that_was_handed_in_is_untouched() -> None:
    network = randomise(FemtoDet(), 5)
    before = copy.deepcopy(network.state_dict())
    fused = fuse(network, (torch.zeros(1, 3, 64, 64),))
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("part", ["", "backbone.stages.0.0.depthwise.bn2"])
def test_a_module_in_training_mode_is_refused_by_the_part_that_is(part: str) -> None:
    network = FemtoDet().eval()
    network.get_submodule(part).train()
    with pytest.raises(UsageError, match="training mode") as caught:
        fuse(network, (torch.zeros(1, 3, 64, 64),))
    assert caught.value.where == (part or "the module itself")


class WrongSign(IBEConv):
    """The counter-example: theta's sign is flipped in the merge."""

    def fused(self) -> nn.Module:
        flipped = copy.deepcopy(self)
        flipped.theta.data.neg_()
        return IBEConv.fused(flipped)


def test_a_merge_with_the_wrong_sign_of_theta_is_caught() -> None:
    block = randomise(WrongSign(4), 6)
    block.theta.data.fill_(0.4)
    with pytest.raises(GateError, match="fuse changed what the network computes"):
        fuse(nn.Sequential(block).eval(), (torch.randn(1, 4, 8, 8),))
    block.theta.data.zero_()  # where the sign makes no difference, nothing is wrong
    fuse(nn.Sequential(block).eval(), (torch.randn(1, 4, 8, 8),))


class Strided(nn.Conv2d):
    """A subclass that computes something else than its base."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_pairs_in_a_sequential_are_folded_and_the_rest_is_left_alone() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", dilation=2, bias=True, padding_mode="reflect"),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU()),
        nn.ReLU(),
        nn.BatchNorm2d(6),
        Strided(6, 6, 1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 2, 1),
        nn.BatchNorm2d(2, track_running_stats=False),
    )
    network = randomise(network.double(), 7)
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    fused = fuse(network, (x,))
    assert deviation(network, fused, x) <= EXACT
    left = {name for name, part in fused.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert left == {"4", "6", "8"}  # after an activation, after a subclass, and without statistics


def test_a_norm_without_statistics_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        batch_norm_affine(nn.BatchNorm2d(2, track_running_stats=False))


class Constant(nn.Module):
    """Returns what it was given, to look at the check itself."""

    def __init__(self, *outputs: object) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor) -> object:
        return self.outputs


def test_the_check_measures_the_largest_deviation_relative_to_the_largest_output() -> None:
    before, after = torch.tensor([0.0, -4.0]), torch.tensor([0.00002, -4.0])
    assert check_same(Constant(before), Constant(after), (before,), "step") == pytest.approx(5e-6)


@pytest.mark.parametrize(
    "after",
    [
        (torch.zeros(3),),  # another value
        (torch.tensor([1.0, 2.0, float("nan")]),),
        (torch.ones(1),),  # would broadcast
        (),  # nothing to compare
        (torch.tensor([1.0, 2.0, 3.0]), torch.ones(1)),
    ],
)
def test_the_check_says_no_to_another_value_shape_or_number_of_outputs(after: tuple[Tensor, ...]) -> None:
    with pytest.raises(GateError):
        check_same(Constant(torch.tensor([1.0, 2.0, 3.0])), Constant(*after), (torch.zeros(1),), "step")


def test_the_check_says_no_where_there_is_nothing_to_compare() -> None:
    with pytest.raises(GateError, match="cannot be checked"):
        check_same(Constant("text"), Constant("text"), (torch.zeros(1),), "step")


def test_whole_numbers_must_be_equal() -> None:
    a, b = torch.tensor([1, 200]), torch.tensor([1, 201])
    assert check_same(Constant(a), Constant(a.clone()), (a,), "step") == 0.0
    with pytest.raises(GateError):
        check_same(Constant(a), Constant(b), (a,), "step")
