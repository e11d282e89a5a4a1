"""Which nodes TensorRT's ONNX parser does not take: the published operator list, held against a graph."""

from __future__ import annotations

import sys
from functools import cache
from importlib.resources import files
from typing import Any

from onnx import ModelProto

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def unsupported_nodes(model: ModelProto) -> dict[str, str]:
    """Node name to the reason why TensorRT's parser would refuse it."""
    table = operator_table()
    return {
        node.name: f"{node.op_type} is not in TensorRT's operator list ({table['source']})"
        for node in model.graph.node
        if node.op_type not in table["operators"]
    }


@cache
def operator_table() -> dict[str, Any]:
    """The list with its source: `operators` by name with types and restrictions, and `unsupported`."""
    return tomllib.loads(files(__package__).joinpath("tensorrt_ops.toml").read_text(encoding="utf-8"))
