"""Capability checks that the walk understands: `hasattr`, its negation and early exits, `and`/`or`, AttributeError."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field

from trt_contract.program import Lib, Value


@dataclass(frozen=True)
class Key:
    """An attribute of something: by the text of the expression, and by the type that it has."""

    text: str
    type: str
    attribute: str

    @classmethod
    def of(cls, node: ast.expr, base: Lib, attribute: str) -> Key:
        """The key of `node.attribute`, where `node` is `base`; a class and its instances are alike."""
        return cls(ast.unparse(node), f"{base.name}:{base.type.removeprefix('type[').removesuffix(']')}", attribute)


@dataclass(frozen=True)
class Guards:
    """What is known to exist; `caught`: an AttributeError is handled around."""

    keys: frozenset[Key] = field(default_factory=frozenset)
    caught: bool = False

    def __or__(self, other: Guards) -> Guards:
        return Guards(self.keys | other.keys, self.caught or other.caught)

    def cover(self, key: Key) -> str | None:
        """By what an attribute is guarded: `hasattr`, `AttributeError`, or nothing."""
        for each in self.keys:
            if each.attribute == key.attribute and (each.text == key.text or each.type == key.type):
                return "hasattr"
        return "AttributeError" if self.caught else None


def held(test: ast.expr, truth: bool, value: Callable[[ast.expr], Value | None]) -> Guards:
    """What must exist where `test` came out as `truth`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return held(test.operand, not truth, value)
    if isinstance(test, ast.BoolOp):
        found = Guards()
        if isinstance(test.op, ast.And) == truth:  # all of an `and` that holds, none of an `or` that does not
            for each in test.values:
                found = found | held(each, truth, value)
        return found
    if not (truth and isinstance(test, ast.Call) and ast.unparse(test.func) == "hasattr" and len(test.args) == 2):
        return Guards()
    base, name = value(test.args[0]), test.args[1]
    if isinstance(base, Lib) and isinstance(name, ast.Constant):
        return Guards(frozenset({Key.of(test.args[0], base, str(name.value))}))
    return Guards()
