"""The versions that the contract is held against, and why these."""

from __future__ import annotations

from dataclasses import dataclass

# What the oldest supported JetPack brings, what the newest brings, and the generation after it.
TENSORRT = ("10.3.0", "10.16.1.11", "11.4.0.106")
TENSORRT_SOURCES = {
    "10.3.0": "NVIDIA JetPack 6.2 release notes: TensorRT 10.3",
    "10.16.1.11": "NVIDIA JetPack 7.2 release notes: TensorRT 10.16",
    "11.4.0.106": "PyPI, 2026-11: the newest; removed weak typing and the precision flags",
}
# The first and the last of 12.9, for JetPack 6.2's CUDA 12.6; the first and the newest of 13, for JetPack 7.2's 13.2.
CUDA = ("12.9.0", "12.9.10", "13.0.0", "13.5.0")
CUDA_MODULES = ("cuda.bindings.runtime", "cuda.bindings.driver")
# cuda.bindings imports it to find NVIDIA's libraries; its version changes nothing that is checked here.
PATHFINDER = "1.9.1"


@dataclass(frozen=True)
class Generation:
    """Versions that live on one machine; mypy sees one generation at a time."""

    tensorrt: str
    cuda: str


GENERATIONS = (
    Generation("10.3.0", "12.9.0"),
    Generation("10.16.1.11", "13.0.0"),
    Generation("11.4.0.106", "13.5.0"),
)
