"""What tells who or where somebody is: found in text that is meant for strangers, so that it is refused."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_PLACES = "home|root|Users|mnt|media|tmp|var|opt|srv|data|sdcard|storage|etc|proc|sys|dev|usr|run|private"
_PATH = rf"(?<![\w.])(?:~/|/(?:{_PLACES})\b|/[\w.@*+-]+/)(?:[^\s,;:()\"']|:(?=\S))*|\b[A-Za-z]:\\\S*"
_PATTERNS = {
    "a path": _PATH,
    "an address of a person or an account": r"[\w.+-]+@[\w-]+",
    "an IP address": r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){3,}[0-9a-fA-F:]*",
    "a network card's address": r"\b(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}\b",
    "an identifier": r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|(?i:serial)|\b[0-9a-fA-F]{16,}\b",
    "a long number, such as a serial": r"(?<![\d.])\d{10,}",
}
_COMMON = frozenset(
    {"localhost", "root", "user", "ubuntu", "debian", "nvidia", "jetson", "admin", "pi", "home", "linux"}
)
"""Names that many have, and that stand in other words of a report."""
_SHORT = 3


def private_parts(text: str, secrets: Collection[str] = ()) -> tuple[str, ...]:
    """What kinds of private data are in `text`; nothing where it may be shown.

    Args:
        secrets: names that this machine knows, see `own_names`.
    """
    kinds = [kind for kind, pattern in _PATTERNS.items() if re.search(pattern, text)]
    named = any(re.search(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", text) for secret in secrets)
    return (*kinds, *(["a name of this machine or its user"] if named else []))


def without_paths(text: str) -> str:
    """The text with `...` in place of each path."""
    return re.sub(_PATH, "...", text)


def own_names() -> tuple[str, ...]:
    """The machine's host name and its user's name, where they are not everybody's."""
    node = platform.node()
    told = (node, node.partition(".")[0], Path.home().name, os.environ.get("USER", ""), os.environ.get("LOGNAME", ""))
    return tuple(dict.fromkeys(name for name in told if len(name) >= _SHORT and name.lower() not in _COMMON))


def texts(data: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in JSON-like data, keys included, with its place."""
    if isinstance(data, str):
        yield where, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield f"{where}.{key}", str(key)
            yield from texts(value, f"{where}.{key}")
    elif isinstance(data, Sequence):
        for index, value in enumerate(data):
            yield from texts(value, f"{where}[{index}]")
