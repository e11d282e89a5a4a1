"""Finds exporters, runtimes and device profiles through entry points, ours and strangers' alike."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from edgekit.errors import MissingError, UsageError

_EXTRAS = ("onnxruntime", "openvino", "tensorrt")  # names for which edgekit has an extra
Group = Literal["edgekit.exporters", "edgekit.runtimes", "edgekit.profiles"]


def names(group: Group) -> list[str]:
    """The names that are registered in `group`, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: Group, name: str) -> Any:
    """Import what `name` stands for in `group`.

    Raises:
        UsageError: nothing of that name is registered, or two packages claim it.
        MissingError: it is registered but what it imports is not installed here.
    """
    found: list[EntryPoint] = list(entry_points(group=group, name=name))
    values = {point.value for point in found}
    if not found:
        known = ", ".join(names(group)) or "none"
        raise UsageError(f"unknown name {name!r}", where=group, why="no installed package registers it", fix=known)
    if len(values) > 1:
        raise UsageError(
            f"two packages claim {name!r}",
            where=group,
            why=" and ".join(sorted(values)),
            fix="uninstall one of the packages",
        )
    try:
        return found[0].load()
    except ModuleNotFoundError as error:
        raise MissingError(
            f"{name!r} needs the package {error.name!r}",
            where=f"{group}: {found[0].value}",
            why="it is not installed in this environment",
            fix=f"pip install 'edgekit[{name}]'" if name in _EXTRAS else f"install {error.name}",
        ) from error
