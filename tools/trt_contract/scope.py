"""What a walk knows at one place: names, guards, results; and whom it tells what it meets."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Protocol

from trt_contract.guards import Guards
from trt_contract.program import Bound, Lib, Value


class Sink(Protocol):
    """Looks names up, and takes down what it finds."""

    def attribute(self, node: ast.Attribute, base: Lib, guarded: str | None) -> Value | None:
        """`base.attr`, read or written; `guarded`: by what a missing one is caught."""

    def call(self, node: ast.Call, bound: Bound) -> Value | None:
        """A call of a library's function, method or class; its result."""

    def guard(self, node: ast.Call, base: Lib, name: str, kind: str) -> Value | None:
        """`hasattr(base, name)` or `getattr(base, name, default)`."""

    def dynamic(self, node: ast.Call, base: Lib) -> Value | None:
        """`getattr(base, something)`, where the name is not written in the file."""

    def subclass(self, node: ast.ClassDef, base: Lib) -> None:
        """A class of ours that the library calls back."""

    def text(self, node: ast.Constant) -> None:
        """A string."""


@dataclass
class Scope:
    """One function, class body or comprehension.

    Attributes:
        owner: the key of the class whose method this is.
        outer: where names are looked up that are not here.
    """

    names: dict[str, Value | None]
    module: str
    owner: str | None = None
    outer: Scope | None = None
    guards: Guards = field(default_factory=Guards)
    returns: list[Value] = field(default_factory=list)

    def find(self, name: str) -> Value | None:
        """What a name stands for here."""
        if name in self.names:
            return self.names[name]
        return self.outer.find(name) if self.outer else None

    def inner(self, names: dict[str, Value | None]) -> Scope:
        """A scope inside this one, where the same is known to exist."""
        return Scope(names, self.module, self.owner, self, self.guards)
