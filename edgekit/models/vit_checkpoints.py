"""Vision transformers from other people's `safetensors`, by key names: timm, Hugging Face, and RePaViT's own code.

No weight is dropped or made up: keys that are not understood, and those that are missing, are all listed by an error.
The architecture follows from the shapes; what no shape tells is asked for or read from a `config.json` beside the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgekit.errors import InputError, UsageError
from edgekit.models.idle import active_channels
from edgekit.models.swin import SwinConfig, SwinTransformer, relative_index
from edgekit.models.vit import VisionTransformer, ViTConfig

State = dict[str, Tensor]
Rules = Sequence[tuple[re.Pattern[str], str]]

# Heads by width, of the published sizes: 64 channels a head, but for ViT-H.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick-gelu", "relu": "relu"}
TIMM_EPS, HF_VIT_EPS, SWIN_EPS, REPAVIT_EPS, REPAVIT_FINAL_EPS = 1e-6, 1e-12, 1e-5, 1e-5, 1e-6
UNUSED = re.compile(r"(?:\w+\.)?pooler\.dense\..*|.*attn_mask")  # ViTModel's pooler; a mask that follows from sizes


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors, where they came from, and the `config.json` beside them (empty where there is none)."""

    state: State
    where: str
    about: Mapping[str, Any]


def load_vit(
    path: Path, *, theta: float | None = None, active: Sequence[int] | None = None, heads: int | None = None
) -> VisionTransformer:
    """A ViT or DeiT in evaluation mode, float32, with the weights of `path`.

    Args:
        path: a `.safetensors` file in the layout of timm, Hugging Face (ViT, DeiT) or RePaViT, or a folder with
            `model.safetensors` and possibly `config.json`.
        theta: the idle ratio that RePaViT's weights were trained with: no tensor tells. Its own rounding is applied.
        active: active channels a layer, where they are known better.
        heads: of attention, where neither the width nor `config.json` tells.

    Raises:
        InputError: unreadable, or keys or shapes that are not this architecture's; all of them are listed.
        UsageError: theta or heads are needed and not given.
    """
    checkpoint = read_checkpoint(path)
    state, where = checkpoint.state, checkpoint.where
    hugging = any(".layernorm_before." in key for key in state)
    mapped = renamed(_joined_qkv(state, where), VIT_HF if hugging else VIT_TIMM, where)
    mapped = _with_tokens(mapped, where)
    config = _vit_config(mapped, checkpoint, hugging, heads, theta, active)
    module = VisionTransformer(config)
    fit(module, mapped, where)
    return module.eval()


