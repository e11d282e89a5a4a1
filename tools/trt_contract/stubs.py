"""Stubs for mypy (`.pyi`), written from what the real bindings say of themselves."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trt_contract.api import Api
from trt_contract.signatures import Parameter, Signature

_HEADER = """\
# mypy: ignore-errors
from collections.abc import Iterator
from typing import Any, ClassVar, overload

from typing_extensions import Buffer
"""
# What pybind11 writes for a type, and what it takes or gives; everything else that is unknown is Any.
_BUILTIN = {
    **{each: each for each in ("int", "float", "bool", "str", "bytes", "object", "None", "memoryview", "slice")},
    "list": "list[Any]",
    "tuple": "tuple[Any, ...]",
    "dict": "dict[Any, Any]",
    "Buffer": "Buffer",
    "buffer": "Buffer",
    # What is an int where it is given is an int where a callback of ours takes it.
    "SupportsInt": "int",
    "SupportsIndex": "int",
    "Any": "Any",
}
# TensorRT registers conversions from sequences and from numpy arrays (NVIDIA, Python API, Dims and Weights).
_CONVERTED = {"Dims": "tuple[int, ...] | list[int]", "Weights": "Any"}
# A class's own word for what would otherwise be a builtin: `trt.bool` is a DataType.
_BUILTINS_MODULE = "__builtins"


def write(api: Api, folder: Path) -> None:
    """Write the stub of one module, and of the packages that it is in."""
    *packages, name = api.library.split(".")
    place = folder
    for each in packages:
        place = place / each
        place.mkdir(exist_ok=True)
        (place / "__init__.pyi").touch()
    text = "\n".join(_Writer(api).lines()) + "\n"
    file = place / f"{name}.pyi"
    if not file.is_file() or file.read_text() != text:  # what has not changed mypy need not read again
        file.write_text(text)


class _Writer:
    def __init__(self, api: Api) -> None:
        self.api = api
        self.shadowed = {each for each in _BUILTIN if each in api.data["values"]}

    def lines(self) -> Iterable[str]:
        yield _HEADER
        if self.shadowed:
            yield f"import builtins as {_BUILTINS_MODULE}"
        aliases = []
        for name, stated in sorted(self.api.data["values"].items()):
            target = stated.removeprefix("type[").removesuffix("]")
            if not stated.startswith("type["):
                yield f"{name}: {self.type(self.api.resolve(stated))}"
            elif target != name:
                aliases.append(f"{name} = {target}")
        for name, calls in sorted(self.api.data["functions"].items()):
            yield from self.function(name, _read(calls), "")
        for name in sorted(self.api.classes, key=self._rank):
            if "." not in name:
                yield from self.cls(name, "")
        yield from aliases

    def _rank(self, name: str) -> tuple[int, str]:
        """Bases come before what rests on them."""
        return len([each for each in self.api.classes[name]["bases"] if each in self.api.classes]), name

    def cls(self, name: str, indent: str) -> Iterable[str]:
        entry = self.api.classes[name]
        first = [each for each in entry["bases"] if each in self.api.classes][:1]
        first = ["int"] if entry["integer"] else first
        yield f"{indent}class {name.rpartition('.')[2]}{f'({first[0]})' if first else ''}:"
        inside = indent + "    "
        body = [*self._nested(name, inside), *self._values(name, entry, inside)]
        for method, calls in entry["methods"].items():
            if method not in ("__new__", "__eq__", "__ne__", "__hash__", "__doc__"):
                body += self.function(method, _read(calls), inside, static=method in entry["static"], method=True)
        body += _protocols(entry, inside)
        for each, found in entry["properties"].items():
            if each.startswith("__"):
                continue
            body += self._property(each, found, inside)
        yield from body or [f"{inside}..."]

    def _nested(self, name: str, indent: str) -> Iterable[str]:
        for other in self.api.classes:
            if other.rpartition(".")[0] == name:
                yield from self.cls(other, indent)

    def _values(self, name: str, entry: dict[str, Any], indent: str) -> Iterable[str]:
        for each in entry["members"]:
            yield f"{indent}{each}: ClassVar[{name}]"
        if entry["members"] and entry["python_enum"]:
            yield f"{indent}name: str"
            yield f"{indent}value: int"
            yield f"{indent}def __init__(self, value: object) -> None: ..."
        for each, stated in entry["values"].items():
            target = stated.removeprefix("type[").removesuffix("]")
            if not stated.startswith("type["):
                yield f"{indent}{each}: ClassVar[{self.type(self.api.resolve(stated))}]"
            elif target != f"{name}.{each}":
                yield f"{indent}{each} = {target}"

    def _property(self, name: str, found: dict[str, Any], indent: str) -> Iterable[str]:
        stated = self.type(self.api.resolve(found["type"] or found["set"] or "Any"))
        if found["static"]:
            yield f"{indent}{name}: ClassVar[{stated}]"
            return
        yield f"{indent}@property"
        yield f"{indent}def {name}(self) -> {stated}: ..."
        if found["set"] is not None:
            yield f"{indent}@{name}.setter"
            taken = self.type(self.api.resolve(found["set"]), taken=True)
            yield f"{indent}def {name}(self, value: {taken}) -> None: ..."

    def function(
        self, name: str, calls: Sequence[Signature], indent: str, static: bool = False, method: bool = False
    ) -> Iterable[str]:
        first = ["self"] if method and not static else []
        if not calls:
            returns = "None" if name == "__init__" else "Any"
            yield f"{indent}def {name}({', '.join([*first, '*args: Any', '**keywords: Any'])}) -> {returns}: ..."
        for each in calls:
            if static:
                yield f"{indent}@staticmethod"
            if len(calls) > 1:
                yield f"{indent}@overload"
            arguments = ", ".join([*first, *self._parameters(each.parameters)])
            returns = "None" if name == "__init__" else self.type(self.api.resolve(each.returns))
            yield f"{indent}def {name}({arguments}) -> {returns}: ..."

    def _parameters(self, parameters: Sequence[Parameter]) -> Iterable[str]:
        """Those without a name of their own are positional; an optional one makes all after it optional."""
        optional = False
        for each in parameters:
            optional = optional or each.optional
            stated = self.type(self.api.resolve(each.type), taken=True)
            name = f"__{each.name}" if not each.keyword or keyword.iskeyword(each.name) else each.name
            yield f"{name}: {stated}{' = ...' if optional else ''}"

    def type(self, stated: str, taken: bool = False) -> str:
        """A type as mypy reads it; `taken`: of an argument, which may be converted."""
        try:
            return self._type(ast.parse(stated, mode="eval").body, taken)
        except SyntaxError:
            return "Any"

    def _type(self, tree: ast.expr, taken: bool) -> str:
        if isinstance(tree, ast.BinOp):
            return f"{self._type(tree.left, taken)} | {self._type(tree.right, taken)}"
        if isinstance(tree, ast.Constant):
            return "None" if tree.value is None else "Any"
        if isinstance(tree, ast.Subscript):
            head = ast.unparse(tree.value)
            items = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
            inside = ", ".join(self._type(each, taken) for each in items)
            return f"{self._builtin(head)}[{inside}]" if head in ("list", "tuple", "dict") else "Any"
        name = ast.unparse(tree)
        if name in self.api.classes:
            return f"{name} | {_CONVERTED[name]}" if taken and name in _CONVERTED else name
        known = _BUILTIN.get(name, "Any")
        return known.replace(name, self._builtin(name), 1) if known.startswith(name) else known

    def _builtin(self, name: str) -> str:
        return f"{_BUILTINS_MODULE}.{name}" if name in self.shadowed else name


def _protocols(entry: dict[str, Any], indent: str) -> Iterable[str]:
    """What Python makes of a class beyond its methods: a buffer, and a loop over `__getitem__`."""
    if entry["buffer"]:
        yield f"{indent}def __buffer__(self, flags: int, /) -> memoryview: ..."
    if {"__getitem__", "__len__"} <= entry["methods"].keys() and "__iter__" not in entry["methods"]:
        returns = entry["methods"]["__getitem__"][0]["returns"]
        yield f"{indent}def __iter__(self) -> Iterator[{returns}]: ..."


def _read(calls: Sequence[dict[str, Any]]) -> list[Signature]:
    return [Signature.from_json(each) for each in calls]
