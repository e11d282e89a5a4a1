"""JSON in one strict dialect: UTF-8, no duplicate keys, finite numbers, printable text, bounded depth.

Manifests and signatures come from strangers; two parsers that read one of them differently would be a hole.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from edgekit.errors import InputError, IntegrityError

MAX_DEPTH = 64  # the manifest's own fields need 5; the rest is for what steps put into their configuration
MAX_DIGITS = 20  # holds every 64-bit integer with its sign; converting digits to an integer is quadratic

# Controls and direction overrides could repaint the terminal that shows a manifest; lone surrogates are not text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def render_json(data: object, where: str) -> bytes:
    """`data` as UTF-8 with sorted keys, an indent of 1 and a newline at the end: equal data, equal bytes.

    Raises:
        InputError: the data holds something that `parse_json` would refuse, such as NaN or a key that is not text.
    """
    problem = _problem(data)
    if problem:
        raise InputError(f"this cannot be written as JSON: {problem}", where=where, why="readers would refuse it")
    try:
        text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise InputError(
            f"this cannot be written as JSON: {error}", where=where, why="JSON holds tables, lists, text and numbers"
        ) from error
    return (text + "\n").encode()


def parse_json(raw: bytes, where: str) -> Any:
    """Parse one JSON document of at most a few MiB; the caller has limited `len(raw)`.

    Raises:
        IntegrityError: not UTF-8, not JSON, or outside the dialect.
    """
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_table, parse_int=_whole_number)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors, and so are the hooks'
        raise _malformed(str(error), where) from error
    except RecursionError as error:
        raise _malformed("it is nested too deeply", where) from error
    problem = _problem(data)
    if problem:
        raise _malformed(problem, where)
    return data


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key[:60]!a} appears twice in one table")
        table[key] = value
    return table


def _whole_number(digits: str) -> int:
    count = len(digits.lstrip("-"))
    if count > MAX_DIGITS:
        raise ValueError(f"a whole number has {count} digits, more than {MAX_DIGITS}")
    return int(digits)


def _problem(data: object) -> str | None:
    """What in `data` is outside the dialect, level by level so that no depth can exhaust the stack."""
    level = [data]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value.keys(), *value.values()]
                if not all(isinstance(key, str) for key in value):
                    return "a key is not text"
            elif isinstance(value, list | tuple):
                below += value
            elif isinstance(value, str) and _UNPRINTABLE.search(value):
                return f"the text {value[:60]!a} holds a control character"
            elif isinstance(value, float) and not math.isfinite(value):
                return f"the number {value} is not finite"
            elif isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
                return f"a whole number has more than {MAX_DIGITS} digits"
        if not below:
            return None
        level = below
    return f"it is nested more than {MAX_DEPTH} levels deep"


def _malformed(problem: str, where: str) -> IntegrityError:
    return IntegrityError(
        f"this is not the JSON that edgekit writes: {problem}",
        where=where,
        why="it was damaged, changed or written by something else",
        fix="get the bundle again from where it came from",
    )
