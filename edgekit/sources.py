"""Where models come from: shipped ones, ONNX files, exported programs, Python functions, Hugging Face folders.

Each becomes a `Parent`: the model as it was handed in, what it is for the outside, and how to run it as the
reference that every export is held against.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.bundle import Source
from edgekit.errors import InputError, UsageError
from edgekit.graph.from_onnx import infer_spec, read_onnx
from edgekit.models.catalog import CATALOG, load_folder
from edgekit.models.femtodet import femtodet_spec
from edgekit.models.upstream import VOC_LABELS, load_upstream_femtodet
from edgekit.parents import OnnxParent, Parent, TorchParent, flat_tensors
from edgekit.spec import ModelSpec, TensorSpec
from edgekit.usercode import call, resolve


def open_source(
    text: str,
    *,
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
    trust_code: bool = False,
    name: str | None = None,
) -> Parent:
    """Load what `text` names.

    Args:
        text: a shipped model's name, a path to `.onnx`, `.pt2` or a `.pth` of the upstream FemtoDet, a Hugging Face
            folder, or `module:function`.
        shapes: shapes by input name, for sources that leave them open: `.onnx` and `module:function`.
        trust_code: allow sources that execute code.
        name: the model's name; by default it follows from the source.

    Raises:
        UsageError: nothing of that name, or it executes code and `trust_code` is not set.
        InputError: the file is unreadable or malformed.
    """
    path = Path(text)
    if shapes and (text in CATALOG or path.suffix in (".pt2", ".pth") or path.is_dir()):
        raise UsageError("this source takes no shapes", where="[model] shapes", why=f"{text} fixes its own")
    if text in CATALOG:
        return _from_catalog(text, name)
    if path.suffix == ".pth":
        return _from_checkpoint(path, name)
    if path.suffix == ".onnx":
        return _from_onnx(path, shapes or {}, name)
    if path.suffix == ".pt2":
        _require_trust(trust_code, text, "torch's archive loader unpickles parts of a .pt2 file")
        return _from_pt2(path, name)
    if path.is_dir():
        return _from_folder(path, name)
    if ":" in text and not path.exists():
        _require_trust(trust_code, text, "module:function imports a module and calls it")
        return _from_function(text, shapes or {}, name)
    raise UsageError(
        f"no model {text!r}",
        where="[model] source",
        why="it is neither a shipped model, nor an .onnx, .pt2 or .pth file, a model folder, or module:function",
        fix="shipped models: " + ", ".join(sorted(CATALOG)),
    )


def _from_catalog(name: str, alias: str | None) -> Parent:
    entry = CATALOG[name]
    module, spec, digest = entry.load()
    source = Source("builtin", f"{name} ({entry.weights})", digest, _parameters(module))
    return TorchParent(source, _renamed(spec, alias), module.eval(), _example(spec))


def _from_folder(path: Path, name: str | None) -> Parent:
    module, spec, digest = load_folder(path)
    source = Source("huggingface", path.name, digest, _parameters(module))
    return TorchParent(source, _renamed(spec, name), module.eval(), _example(spec))


def _from_checkpoint(path: Path, name: str | None) -> Parent:
    """Weights only, so no trust is needed; the file does not name its classes, `[model] labels` does."""
    module = load_upstream_femtodet(path)
    classes = module.config.classes
    labels = VOC_LABELS if classes == len(VOC_LABELS) else tuple(f"class {i}" for i in range(classes))
    spec = femtodet_spec(labels, name=name or path.stem)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TorchParent(Source("checkpoint", path.name, digest, _parameters(module)), spec, module, _example(spec))


def _from_onnx(path: Path, shapes: Mapping[str, tuple[int | str, ...]], name: str | None) -> Parent:
    spec = infer_spec(read_onnx(path), name or path.stem)
    _refuse_unknown(shapes, [tensor.name for tensor in spec.inputs])
    for tensor in spec.inputs:
        if len(shapes.get(tensor.name, tensor.shape)) != len(tensor.shape):
            raise UsageError(
                f"the shape of {tensor.name!r} has another rank",
                where="[model] shapes",
                why=f"the file says {tensor.shape}",
                fix="give one size or name for each dimension",
            )
    inputs = tuple(replace(tensor, shape=shapes.get(tensor.name, tensor.shape)) for tensor in spec.inputs)
    source = Source("onnx", path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    return OnnxParent(source, replace(spec, inputs=inputs), path)


def _from_pt2(path: Path, name: str | None) -> Parent:
    if not path.is_file():
        raise InputError("no such file", where=str(path), fix="check the path")
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise InputError(
            "this is not a readable exported program",
            where=str(path),
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            fix="write it with torch.export.save, by a torch no newer than the one installed",
        ) from error
    example, keywords = program.example_inputs or ((), {})
    if keywords or not example or not all(isinstance(item, Tensor) for item in example):
        raise InputError(
            "the program's inputs are not plain positional tensors",
            where=str(path),
            fix="export it with positional tensors",
        )
    names = [str(name) for name in program.graph_signature.user_inputs]
    shapes = {tensor: _symbolic_shape(program, tensor) for tensor in names}
    module = program.module()
    spec = _spec_of(name or path.stem, module, dict(zip(names, example, strict=True)), shapes)
    source = Source("pt2", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), _parameters(module))
    return TorchParent(source, spec, module, tuple(example), program)


def _from_function(text: str, shapes: Mapping[str, tuple[int | str, ...]], name: str | None) -> Parent:
    result = call(resolve(text), what=text)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], nn.Module)):
        raise InputError(
            f"{text} does not return (nn.Module, example inputs)",
            where="[model] source",
            why=f"it returned {type(result).__name__}",
            fix="return model, (example_tensor, ...)",
        )
    module, given = result[0].eval(), result[1]
    example = (given,) if isinstance(given, Tensor) else tuple(given) if isinstance(given, tuple | list) else ()
    names = _input_names(module)[: len(example)]
    if not example or len(names) < len(example) or not all(isinstance(item, Tensor) for item in example):
        raise InputError(
            "the example inputs are not tensors that forward takes",
            where=text,
            why=f"forward takes {', '.join(names) or 'none by name'}",
            fix="return model, (example_tensor, ...), one for each named argument of forward",
        )
    _refuse_unknown(shapes, names)
    spec = _spec_of(name or text.split(":")[1], module, dict(zip(names, example, strict=True)), shapes)
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    source = Source("module", text, digest.hexdigest(), _parameters(module))
    static = all(isinstance(dim, int) for tensor in spec.inputs for dim in tensor.shape)
    return TorchParent(source, spec, module, example if static else _example(spec))


def _input_names(module: nn.Module) -> list[str]:
    """The names of the arguments that `forward` takes by position."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in by_position]


