"""Layer times added up by the torch module that they came from: what a person can change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.profiler.report import Layer


@dataclass(frozen=True)
class ModuleTime:
    """The layers of one torch module, or one layer whose module is not known.

    Attributes:
        name: the module's path, or the layer's name as the runtime has it.
        share: of all layers' time, 0 to 1.
        line: source line of the slowest of its layers, where it is known.
        known: whether `name` is a module.
    """

    name: str
    total_ms: float
    share: float
    layers: int
    ops: tuple[str, ...]
    line: str | None
    known: bool


def by_module(layers: Sequence[Layer]) -> tuple[ModuleTime, ...]:
    """One entry a module, the slowest first; shares add up to 1."""
    groups: dict[tuple[bool, str], list[Layer]] = {}
    for layer in layers:
        groups.setdefault((layer.module is not None, layer.module or layer.node), []).append(layer)
    whole = sum(layer.median_ms for layer in layers)
    found = [_added(name, known, group, whole) for (known, name), group in groups.items()]
    return tuple(sorted(found, key=lambda one: (-one.total_ms, one.name)))


def _added(name: str, known: bool, group: list[Layer], whole: float) -> ModuleTime:
    total = sum(layer.median_ms for layer in group)
    slowest = sorted(group, key=lambda layer: -layer.median_ms)
    ops = tuple(dict.fromkeys(layer.op for layer in slowest))
    line = next((layer.line for layer in slowest if layer.line), None)
    return ModuleTime(name, total, total / whole if whole else 0.0, len(group), ops, line, known)
