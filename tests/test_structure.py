"""Strict decoding: what fits becomes dataclasses and back again, what does not is refused with its place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.structure import decode, encode


@dataclass(frozen=True)
class Circle:
    radius: float
    kind: Literal["circle"] = "circle"

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ValueError("a radius is not negative")


@dataclass(frozen=True)
class Square:
    side: int
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Drawing:
    title: str
    shapes: tuple[Circle | Square, ...] = ()
    origin: tuple[float, float] = (0.0, 0.0)
    scale: float | None = None
    visible: bool = True
    tags: dict[str, int] = field(default_factory=dict)
    labels: str | tuple[str, ...] | None = None
    mode: Literal["ink", 1] = "ink"
    anything: Any = None


finite = st.floats(allow_nan=False, allow_infinity=False)
shapes = st.one_of(st.builds(Circle, radius=finite.map(abs)), st.builds(Square, side=st.integers(-(2**63), 2**63)))
drawings = st.builds(
    Drawing,
    title=st.text(),
    shapes=st.lists(shapes, max_size=4).map(tuple),
    origin=st.tuples(finite, finite),
    scale=st.none() | finite,
    visible=st.booleans(),
    tags=st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    labels=st.none() | st.text() | st.lists(st.text(), max_size=3).map(tuple),
    mode=st.sampled_from(["ink", 1]),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(drawings)
def test_what_is_encoded_decodes_equal_through_json(drawing: Drawing) -> None:
    assert decode(Drawing, json.loads(json.dumps(encode(drawing), allow_nan=False)), "d") == drawing


@given(st.dictionaries(st.sampled_from([*Drawing.__dataclass_fields__, "other"]), json_values))
def test_anything_else_decodes_to_what_encodes_back_or_is_an_input_error(data: dict[str, Any]) -> None:
    try:
        drawing = decode(Drawing, data, "d")
    except InputError as error:
        assert str(error.where).startswith("d")
        assert error.exit_code == 2
    else:
        assert isinstance(drawing.title, str)
        assert decode(Drawing, encode(drawing), "d") == drawing or "nan" in repr(drawing)


@pytest.mark.parametrize(
    ("data", "where", "said"),
    [
        ([], "d", "expected a table, got []"),
        (None, "d", "expected a table, got None"),
        ({}, "d", "missing field 'title'"),
        ({"title": "t", "titel": 1}, "d", "unknown field 'titel'"),
        ({"title": 1}, "d.title", "expected text, got 1"),
        ({"title": None}, "d.title", "expected text, got None"),
        ({"title": "t", "visible": 1}, "d.visible", "expected true or false, got 1"),
        ({"title": "t", "visible": "yes"}, "d.visible", "expected true or false, got 'yes'"),
        ({"title": "t", "scale": True}, "d.scale", "expected a number or nothing, got True"),
        ({"title": "t", "scale": math.nan}, "d.scale", "expected a number or nothing, got nan"),
        ({"title": "t", "scale": 10**400}, "d.scale", "expected a number or nothing"),
        ({"title": "t", "origin": [1]}, "d.origin", "expected 2 values, got [1]"),
        ({"title": "t", "origin": [1, "x"]}, "d.origin[1]", "expected a number, got 'x'"),
        ({"title": "t", "origin": [1, math.inf]}, "d.origin[1]", "expected a finite number, got inf"),
        ({"title": "t", "origin": "12"}, "d.origin", "expected a list, got '12'"),
        ({"title": "t", "tags": {"a": 1.5}}, "d.tags.a", "expected a whole number, got 1.5"),
        ({"title": "t", "tags": {"a": True}}, "d.tags.a", "expected a whole number, got True"),
        ({"title": "t", "tags": []}, "d.tags", "expected a table, got []"),
        ({"title": "t", "tags": {1: 1}}, "d.tags", "expected a table, got {1: 1}"),
        ({"title": "t", "mode": "pen"}, "d.mode", "expected one of ink, 1, got 'pen'"),
        ({"title": "t", "mode": True}, "d.mode", "expected one of ink, 1, got True"),
        ({"title": "t", "mode": []}, "d.mode", "expected one of ink, 1, got []"),
        ({"title": "t", "labels": 7}, "d.labels", "expected text or tuple or nothing, got 7"),
        ({"title": "t", "shapes": [{"radius": 1}]}, "d.shapes[0].kind", "expected one of circle, square, got None"),
        ({"title": "t", "shapes": [{"kind": "oval"}]}, "d.shapes[0].kind", "expected one of circle, square"),
        ({"title": "t", "shapes": [{"kind": ["circle"]}]}, "d.shapes[0].kind", "expected one of circle, square"),
        ({"title": "t", "shapes": [{"kind": "square", "side": 1.0}]}, "d.shapes[0].side", "a whole number, got 1.0"),
        ({"title": "t", "shapes": [{"kind": "circle", "side": 1}]}, "d.shapes[0]", "unknown field 'side'"),
        ({"title": "t", "shapes": [{"kind": "circle", "radius": -1}]}, "d.shapes[0]", "a radius is not negative"),
        ({"title": "t", "shapes": [3]}, "d.shapes[0]", "expected Circle or Square, got 3"),
    ],
)
def test_a_misfit_is_named_with_its_place(data: Any, where: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(Drawing, data, "d")
    assert caught.value.where == where
    assert said in caught.value.what


def test_the_fields_that_exist_are_listed_beside_an_unknown_one() -> None:
    with pytest.raises(InputError) as caught:
        decode(Square, {"side": 1, "size": 2}, "d")
    assert caught.value.fix == "the fields are: kind, side"


def test_a_long_value_is_shown_shortened() -> None:
    with pytest.raises(InputError) as caught:
        decode(Square, {"side": "x" * 10_000}, "d")
    assert len(caught.value.what) < 120
    assert caught.value.what.endswith("...")


def test_a_whole_number_is_taken_for_a_float_and_becomes_one() -> None:
    assert isinstance(decode(Circle, {"radius": 3}, "d").radius, float)


def test_defaults_stand_in_for_what_is_not_given() -> None:
    assert decode(Drawing, {"title": "t"}, "d") == Drawing("t")
