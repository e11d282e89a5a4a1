"""`edgekit init`: write a commented edgekit.toml."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, say

TEMPLATE = """\
# What `edgekit export` reads. Every option is also a flag of the same name, and the flag wins.

[model]
# a shipped model ("femtodet"), a file (.onnx, .pt2), a folder with config.json and model.safetensors,
# or "module:function" that returns (nn.Module, example inputs)
source = {source}
{tensors}# name = "my-detector"
# spec = "spec.json"              # a ModelSpec as JSON instead of the options below
# shapes = {{ image = ["batch", 3, 224, 224] }}
# preprocess = {{ resize = "letterbox", mean = [123.675, 116.28, 103.53], std = [58.4, 57.1, 57.4] }}
#   resize is one of letterbox, stretch, crop; antialias = true where the model was trained on pictures that Pillow or
#   torchvision resized, false (the default) for OpenCV
# postprocess = {{ kind = "classification", outputs = ["logits"] }}
#   for a detector: {{ kind = "detection", decode = "yolov8-rows", outputs = ["output0"] }}, where decode is one of
#   yolox-grid, fastestdet-grid, yolov8-rows, boxes-scores; clip = false lets boxes reach beyond the picture
# labels = "labels.txt"           # or ["cat", "dog"]
# data = "data/val"               # held-out data for the quality gate: a VOC or YOLO folder, a folder a class, .npz
# split = "val"
# metric = "top1"                 # ap50, ap, top1, or "package:function"

[recipe]
# steps = ["fuse", "rewrite"]     # the default for torch models

[calibration]
# calibration_data = "data/train" # real inputs that int8 takes its ranges from, never the held-out ones
# calibration_split = "train"     # or a split of [model] data
# calibration_samples = 128

[quantization]
# observer = "auto"               # of minmax, percentile, mse, octav the one whose outputs deviate least; or one of
#                                 # them by name, ema-percentile, entropy
# activations = "static"          # dynamic: ranges at run time, in matrix products, on ONNX Runtime
# equalize = true
# bias_correction = true
# keep_float = ["head.*"]         # patterns of torch modules or graph nodes
# min_coverage = 0.7              # share of the multiply-accumulates that must run in int8
# search = true                   # return the worst layers to float where the quality gate says no

[quality]
# tolerance = 1e-4                # largest relative deviation of a tensor from the parent
# parity_samples = 4
# max_drop = 0.5                  # points of the metric that may be lost
# quality_samples = 1000

[export]
target = {target}          # `edgekit targets` lists them; a list exports for several
# input = "uint8-nhwc"            # move layout, cast and normalisation into the graph
# end_to_end = true               # move a detector's decode and suppression into it too
# precision = "auto"              # the fastest within the bars; or fp32, fp16, bf16, int8
# allow_slower = false            # publish int8 although float is faster
# output = "bundles/detector"     # a folder; with the ending .edgekit a single file
# sign_key = "release.key"
"""


def command(
    source: Annotated[str, typer.Option(help="What [model] source shall say.")] = "femtodet",
    target: Annotated[str, typer.Option(help="What [export] target shall say.")] = "orin-nano",
    json: Json = False,
) -> None:
    """Write a commented edgekit.toml into this folder."""
    from edgekit import profiles
    from edgekit.bundle.atomic import unwritable_is_typed, write_file
    from edgekit.config import FILE
    from edgekit.errors import UsageError

    profiles.get(target)
    if Path(FILE).exists():
        raise UsageError(f"{FILE} exists", where=str(Path.cwd()), why="it is not replaced", fix="edit or remove it")
    text = TEMPLATE.format(source=_quoted(source), target=_quoted(target), tensors=_tensors(source))
    with unwritable_is_typed(Path(FILE)):
        write_file(Path(FILE), [text.encode()])
    emit({"written": FILE}, json, lambda value: say(f"wrote {value['written']}; next: edgekit export"))


def _tensors(source: str) -> str:
    """Comment lines that say what an ONNX file takes and gives; nothing for other sources."""
    if not source.endswith(".onnx"):
        return ""
    from edgekit.sources import open_source

    spec = open_source(source).spec
    lines = [
        f"#   {kind:<6} {tensor.name} {tensor.dtype} ({', '.join(map(str, tensor.shape))})\n"
        for kind, tensors in (("input", spec.inputs), ("output", spec.outputs))
        for tensor in tensors
    ]
    return "".join(lines)


def _quoted(text: str) -> str:
    """A TOML string; JSON's escapes are among TOML's."""
    return dumps(text, ensure_ascii=False)
