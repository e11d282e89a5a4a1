"""The first net: everything that our files take from a library exists in every supported version, or is guarded."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trt_contract import signatures, typetexts
from trt_contract.api import MODULE, Api, Attribute, Library
from trt_contract.program import CONSTRUCTOR, Bound, Function, Lib, Program, Value
from trt_contract.walk import ROUNDS, Walk

CUDA = re.compile(r"cuda[A-Z]\w+")  # what a string looks like that names something of CUDA's runtime
RUNTIME = "cuda.bindings.runtime"


@dataclass(frozen=True, order=True)
class Place:
    """A line of one of our files."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, order=True)
class Problem:
    """Something that some supported version does not have, or does not take."""

    place: Place
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what} {self.why}"


@dataclass(frozen=True, order=True)
class Guarded:
    """A capability check, and the versions that have what it asks for."""

    place: Place
    what: str
    by: str
    versions: tuple[str, ...]


@dataclass
class Findings:
    """What the walk took down.

    Attributes:
        names: distinct attributes that were looked up, a library each.
        calls: calls whose arguments were held against a signature.
        guards: names that only some versions have, and how the code asks first.
        by_name: look-ups whose name is data, which this check cannot see.
    """

    problems: set[Problem] = field(default_factory=set)
    names: set[tuple[str, str]] = field(default_factory=set)
    calls: set[tuple[Place, str]] = field(default_factory=set)
    guards: set[Guarded] = field(default_factory=set)
    by_name: set[tuple[Place, str]] = field(default_factory=set)


def check(files: Iterable[Path], libraries: Iterable[Library], shown_from: Path | None = None) -> Findings:
    """Walk `files` together and hold them against `libraries`.

    Args:
        shown_from: places are relative to this folder where the file is in it.
    """
    program = Program.read(files, libraries)
    notebook = Notebook(program, shown_from)
    walk = Walk(program, notebook)
    for _ in range(ROUNDS):  # each round knows more of fields and parameters; the last one counts
        notebook.findings = Findings()
        walk.everything()
    return notebook.findings


