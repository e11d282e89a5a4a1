"""A bundle with variants opens in the precision that is asked for, with that variant's own files and settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.bundle import Bundle, Quality, Variant
from edgekit.errors import IntegrityError, UsageError
from edgekit.runtimes.backend import EngineRequest
from edgekit.runtimes.session import engine_request, load

pytest.importorskip("onnxruntime")
UNKNOWN = Quality("unknown", reason="it is a test")
INT8 = "variants/int8/model.onnx"
IMAGE = {"image": np.ones((1, 3, 32, 32), np.float32)}


@pytest.fixture
def two(make: Callable[..., Path], detector: Path) -> Callable[..., Path]:
    """A bundle in fp32 with a variant `int8`, which is the same with a weight of 8 where the other has 9."""

    def write(**fields: Any) -> Path:
        whole = detector.read_bytes()
        other = whole.replace(np.float32(9).tobytes(), np.float32(8).tobytes())
        assert other != whole
        variant = Variant("int8", {"model": INT8}, {}, 0.2, UNKNOWN)
        files = {"model.onnx": ("model", whole), INT8: ("variant", other)}
        return make(**{"files": files, "variants": (variant,), **fields})

    return write


def test_a_variant_is_opened_instead_of_the_main_model(two: Callable[..., Path]) -> None:
    path = two()
    with load(path) as main, load(path, precision="fp32") as named, edgekit.load(path, precision="int8") as variant:
        assert (main.precision, named.precision, variant.precision) == ("fp32", "fp32", "int8")
        whole = main.run(IMAGE)["head"]
        np.testing.assert_array_equal(named.run(IMAGE)["head"], whole)
        assert np.abs(variant.run(IMAGE)["head"] - whole).max() == pytest.approx(1.0)
        assert variant.spec == main.spec


def test_an_unknown_precision_is_refused_with_those_that_are_there(two: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="the bundle has no 'int4'") as caught:
        load(two(), precision="int4")
    assert caught.value.why == "it has fp32, int8"
    assert type(caught.value) is UsageError


def test_a_variant_has_its_own_settings_and_weights(two: Callable[..., Path]) -> None:
    names = {"model": "variants/int8/model.xml", "weights": "variants/int8/model.bin"}
    files = {
        "model.xml": ("model", b"graph"),
        "model.bin": ("weights", b"numbers"),
        names["model"]: ("variant", b"other graph"),
        names["weights"]: ("variant", b"other numbers"),
    }
    bf16 = Variant("bf16", {"model": "model.xml", "weights": "model.bin"}, {"HINT": "bf16"}, 0.02, UNKNOWN)
    variants = (Variant("int8", names, {"HINT": "f32"}, 0.2, UNKNOWN), bf16)
    with Bundle.open(two(files=files, variants=variants, settings={"MAIN": "1"})) as bundle:
        asked = {name: engine_request(bundle, name) for name in (None, "fp32", "int8", "bf16")}
    assert asked[None] == asked["fp32"] == EngineRequest(b"graph", b"numbers", {"MAIN": "1"}, outputs=("head",))
    assert asked["int8"] == EngineRequest(b"other graph", b"other numbers", {"HINT": "f32"}, outputs=("head",))
    assert asked["bf16"] == EngineRequest(b"graph", b"numbers", {"HINT": "bf16"}, outputs=("head",))


def test_another_runtime_takes_a_variant_in_its_format_and_no_other(two: Callable[..., Path]) -> None:
    with load(two(runtime="openvino"), runtime="onnxruntime", precision="int8") as session:
        assert session.precision == "int8"
    names = {"model": "variants/int8/model.xml"}
    files = {"model.onnx": ("model", b"graph"), names["model"]: ("variant", b"graph")}
    path = two(name="x", runtime="openvino", files=files, variants=(Variant("int8", names, {}, 0.2, UNKNOWN),))
    with pytest.raises(UsageError, match="cannot run on onnxruntime") as caught:
        load(path, runtime="onnxruntime", precision="int8")
    assert caught.value.where == names["model"]


def test_a_tampered_variant_is_found_when_it_is_loaded(two: Callable[..., Path]) -> None:
    path = two()
    raw = bytearray((path / INT8).read_bytes())
    raw[-1] ^= 1
    (path / INT8).write_bytes(raw)
    load(path).close()
    with pytest.raises(IntegrityError, match="was changed or damaged"):
        load(path, precision="int8")
