"""What is checked: a model and its inputs, from an ONNX file or from a bundle for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, helper, numpy_helper

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.graph.integer import quantized_tensors

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Subject:
    """One model with its inputs.

    Attributes:
        inputs: where the samples come from, in words.
        settings: ONNX Runtime's session settings.
    """

    name: str
    model: ModelProto
    samples: tuple[Tensors, ...]
    inputs: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def traced(self) -> bytes:
        """The model, returning its quantized tensors too. Not more: asked for floats, a runtime would fuse less."""
        copy = ModelProto()
        copy.CopyFrom(self.model)
        returned = {value.name for value in copy.graph.output}
        initializers = {each.name: each.data_type for each in copy.graph.initializer}
        for node in copy.graph.node:
            if node.op_type == "QuantizeLinear" and node.output[0] not in returned:
                zero_point = node.input[2] if len(node.input) > 2 else ""
                dtype = initializers.get(zero_point, onnx.TensorProto.UINT8)
                copy.graph.output.append(helper.make_tensor_value_info(node.output[0], dtype, None))
        return bytes(copy.SerializeToString())


def open_subjects(path: Path, inputs: Path | None, seed: int) -> list[Subject]:
    """The models at `path`: the file, or a bundle's main model and variants as far as they are quantized.

    Args:
        path: an `.onnx` file, or a bundle.
        inputs: an `.npz` file with an array for each model input; drawn with `seed` where it is None (file), or the
            self-test's (bundle).

    Raises:
        InputError: it is neither, cannot be read, or holds nothing to check.
        IntegrityError: the bundle is damaged.
    """
    given = _load(inputs) if inputs else None
    if path.suffix != ".onnx":
        return _from_bundle(path, given)
    if not path.is_file():
        raise InputError("there is no such model", where=str(path))
    model = _parse(path.read_bytes(), str(path))
    samples, origin = (given, str(inputs)) if given else (_draw(model, seed), f"drawn, seed {seed}")
    return [Subject(path.name, model, (samples,), origin)]


def _from_bundle(path: Path, given: Tensors | None) -> list[Subject]:
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        if manifest.target.runtime.name != "onnxruntime":
            raise InputError(
                "the bundle is not for ONNX Runtime", where=str(path), why=f"it is for {manifest.target.runtime.name}"
            )
        tests = [{name: bundle.read_array(file) for name, file in test.inputs.items()} for test in manifest.selftest]
        samples, origin = ((given,), "as given") if given else (tuple(tests), "of the bundle's self-test")
        files = {bundle.files_with_role("model")[0]: manifest.target.settings}
        files |= {each.files["model"]: each.settings for each in manifest.variants}
        models = {name: _parse(bundle.read(name), f"{path}: {name}") for name in files}
    found = [
        Subject(f"{path.name}: {name}", model, samples, origin, files[name])
        for name, model in models.items()
        if quantized_tensors(model) or len(models) == 1
    ]
    if not found or not samples:
        raise InputError("the bundle has nothing to check", where=str(path), why="no int8 model, or no self-test")
    return found


def _draw(model: ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Floats evenly over the range that the model quantizes its input to, standard normal where it does not tell."""
    random = np.random.default_rng(seed)
    weights = {each.name: each for each in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            low, high = _range(model, value.name, weights)
            drawn = random.uniform(low, high, shape) if low < high else random.standard_normal(shape)
        elif dtype.itemsize == 1 and dtype.kind != "b":
            drawn = random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape)
        else:
            drawn = random.integers(0, 2, shape)
        feeds[value.name] = drawn.astype(dtype)
    return feeds


def _range(model: ModelProto, name: str, weights: Mapping[str, Any]) -> tuple[float, float]:
    for node in model.graph.node:
        if (
            node.op_type == "QuantizeLinear"
            and node.input[0] == name
            and all(each in weights for each in node.input[1:])
        ):
            scale, *zero = (numpy_helper.to_array(weights[each]) for each in node.input[1:])
            zero_point = zero[0] if zero else np.uint8(0)
            limits = np.iinfo(zero_point.dtype)
            ends = [(end - float(np.mean(zero_point))) * float(np.max(scale)) for end in (limits.min, limits.max)]
            return ends[0], ends[1]
    return 0.0, 0.0


def _parse(data: bytes, where: str) -> ModelProto:
    try:
        return onnx.load_from_string(data)
    except (DecodeError, ValueError) as error:
        raise InputError("this is no ONNX model", where=where, why=str(error)) from error


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise InputError("this is no .npz file of plain arrays", where=str(path), why=str(error)) from error