def load_swin(
    path: Path, *, theta: float | None = None, active: Sequence[int] | None = None, size: int | None = None
) -> SwinTransformer:
    """A Swin transformer in evaluation mode, float32, with the weights of `path`; see `load_vit`.

    Args:
        size: pixels of the picture; by default what `config.json` says, or 224.

    Raises:
        InputError, UsageError: see `load_vit`.
    """
    checkpoint = read_checkpoint(path)
    where = checkpoint.where
    state = _joined_qkv(_ordered_merging(checkpoint.state), where)
    hugging = any(".layernorm_before." in key for key in state)
    mapped = renamed(state, SWIN_HF if hugging else SWIN_TIMM, where)
    indices = [key for key in mapped if key.endswith("attention.index")]
    config = _swin_config(mapped, checkpoint, size, theta, active)
    expected = relative_index(config.window)
    for key in indices:
        if not torch.equal(mapped.pop(key).flatten().long(), expected):
            raise InputError("windows are indexed in another order", where=f"{where}: {key}", fix="convert the file")
    module = SwinTransformer(config)
    fit(module, mapped, where)
    return module.eval()


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a `.safetensors` file, or of the one in a folder.

    Raises:
        InputError: missing or unreadable.
    """
    weights = path / "model.safetensors" if path.is_dir() else path
    config = weights.parent / "config.json" if path.is_dir() else None
    try:
        state = load_file(weights)
        about = json.loads(config.read_text(encoding="utf-8")) if config is not None and config.is_file() else {}
    except (OSError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            "the checkpoint cannot be read",
            where=str(path),
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="give a .safetensors file, or a folder with model.safetensors",
        ) from error
    if not isinstance(about, dict):
        raise InputError("config.json is not a table", where=str(config), why=f"it is {type(about).__name__}")
    return Checkpoint(state, str(weights), about)


def renamed(state: State, rules: Rules, where: str) -> State:
    """`state` under our names.

    Raises:
        InputError: listing every key that no rule knows, or that two keys became one.
    """
    out: State = {}
    unknown = []
    for key, value in state.items():
        if UNUSED.fullmatch(key):
            continue
        name = next((pattern.sub(ours, key) for pattern, ours in rules if pattern.fullmatch(key)), None)
        if name is None or name in out:
            unknown.append(key)
        else:
            out[name] = value
    if unknown:
        raise _misfit({"unknown": unknown}, where)
    return out


def fit(module: nn.Module, state: State, where: str) -> None:
    """Load `state` into `module`, every key and shape exactly.

    Raises:
        InputError: listing every missing, unknown and misshapen key.
    """
    own = module.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # how often, not what, a norm has learned
    found = {
        "missing": sorted(own.keys() - state.keys() - counters),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape),
    }
    if any(found.values()):
        raise _misfit(found, where)
    module.load_state_dict({**{key: own[key] for key in counters}, **state})


def _misfit(found: Mapping[str, Sequence[str]], where: str) -> InputError:
    said = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in found.items() if keys)
    return InputError(
        f"{sum(map(len, found.values()))} weight(s) do not fit the architecture",
        where=where,
        why=said,
        fix="the layouts of timm, Hugging Face (ViT, DeiT, Swin) and RePaViT are known; other heads are not",
    )


def _rules(fixed: Mapping[str, str]) -> Rules:
    return tuple((re.compile(theirs), ours) for theirs, ours in fixed.items())


_P = r"(weight|bias)"
_N = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_B, _O = r"blocks\.(\d+)\.", r"blocks.\1."
VIT_TIMM = _rules(
    {
        r"cls_token": "token",
        r"dist_token": "token.distilled",
        r"pos_embed": "positions",
        rf"patch_embed\.proj\.{_P}": r"patches.\1",
        rf"norm_pre\.{_P}": r"pre_norm.\1",
        rf"norm\.{_P}": r"norm.\1",
        rf"head\.{_P}": r"head.\1",
        rf"head_dist\.{_P}": r"distilled.\1",
        rf"{_B}norm1\.{_P}": rf"{_O}norm.\2",
        rf"{_B}attn\.(qkv|proj)\.{_P}": rf"{_O}attention.\2.\3",
        rf"{_B}(?:ls1\.gamma|gamma_1)": rf"{_O}scale.gamma",
        rf"{_B}(?:ls2\.gamma|gamma_2)": rf"{_O}ffn.body.scale.gamma",
        rf"{_B}norm2\.{_P}": rf"{_O}ffn.body.norm.\2",
        rf"{_B}mlp\.norm1\.{_N}": rf"{_O}ffn.body.norm.\2",
        rf"{_B}mlp\.norm2\.{_N}": rf"{_O}ffn.body.norm2.\2",
        rf"{_B}mlp\.(fc[12])\.{_P}": rf"{_O}ffn.body.\2.\3",
    }
)
_V, _L = r"(?:vit\.|deit\.)?", r"(?:vit\.|deit\.)?encoder\.layer\.(\d+)\."
VIT_HF = _rules(
    {
        rf"{_V}embeddings\.cls_token": "token",
        rf"{_V}embeddings\.distillation_token": "token.distilled",
        rf"{_V}embeddings\.position_embeddings": "positions",
        rf"{_V}embeddings\.patch_embeddings\.projection\.{_P}": r"patches.\1",
        rf"{_V}layernorm\.{_P}": r"norm.\1",
        rf"(?:cls_)?classifier\.{_P}": r"head.\1",
        rf"distillation_classifier\.{_P}": r"distilled.\1",
        rf"{_L}layernorm_before\.{_P}": rf"{_O}norm.\2",
        rf"{_L}attention\.attention\.qkv\.{_P}": rf"{_O}attention.qkv.\2",
        rf"{_L}attention\.output\.dense\.{_P}": rf"{_O}attention.proj.\2",
        rf"{_L}layernorm_after\.{_P}": rf"{_O}ffn.body.norm.\2",
        rf"{_L}intermediate\.dense\.{_P}": rf"{_O}ffn.body.fc1.\2",
        rf"{_L}output\.dense\.{_P}": rf"{_O}ffn.body.fc2.\2",
    }
)
_S, _T = r"layers\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."
SWIN_TIMM = _rules(
    {
        rf"patch_embed\.proj\.{_P}": r"patches.\1",
        rf"patch_embed\.norm\.{_P}": r"patch_norm.\1",
        rf"norm\.{_P}": r"norm.\1",
        rf"head\.(?:fc\.)?{_P}": r"head.\1",
        rf"merging\.(\d+)\.(norm|reduction)\.{_P}": r"merging.\1.\2.\3",
        rf"{_S}norm1\.{_P}": rf"{_T}norm.\3",
        rf"{_S}attn\.(qkv|proj)\.{_P}": rf"{_T}attention.\3.\4",
        rf"{_S}attn\.relative_position_bias_table": rf"{_T}attention.positions",
        rf"{_S}attn\.relative_position_index": rf"{_T}attention.index",
        rf"{_S}norm2\.{_P}": rf"{_T}ffn.body.norm.\3",
        rf"{_S}mlp\.norm1\.{_N}": rf"{_T}ffn.body.norm.\3",
        rf"{_S}mlp\.norm2\.{_N}": rf"{_T}ffn.body.norm2.\3",
        rf"{_S}mlp\.(fc[12])\.{_P}": rf"{_T}ffn.body.\3.\4",
    }
)
_W, _SL = r"(?:swin\.)?", r"(?:swin\.)?encoder\.layers\.(\d+)\.blocks\.(\d+)\."
SWIN_HF = _rules(
    {
        rf"{_W}embeddings\.patch_embeddings\.projection\.{_P}": r"patches.\1",
        rf"{_W}embeddings\.norm\.{_P}": r"patch_norm.\1",
        rf"{_W}layernorm\.{_P}": r"norm.\1",
        rf"classifier\.{_P}": r"head.\1",
        rf"merging\.(\d+)\.(norm|reduction)\.{_P}": r"merging.\1.\2.\3",
        rf"{_SL}layernorm_before\.{_P}": rf"{_T}norm.\3",
        rf"{_SL}attention\.self\.qkv\.{_P}": rf"{_T}attention.qkv.\3",
        rf"{_SL}attention\.output\.dense\.{_P}": rf"{_T}attention.proj.\3",
        rf"{_SL}attention\.self\.relative_position_bias_table": rf"{_T}attention.positions",
        rf"{_SL}attention\.self\.relative_position_index": rf"{_T}attention.index",
        rf"{_SL}layernorm_after\.{_P}": rf"{_T}ffn.body.norm.\3",
        rf"{_SL}intermediate\.dense\.{_P}": rf"{_T}ffn.body.fc1.\3",
        rf"{_SL}output\.dense\.{_P}": rf"{_T}ffn.body.fc2.\3",
    }
)
_QKV = re.compile(r"(.*\.)(query|key|value)\.(weight|bias)")
_DOWN = re.compile(r"(?:swin\.encoder\.|encoder\.)?layers\.(\d+)\.downsample\.(.*)")


def _joined_qkv(state: State, where: str) -> State:
    """Separate query, key and value layers as one, in this order."""
    out = {key: value for key, value in state.items() if not _QKV.fullmatch(key)}
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = _QKV.fullmatch(key)
        if match:
            groups.setdefault(f"{match[1]}qkv.{match[3]}", {})[match[2]] = value
    for key, parts in groups.items():
        lacking = [name for name in ("query", "key", "value") if name not in parts]
        if lacking:
            raise _misfit({"missing": [key.replace("qkv", name) for name in lacking]}, where)
        out[key] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return out


def _ordered_merging(state: State) -> State:
    """Patch merging under names of its own: at the end of a stage in older files, at the head of the next in timm's."""
    stages = {int(match[1]) for key in state if (match := _DOWN.fullmatch(key))}
    first = min(stages, default=0)
    out: State = {}
    for key, value in state.items():
        match = _DOWN.fullmatch(key)
        out[f"merging.{int(match[1]) - first}.{match[2]}" if match else key] = value
    return out


