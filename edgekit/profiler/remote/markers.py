"""Requirements of packages for a device that is not this machine: pip evaluates markers for the Python that runs it.

Environment markers are written in a subset of Python's own expressions
(packaging.python.org, "Dependency specifiers"), so `ast` reads them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[(?P<extras>[^\]]*)\])?\s*(?P<rest>[^;]*)")
_VERSIONS = ("python_version", "python_full_version", "implementation_version", "platform_release")


@dataclass(frozen=True)
class Requirement:
    """One `Requires-Dist`: a name in normal form, extras, the versions that will do, and when it counts."""

    name: str
    extras: tuple[str, ...]
    versions: str
    marker: str

    @property
    def text(self) -> str:
        """As pip takes it, without the marker."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}{self.versions}"


def parse_requirement(text: str) -> Requirement:
    """Take a requirement apart.

    Raises:
        ValueError: it does not begin with a name.
    """
    head, _, marker = text.partition(";")
    found = _REQUIREMENT.fullmatch(head)
    if not found:
        raise ValueError(f"{text!r} is no requirement")
    extras = tuple(normal(each) for each in (found["extras"] or "").split(",") if each.strip())
    versions = found["rest"].strip().removeprefix("(").removesuffix(")")
    return Requirement(normal(found["name"]), extras, versions.replace(" ", ""), marker.strip())


def normal(name: str) -> str:
    """A package's name in normal form (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def environment(python: str, isa: str) -> dict[str, str]:
    """The values of marker variables on a device with Linux, such as of Python `3.10` on `aarch64`."""
    return {
        "python_version": python,
        "python_full_version": python + ".0",
        "implementation_name": "cpython",
        "implementation_version": python + ".0",
        "platform_python_implementation": "CPython",
        "platform_machine": isa,
        "platform_system": "Linux",
        "platform_release": "",
        "platform_version": "",
        "os_name": "posix",
        "sys_platform": "linux",
        "extra": "",
    }


def holds(marker: str, values: Mapping[str, str], extras: tuple[str, ...] = ()) -> bool:
    """Whether a requirement with this marker counts, for the package itself or for one of the `extras` asked of it.

    Raises:
        ValueError: the marker is written in a way that is not known here.
    """
    if not marker:
        return True
    # `~=` is the one operator that Python does not have; two characters that it has stand in for it.
    try:
        tree = ast.parse(marker.replace("~=", "@").strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{marker!r} is no marker") from error
    return any(_true(tree, {**values, "extra": extra}) for extra in ("", *extras))


def _true(node: ast.expr, values: Mapping[str, str]) -> bool:
    if isinstance(node, ast.BoolOp):
        parts = [_true(each, values) for each in node.values]
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        have, want = (_numbers(_text(side, values)) for side in (node.left, node.right))
        return have >= want and have[: len(want) - 1] == want[:-1]
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _compare(node.left, node.ops[0], node.comparators[0], values)
    raise ValueError(f"{ast.unparse(node)!r} is not known in a marker")


def _compare(left: ast.expr, operator: ast.cmpop, right: ast.expr, values: Mapping[str, str]) -> bool:
    one, other = _text(left, values), _text(right, values)
    if isinstance(operator, ast.In | ast.NotIn):
        return (one in other) == isinstance(operator, ast.In)
    names = [side.id for side in (left, right) if isinstance(side, ast.Name)]
    if any(name in _VERSIONS for name in names):
        return _ordered(_even(_numbers(one), _numbers(other)), operator)
    if "extra" in names:
        one, other = normal(one), normal(other)
    return _ordered((one, other), operator)


def _ordered(pair: tuple[object, object], operator: ast.cmpop) -> bool:
    one, other = pair
    if isinstance(operator, ast.Eq | ast.NotEq):
        return (one == other) == isinstance(operator, ast.Eq)
    less = one < other  # type: ignore[operator]
    if isinstance(operator, ast.Lt | ast.GtE):
        return bool(less) == isinstance(operator, ast.Lt)
    return (bool(less) or one == other) == isinstance(operator, ast.LtE)


def _text(node: ast.expr, values: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"{ast.unparse(node)!r} is not known in a marker")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version))


def _even(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Both of the same length: 3.10 and 3.10.0 are one version."""
    length = max(len(one), len(other))
    return one + (0,) * (length - len(one)), other + (0,) * (length - len(other))
