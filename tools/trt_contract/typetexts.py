"""Types as texts: `list[ITensor]`, `tuple[cudaError_t, int]`, `type[Builder]`, `Builder | None`."""

from __future__ import annotations

import ast

ANY = "Any"


def parts(type_: str) -> tuple[str, list[str]]:
    """The head and the arguments: `tuple`, `[cudaError_t, int]`."""
    try:
        tree = ast.parse(type_, mode="eval").body
    except SyntaxError:
        return ANY, []
    if not isinstance(tree, ast.Subscript):
        return type_, []
    items = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
    return ast.unparse(tree.value), [ast.unparse(each) for each in items]


def narrowed(type_: str) -> str:
    """Without `None`; `Any` where more than one type is left."""
    left = [each.strip() for each in type_.split("|") if each.strip() != "None"] if "[" not in type_ else [type_]
    return left[0] if len(left) == 1 else ANY


def item(type_: str, index: int | None = None) -> str:
    """What iterating or indexing gives; `Any` where that is not known."""
    head, arguments = parts(type_)
    if head == "list" and arguments:
        return arguments[0]
    if head == "tuple" and arguments:
        if index is not None and -len(arguments) <= index < len(arguments):
            return arguments[index]
        return arguments[0] if len(set(arguments)) == 1 else ANY
    return ANY


def without(type_: str, first: int) -> str:
    """The tuple without its first items."""
    head, arguments = parts(type_)
    return f"tuple[{', '.join(arguments[first:])}]" if head == "tuple" and len(arguments) > first else ANY
