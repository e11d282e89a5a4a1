"""The published JSON Schema and the dataclasses describe one format."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
import typing
from dataclasses import replace
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle.manifest import SCHEMA, Manifest, manifest_bytes, parse_manifest
from edgekit.bundle.reader import Bundle
from edgekit.errors import IntegrityError

DOCUMENT = json.loads((resources.files("edgekit.bundle") / "manifest.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(DOCUMENT)


def dataclasses_in(hint: Any, found: set[type] | None = None) -> set[type]:
    """Every dataclass that a type hint reaches."""
    found = set() if found is None else found
    if dataclasses.is_dataclass(hint) and hint not in found:
        found.add(hint)
        for inner in typing.get_type_hints(hint).values():
            dataclasses_in(inner, found)
    for inner in typing.get_args(hint):
        dataclasses_in(inner, found)
    return found


CLASSES = sorted(dataclasses_in(Manifest), key=lambda cls: cls.__name__)


def test_the_schema_itself_is_a_valid_draft_2020_12_schema_of_this_format():
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    assert DOCUMENT["$schema"].endswith("2020-12/schema") and DOCUMENT["$id"] == SCHEMA


def test_the_schema_defines_every_dataclass_and_nothing_else():
    kinds = {name for name, schema in DOCUMENT["$defs"].items() if schema["type"] == "object"}
    assert kinds == {cls.__name__ for cls in CLASSES}
    assert len(CLASSES) > 10


@pytest.mark.parametrize("cls", CLASSES)
def test_fields_requirements_and_defaults_are_the_same(cls):
    schema = DOCUMENT["$defs"][cls.__name__]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(fields)
    defaults = {
        name: field.default if field.default is not dataclasses.MISSING else field.default_factory()
        for name, field in fields.items()
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    defaults.pop("schema", None)  # a convenience for writers: readers insist on it
    assert set(schema["required"]) == set(fields) - set(defaults)
    for name, default in defaults.items():
        assert schema["properties"][name]["default"] == json.loads(json.dumps(default)), name


@pytest.mark.parametrize("cls", CLASSES)
def test_choices_and_types_are_the_same(cls):
    for name, hint in typing.get_type_hints(cls).items():
        schema = _resolved(DOCUMENT["$defs"][cls.__name__]["properties"][name])
        if typing.get_origin(hint) is typing.Literal:
            assert tuple(schema.get("enum", [schema.get("const")])) == typing.get_args(hint), name
        else:
            assert _types(schema) == _expected(hint), name


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return {**DOCUMENT["$defs"][schema["$ref"].rsplit("/", 1)[1]], **schema}
    return schema


def _types(schema: dict[str, Any]) -> set[str]:
    schema = _resolved(schema)
    if "type" in schema:
        return set(schema["type"]) if isinstance(schema["type"], list) else {schema["type"]}
    return set().union(*(_types(choice) for choice in schema.get("anyOf") or schema["allOf"][:1]))


def _expected(hint: Any) -> set[str]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*(_expected(choice) for choice in typing.get_args(hint)))
    if dataclasses.is_dataclass(hint):
        return {"object"}
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    return {names.get(hint) or {tuple: "array", dict: "object"}[typing.get_origin(hint)]}


def as_data(manifest: Manifest) -> Any:
    return json.loads(manifest_bytes(manifest))


# Rules between fields that a schema cannot say; test_hostile_manifest has them.
BEYOND = (
    *("parity says passed", "collide", "the self-test reads", "same id", "the variant", "same precision", "the choice"),
    *("contradicts itself", "in ascending order", "the race was won by"),
)


def agree(data: Any) -> bool:
    """Whether the manifest is valid, after making sure that both say so."""
    try:
        parse_manifest(json.dumps(data).encode(), "m")
        ours, why = True, ""
    except IntegrityError as error:
        ours, why = False, str(error)
    if any(rule in why for rule in BEYOND):
        return False
    assert ours == VALIDATOR.is_valid(data), why or [error.message for error in VALIDATOR.iter_errors(data)]
    return ours


def test_every_manifest_that_is_written_is_valid(make, full, minimal, varied, varied_files):
    assert agree(as_data(minimal))
    with Bundle.open(make("varied", manifest=varied, files=varied_files)) as bundle:
        assert agree(json.loads(bundle.manifest_raw))
    for name in ("b", "b.edgekit"):
        with Bundle.open(make(name)) as bundle:
            assert agree(json.loads(bundle.manifest_raw))
    answer = replace(full, selftest=(), quality=minimal.quality, parity=(), model=minimal.model)
    assert agree(as_data(answer))


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in the data, tables that may hold anything left closed."""
    found = [path] if path else []
    if isinstance(data, dict) and path[-1:] not in (("config",), ("result",)):
        for key, value in data.items():
            found += places(value, (*path, key))
    if isinstance(data, list):
        for index, value in enumerate(data):
            found += places(value, (*path, index))
    return found


