"""What may stand in a bundle: the names, the two files that are never listed, and the limits."""

from __future__ import annotations

import re
from collections.abc import Iterable

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
SUFFIX = ".edgekit"  # a path that ends so is written as a zip, every other one as a folder

MAX_MANIFEST_BYTES = 16 << 20
MAX_SIGNATURE_BYTES = 4 << 10
MAX_FILES = 4096  # far above any export; stops a flood of entries before it costs memory
MAX_TOTAL_BYTES = 64 << 30  # eight times the memory of the largest board that we have a profile for
MAX_NAME_LENGTH = 200  # leaves room for a folder in front within the 255 bytes that file systems agree on

# Portable on every file system, invisible on none: no leading dot, no trailing dot, ASCII only.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?"
NAME_PATTERN = rf"{_PART}(?:/{_PART})*"


def name_problem(name: str) -> str | None:
    """Why `name` may not be a file's path inside a bundle, as the end of a sentence, or None if it may."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "contains a NUL character"
    if "\\" in name:
        return "contains a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if re.match(r"[A-Za-z]:", name):
        return "begins with a drive letter"
    if any(part in (".", "..") for part in name.split("/")):
        return "leads out of the bundle or around in it"
    if len(name) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} characters"
    if not re.fullmatch(NAME_PATTERN, name):
        return "may hold only ASCII letters, digits and . _ + - with / between, and no part may begin or end with a dot"
    return None


def first_collision(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that some file system would confuse, or None.

    Names collide when they are equal, when they (or folders in them) differ only in case, or when one is a folder of
    the other.
    """
    files: set[str] = set()
    spelling: dict[str, str] = {}
    for name in names:
        if name in files:
            return name, name
        files.add(name)
        for whole in (*parents(name), name):
            known = spelling.setdefault(whole.casefold(), whole)
            if known != whole:
                return known, whole
    return next(((parent, name) for name in sorted(files) for parent in parents(name) if parent in files), None)


def parents(name: str) -> list[str]:
    """The folders that `name` lies in, outermost first: `a/b/c` gives `a` and `a/b`."""
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
