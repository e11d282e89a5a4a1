"""The versions of the tools that took part, for manifests and `doctor`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("edgekit", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt", "safetensors")


def versions() -> dict[str, str]:
    """Package name to version, for those of `PACKAGES` that are installed, and Python's own."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        installed = installed_version(package)
        if installed is not None:
            found[package] = installed
    return found


def installed_version(package: str) -> str | None:
    """The version of an installed package, None where it is not installed; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
