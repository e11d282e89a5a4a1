"""What one version of a library offers, and what all supported versions offer together."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trt_contract.signatures import Signature

MODULE = "module"  # the type of a library's own module
_GENERIC = {"List": "list", "Tuple": "tuple", "Sequence": "list", "Iterator": "list", "Iterable": "list"}


@dataclass(frozen=True)
class Attribute:
    """Something with a name: a callable where `calls` is not None, else a value of type `type`.

    Attributes:
        calls: the overloads; empty where the library does not state them.
        written: the type that may be assigned, None where it is read-only.
        bound: for methods, whether `self` is bound.
    """

    type: str
    calls: tuple[Signature, ...] | None = None
    written: str | None = None
    bound: bool = True


@dataclass(frozen=True)
class Api:
    """One module of one version, as `dump` described it."""

    library: str
    version: str
    data: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, library: str, version: str, file: Path) -> Api:
        """From the file that `dump` wrote."""
        return cls(library, version, json.loads(file.read_text()))

    @property
    def classes(self) -> dict[str, Any]:
        """By qualified name, such as `ILogger.Severity`."""
        return self.data["classes"]  # type: ignore[no-any-return]

    def attribute(self, type_: str, name: str) -> Attribute | None:
        """What `name` is on a value of type `type_`: `module`, `type[X]` or `X`; None where there is no such thing."""
        if type_ == MODULE:
            return self._of_module(name)
        on_type = type_.startswith("type[")
        for owner in self._lineage(type_[5:-1] if on_type else type_):
            found = self._of_class(owner, name, on_type)
            if found is not None:
                return found
        return None

    def constructor(self, name: str) -> tuple[Signature, ...]:
        """The overloads of `X(...)`; empty where they are not stated."""
        for owner in self._lineage(name):
            calls = self.classes[owner]["methods"].get("__init__")
            if calls is not None:
                return _signatures(calls)
        return ()

    def interface(self, name: str) -> dict[str, tuple[Signature, ...]]:
        """The public methods of class `name` and its bases."""
        return {
            method: _signatures(calls)
            for owner in self._lineage(name)
            for method, calls in self.classes[owner]["methods"].items()
            if not method.startswith("_")
        }

    def members(self, name: str) -> tuple[str, ...]:
        """The members of enum `name`; empty where it is none, or not there."""
        return tuple(self.classes.get(name, {}).get("members", ()))

    def resolve(self, stated: str) -> str:
        """A stated type by the names that Python knows: `ParserError` for `IParserError`, `list` for `List`."""
        try:
            tree = ast.parse(stated.strip(), mode="eval").body
        except SyntaxError:
            return "Any"
        return self._resolved(tree)

    def _resolved(self, tree: ast.expr) -> str:
        if isinstance(tree, ast.Subscript):
            items = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
            return f"{self._resolved(tree.value)}[{', '.join(self._resolved(each) for each in items)}]"
        if isinstance(tree, ast.BinOp):
            return f"{self._resolved(tree.left)} | {self._resolved(tree.right)}"
        if isinstance(tree, ast.Constant):
            return repr(tree.value)
        name = ast.unparse(tree)
        if name in self.classes:
            return name
        if name.startswith("I") and name[1:] in self.classes:  # nvinfer1::IBuilder is bound as Builder
            return name[1:]
        last = name.rsplit(".", 1)[-1]
        return _GENERIC.get(last, last)

    def _lineage(self, name: str) -> Iterator[str]:
        if name in self.classes:
            yield name
            yield from (each for each in self.classes[name]["bases"] if each in self.classes)

    def _of_module(self, name: str) -> Attribute | None:
        if name in self.data["functions"]:
            return Attribute("function", _signatures(self.data["functions"][name]))
        stated = self.data["values"].get(name)
        return None if stated is None else Attribute(self._typed(stated))

    def _of_class(self, owner: str, name: str, on_type: bool) -> Attribute | None:
        entry = self.classes[owner]
        if name in entry["members"]:
            return Attribute(owner)
        if name in entry["methods"]:
            bound = not on_type or name in entry["static"]
            return Attribute("method", _signatures(entry["methods"][name]), bound=bound)
        if name in entry["values"]:
            return Attribute(self._typed(entry["values"][name]))
        if name in entry["properties"]:
            found = entry["properties"][name]
            written = None if found["set"] is None else self.resolve(found["set"])
            return Attribute("Any" if found["type"] is None else self.resolve(found["type"]), written=written)
        if entry["python_enum"] and name in ("name", "value"):
            return Attribute("str" if name == "name" else "int")
        return None

    def _typed(self, stated: str) -> str:
        return stated if stated.startswith("type[") else self.resolve(stated)


@dataclass(frozen=True)
class Library:
    """One module in all its supported versions, oldest first."""

    name: str
    apis: tuple[Api, ...]

    @cached_property
    def versions(self) -> tuple[str, ...]:
        """As the package index spells them."""
        return tuple(each.version for each in self.apis)

    def attribute(self, type_: str, name: str) -> dict[str, Attribute]:
        """Version to what it offers; versions without it are left out."""
        found = {api.version: api.attribute(type_, name) for api in self.apis}
        return {version: each for version, each in found.items() if each is not None}

    def knows(self, type_: str) -> bool:
        """Whether attributes of a value of this type can be checked."""
        name = type_.removeprefix("type[").removesuffix("]")
        return type_ == MODULE or any(name in api.classes for api in self.apis)

    def having(self, type_: str) -> tuple[str, ...]:
        """The versions that have this type at all."""
        name = type_.removeprefix("type[").removesuffix("]")
        return tuple(api.version for api in self.apis if type_ == MODULE or name in api.classes)


def _signatures(data: list[dict[str, Any]]) -> tuple[Signature, ...]:
    return tuple(Signature.from_json(each) for each in data)
