"""Checkpoints of timm, Hugging Face and RePaViT load by their key names, and whatever does not fit is listed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edgekit.errors import InputError, UsageError  # noqa: E402
from edgekit.models.swin import SwinConfig, SwinTransformer  # noqa: E402
from edgekit.models.vit import VisionTransformer, ViTConfig  # noqa: E402
from edgekit.models.vit_checkpoints import load_swin, load_vit  # noqa: E402

State = dict[str, Tensor]
VIT: dict[str, Any] = {"size": 32, "patch": 8, "width": 192, "depth": 2, "heads": 3, "classes": 5, "eps": 1e-6}
SWIN: dict[str, Any] = {"size": 224, "patch": 4, "width": 16, "depths": (2, 2, 1), "heads": (2, 4, 8), "classes": 5}


def disturbed(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.5)
            part.running_var.uniform_(0.3, 2)
    return module.eval()


def rewritten(state: State, rules: dict[str, str]) -> State:
    out = {}
    for key, value in state.items():
        for ours, theirs in rules.items():
            key = re.sub(ours, theirs, key)
        out[key] = value.clone()
    return out


TIMM_FFN = {r"ffn\.body\.norm\.": "norm2.", r"ffn\.body\.(fc[12])": r"mlp.\1", r"ffn\.body\.scale": "ls2"}
REPA_FFN = {r"ffn\.body\.norm\.": "mlp.norm1.", r"ffn\.body\.norm2": "mlp.norm2", r"ffn\.body\.(fc[12])": r"mlp.\1"}
TIMM_VIT = {
    r"^patches": "patch_embed.proj",
    r"^positions": "pos_embed",
    r"^pre_norm": "norm_pre",
    r"^distilled": "head_dist",
    r"^(blocks\.\d+)\.norm\.": r"\1.norm1.",
    r"attention\.": "attn.",
    r"^(blocks\.\d+)\.scale": r"\1.ls1",
}
HF_VIT = {
    r"^patches": "vit.embeddings.patch_embeddings.projection",
    r"^positions": "vit.embeddings.position_embeddings",
    r"^token$": "vit.embeddings.cls_token",
    r"^norm\.": "vit.layernorm.",
    r"^head\.": "classifier.",
    r"^(blocks\.\d+)\.norm\.": r"\1.layernorm_before.",
    r"attention\.qkv": "attention.attention.qkv",
    r"attention\.proj": "attention.output.dense",
    r"ffn\.body\.norm": "layernorm_after",
    r"ffn\.body\.fc1": "intermediate.dense",
    r"ffn\.body\.fc2": "output.dense",
    r"^blocks": "vit.encoder.layer",
}
TIMM_SWIN = {
    r"^patches": "patch_embed.proj",
    r"^patch_norm": "patch_embed.norm",
    r"^stages\.(\d+)\.(\d+)": r"layers.\1.blocks.\2",
    r"(blocks\.\d+)\.norm\.": r"\1.norm1.",
    r"attention\.positions": "attn.relative_position_bias_table",
    r"attention\.": "attn.",
}
HF_SWIN = {
    r"^patches": "swin.embeddings.patch_embeddings.projection",
    r"^patch_norm": "swin.embeddings.norm",
    r"^norm\.": "swin.layernorm.",
    r"^head\.": "classifier.",
    r"^stages\.(\d+)\.(\d+)\.norm\.": r"stages.\1.\2.layernorm_before.",
    r"attention\.positions": "attention.self.relative_position_bias_table",
    r"attention\.qkv": "attention.self.qkv",
    r"attention\.proj": "attention.output.dense",
    r"ffn\.body\.norm": "layernorm_after",
    r"ffn\.body\.fc1": "intermediate.dense",
    r"ffn\.body\.fc2": "output.dense",
    r"^stages\.(\d+)\.(\d+)": r"swin.encoder.layers.\1.blocks.\2",
}


def split_qkv(state: State) -> State:
    out = {}
    for key, value in state.items():
        if ".qkv." in key:
            names = [key.replace("qkv", name) for name in ("query", "key", "value")]
            out.update({name: part.clone() for name, part in zip(names, value.chunk(3), strict=True)})
        else:
            out[key] = value
    return out


def with_merging(state: State, prefix: str, first: int) -> State:
    return {
        re.sub(r"^merging\.(\d+)", lambda m: f"{prefix}layers.{int(m[1]) + first}.downsample", key): value
        for key, value in state.items()
    }


def same(a: nn.Module, b: nn.Module, size: int) -> None:
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(a(image), b(image))


def timm_tokens(state: State) -> State:
    token = state.pop("token")
    state["cls_token"] = token[:, :1].clone()
    if token.shape[1] == 2:
        state["dist_token"] = token[:, 1:].clone()
    return state


@pytest.mark.parametrize(
    "changes",
    [{}, {"layer_scale": 0.5}, {"distillation": "head"}, {"distillation": "token"}, {"head": "features"}],
    ids=["plain", "scaled", "distilled", "second-token", "headless"],
)
def test_a_timm_transformer_loads(tmp_path: Path, changes: dict[str, Any]) -> None:
    module = disturbed(VisionTransformer(ViTConfig(**VIT, **changes)))
    state = rewritten(timm_tokens(dict(module.state_dict())), {**TIMM_FFN, **TIMM_VIT})
    save_file(state, tmp_path / "timm.safetensors")
    loaded = load_vit(tmp_path / "timm.safetensors")
    assert loaded.config.normalization == "layer" and loaded.config.eps == 1e-6
    same(module, loaded, 32)


def test_positions_of_the_patches_alone_leave_the_token_without(tmp_path: Path) -> None:
    module = disturbed(VisionTransformer(ViTConfig(**VIT)))
    with torch.no_grad():
        module.positions[:, :1] = 0  # type: ignore[operator]
    state = rewritten(timm_tokens(dict(module.state_dict())), {**TIMM_FFN, **TIMM_VIT})
    state["pos_embed"] = state["pos_embed"][:, 1:].clone()
    save_file(state, tmp_path / "deit3.safetensors")
    same(module, load_vit(tmp_path / "deit3.safetensors"), 32)


def repavit_file(folder: Path) -> tuple[VisionTransformer, Path]:
    config = ViTConfig(
        **{**VIT, "eps": 1e-5}, theta=0.7, multiple=1, normalization="batch", pre_norm=True, final_eps=1e-6
    )
    module = disturbed(VisionTransformer(config))
    state = rewritten(timm_tokens(dict(module.state_dict())), {**REPA_FFN, **TIMM_VIT})
    save_file(state, folder / "repavit.safetensors")
    assert isinstance(module, VisionTransformer)
    return module, folder / "repavit.safetensors"


def test_a_repavit_file_loads_with_its_own_rounding(tmp_path: Path) -> None:
    module, path = repavit_file(tmp_path)
    loaded = load_vit(path, theta=0.7)
    assert loaded.config.layers() == (math.ceil(768 * (1 - 0.7)),) * 2 == module.config.layers()
    same(module, loaded, 32)
    same(module, load_vit(path, active=[231, 231]), 32)


def test_a_repavit_file_without_its_ratio_is_refused(tmp_path: Path) -> None:
    _, path = repavit_file(tmp_path)
    with pytest.raises(UsageError, match="how many channels idle"):
        load_vit(path)
    with pytest.raises(UsageError, match="idle ratio"):
        load_vit(path, theta=0.1)


def test_a_hugging_face_transformer_loads_with_what_its_configuration_says(tmp_path: Path) -> None:
    module = disturbed(VisionTransformer(ViTConfig(**{**VIT, "heads": 6}, activation="quick-gelu", final_eps=1e-6)))
    state = split_qkv(rewritten(dict(module.state_dict()), HF_VIT))
    state["vit.pooler.dense.weight"] = torch.zeros(2, 2)
    save_file(state, tmp_path / "model.safetensors")
    about = {"num_attention_heads": 6, "layer_norm_eps": 1e-6, "hidden_act": "quick_gelu"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    same(module, load_vit(tmp_path), 32)
    (tmp_path / "config.json").write_text(json.dumps({**about, "hidden_act": "swish"}))
    with pytest.raises(InputError, match="swish"):
        load_vit(tmp_path)


@pytest.mark.parametrize("layout", ["timm", "older", "repavit", "hugging-face"])
def test_a_swin_transformer_loads(tmp_path: Path, layout: str) -> None:
    changes: dict[str, Any] = {"theta": 0.75, "normalization": "batch", "multiple": 1} if layout == "repavit" else {}
    module = disturbed(SwinTransformer(SwinConfig(**SWIN, **changes)))
    state = dict(module.state_dict())
    if layout == "hugging-face":
        state = with_merging(split_qkv(rewritten(state, HF_SWIN)), "swin.encoder.", 0)
    else:
        state = rewritten(state, {**(REPA_FFN if layout == "repavit" else TIMM_FFN), **TIMM_SWIN})
        state = with_merging(state, "", 1 if layout == "timm" else 0)
    if layout == "timm":
        state = {re.sub(r"^head\.", "head.fc.", key): value for key, value in state.items()}
    if layout == "older":
        index = module.stages[0][0].attention.get_buffer("index")  # type: ignore[index, union-attr]
        state["layers.0.blocks.0.attn.relative_position_index"] = index.reshape(49, 49).clone()
        state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    save_file(state, tmp_path / "swin.safetensors")
    same(module, load_swin(tmp_path / "swin.safetensors", theta=changes.get("theta")), 224)


def timm_file(folder: Path, change: Callable[[State], None]) -> Path:
    module = VisionTransformer(ViTConfig(**VIT))
    state = rewritten(timm_tokens(dict(module.state_dict())), {**TIMM_FFN, **TIMM_VIT})
    change(state)
    save_file(state, folder / "changed.safetensors")
    return folder / "changed.safetensors"


def test_every_unknown_key_is_listed(tmp_path: Path) -> None:
    extra = [f"blocks.{i}.mlp.gate.weight" for i in range(9)]
    path = timm_file(tmp_path, lambda state: state.update({key: torch.zeros(1) for key in extra}))
    with pytest.raises(InputError) as caught:
        load_vit(path)
    assert caught.value.why is not None and all(key in caught.value.why for key in extra)


def test_every_missing_and_misshapen_key_is_listed(tmp_path: Path) -> None:
    gone = ["blocks.1.mlp.fc2.bias", "blocks.0.attn.proj.weight", "norm.weight"]

    def change(state: State) -> None:
        for key in gone:
            del state[key]
        state["blocks.1.norm1.bias"] = torch.zeros(7)

    with pytest.raises(InputError) as caught:
        load_vit(timm_file(tmp_path, change))
    why = caught.value.why or ""
    for ours in ("blocks.1.ffn.body.fc2.bias", "blocks.0.attention.proj.weight", "norm.weight", "blocks.1.norm.bias"):
        assert ours in why
    assert "missing" in why and "of another shape" in why


@pytest.mark.parametrize("gone", ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"])
def test_a_file_without_what_names_the_architecture_is_refused(tmp_path: Path, gone: str) -> None:
    with pytest.raises(InputError, match="missing"):
        load_vit(timm_file(tmp_path, lambda state: state.__delitem__(gone)))


def test_a_width_that_does_not_tell_the_heads_asks_for_them(tmp_path: Path) -> None:
    module = disturbed(VisionTransformer(ViTConfig(**{**VIT, "width": 48})))
    state = rewritten(timm_tokens(dict(module.state_dict())), {**TIMM_FFN, **TIMM_VIT})
    save_file(state, tmp_path / "narrow.safetensors")
    with pytest.raises(UsageError, match="how many heads"):
        load_vit(tmp_path / "narrow.safetensors")
    same(module, load_vit(tmp_path / "narrow.safetensors", heads=3), 32)


@pytest.mark.parametrize("raw", [None, b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_files_that_cannot_be_read_or_hold_nothing_are_refused(tmp_path: Path, raw: bytes | None) -> None:
    path = tmp_path / "broken.safetensors"
    if raw is not None:
        path.write_bytes(raw)
    for load in (load_vit, load_swin):
        with pytest.raises(InputError):
            load(path)


def test_an_incomplete_attention_is_named(tmp_path: Path) -> None:
    module = VisionTransformer(ViTConfig(**VIT))
    state = split_qkv(rewritten(dict(module.state_dict()), HF_VIT))
    del state["vit.encoder.layer.1.attention.attention.key.bias"]
    save_file(state, tmp_path / "torn.safetensors")
    with pytest.raises(InputError, match=r"layer\.1\.attention\.attention\.key\.bias"):
        load_vit(tmp_path / "torn.safetensors")