STRANGE = [
    *(None, True, False, 0, -1, 1, 256, 10**12, 0.5, -0.5, "", " ", "x", "1.2", "a" * 64),
    *("model.onnx", "../x", "manifest.json", "Manifest.SIG"),
    *("real", "unknown", "measured", "image", "detection", "classification", "boxes-scores"),
    *([], ["x"], ["x", "y"], [1, 2, 3], [1.5, 0.0, 2.5], [None], {}, {"x": "y"}, {"x": 1}),
    *({"kind": "image"}, {"outputs": ["x"], "kind": "classification"}, {"status": "unknown", "reason": "no data"}),
    {"outputs": ["x"], "decode": "boxes-scores", "kind": "detection"},
]


def mutated(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    data = copy.deepcopy(data)
    at = data
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return data


def without(data: Any, path: tuple[Any, ...]) -> Any:
    data = copy.deepcopy(data)
    at = data
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    return data


@pytest.fixture(scope="module")
def maximal(varied) -> Any:
    """Every field filled in but `selftest`: what its paths point to is beyond a schema."""
    data = as_data(replace(varied, selftest=()))
    names = ("model.onnx", "weights/model.bin", "variants/int8/model.onnx")
    data["files"] = [{"path": name, "sha256": "c" * 64, "size": 3, "role": "model"} for name in names]
    return data


def test_replacing_any_value_by_a_strange_one_is_judged_alike(maximal):
    refused = kept = 0
    for number, path in enumerate(places(maximal)):
        for value in STRANGE[number % 3 :: 3]:  # a third of them at each place keeps the test short
            if agree(mutated(maximal, path, value)):
                kept += 1
            else:
                refused += 1
    assert refused > 800 and kept > 80


def test_leaving_out_any_value_is_judged_alike(maximal):
    verdicts = {path: agree(without(maximal, path)) for path in places(maximal)}
    assert not verdicts[("version",)] and verdicts[("licences",)]


def test_adding_an_unknown_field_anywhere_is_refused_by_both(maximal):
    for path in [(), *places(maximal)]:
        at = maximal
        for step in path:
            at = at[step]
        closed = isinstance(at, dict) and path[-1:] not in (
            ("config",),
            ("result",),
            ("tools",),
            ("settings",),
            ("origins",),
            ("files",),
            ("float_nodes",),
        )
        if closed:
            assert not agree(mutated(maximal, (*path, "surprise"), 1))


def test_self_tests_are_judged_alike(maximal):
    maximal = copy.deepcopy(maximal)
    vector = {"inputs": {"x": "model.onnx"}, "outputs": {"y": "model.onnx"}, "tolerance": 0, "origin": "real"}
    maximal["selftest"] = [vector]
    assert agree(maximal)
    for path in places(vector):
        assert not agree(without(maximal, ("selftest", 0, *path)))
        for value in STRANGE:
            agree(mutated(maximal, ("selftest", 0, *path), value))


@given(st.data())
def test_two_changes_at_once_are_judged_alike(maximal, data):
    changed = maximal
    for _ in range(2):
        changed = mutated(
            changed, data.draw(st.sampled_from(list(places(changed)))), data.draw(st.sampled_from(STRANGE))
        )
    agree(changed)