def _with_tokens(state: State, where: str) -> State:
    """DeiT's two tokens as one tensor; positions of the patches alone (DeiT-III) with zeros for the tokens."""
    out = dict(state)
    if "token" not in out or "positions" not in out or out["positions"].ndim != 3:
        raise _misfit({"missing": [key for key in ("token", "positions") if key not in out]}, where)
    if "token.distilled" in out:
        out["token"] = torch.cat([out["token"], out.pop("token.distilled")], dim=1)
    patches = out["positions"].shape[1]
    if math.isqrt(patches) ** 2 == patches:
        out["positions"] = torch.cat([torch.zeros_like(out["token"]), out["positions"]], dim=1)
    return out


def _vit_config(
    state: State,
    checkpoint: Checkpoint,
    hugging: bool,
    heads: int | None,
    theta: float | None,
    active: Sequence[int] | None,
) -> ViTConfig:
    about = checkpoint.about
    extra, width = state["token"].shape[1:]
    hidden = _shape(state, "blocks.0.ffn.body.fc1.weight", checkpoint.where)[0]
    patch = _shape(state, "patches.weight", checkpoint.where)[-1]
    depth = 1 + max((int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))), default=0)
    heads = heads or about.get("num_attention_heads") or HEADS.get(width)
    if not heads:
        raise UsageError(f"how many heads? width {width} does not tell", where=checkpoint.where, fix="give heads=")
    batch = "blocks.0.ffn.body.norm2.weight" in state
    eps = about.get("layer_norm_eps", HF_VIT_EPS if hugging else REPAVIT_EPS if batch else TIMM_EPS)
    return ViTConfig(
        size=patch * math.isqrt(state["positions"].shape[1] - extra),
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        classes=state["head.weight"].shape[0] if "head.weight" in state else 1,
        hidden=hidden,
        active=_trained_active(batch, [(width, hidden)] * depth, theta, active, checkpoint.where),
        normalization="batch" if batch else "layer",
        activation=_activation(about, checkpoint.where),  # type: ignore[arg-type]
        head="classes" if "head.weight" in state else "features",
        distillation="head" if "distilled.weight" in state else "token" if extra == 2 else "none",
        layer_scale=1.0 if "blocks.0.scale.gamma" in state else None,
        pre_norm="pre_norm.weight" in state,
        eps=eps,
        final_eps=REPAVIT_FINAL_EPS if batch else eps,
    )


