"""Vision transformers: shapes, heads, and configurations and pictures that are refused."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.errors import InputError, UsageError  # noqa: E402
from edgekit.models.feedforward import DropPath, FeedForward, IdleBody  # noqa: E402
from edgekit.models.idle import IdleShape, active_channels, merged_shape  # noqa: E402
from edgekit.models.swin import SwinConfig, swin  # noqa: E402
from edgekit.models.vit import Attention, VisionTransformer, ViTConfig, vit  # noqa: E402

SMALL: dict[str, Any] = {"size": 32, "patch": 8, "width": 32, "depth": 2, "heads": 2, "classes": 5}


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (3, 5)),
        ({"head": "features"}, (3, 32)),
        ({"head": "features", "pooling": "mean"}, (3, 32)),
        ({"head": "tokens"}, (3, 17, 32)),
        ({"head": "tokens", "distillation": "token"}, (3, 18, 32)),
        ({"distillation": "head", "theta": 0.75, "normalization": "batch"}, (3, 5)),
        ({"theta": (0.5, None), "layer_scale": 0.1, "pre_norm": True, "drop_path": 0.5}, (3, 5)),
    ],
)
def test_a_transformer_gives_what_its_head_says_and_trains(changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    module = VisionTransformer(ViTConfig(**SMALL, **changes)).train()
    out = module(torch.randn(3, 3, 32, 32))
    assert out.shape == shape
    out.square().mean().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name


def test_attention_equals_the_textbook() -> None:
    torch.manual_seed(0)
    attention = Attention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    query, key, value = attention.qkv(x).split(12, dim=-1)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        weights = torch.softmax(query[..., part] @ key[..., part].transpose(1, 2) / 4**0.5, dim=-1)
        heads.append(weights @ value[..., part])
    assert torch.allclose(attention(x), attention.proj(torch.cat(heads, dim=-1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("theta", [-0.1, 0.0, 0.1, 0.125, 1.0001, 2.0, float("nan")])
def test_idle_ratios_that_do_not_pay_are_refused(theta: float) -> None:
    with pytest.raises(UsageError, match="idle ratio"):
        vit("deit-tiny", theta=theta)
    with pytest.raises(UsageError, match="idle ratio"):
        SwinConfig(theta=theta)


@pytest.mark.parametrize(
    ("hidden", "theta", "multiple", "active"),
    [(5120, 0.7, 1, 1536), (5120, 0.7, 16, 1536), (768, 0.7, 1, 231), (768, 0.7, 32, 256), (768, 1.0, 16, 0)],
)
def test_active_channels_are_counted_in_decimal_and_rounded_up(
    hidden: int, theta: float, multiple: int, active: int
) -> None:
    assert active_channels(hidden // 4, hidden, theta, multiple) == active


@pytest.mark.parametrize(
    "changes",
    [
        {"theta": (0.5,)},
        {"active": (8, 8, 8)},
        {"heads": 3},
        {"patch": 5},
        {"classes": 0},
        {"active": (128, 120)},
        {"active": (128, 129)},
    ],
)
def test_configurations_that_fit_no_transformer_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        VisionTransformer(ViTConfig(**{**SMALL, **changes}))


@pytest.mark.parametrize("name", ["deit", "swin-tiny", ""])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="deit-base"):
        vit(name)
    with pytest.raises(UsageError, match="swin-base"):
        swin("deit-tiny")


@pytest.mark.parametrize("shape", [(1, 3, 40, 32), (1, 1, 32, 32), (1, 4, 32, 32), (3, 32, 32), (1, 3, 224, 224)])
def test_pictures_of_another_size_or_without_three_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes \(batch, 3, 32, 32\)"):
        VisionTransformer(ViTConfig(**SMALL))(torch.zeros(shape))


def test_idle_channels_pass_by_the_activation_and_the_others_do_not() -> None:
    body = IdleBody(IdleShape(width=4, hidden=16, active=4)).eval()
    z = torch.randn(3, 16)
    activated = body._activated(z)
    assert torch.equal(activated[:, 4:], z[:, 4:])
    assert torch.equal(activated[:, :4], nn.functional.gelu(z[:, :4]))


def test_a_dropped_path_keeps_its_mean_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 2)
    kept = drop.train()(x)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_a_plain_layer_has_nothing_to_merge() -> None:
    plain = FeedForward(IdleShape(8, 32, 32)).eval()
    before = dict(plain.state_dict())
    assert not plain.meltable
    plain.reparameterize()
    assert before.keys() == plain.state_dict().keys()


def test_the_identity_is_folded_only_where_no_norm_stands_in_between() -> None:
    for normalization, fold, identity in (
        ("batch", True, "folded"),
        ("batch", False, "added"),
        ("layer", True, "added"),
    ):
        shape = merged_shape(IdleShape(8, 32, 8, normalization), fold)  # type: ignore[arg-type]
        assert shape.identity == identity
    assert merged_shape(IdleShape(8, 32, 32, "batch"), True).identity == "added"
