"""What Torch-TensorRT offers, read from its sources: it cannot be imported without a GPU, so it is parsed instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.exporters.torch_tensorrt import pairs
from trt_contract import cache as wheels
from trt_contract import signatures
from trt_contract.api import Api, Library

MODULE = "torch_tensorrt.dynamo"
_REQUIREMENT = re.compile(r"^Requires-Dist: (?P<name>[\w-]+) ?\(?(?P<range>[^;()\n]*)\)?", re.MULTILINE)


def library(cache: Path, offline: bool = False) -> Library:
    """`torch_tensorrt.dynamo` in every release that edgekit may use.

    Raises:
        MissingError: a wheel cannot be fetched.
    """
    releases = [each.wheel for each in pairs() if each.refused is None]
    return Library(MODULE, tuple(Api(MODULE, each, describe(unpacked(cache, each, offline))) for each in releases))


def unpacked(cache: Path, release: str, offline: bool = False) -> Path:
    """The Python sources of one release, with its metadata.

    Raises:
        MissingError: the wheel cannot be fetched.
    """
    return wheels.wheel(cache, "torch-tensorrt", release, _is_read, offline)


def describe(folder: Path) -> dict[str, Any]:
    """The functions that `torch_tensorrt.dynamo` imports from its own files, in the form of `dump`.

    What `**kwargs` would swallow is not among the parameters: a misspelled option must not pass.
    """
    package = folder / "torch_tensorrt" / "dynamo"
    functions: dict[str, Any] = {}
    values: dict[str, str] = {}
    for node in ast.walk(ast.parse((package / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            found = _functions(package / (node.module.replace(".", "/") + ".py"))
            for alias in node.names:
                if alias.name in found:
                    functions[alias.asname or alias.name] = [found[alias.name].as_json()]
                else:
                    values[alias.asname or alias.name] = "Any"
    return {"version": "", "functions": functions, "values": values, "classes": {}}


def required(folder: Path, name: str) -> Sequence[str]:
    """What the metadata asks of a distribution, such as `<10.4.0,>=10.3.0`; one for each marker."""
    text = next(folder.glob("*.dist-info/METADATA")).read_text()
    return [match["range"].strip() for match in _REQUIREMENT.finditer(text) if match["name"] == name]


def _functions(file: Path) -> dict[str, signatures.Signature]:
    if not file.is_file():
        return {}
    body = ast.parse(file.read_text()).body
    return {each.name: signatures.of_source(each) for each in body if isinstance(each, ast.FunctionDef)}


def _is_read(name: str) -> bool:
    return name.endswith("METADATA") or (name.startswith("torch_tensorrt/dynamo/") and name.count("/") == 2)
