"""The published JSON Schema of a report, made from its dataclasses: `python -m edgekit.profiler.schema` prints it.

`report.schema.json` beside this file is what it prints; a test keeps the two equal.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from typing import Any

from edgekit.profiler.report import SCHEMA, Report
from edgekit.structure import encode

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema() -> dict[str, Any]:
    """The schema, draft 2020-12."""
    definitions: dict[str, Any] = {}
    _define(Report, definitions)
    definitions["Report"]["properties"]["schema"] = {"const": SCHEMA}
    definitions["Report"]["required"].insert(0, "schema")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "edgekit profile",
        "description": "What stands in NAME.profile.json: measured figures only. Times are milliseconds, energies "
        "millijoules or joules, powers watts, as their names say; samples are .npy files in NAME.profile beside it. "
        "Readers check more than a schema can say: no key appears twice, and samples fit the figures.",
        "$ref": "#/$defs/Report",
        "$defs": definitions,
    }


def schema_text() -> str:
    """The document as it is published."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _define(cls: Any, definitions: dict[str, Any]) -> None:
    if cls.__name__ in definitions:
        return
    made: dict[str, Any] = {"type": "object", "description": _summary(cls), "additionalProperties": False}
    definitions[cls.__name__] = made
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    made["required"] = [one.name for one in fields if one.default is dataclasses.MISSING]
    made["properties"] = {
        one.name: _of(hints[one.name], definitions)
        | ({} if one.default is dataclasses.MISSING else {"default": encode(one.default)})
        for one in fields
    }


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        _define(hint, definitions)
        return {"$ref": f"#/$defs/{typing.cast(Any, hint).__name__}"}
    if origin is typing.Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(each, definitions) for each in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    return {"type": _SCALARS[hint]}


def _summary(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


if __name__ == "__main__":
    print(schema_text(), end="")
