"""JSON-like data to frozen dataclasses and back, strictly.

One home for "this field should have been a string": specs, manifests, device profiles and `edgekit.toml` all pass
through `decode`. Unknown keys, missing keys and wrong types are errors that name the place, and a union of
dataclasses is told apart by its `kind` field.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from edgekit.errors import InputError

T = TypeVar("T")

_LARGEST = sys.float_info.max


def decode(cls: type[T], data: object, where: str) -> T:
    """Build `cls` (a dataclass) from parsed JSON or TOML.

    Args:
        cls: a frozen dataclass whose fields are scalars, `Literal`, `X | None`, `tuple`, `dict` or dataclasses.
        data: what the parser returned.
        where: the name of the document, the head of the path in error messages.

    Raises:
        InputError: naming the path of the first field that does not fit.
    """
    return typing.cast(T, _decode(cls, data, where))


def encode(value: object) -> Any:
    """Turn a dataclass tree into dicts, lists and scalars that `json.dumps(..., allow_nan=False)` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def _decode(hint: Any, data: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, data, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, data, where)
    if origin is typing.Literal:
        if data not in arguments or isinstance(data, bool) != any(isinstance(a, bool) for a in arguments):
            raise _misfit(where, "one of " + ", ".join(map(str, arguments)), data)
        return data
    if origin is tuple:
        return _decode_tuple(arguments, data, where)
    if origin is dict:
        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise _misfit(where, "a table", data)
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    return _decode_scalar(hint, data, where)


def _decode_dataclass(cls: Any, data: object, where: str) -> object:
    if not isinstance(data, Mapping):
        raise _misfit(where, "a table", data)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields), key=str)
    if unknown:
        raise InputError(
            f"unknown field {unknown[0]!r}", where=where, why="it is not part of the format", fix=_known(fields)
        )
    hints = _hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"missing field {name!r}", where=where, why="it has no default", fix=f"add {name!r}")
    try:
        return cls(**values)
    except ValueError as error:
        raise InputError(str(error), where=where, why="the values do not fit together") from error


def _decode_union(choices: tuple[Any, ...], data: object, where: str) -> object:
    if data is None and type(None) in choices:
        return None
    tagged = {_tag(choice): choice for choice in choices if dataclasses.is_dataclass(choice)}
    if tagged and isinstance(data, Mapping):
        if len(tagged) == 1:
            return _decode_dataclass(next(iter(tagged.values())), data, where)
        kind = data.get("kind")
        if not isinstance(kind, str) or kind not in tagged:
            raise _misfit(f"{where}.kind", "one of " + ", ".join(sorted(tagged)), kind)
        return _decode_dataclass(tagged[kind], data, where)
    for choice in choices:
        if choice is not type(None) and not dataclasses.is_dataclass(choice):
            try:
                return _decode(choice, data, where)
            except InputError:
                continue
    raise _misfit(where, " or ".join(_name(choice) for choice in choices), data)


def _decode_tuple(arguments: tuple[Any, ...], data: object, where: str) -> tuple[object, ...]:
    if not isinstance(data, list | tuple):
        raise _misfit(where, "a list", data)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        hints = [arguments[0]] * len(data)
    elif len(arguments) == len(data):
        hints = list(arguments)
    else:
        raise _misfit(where, f"{len(arguments)} values", data)
    return tuple(_decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, data, strict=True)))


def _decode_scalar(hint: Any, data: object, where: str) -> object:
    if hint is Any or hint is object:
        return data
    if hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not -_LARGEST <= data <= _LARGEST:  # infinity, NaN, and whole numbers that no float holds
            raise _misfit(where, "a finite number", data)
        return float(data)
    if isinstance(data, hint) and isinstance(data, bool) == (hint is bool):
        return data
    raise _misfit(where, _name(hint), data)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _tag(cls: Any) -> str:
    field = next((field for field in dataclasses.fields(cls) if field.name == "kind"), None)
    return str(field.default) if field else cls.__name__


def _name(hint: Any) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def _known(fields: Mapping[str, object]) -> str:
    return "the fields are: " + ", ".join(sorted(fields))


def _misfit(where: str, wanted: str, data: object) -> InputError:
    shown = repr(data)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return InputError(f"expected {wanted}, got {shown}", where=where, why="the value is of the wrong type or range")
