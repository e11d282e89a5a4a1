"""The kinds of failure and their exit codes.

Every error says what happened, where, why, and what would fix it. The command prints the four parts; the exit code
is the class's: 2 usage or unreadable input, 3 a gate or an integrity check said no, 4 something is missing on this
machine, 5 inconclusive. Anything that is not an `EdgekitError` is a bug of ours and exits with 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EdgekitError(Exception):
    """Base of all errors that edgekit raises on purpose.

    Args:
        what: one sentence, what happened.
        where: the file, field, node, tensor or source line concerned.
        why: the cause, or the rule that was broken.
        fix: what the reader can do about it, a command where there is one.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        parts = [("where", self.where), ("why", self.why), ("fix", self.fix)]
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in parts if text)])

    def as_json(self) -> dict[str, str | int | None]:
        """The four parts, the kind and the exit code, as the command prints them with `--json`."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class UsageError(EdgekitError):
    """The request cannot be understood: an unknown name, a wrong option, a setting of the wrong type."""

    exit_code = 2


class InputError(UsageError):
    """A file or array that was handed in is missing, unreadable, malformed, or of the wrong type or shape."""


class GateError(EdgekitError):
    """A check of the corridor said no: parity, quality, coverage. Nothing is published."""

    exit_code = 3


class UnsupportedError(GateError):
    """The model or the request is well formed but this target cannot serve it."""


class IntegrityError(EdgekitError):
    """A bundle or signature is not what it claims to be: hash, size, signature, path or layout."""

    exit_code = 3


class MissingError(EdgekitError):
    """Something is missing on this machine: a package, a runtime, a device. `fix` names the command that gets it."""

    exit_code = 4


class InconclusiveError(EdgekitError):
    """There is not enough evidence to decide; `fix` says how much more is needed."""

    exit_code = 5


def error_from_json(said: Mapping[str, Any]) -> EdgekitError:
    """What `as_json` wrote in another process of ours, as the same kind; a kind from elsewhere becomes the base."""
    kind = globals().get(str(said["error"]), EdgekitError)
    known = isinstance(kind, type) and issubclass(kind, EdgekitError)
    made: type[EdgekitError] = kind if known else EdgekitError
    return made(said["what"], where=said["where"], why=said["why"], fix=said["fix"])
