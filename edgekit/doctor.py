"""What this machine can export to and run, found by trying, and the command that fixes each gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edgekit import plugins, profiles, tooling
from edgekit.errors import EdgekitError, MissingError
from edgekit.runtimes.backend import Builder

EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors")


@dataclass(frozen=True)
class Capability:
    """One thing that this machine can or cannot do."""

    what: str
    ready: bool
    version: str | None = None
    why: str | None = None
    fix: str | None = None


def examine() -> list[Capability]:
    """Runtimes, pictures, and an export for each runtime that a profile names."""
    runtimes = sorted({profile.runtime for profile in profiles.all_profiles()})
    return [
        *(_try(f"run {name} bundles", partial(_runtime_version, name)) for name in runtimes),
        _try("read pictures", _pillow_version),
        *(_try(f"export for {_targets(name)}", partial(_exporter_version, name)) for name in runtimes),
    ]


def _try(what: str, version: Callable[[], str]) -> Capability:
    try:
        return Capability(what, True, version())
    except EdgekitError as error:
        return Capability(what, False, None, error.what, error.fix)


def _runtime_version(name: str) -> str:
    if name not in plugins.names("edgekit.runtimes"):
        raise MissingError(
            f"this version of edgekit has no {name} runtime", fix="run it on the device with one that has"
        )
    backend = plugins.load("edgekit.runtimes", name)
    version = str(backend.version())
    return f"{version} on {backend.device()}" if isinstance(backend, Builder) else version


def _exporter_version(name: str) -> str:
    missing = [package for package in EXPORT_PACKAGES if tooling.installed_version(package) is None]
    if name == "openvino" and tooling.installed_version(name) is None:
        missing.append(name)
    if missing:
        extras = "export,openvino" if "openvino" in missing else "export"
        raise MissingError(f"{', '.join(missing)} not installed", fix=f"pip install 'edgekit[{extras}]'")
    plugins.load("edgekit.exporters", name)
    return f"torch {tooling.installed_version('torch')}"


def _pillow_version() -> str:
    found = tooling.installed_version("pillow")
    if found is None:
        raise MissingError("Pillow is not installed", fix="pip install 'edgekit[image]'")
    return found


def _targets(runtime: str) -> str:
    return ", ".join(profile.name for profile in profiles.all_profiles() if profile.runtime == runtime)