def _spec_of(
    name: str, module: nn.Module, example: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | str, ...]]
) -> ModelSpec:
    """A spec from example inputs; outputs are found by running the module."""
    inputs = tuple(
        TensorSpec(key, _dtype(tensor), shapes.get(key) or tuple(tensor.shape)) for key, tensor in example.items()
    )
    with torch.no_grad():
        found = flat_tensors(call(module, *example.values(), what=f"{name} on its example inputs"))
    batch = next((tensor.shape[0] for tensor in inputs if tensor.shape and isinstance(tensor.shape[0], str)), None)
    outputs = tuple(
        TensorSpec(
            "output" if len(found) == 1 else f"output_{i}",
            _dtype(tensor),
            ((batch, *tensor.shape[1:]) if batch and tensor.ndim else tuple(tensor.shape)),
        )
        for i, tensor in enumerate(found)
    )
    return ModelSpec(name, "tensor", inputs, outputs)


def _example(spec: ModelSpec) -> tuple[Tensor, ...]:
    """Example inputs of the spec's shapes: symbolic dimensions are 2, since torch specialises sizes 0 and 1."""
    random = torch.Generator().manual_seed(0)
    return tuple(_example_tensor(tensor, random) for tensor in spec.inputs)


def _example_tensor(tensor: TensorSpec, random: torch.Generator) -> Tensor:
    shape = [dim if isinstance(dim, int) else 2 for dim in tensor.shape]
    dtype = getattr(torch, tensor.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=random).to(dtype)
    return torch.randint(0, 2, shape, generator=random).to(dtype)


def _symbolic_shape(program: torch.export.ExportedProgram, name: str) -> tuple[int | str, ...]:
    node = next(node for node in program.graph.nodes if node.name == name)
    return tuple(dim if isinstance(dim, int) else str(dim) for dim in node.meta["val"].shape)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _renamed(spec: ModelSpec, name: str | None) -> ModelSpec:
    return replace(spec, name=name) if name else spec


def _refuse_unknown(shapes: Mapping[str, object], names: Sequence[str]) -> None:
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        raise UsageError(
            f"shapes names no input {unknown[0]!r}", where="[model] shapes", fix=f"inputs: {', '.join(names)}"
        )


def _require_trust(trusted: bool, text: str, why: str) -> None:
    if not trusted:
        raise UsageError(
            f"loading {text!r} executes code",
            where="[model] source",
            why=f"{why}: a hostile one can do anything that you can",
            fix="if you trust where it came from, repeat with --trust-code",
        )
