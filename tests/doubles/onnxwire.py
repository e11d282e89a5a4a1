"""Reads and changes ONNX files by protobuf's wire format, since the device lane has no onnx package.

Field numbers are those of onnx/onnx.proto3: ModelProto.graph 7; GraphProto node 1, initializer 5, input 11, output 12;
NodeProto input 1, output 2, name 3, op_type 4; ValueInfoProto name 1, type 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Field = tuple[int, int, int | bytes]  # number, wire type, value


@dataclass(frozen=True)
class Node:
    """One node of the graph."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def split(data: bytes) -> list[Field]:
    """A message's fields. ValueError where it is none."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = data[at : at + size], at + size
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
            if len(value) != size:
                raise ValueError("a message is cut short")
        else:
            raise ValueError(f"no wire type {wire}")
        fields.append((number, wire, value))
    return fields


def join(fields: Iterable[Field]) -> bytes:
    """The inverse of `split`."""
    out = bytearray()
    for number, wire, value in fields:
        out += _number(number << 3 | wire)
        if isinstance(value, int):
            out += _number(value)
        else:
            out += (_number(len(value)) if wire == 2 else b"") + value
    return bytes(out)


def nodes(model: bytes) -> list[Node]:
    """The main graph's nodes."""
    found = []
    for number, _, value in split(_graph(model)):
        if number == 1 and isinstance(value, bytes):
            texts: dict[int, list[str]] = {}
            for inner, wire, text in split(value):
                if wire == 2 and inner in (1, 2, 3, 4) and isinstance(text, bytes):
                    texts.setdefault(inner, []).append(text.decode())
            name, op = (texts.get(key, [""])[0] for key in (3, 4))
            found.append(Node(name, op, tuple(texts.get(1, ())), tuple(texts.get(2, ()))))
    return found


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """The model with more outputs: appended messages are merged by protobuf's rules."""
    added = [(12, 2, join([(1, 2, name.encode())])) for name in names]
    return model + join([(7, 2, join(added))]) if added else model  # type: ignore[arg-type,list-item]


def spoiled(model: bytes, tensor: str, operators: tuple[str, ...]) -> bytes:
    """The model with `operators`, of one input each, put in behind whatever computes `tensor`."""
    fields: list[Field] = []
    for number, wire, value in split(model):
        if number != 7 or not isinstance(value, bytes):
            fields.append((number, wire, value))
            continue
        graph: list[Field] = []
        for kind, inner_wire, inner in split(value):
            if kind == 1 and isinstance(inner, bytes) and tensor.encode() in _texts(inner, 2):
                right = f"{tensor}/right"
                renamed: list[Field] = [
                    (a, b, right.encode()) if a == 2 and c == tensor.encode() else (a, b, c) for a, b, c in split(inner)
                ]
                graph.append((1, 2, join(renamed)))
                graph += _chain(right, tensor, operators)
            else:
                graph.append((kind, inner_wire, inner))
        fields.append((7, 2, join(graph)))
    return join(fields)


def _chain(begin: str, end: str, operators: tuple[str, ...]) -> list[Field]:
    names = [begin, *(f"{end}/{index}" for index in range(1, len(operators))), end]
    made: list[Field] = []
    for operator, before, after in zip(operators, names, names[1:], strict=False):
        texts = ((1, before), (2, after), (3, f"spoil/{after}"), (4, operator))
        made.append((1, 2, join([(number, 2, text.encode()) for number, text in texts])))
    return made


def _texts(message: bytes, number: int) -> list[int | bytes]:
    return [value for found, wire, value in split(message) if found == number and wire == 2]


def _graph(model: bytes) -> bytes:
    parts = [value for number, wire, value in split(model) if number == 7 and wire == 2]
    if not parts:
        raise ValueError("there is no graph")
    return b"".join(part for part in parts if isinstance(part, bytes))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
