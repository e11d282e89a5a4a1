"""edgekit: compress a model, export it for a board, prove it there, and run it without torch."""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing: importing that would cost more than all of this file
if TYPE_CHECKING:
    from edgekit.errors import EdgekitError as EdgekitError
    from edgekit.pipeline import export as export
    from edgekit.runtimes import Session as Session
    from edgekit.runtimes import load as load

__version__ = "0.1.0"

_HOMES = {
    "EdgekitError": "edgekit.errors",
    "load": "edgekit.runtimes",
    "Session": "edgekit.runtimes",
    "export": "edgekit.pipeline",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use: `import edgekit` alone costs next to nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
