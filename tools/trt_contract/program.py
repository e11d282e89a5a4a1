"""Our files as the check sees them: their functions and classes, and which names stand for a library's module."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trt_contract.api import MODULE, Library

# Names that stand for a module wherever nothing else is known of them.
CONVENTIONS = {"trt": "tensorrt", "cudart": "cuda.bindings.runtime"}
CONSTRUCTOR = "()"  # the attribute that `X(...)` calls
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Lib:
    """A value that comes from a library: its module, a class, an instance; `type` as in `Api.attribute`."""

    library: Library = field(repr=False, compare=False)
    name: str
    type: str


@dataclass(frozen=True)
class Bound:
    """A library's callable: attribute `attribute` of type `owner`."""

    library: Library = field(repr=False, compare=False)
    name: str
    owner: str
    attribute: str


@dataclass(frozen=True)
class Own:
    """Something that our files define: `kind` is module, function, class or instance."""

    kind: str
    key: str


@dataclass(frozen=True)
class Several:
    """A tuple whose items differ."""

    values: tuple[Value | None, ...]


@dataclass(frozen=True)
class Later:
    """A lambda: what it gives when it is called."""

    value: Value


Value = Lib | Bound | Own | Several | Later


@dataclass(frozen=True)
class Class:
    """One of our classes."""

    node: ast.ClassDef
    module: str
    methods: Mapping[str, str]

    @property
    def annotated(self) -> dict[str, ast.expr]:
        """Its annotated fields, in order: the parameters of a dataclass."""
        return {
            each.target.id: each.annotation
            for each in self.node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        }


@dataclass(frozen=True)
class Definition:
    """One of our functions; `owner` is the key of its class, if it is a method."""

    node: Function
    module: str
    owner: str | None = None


@dataclass
class Program:
    """Files that are checked together; keys are `stem.Class.method`."""

    libraries: Mapping[str, Library]
    files: dict[str, Path] = field(default_factory=dict)
    trees: dict[str, ast.Module] = field(default_factory=dict)
    functions: dict[str, Definition] = field(default_factory=dict)
    classes: dict[str, Class] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)  # id of a node to its file's key

    @classmethod
    def read(cls, files: Iterable[Path], libraries: Iterable[Library]) -> Program:
        """Parse `files`.

        Raises:
            SyntaxError: one of them is no Python.
        """
        program = cls({each.name: each for each in libraries})
        for file in files:
            program.files[file.stem] = file
            program.trees[file.stem] = ast.parse(file.read_text(), str(file))
            program._index(file.stem)
        return program

    def _index(self, module: str) -> None:
        self.places.update({id(each): module for each in ast.walk(self.trees[module])})
        for node in self.trees[module].body:
            if isinstance(node, Function):
                self.functions[f"{module}.{node.name}"] = Definition(node, module)
            elif isinstance(node, ast.ClassDef):
                key = f"{module}.{node.name}"
                methods = {each.name: f"{key}.{each.name}" for each in node.body if isinstance(each, Function)}
                self.classes[key] = Class(node, module, methods)
                for each in node.body:
                    if isinstance(each, Function):
                        self.functions[methods[each.name]] = Definition(each, module, key)

    def imported(self, node: ast.Import | ast.ImportFrom) -> dict[str, Value]:
        """The names that an import statement binds to something known."""
        found: dict[str, Value] = {}
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                value = self.module(f"{node.module}.{alias.name}") or self._member(node.module or "", alias.name)
            else:
                value = self.module(alias.name) if alias.asname or "." not in alias.name else None
            if value is not None:
                found[alias.asname or alias.name] = value
        return found

    def module(self, name: str) -> Value | None:
        """A library's module, or one of our files."""
        if name in self.libraries:
            return Lib(self.libraries[name], name, MODULE)
        package, _, stem = name.rpartition(".")
        return Own("module", stem) if stem in self.files and package.startswith("edgekit") else None

    def _member(self, module: str, name: str) -> Value | None:
        if module in self.libraries:
            library = self.libraries[module]
            found = next(iter(library.attribute(MODULE, name).values()), None)
            if found is None or found.calls is not None:
                return Bound(library, module, MODULE, name) if found else None
            return Lib(library, module, found.type)
        return self.defined(module.rpartition(".")[2], name)

    def defined(self, module: str, name: str) -> Value | None:
        """What `name` is at the top level of one of our files."""
        key = f"{module}.{name}"
        if key in self.functions:
            return Own("function", key)
        return Own("class", key) if key in self.classes else None

    def convention(self, name: str) -> Value | None:
        """What a name stands for by convention."""
        return self.module(CONVENTIONS[name]) if name in CONVENTIONS else None
