"""A published bundle in which one weight, scale or node was changed: every gate says no and names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

pytest.importorskip("torch")

from edgekit import pipeline
from edgekit.audit import audit
from edgekit.bundle import Bundle, write_bundle
from edgekit.config import (
    CalibrationOptions,
    Config,
    ExportOptions,
    ModelOptions,
    QualityOptions,
)
from edgekit.errors import GateError, UsageError


@pytest.fixture(scope="module")
def shipped(classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelOptions, Path]:
    """An int8 bundle, the options that name its source, and the held-out data."""
    config = Config(
        model=replace(classifier.options, data=str(classifier.test)),
        calibration=CalibrationOptions(str(classifier.train)),
        quality=QualityOptions(max_drop=10.0),
        export=ExportOptions(target="host", precision="int8", allow_slower=True),
    )
    path = tmp_path_factory.mktemp("shipped") / "bundle"
    pipeline.export(config, "host", path)
    return path, classifier.options, classifier.test


def changed(path: Path, to: Path, change: Callable[[ModelProto], None], **manifest: Any) -> Path:
    """The bundle with another model and honest hashes, as somebody without the signing key could make it."""
    with Bundle.open(path) as bundle:
        files = {entry.path: (entry.role, bundle.read(entry.path)) for entry in bundle.manifest.files}
        model = onnx.load_from_string(files["model.onnx"][1])
        change(model)
        files["model.onnx"] = ("model", model.SerializeToString())
        with write_bundle(to, replace(bundle.manifest, files=(), **manifest), files):
            return to


def setting(model: ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(numpy_helper.to_array(tensor).dtype), name))


def values_of(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name)).copy()


def layer(model: ModelProto, index: int) -> Any:
    return [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")][index]


def one_weight(model: ModelProto) -> None:
    """The first weight of the second convolution, from one end of the range to the other."""
    name = layer(model, 1).input[1].removesuffix("/dq") + "/q"
    values = values_of(model, name)
    values.flat[np.abs(values).argmax()] *= -1
    setting(model, name, values)


def one_scale(model: ModelProto) -> None:
    """The scales of the second convolution's weight, doubled."""
    name = layer(model, 1).input[1].removesuffix("/dq") + "/scale"
    setting(model, name, values_of(model, name) * 2)


def one_node(model: ModelProto) -> None:
    """A ReLU that lets everything through."""
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Identity"
    quantized = next(other for other in model.graph.node if other.input[0] == node.output[0])
    zero = quantized.input[2]
    setting(model, zero, np.array(128))


def test_an_untouched_bundle_passes_every_gate(shipped: Any) -> None:
    path, options, data = shipped
    found = audit(path, options, data=data)
    assert found.precision == "int8" and len(found.layers) == 4
    assert found.coverage is not None and found.coverage.share > 0.99
    assert found.quality is not None and found.quality.status == "measured"


@pytest.mark.parametrize(("change", "index"), [(one_weight, 1), (one_scale, 1), (one_node, 0)])
def test_the_layer_that_was_changed_is_named(
    shipped: Any, tmp_path: Path, change: Callable[[ModelProto], None], index: int
) -> None:
    path, options, _ = shipped
    with Bundle.open(path) as bundle:
        name = layer(onnx.load_from_string(bundle.read("model.onnx")), index).name
    with pytest.raises(GateError, match="layers: ") as caught:
        audit(changed(path, tmp_path / "other", change), options)
    assert repr(name) in caught.value.what and caught.value.exit_code == 3


def test_a_runtime_that_fuses_less_fails_the_coverage_gate_by_name(shipped: Any, tmp_path: Path) -> None:
    """Without its Q behind it, the first convolution computes in float."""

    def unfused(model: ModelProto) -> None:
        nodes = list(model.graph.node)
        relu = next(node for node in nodes if node.op_type == "Relu")
        reader = next(
            node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0].startswith(relu.output[0])
        )
        for node in nodes:
            for i, name in enumerate(node.input):
                if name == reader.output[0]:
                    node.input[i] = relu.output[0]

    path, options, _ = shipped
    with Bundle.open(path) as bundle:
        first = layer(onnx.load_from_string(bundle.read("model.onnx")), 0).name
    strict = replace_bar(path, 0.99)
    with pytest.raises(GateError, match="coverage") as caught:
        audit(changed(path, tmp_path / "other", unfused, choice=strict, layers=()), options)
    assert first in str(caught.value.where)


def replace_bar(path: Path, bar: float) -> Any:
    """The bundle's choice as if its recipe had asked for more coverage."""
    with Bundle.open(path) as bundle:
        choice = bundle.manifest.choice
    assert choice is not None
    return replace(
        choice,
        candidates=tuple(
            replace(each, coverage=replace(each.coverage, bar=bar)) if each.coverage else each
            for each in choice.candidates
        ),
    )


def test_parity_and_quality_say_no_where_the_layers_are_not_asked(shipped: Any, tmp_path: Path) -> None:
    def last_bias(model: ModelProto) -> None:
        name = layer(model, 3).input[2].removesuffix("/dq") + "/q"
        setting(model, name, np.roll(values_of(model, name), 1) + np.arange(len(values_of(model, name))) * 100_000)

    path, options, data = shipped
    broken = changed(path, tmp_path / "other", last_bias, layers=())
    with pytest.raises(GateError, match="parity: output"):
        audit(broken, options)
    with Bundle.open(broken) as bundle:
        tests = tuple(replace(test, tolerance=1e9) for test in bundle.manifest.selftest)
    lenient = changed(broken, tmp_path / "lenient", lambda _: None, selftest=tests)
    with pytest.raises(GateError, match="quality: top1 fell"):
        audit(lenient, options, data=data)


def test_another_source_is_no_judge(shipped: Any) -> None:
    with pytest.raises(UsageError, match="is not what"):
        audit(shipped[0], ModelOptions(source="femtodet"))
