"""Signatures as docstrings state them: pybind11's first lines, and Cython's with numpydoc's `Returns`."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from typing import Any

_OVERLOAD = re.compile(r"^(?:\d+\. )?(?P<head>[A-Za-z_]\w*)?(?P<rest>\(.*\) -> .+)$", re.MULTILINE)
_UNNAMED = re.compile(r"^arg\d+$")
_CPP = re.compile(r"(?:\w+::)+(\w+)")
_PACKAGE = re.compile(r"\b(?:tensorrt|tensorrt_bindings)\.tensorrt\.")
_ROLE = re.compile(r":py:obj:`~?\.?([\w.]+)`")
_C_INTEGERS = {"size_t", "int", "unsigned", "long", "char", "uint64_t", "uint32_t", "int64_t", "cuuint64_t"}
_RETURNS = re.compile(
    r"^(?P<indent> *)Returns\n(?P=indent)-+\n(?P<rows>.*?)(?=^(?P=indent)\S[^\n]*\n(?P=indent)-{3,}$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_ANY = "Any"


@dataclass(frozen=True)
class Parameter:
    """One parameter; `type` is a Python expression, `keyword` whether it may be given by name."""

    name: str
    type: str
    optional: bool = False
    keyword: bool = True


@dataclass(frozen=True)
class Signature:
    """One way to call; `self` is not among the parameters."""

    parameters: tuple[Parameter, ...]
    returns: str

    def refuses(self, positional: int, keywords: tuple[str, ...], complete: bool = True) -> str | None:
        """Why a call with these arguments is refused, or None.

        Args:
            positional: how many come without a name.
            complete: False where the call holds `*` or `**`, so that more may come.
        """
        if positional > len(self.parameters):
            return f"takes at most {len(self.parameters)} argument(s), {positional} are given"
        rest = {each.name: each for each in self.parameters[positional:]}
        for name in keywords:
            if name not in rest or not rest[name].keyword:
                return (
                    f"has no argument {name!r} left"
                    if any(each.name == name for each in self.parameters)
                    else f"has no argument {name!r}"
                )
        missing = [each.name for each in rest.values() if not each.optional and each.name not in keywords]
        return f"needs {', '.join(missing)}" if missing and complete else None

    def as_json(self) -> dict[str, Any]:
        """For the file that `Signature.from_json` reads."""
        return {
            "parameters": [[each.name, each.type, each.optional, each.keyword] for each in self.parameters],
            "returns": self.returns,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Signature:
        """The inverse of `as_json`."""
        return cls(tuple(Parameter(*each) for each in data["parameters"]), str(data["returns"]))


def of_pybind(doc: str | None, method: bool = False) -> list[Signature]:
    """The overloads that a pybind11 docstring states; empty where it states none.

    Args:
        method: the first parameter is `self`, and left out.
    """
    found = []
    for match in _OVERLOAD.finditer(doc or ""):
        inside, _, returns = match["rest"].rpartition(") -> ")
        parameters = _pybind_parameters(inside[1:])[1 if method else 0 :]
        found.append(Signature(tuple(parameters), _python(returns)))
    return found


def of_source(function: ast.FunctionDef, method: bool = False) -> Signature:
    """The signature of a Python function as its source states it."""
    return _signature(function, drop_first=method)


def returned(doc: str | None) -> str:
    """The type after the arrow of a property's getter."""
    found = of_pybind((doc or "").strip())
    return found[0].returns if found else _ANY


def assigned(doc: str | None) -> str:
    """The type that a property's setter takes."""
    found = of_pybind((doc or "").strip())
    return found[0].parameters[-1].type if found and found[0].parameters else _ANY


def of_cython(name: str, doc: str | None) -> Signature | None:
    """What `cuda.bindings` states: `name(type name, name: type, name=default)`, and its results in a tuple."""
    text = doc or ""
    head = re.match(rf"{re.escape(name)}\((?P<inside>[^\n]*)\)(?: -> [^\n]*)?(?:\n|$)", text)
    if head is None:
        return None
    parameters = tuple(_cython_parameter(each) for each in _split(head["inside"]) if each not in ("self", "*", "/"))
    return Signature(parameters, _results(text))


def _signature(function: ast.FunctionDef, drop_first: bool) -> Signature:
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    rows = list(zip(positional, defaults, strict=True))[1 if drop_first else 0 :]
    parameters = [
        _parameter(each, default, keyword=each not in spec.posonlyargs and not _UNNAMED.match(each.arg))
        for each, default in rows
    ]
    # What must be named comes after what may be: the order matters only to positional arguments.
    parameters += [_parameter(each, default) for each, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    return Signature(tuple(parameters), ast.unparse(function.returns) if function.returns else _ANY)


def _pybind_parameters(inside: str) -> list[Parameter]:
    """`name: type = default`, with `/` after those that have no name for the caller; defaults may be C++ text."""
    found: list[Parameter] = []
    for text in _split(re.sub(r"= <[^>]*>", "= ...", inside)):
        if text == "/":
            found = [replace(each, keyword=False) for each in found]
        elif text != "*":
            stated, has_default, default = (each.strip() for each in text.partition(" = "))
            name, _, kind = (each.strip() for each in stated.partition(":"))
            kind = _python(kind) if kind else _ANY
            kind = f"{kind} | None" if default == "None" and "None" not in kind else kind
            found.append(Parameter(name, kind, bool(has_default), not _UNNAMED.match(name)))
    return found


def _python(stated: str) -> str:
    """A type without C++ namespaces and without TensorRT's own package; Any where Python cannot read it."""
    text = _PACKAGE.sub("", _CPP.sub(r"\1", stated)).strip()
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return _ANY
    return text


def _parameter(each: ast.arg, default: ast.expr | None, keyword: bool = True) -> Parameter:
    stated = ast.unparse(each.annotation) if each.annotation else _ANY
    if isinstance(default, ast.Constant) and default.value is None and "None" not in stated:
        stated = f"{stated} | None"
    return Parameter(each.arg, stated, default is not None, keyword)


def _split(inside: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(inside):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(inside[start:index].strip())
            start = index + 1
    return [each for each in [*parts, inside[start:].strip()] if each]


def _cython_parameter(text: str) -> Parameter:
    text, _, default = (each.strip() for each in text.partition("="))
    if ":" in text:
        name, stated = (each.strip() for each in text.split(":", 1))
        return Parameter(name.split()[-1], stated, bool(default))
    *kind, name = text.split()
    return Parameter(name, "int" if kind and set(kind) <= _C_INTEGERS else _ANY, bool(default))


def _results(text: str) -> str:
    """The types below numpydoc's `Returns`, which the function returns as one tuple."""
    section = _RETURNS.search(text)
    if section is None:
        return _ANY
    types = []
    for row in re.findall(rf"^{section['indent']}(\S.*)$", section["rows"], re.MULTILINE):
        name, colon, stated = (each.strip() for each in row.partition(":"))
        types.append(_result_type(stated if colon else name))
    return f"tuple[{', '.join(types)}]" if types else _ANY


def _result_type(stated: str) -> str:
    stated = _ROLE.sub(r"\1", stated)
    try:
        ast.parse(stated, mode="eval")
    except SyntaxError:
        return _ANY
    return stated.split(".")[0] if stated.startswith("cudaError_t.") else stated
