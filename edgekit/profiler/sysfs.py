"""What the kernel tells, below a root that may be a board's twin. What is missing is None, never an error.

The meters read by `edgekit.profiler.energy.files`, whose errors say why a sensor fails; here a fact is there or not.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgekit.profiler.energy.files import Files


@dataclass(frozen=True)
class Sysfs:
    """The files below `root`, by the absolute paths that they have on a running system.

    With another root than `/`, nothing outside it is read, wherever a symbolic link may lead.
    """

    root: Path = Path("/")

    @classmethod
    def at(cls, root: Path | None = None) -> Sysfs:
        """Below `root`; without one below what EDGEKIT_SYSFS_ROOT names, or the system itself."""
        return cls(Files(root).root.absolute())

    @property
    def real(self) -> bool:
        """Whether this is the system itself, not a tree that stands for one."""
        return self.root == Path("/")

    def text(self, path: str) -> str | None:
        """The file's text without blanks and zero bytes at its ends; None where it cannot be read."""
        try:
            return Files(self.root).text(path) if self._inside(path) else None
        except (OSError, ValueError):  # missing, not for this user, a sensor's I/O error; a zero byte in the path
            return None

    def number(self, path: str) -> int | None:
        """The file's whole number; None where it cannot be read or is none."""
        text = self.text(path)
        return int(text) if text is not None and re.fullmatch(r"[+-]?\d+", text) else None

    def glob(self, pattern: str) -> tuple[str, ...]:
        """The absolute paths that match, hwmon2 before hwmon10; none where nothing does."""
        return tuple(sorted(Files(self.root).glob((pattern,)), key=_natural))

    def _inside(self, path: str) -> bool:
        if self.real:
            return True
        where = os.path.realpath(self.root / path.lstrip("/"))
        return Path(where).is_relative_to(os.path.realpath(self.root))


def _natural(path: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path))