def _swin_config(
    state: State, checkpoint: Checkpoint, size: int | None, theta: float | None, active: Sequence[int] | None
) -> SwinConfig:
    about, where = checkpoint.about, checkpoint.where
    blocks = {(int(m[1]), int(m[2])) for key in state if (m := re.match(r"stages\.(\d+)\.(\d+)\.", key))}
    stages = 1 + max((stage for stage, _ in blocks), default=0)
    depths = tuple(sum(1 for at, _ in blocks if at == stage) for stage in range(stages))
    tables = [_shape(state, f"stages.{stage}.0.attention.positions", where) for stage in range(stages)]
    width, _, _, patch = _shape(state, "patches.weight", where)
    expansion = _shape(state, "stages.0.0.ffn.body.fc1.weight", where)[0] // width
    batch = "stages.0.0.ffn.body.norm2.weight" in state
    sizes = [(width * 2**stage, expansion * width * 2**stage) for stage in range(stages) for _ in range(depths[stage])]
    return SwinConfig(
        size=size or about.get("image_size", 224),
        patch=patch,
        window=(math.isqrt(tables[0][0]) + 1) // 2,
        width=width,
        depths=depths,
        heads=tuple(table[1] for table in tables),
        classes=state["head.weight"].shape[0] if "head.weight" in state else 1,
        expansion=expansion,
        active=_trained_active(batch, sizes, theta, active, where),
        normalization="batch" if batch else "layer",
        activation=_activation(about, where),  # type: ignore[arg-type]
        head="classes" if "head.weight" in state else "features",
        eps=about.get("layer_norm_eps", SWIN_EPS),
    )


def _trained_active(
    batch: bool, sizes: Sequence[tuple[int, int]], theta: float | None, active: Sequence[int] | None, where: str
) -> tuple[int, ...] | None:
    """Active channels of each (width, hidden) layer; None for plain layers. RePaViT rounds up on binary fractions."""
    if active is not None:
        return tuple(active)
    if theta is None:
        if batch:
            raise UsageError(
                "how many channels idle? The weights do not tell",
                where=where,
                why="RePaViT's first hidden channels are active, and the file does not say how many",
                fix="give theta=, the idle ratio of its training, or active=",
            )
        return None
    for width, hidden in sizes:
        active_channels(width, hidden, theta, 1)  # refuses what lies outside the range
    return tuple(math.ceil(hidden * (1 - theta)) for _, hidden in sizes)


def _shape(state: State, key: str, where: str) -> tuple[int, ...]:
    if key not in state:
        raise _misfit({"missing": [key]}, where)
    return tuple(state[key].shape)


def _activation(about: Mapping[str, Any], where: str) -> str:
    name = about.get("hidden_act", "gelu")
    if name not in ACTIVATIONS:
        raise InputError(f"activation {name!r} is not known", where=where, fix="known: " + ", ".join(ACTIVATIONS))
    return ACTIVATIONS[name]
