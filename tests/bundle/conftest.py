"""Small bundles to attack: a manifest, files and keys, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgekit.bundle.evidence import (
    Candidate,
    Choice,
    Coverage,
    LayerNoise,
    MeasuredOn,
    Parity,
    Quality,
    Variant,
)
from edgekit.bundle.manifest import (
    HistoryStep,
    Manifest,
    Origin,
    Question,
    RuntimeNeed,
    SelfTest,
    Source,
    TargetNeed,
)
from edgekit.bundle.npy import encode_array
from edgekit.bundle.signing import public_pem
from edgekit.bundle.writer import write_bundle
from edgekit.spec import DetectionPostprocess, ImagePreprocess, ModelSpec, TensorSpec

Files = dict[str, tuple[str, bytes]]

FILES: Files = {
    "model.onnx": ("model", b"a graph" * 40),
    "weights/model.bin": ("weights", bytes(range(256))),
    "selftest/images.npy": ("selftest", encode_array(np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2))),
    "selftest/maps.npy": ("selftest", encode_array(np.ones((1, 8), np.float16))),
}

COVERAGE = Coverage(0.8, 0.9, 90, 100, "runtime", {"decode/Mul": "decode arithmetic stays float"})
LOST = Quality("measured", metric="ap50", parent=91.5, bundle=91.1, max_drop=0.5, samples=72, data_sha256="a" * 64)

FULL = Manifest(
    name="femtodet",
    version=3,
    model=ModelSpec(
        name="femtodet",
        task="detection",
        inputs=(TensorSpec("images", "float32", ("batch", 3, 416, 416)),),
        outputs=(TensorSpec("maps", "float32", ("batch", 8, 26, 26)),),
        preprocess=ImagePreprocess("images", 416, 416, mean=(123.675, 116.28, 103.53), std=(58.82, 58.82, 58.82)),
        postprocess=DetectionPostprocess(("maps",), "yolox-grid"),
        labels=("WBC", "RBC", "Plättchen"),
        metric="ap50",
    ),
    target=TargetNeed("intel-n100", RuntimeNeed("openvino", "2025.0", "2027"), "fp32", ("x86_64",), {"HINT": "f32"}),
    files=(),
    source=Source("builtin", "femtodet", "0" * 64, 64_657),
    history=(HistoryStep("fuse", {"stages": [1, 2, {"deep": None}]}, {"parameters": 64_657, "error": 1e-12}),),
    parity=(Parity("onnxruntime 1.23.2 on host", "torch 2.9.1", 8, "real", 1e-6, 3e-7, 1e-4, True),),
    quality=Quality(
        *("measured", None, "ap50", 91.5, 91.4, 0.5, 72, "a" * 64),
        *(0.1, 0.3, -0.1, 0.95, 1000, "paired bootstrap over samples"),
    ),
    questions=(Question("speed", "latency", "is it fast", "no board here", prediction=4.5, unit="ms"),),
    selftest=(SelfTest({"images": "selftest/images.npy"}, {"maps": "selftest/maps.npy"}, 1e-3, "random"),),
    tools={"torch": "2.9.1"},
    origins={"conv1": Origin("femtodet.stem", "femtodet.py", 12)},
    licences=("Apache-2.0",),
    choice=Choice(
        "fp32",
        "race",
        "int8 is not faster here",
        (
            Candidate("fp32", True, quality=LOST, latency_ms=4.0, speedup=(1.0, 1.0, 1.0)),
            Candidate("int8", True, quality=LOST, coverage=COVERAGE, latency_ms=4.1, speedup=(0.96, 0.98, 0.99)),
            Candidate("bf16", False, "this CPU has no bf16"),
        ),
        MeasuredOn("A CPU", "x86_64", "Linux 6.8", "openvino 2026.4.1", "ONEDNN_MAX_CPU_ISA=AVX2_VNNI", 1),
    ),
    layers=(LayerNoise("conv1", "conv1_out", 21.5, "femtodet.stem", "femtodet.py", 12),),
)

MINIMAL = Manifest(
    name="m",
    version=1,
    model=ModelSpec("m", "tensor", (), ()),
    target=TargetNeed("host", RuntimeNeed("onnxruntime", "1"), "fp32"),
    files=(),
    source=Source("onnx", "m.onnx", "f" * 64),
    history=(),
    parity=(),
    quality=Quality("unknown", reason="there is no metric"),
    questions=(),
    selftest=(),
    tools={},
    origins={},
)


INT8 = "variants/int8/model.onnx"
VARIED_FILES: Files = {**FILES, INT8: ("variant", b"a smaller graph" * 20)}
VARIED = replace(FULL, variants=(Variant("int8", {"model": INT8}, {"HINT": "f32"}, 0.2, LOST, COVERAGE),))


@pytest.fixture(scope="session")
def varied() -> Manifest:
    """`full`, and the same model in int8; `varied_files` are its files."""
    return VARIED


@pytest.fixture
def varied_files() -> Files:
    return dict(VARIED_FILES)


@pytest.fixture(scope="session")
def full() -> Manifest:
    return FULL


@pytest.fixture(scope="session")
def minimal() -> Manifest:
    return MINIMAL


@pytest.fixture
def files() -> Files:
    return dict(FILES)


@pytest.fixture(scope="session")
def private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(scope="session")
def key(private_key: Ed25519PrivateKey) -> bytes:
    """The public key that fits, as PEM."""
    return public_pem(private_key)


@pytest.fixture(params=["folder", "zip"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to write, in both shapes."""
    return tmp_path / ("b.edgekit" if request.param == "zip" else "b")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a bundle and return its path: `make("b", manifest=..., files=..., private_key=...)`."""

    def write(name: str, *, manifest: Manifest = FULL, files: Files = FILES, **options: Any) -> Path:
        path = tmp_path / name
        write_bundle(path, replace(manifest), files, **options).close()
        return path

    return write
