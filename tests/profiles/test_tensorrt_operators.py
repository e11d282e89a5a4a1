"""The list of ONNX operators that TensorRT's parser takes: complete, and equal to the published table."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RULES = Path(__file__).parents[2] / "edgekit" / "graph" / "rules" / "tensorrt_ops.toml"
TYPES = {"BF16", "BOOL", "FP16", "FP32", "FP8", "INT32", "INT4", "INT64", "INT8", "UINT8"}


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    return tomllib.loads(RULES.read_text(encoding="utf-8"))


def test_every_operator_stands_once_and_names_types_that_exist(rules: dict[str, Any]) -> None:
    assert set(rules["operators"]) & set(rules["unsupported"]) == set()
    assert len(set(rules["unsupported"])) == len(rules["unsupported"])
    for operator in rules["operators"].values():
        assert operator["types"]
        assert set(operator["types"]) <= TYPES
        assert set(operator) <= {"types", "restriction"}


def test_what_femtodet_and_quantized_graphs_need_is_told_apart(rules: dict[str, Any]) -> None:
    assert {"Conv", "Relu", "Add", "Concat", "Resize", "QuantizeLinear", "Scan"} <= set(rules["operators"])
    assert {"QLinearConv", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"} <= set(rules["unsupported"])
    assert "must be 0" in rules["operators"]["QuantizeLinear"]["restriction"]


@pytest.mark.skipif("EDGEKIT_DATA" not in os.environ, reason="EDGEKIT_DATA names no folder with the published table")
def test_the_list_equals_the_published_table(rules: dict[str, Any]) -> None:
    table = Path(os.environ["EDGEKIT_DATA"]) / "published" / "tensorrt-10.1-onnx-operators.csv"
    if not table.exists():
        pytest.skip(f"{table} is not there")
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["operator"] for row in rows if row["supported"] == "N"} == set(rules["unsupported"])
    supported = {row["operator"]: row for row in rows if row["supported"] == "Y"}
    assert set(supported) == set(rules["operators"])
    for name, row in supported.items():
        stated = [word.strip().replace("INF64", "INT64") for word in row["types"].split(",") if word.strip()]
        assert rules["operators"][name]["types"] == stated
        words = row["restrictions"].replace("<br />", " ").replace("is_traning", "is_training").split()
        assert rules["operators"][name].get("restriction", "").split() == words
