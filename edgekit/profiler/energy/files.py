"""Files below a root that tests can move: `EDGEKIT_SYSFS_ROOT=tests/twins/orin-nano-jp6`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

ROOT_VARIABLE = "EDGEKIT_SYSFS_ROOT"


class Files:
    """What the kernel says of a machine. Paths are absolute, as on the machine itself; nothing is ever written.

    Args:
        root: in whose place `/` stands; by default what EDGEKIT_SYSFS_ROOT names, or `/`.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root if root is not None else os.environ.get(ROOT_VARIABLE) or "/")

    def glob(self, patterns: Iterable[str]) -> list[str]:
        """Paths that exist, pattern by pattern, sorted within each."""
        found = []
        for pattern in patterns:
            matches = self.root.glob(pattern.lstrip("/"))
            found += sorted("/" + path.relative_to(self.root).as_posix() for path in matches)
        return found

    def text(self, path: str) -> str:
        """Its content, stripped.

        Raises:
            OSError: it cannot be read.
        """
        return (self.root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")

    def number(self, path: str) -> float:
        """Its content as a number.

        Raises:
            OSError: it cannot be read, or is no number.
        """
        text = self.text(path)
        try:
            return float(text)
        except ValueError as error:
            raise OSError(f"{path} says {text[:40]!r}, which is no number") from error

    def maybe(self, path: str) -> str | None:
        """Its content, None where it cannot be read: for what is recorded but not needed."""
        try:
            return self.text(path)
        except OSError:
            return None
