"""Merged networks compute what they were trained to, for every family, and what cannot be merged is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edgekit.compress.recipe import Recipe  # noqa: E402
from edgekit.compress.repavit import Reparameterize, reparameterize  # noqa: E402
from edgekit.errors import GateError, InputError, UnsupportedError, UsageError  # noqa: E402
from edgekit.graph.from_torch import export_torch  # noqa: E402
from edgekit.models.feedforward import FeedForward, IdleBody, LayerScale, MergedBody, meltable_layers  # noqa: E402
from edgekit.models.idle import IdleShape  # noqa: E402
from edgekit.models.mixer import Mixer, MixerConfig  # noqa: E402
from edgekit.models.poolformer import PoolFormer, PoolFormerConfig  # noqa: E402
from edgekit.models.swin import SwinConfig, SwinTransformer, swin  # noqa: E402
from edgekit.models.vit import VisionTransformer, ViTConfig, vit  # noqa: E402
from edgekit.spec import ModelSpec, TensorSpec  # noqa: E402

EXACT, SINGLE = 1e-12, 2e-6  # proof 1 of RePaViT: relative, float64 and float32
THETAS = (0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> Any:
    """Statistics, gains, shifts, scales and biases that no initialisation hides; returns `module`, evaluating."""
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.5, generator=random)
            part.running_var.uniform_(0.3, 2, generator=random)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm) and part.weight is not None:
            part.weight.uniform_(0.5, 1.5, generator=random)
            part.weight[::5].neg_()
            part.bias.normal_(0, 0.3, generator=random)
        elif isinstance(part, nn.Linear | nn.Conv2d) and part.bias is not None:
            part.bias.normal_(0, 0.1, generator=random)
        elif isinstance(part, LayerScale):
            part.gamma.uniform_(-1, 1, generator=random)
    return module.eval()


def small_vit(theta: float, normalization: str, scale: float | None) -> nn.Module:
    sizes: dict[str, Any] = {"size": 32, "patch": 8, "width": 32, "depth": 3, "heads": 2, "classes": 5}
    return VisionTransformer(ViTConfig(**sizes, theta=theta, normalization=normalization, layer_scale=scale))


def small_swin(theta: float, normalization: str, scale: float | None) -> nn.Module:
    sizes: dict[str, Any] = {"size": 32, "patch": 2, "window": 4, "width": 16, "depths": (2, 2), "heads": (2, 4)}
    module = SwinTransformer(SwinConfig(**sizes, classes=5, theta=theta, normalization=normalization))
    if scale is not None:  # Swin has none of its own, but its layers can
        for layer in meltable_layers(module).values():
            assert isinstance(layer.body, IdleBody)
            layer.body.scale = LayerScale(layer.body.shape.width, scale)
    return module


def small_mixer(theta: float, normalization: str, scale: float | None) -> nn.Module:
    sizes: dict[str, Any] = {"size": 32, "patch": 8, "width": 32, "depth": 3, "token_hidden": 8, "hidden": 128}
    module = Mixer(MixerConfig(**sizes, classes=5, theta=theta, normalization=normalization))
    if scale is not None:
        for layer in meltable_layers(module).values():
            assert isinstance(layer.body, IdleBody)
            layer.body.scale = LayerScale(32, scale)
    return module


def small_poolformer(theta: float, normalization: str, scale: float | None) -> nn.Module:
    sizes: dict[str, Any] = {"size": 32, "widths": (16, 32), "depths": (2, 2), "classes": 5}
    return PoolFormer(PoolFormerConfig(**sizes, theta=theta, normalization=normalization, layer_scale=scale))


FAMILIES = {"vit": small_vit, "swin": small_swin, "mixer": small_mixer, "poolformer": small_poolformer}


def picture(dtype: torch.dtype = torch.float64, size: int = 32, batch: int = 2) -> tuple[Tensor]:
    return (
        torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype),
    )


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_network_equals_the_trained_one(
    family: str, theta: float, normalization: str, scale: float | None
) -> None:
    torch.manual_seed(0)
    module = randomise(FAMILIES[family](theta, normalization, scale))
    single = reparameterize(module, picture(torch.float32))
    double = reparameterize(module.double(), picture())
    assert double.deviation is not None and double.deviation < EXACT
    assert single.deviation is not None and single.deviation < SINGLE
    for layer in (*double.layers, *single.layers):
        assert layer.exact < EXACT
        assert layer.identity == ("folded" if normalization == "batch" else "added")
    assert max(layer.deviation for layer in single.layers) < SINGLE
    assert not any(isinstance(part, IdleBody) for part in double.module.modules())


@pytest.mark.slow
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize(
    ("build", "name", "changes"),
    [
        (vit, "deit-tiny", {"layer_scale": 0.5}),
        (vit, "deit-small", {}),
        (vit, "deit-base", {"layer_scale": 0.5}),
        (vit, "vit-large", {"depth": 4}),
        (vit, "vit-huge", {"depth": 2}),
        (swin, "swin-tiny", {}),
        (swin, "swin-base", {"depths": (2, 2, 4, 2)}),
    ],
)
def test_a_merged_network_of_published_size_equals_the_trained_one(
    build: Callable[..., nn.Module], name: str, changes: dict[str, Any], theta: float, normalization: str
) -> None:
    module = randomise(build(name, theta=theta, normalization=normalization, **changes))
    single = reparameterize(module, picture(torch.float32, 224, 1))
    double = reparameterize(module.double(), picture(size=224, batch=1))
    assert double.deviation is not None and double.deviation < EXACT
    assert single.deviation is not None and single.deviation < SINGLE


@given(
    width=st.integers(1, 12),
    factor=st.integers(2, 5),
    idle=st.integers(0, 60),
    normalization=st.sampled_from(["batch", "layer"]),
    layout=st.sampled_from(["tokens", "maps"]),
    activation=st.sampled_from(["gelu", "quick-gelu", "relu"]),
    scale=st.sampled_from([None, 0.3]),
    fold=st.booleans(),
    multiple=st.sampled_from([1, 3, 16]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=150, deadline=None)
def test_any_layer_melts_exactly(
    width: int,
    factor: int,
    idle: int,
    normalization: Any,
    layout: Any,
    activation: Any,
    scale: float | None,
    fold: bool,
    multiple: int,
    seed: int,
) -> None:
    hidden = factor * width
    idle = min(idle, hidden)
    idle = idle if 2 * idle > width else 0
    shape = IdleShape(width, hidden, hidden - idle, normalization, layout, activation, scale)
    layer = randomise(FeedForward(shape).double(), seed)
    merged = reparameterize(layer, fold_identity=fold, multiple=multiple).module
    assert isinstance(merged, FeedForward)
    if not layer.meltable:
        assert isinstance(merged.body, IdleBody)
        return
    assert isinstance(merged.body, MergedBody)
    assert merged.body.shape.active % multiple == 0 and merged.body.shape.active >= shape.active
    x = torch.randn(2, width, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x.permute(0, 2, 3, 1) if layout == "tokens" else x
    with torch.no_grad():
        wanted, got = layer(x), merged(x)
    assert float((wanted - got).abs().max()) <= EXACT * max(1.0, float(wanted.abs().max()))


def test_the_original_is_left_alone_and_a_second_merge_changes_nothing() -> None:
    module = randomise(small_vit(0.75, "batch", None))
    before = copy.deepcopy(module.state_dict())
    once = reparameterize(module, picture(torch.float32))
    assert all(torch.equal(value, module.state_dict()[key]) for key, value in before.items())
    twice = reparameterize(once.module, picture(torch.float32))
    assert twice.layers == () and twice.deviation == 0.0
    assert all(torch.equal(v, once.module.state_dict()[k]) for k, v in twice.module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_stays_and_decides_whether_the_identity_is_folded(dtype: torch.dtype) -> None:
    module = randomise(small_vit(0.75, "batch", None)).to(dtype)
    merged = reparameterize(module)
    assert {parameter.dtype for parameter in merged.module.parameters()} == {dtype}
    identities = {layer.identity for layer in merged.layers}
    assert identities == ({"added"} if dtype == torch.bfloat16 else {"folded"})
    assert {layer.identity for layer in reparameterize(module, fold_identity=False).layers} == {"added"}


def test_trained_rows_are_padded_with_zeros_and_never_dropped() -> None:
    layer = randomise(FeedForward(IdleShape(8, 32, 11, "batch")).double())
    merged = reparameterize(layer, multiple=32)
    assert (merged.layers[0].active, merged.layers[0].padded) == (11, 32)
    assert isinstance(merged.module, FeedForward) and isinstance(merged.module.body, MergedBody)
    up, down = merged.module.body.up, merged.module.body.down
    assert up is not None and down is not None
    assert not up.weight[11:].any() and not down.weight[:, 11:].any() and bool(up.weight[:11].any(dim=1).all())


def test_a_network_can_be_copied_after_it_ran_in_training_mode() -> None:
    module = small_vit(0.75, "batch", None).train()
    module(torch.randn(4, 3, 32, 32)).sum().backward()
    merged = reparameterize(copy.deepcopy(module).eval(), picture(torch.float32))
    assert merged.deviation is not None and merged.deviation < SINGLE


def walk_as_timm_does(module: nn.Module) -> None:
    """What `timm.models.reparameterize_model` does: in place, children first offered `fuse`, then `reparameterize`."""
    for _, child in module.named_children():
        if hasattr(child, "reparameterize"):
            child.reparameterize()
        walk_as_timm_does(child)


def test_timms_walker_merges_in_place() -> None:
    module = randomise(small_swin(0.75, "batch", None))
    with torch.no_grad():
        wanted = module(*picture(torch.float32))
        walk_as_timm_does(module)
        walk_as_timm_does(module)
        got = module(*picture(torch.float32))
    assert not meltable_layers(module)
    assert torch.allclose(wanted, got, rtol=0, atol=1e-5)


def test_layers_inside_somebody_elses_module_are_merged() -> None:
    layer = FeedForward(IdleShape(16, 64, 16, "batch"))
    module = randomise(nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 16), layer), "b": nn.Identity()}))
    assert [found.name for found in reparameterize(module).layers] == ["a.1"]


def test_folding_coarsens_int8_weights_by_more_than_ten_decibels() -> None:
    torch.manual_seed(0)
    width = 192
    layer = randomise(FeedForward(IdleShape(width, 4 * width, width, "batch", eps=1e-5)))
    nn.init.trunc_normal_(layer.body.fc1.weight, std=0.02)
    nn.init.trunc_normal_(layer.body.fc2.weight, std=0.02)
    x = torch.randn(256, width)
    noise = {}
    for fold in (True, False):
        merged = reparameterize(layer, fold_identity=fold).module
        assert isinstance(merged, FeedForward) and isinstance(merged.body, MergedBody)
        linear = merged.body.linear
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            wanted = merged(x)
            step = linear.weight.abs().amax(dim=1, keepdim=True) / 127
            linear.weight.copy_((linear.weight / step).round() * step)
            noise[fold] = 10 * torch.log10(wanted.square().sum() / (merged(x) - wanted).square().sum())
    assert float(noise[False] - noise[True]) > 10


def test_training_mode_is_refused() -> None:
    module = randomise(small_vit(0.75, "batch", None))
    module.get_submodule("blocks.1.ffn").train()
    with pytest.raises(UsageError, match=r"training mode(.|\n)*blocks\.1\.ffn"):
        reparameterize(module)
    with pytest.raises(UsageError, match="training mode"):
        module.get_submodule("blocks.1.ffn").reparameterize()  # type: ignore[operator]


def test_norms_that_were_never_trained_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"never trained(.|\n)*blocks\.0\.ffn\.norm"):
        reparameterize(small_vit(0.75, "batch", None).eval())
    module = randomise(small_vit(0.75, "batch", None))
    module.blocks[2].ffn.body.norm2.running_var.zero_()
    with pytest.raises(InputError, match=r"never trained(.|\n)*blocks\.2\.ffn\.norm2"):
        reparameterize(module)


def test_one_silent_channel_is_no_reason_to_refuse() -> None:
    module = randomise(small_vit(0.75, "batch", None)).double()
    module.blocks[0].ffn.body.norm.running_var[3] = 0
    assert reparameterize(module, picture()).deviation < 1e-9  # type: ignore[operator]


def test_mixed_dtypes_and_broken_weights_are_refused() -> None:
    module = randomise(small_vit(0.75, "layer", None))
    module.blocks[0].ffn.body.fc2.half()
    with pytest.raises(InputError, match=r"torch\.float16 and torch\.float32"):
        reparameterize(module)
    module = randomise(small_vit(0.75, "layer", None))
    with torch.no_grad():
        module.blocks[1].ffn.body.fc1.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"not finite(.|\n)*blocks\.1\.ffn: fc1\.weight"):
        reparameterize(module)
    with pytest.raises(UsageError, match="multiple"):
        reparameterize(module, multiple=0)


def test_a_wrong_merge_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.compress import repavit

    def off(*arguments: Any) -> MergedBody:
        merged = original(*arguments)
        assert merged.linear is not None and merged.linear.bias is not None
        with torch.no_grad():
            merged.linear.bias.add_(1e-3)
        return merged

    original = repavit.merge
    monkeypatch.setattr(repavit, "merge", off)
    with pytest.raises(GateError, match=r"changed what a layer computes(.|\n)*blocks\.0\.ffn"):
        reparameterize(randomise(small_vit(0.75, "batch", 0.5)))


def spec() -> ModelSpec:
    inputs, outputs = ("batch", 3, 32, 32), ("batch", 5)
    return ModelSpec(
        "small", "tensor", (TensorSpec("image", "float32", inputs),), (TensorSpec("logits", "float32", outputs),)
    )


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_an_unmerged_network_is_not_exported_and_the_step_makes_it_exportable(normalization: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    module = randomise(small_vit(0.75, normalization, None))
    with pytest.raises(UnsupportedError, match="step 'reparameterize'"):
        export_torch(module, picture(torch.float32), spec(), 20, 10)
    recipe = Recipe.parse(["fuse", "reparameterize", "rewrite"])
    merged, history = recipe.apply(module, picture(torch.float32))
    assert history[1].config == {"fold_identity": False, "multiple": 32}
    assert json.loads(json.dumps(history[1].result))["layers"][0]["padded"] == 32
    graph = export_torch(merged, picture(torch.float32), spec(), 20, 10)
    kinds = {node.op_type for node in graph.model.graph.node}
    assert not kinds & {"BatchNormalization"}
    session = ort.InferenceSession(graph.serialized(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": picture(torch.float32)[0].numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(got), module(*picture(torch.float32)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["swin", "mixer", "poolformer"])
def test_every_family_exports(family: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    module = randomise(FAMILIES[family](0.75, "batch", None))
    merged, _ = Reparameterize().apply(module, picture(torch.float32))
    graph = export_torch(merged, picture(torch.float32), spec(), 20, 10)
    session = ort.InferenceSession(graph.serialized(), providers=["CPUExecutionProvider"])
    image = picture(torch.float32, batch=1)
    (got,) = session.run(None, {"image": image[0].numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(got), module(*image), rtol=0, atol=1e-5)


def test_a_network_without_such_layers_passes_through() -> None:
    merged = reparameterize(nn.Sequential(nn.Linear(3, 2)).eval(), (torch.randn(1, 3),))
    assert merged.layers == () and merged.deviation == 0.0