class Notebook:
    """Looks names up in every version and takes down what is missing."""

    def __init__(self, program: Program, shown_from: Path | None = None) -> None:
        self.program, self.shown_from = program, shown_from
        self.findings = Findings()

    def attribute(self, node: ast.Attribute, base: Lib, guarded: str | None) -> Value | None:
        """See that `base.attr` is in every version, or guarded and in one."""
        if not base.library.knows(base.type):
            return None
        found = base.library.attribute(base.type, node.attr)
        what = f"{_spoken(base)}.{node.attr}"
        missing = [each for each in base.library.having(base.type) if each not in found]
        if not found or (missing and not guarded):
            self._missing(node, base, node.attr, missing)
        elif missing:
            self.findings.guards.add(Guarded(self._place(node), what, guarded or "", tuple(found)))
        if isinstance(node.ctx, ast.Store):
            self._written(node, base, what, found)
        self.findings.names.add((base.name, what))
        return _value(base, node.attr, found)

    def call(self, node: ast.Call, bound: Bound) -> Value | None:
        """See that every version that has it takes these arguments."""
        what = f"{_spoken(bound)}.{bound.attribute}".removesuffix(f".{CONSTRUCTOR}")
        keywords = tuple(each.arg for each in node.keywords if each.arg is not None)
        complete = len(keywords) == len(node.keywords) and not any(isinstance(a, ast.Starred) for a in node.args)
        positional = sum(not isinstance(each, ast.Starred) for each in node.args)
        results: list[str] = []
        refusals: dict[str, list[str]] = {}
        for api, overloads, shift in _overloads(bound):
            why = [each.refuses(positional - shift, keywords, complete) for each in overloads]
            results += [api.resolve(e.returns) for e, reason in zip(overloads, why, strict=True) if reason is None]
            if overloads and all(why):
                refusals.setdefault(str(why[-1]), []).append(api.version)
        for reason, versions in refusals.items():
            named = next((each for each in node.keywords if reason.startswith(f"has no argument {each.arg!r}")), node)
            self._problem(named, f"{what}()", f"{reason} in {bound.name} {', '.join(versions)}")
        self.findings.calls.add((self._place(node), what))
        if bound.attribute == CONSTRUCTOR:
            return Lib(bound.library, bound.name, bound.owner.removeprefix("type[").removesuffix("]"))
        return _instance(bound, results[0]) if results else None

    def guard(self, node: ast.Call, base: Lib, name: str, kind: str) -> Value | None:
        """See that what a capability check asks for exists in some version: else it is a misspelling."""
        if not base.library.knows(base.type):
            return None
        found = base.library.attribute(base.type, name)
        if not found:
            self._missing(node, base, name, list(base.library.having(base.type)))
        self.findings.guards.add(Guarded(self._place(node), f"{_spoken(base)}.{name}", kind, tuple(found)))
        return _value(base, name, found) if kind == "getattr" else None

    def dynamic(self, node: ast.Call, base: Lib) -> Value | None:
        """A name that is data: of an enum it is a member, of anything else unknown."""
        self.findings.by_name.add((self._place(node), f"{_spoken(base)}: {ast.unparse(node)}"))
        name = base.type.removeprefix("type[").removesuffix("]")
        is_enum = base.type != name and any(api.members(name) for api in base.library.apis)
        return Lib(base.library, base.name, name) if is_enum else None

    def subclass(self, node: ast.ClassDef, base: Lib) -> None:
        """See that what a library calls back has its name and takes its arguments; helpers begin with `_`."""
        name = base.type.removeprefix("type[").removesuffix("]")
        for api in base.library.apis:
            interface = api.interface(name)
            for each in node.body:
                if interface and isinstance(each, Function) and not each.name.startswith("_"):
                    self._override(each, f"{base.name} {api.version}", name, interface)

    def text(self, node: ast.Constant) -> None:
        """See that a string that names something of CUDA's runtime names something that exists."""
        library, text = self.program.libraries.get(RUNTIME), node.value
        if library is None or not isinstance(text, str) or not CUDA.fullmatch(text):
            return
        if not any(api.attribute(MODULE, text) or _is_member(api, text) for api in library.apis):
            self._problem(node, repr(text), f"names nothing of {RUNTIME} in any supported version")
        self.findings.names.add((RUNTIME, f"{RUNTIME}.{text}"))

    def _override(
        self, node: Function, where: str, name: str, interface: Mapping[str, Sequence[signatures.Signature]]
    ) -> None:
        if node.name not in interface:
            close = difflib.get_close_matches(node.name, interface, 1)
            self._problem(
                node, f"{name}.{node.name}", f"is called by nothing in {where}{f'; {close[0]}?' if close else ''}"
            )
            return
        assert isinstance(node, ast.FunctionDef)
        ours = signatures.of_source(node, method=True)
        refused = [ours.refuses(len(each.parameters), ()) for each in interface[node.name]]
        if refused and all(refused):
            self._problem(node, f"{name}.{node.name}", f"is called with other arguments in {where}: {refused[0]}")

    def _missing(self, node: ast.expr, base: Lib, name: str, versions: Sequence[str]) -> None:
        everywhere = len(versions) == len(base.library.having(base.type))
        known = {each for api in base.library.apis for each in _names(api, base.type)} if everywhere else set()
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; {close[0]}?" if close else ""
        self._problem(node, f"{_spoken(base)}.{name}", f"is not in {base.name} {', '.join(versions)}{hint}")

    def _written(self, node: ast.Attribute, base: Lib, what: str, found: Mapping[str, Attribute]) -> None:
        closed = [version for version, each in found.items() if each.written is None]
        if closed:
            self._problem(node, what, f"cannot be assigned in {base.name} {', '.join(closed)}")

    def _problem(self, node: ast.AST, what: str, why: str) -> None:
        self.findings.problems.add(Problem(self._place(node), what, why))

    def _place(self, node: ast.AST) -> Place:
        file = self.program.files[self.program.places[id(node)]]
        if self.shown_from is not None and file.is_relative_to(self.shown_from):
            file = file.relative_to(self.shown_from)
        return Place(file, getattr(node, "lineno", 0))


def _spoken(value: Lib | Bound) -> str:
    """How a reader knows it: `trt.Builder`."""
    type_ = value.type if isinstance(value, Lib) else value.owner
    module = "trt" if value.name == "tensorrt" else value.name
    name = type_.removeprefix("type[").removesuffix("]")
    return module if name == MODULE else f"{module}.{name}"


def _overloads(bound: Bound) -> list[tuple[Api, tuple[signatures.Signature, ...], int]]:
    """What each version states, and how many arguments stand for `self`."""
    found = []
    for api in bound.library.apis:
        if bound.attribute == CONSTRUCTOR:
            found.append((api, api.constructor(bound.owner[5:-1]), 0))
            continue
        each = api.attribute(bound.owner, bound.attribute)
        if each is not None and each.calls is not None:
            found.append((api, each.calls, 0 if each.bound else 1))
    return found


def _value(base: Lib, name: str, found: Mapping[str, Attribute]) -> Value | None:
    if not found:
        return None
    if any(each.calls is not None for each in found.values()):
        return Bound(base.library, base.name, base.type, name)
    return _instance(base, next(iter(found.values())).type)


def _instance(base: Lib | Bound, type_: str) -> Value | None:
    narrow = typetexts.narrowed(type_)
    return None if narrow in (typetexts.ANY, "None") else Lib(base.library, base.name, narrow)


def _is_member(api: Api, name: str) -> bool:
    return any(name in entry["members"] for entry in api.classes.values())


def _names(api: Api, type_: str) -> Iterable[str]:
    if type_ == MODULE:
        return [*api.data["functions"], *api.data["values"]]
    entry = api.classes.get(type_.removeprefix("type[").removesuffix("]"))
    return [*entry["members"], *entry["methods"], *entry["properties"], *entry["values"]] if entry else []
