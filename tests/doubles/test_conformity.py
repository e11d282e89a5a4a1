"""The doubles have no class, method or argument that the real bindings of their version lack, and none is misnamed."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import textwrap
from enum import EnumMeta
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
# Ours, not TensorRT's: `Dims` is a sequence there too.
OWN = {"Dims"}


@pytest.fixture(scope="session")
def contract() -> Any:
    """What the real bindings offer, fetched once into the user's cache."""
    if not (TOOLS / "trt_contract" / "cache.py").is_file():
        pytest.skip("tools/trt_contract is not here")
    sys.path.insert(0, str(TOOLS))
    try:
        from trt_contract.cache import default_folder, prepare
    finally:
        sys.path.remove(str(TOOLS))
    from edgekit.errors import MissingError

    try:
        return prepare(default_folder())
    except MissingError as error:
        pytest.skip(f"the real bindings cannot be had here: {error}")


def classes_of(module: Any) -> dict[str, type]:
    """The public classes that a double defines, by qualified name."""
    found: dict[str, type] = {}
    pending = [
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    while pending:
        cls = pending.pop()
        if not cls.__qualname__.startswith("_") and cls.__qualname__ not in OWN:
            found[cls.__qualname__] = cls
            inner = [value for name, value in vars(cls).items() if not name.startswith("_")]
            pending += [value for value in inner if isinstance(value, type)]
    return found


def problems(api: Any, module: Any) -> list[str]:
    """What the double has and the real module has not, in words."""
    found = []
    for name, cls in classes_of(module).items():
        if name not in api.classes:
            found.append(f"there is no class {name}")
            continue
        if isinstance(cls, EnumMeta):
            found += [f"{name} has no {member}" for member in cls.__members__ if member not in api.members(name)]
            continue
        for attribute, value in vars(cls).items():
            if not attribute.startswith("_") and not isinstance(value, type):
                found += attribute_problems(api, name, attribute, value)
        found += [f"{name} has no {each}" for each in assigned(cls) if api.attribute(name, each) is None]
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
            if name in ("put", "at", "live", "capturing"):
                continue
            real = api.attribute("module", name)
            if real is None or real.calls is None:
                found.append(f"there is no function {name}")
            else:
                found += call_problems(name, list(inspect.signature(value).parameters), real.calls)
    return found


def assigned(cls: type) -> list[str]:
    """The public attributes that a class's methods give to `self`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    targets = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    names = {node.attr for node in targets if isinstance(node.value, ast.Name) and node.value.id == "self"}
    return sorted(name for name in names if not name.startswith("_"))


def attribute_problems(api: Any, cls: str, name: str, value: Any) -> list[str]:
    """The same for one attribute of a class."""
    real = api.attribute(cls, name)
    if real is None:
        return [f"{cls} has no {name}"]
    if isinstance(value, property) or not callable(value):
        return [f"{cls}.{name} is a method"] if real.calls is not None else []
    if real.calls is None:
        return [f"{cls}.{name} is no method"]
    return call_problems(f"{cls}.{name}", list(inspect.signature(value).parameters)[1:], real.calls)


def call_problems(name: str, ours: list[str], overloads: Any) -> list[str]:
    """Whether some overload has the same names in the same order; those that are not stated are passed over."""
    theirs = [[parameter.name for parameter in each.parameters] for each in overloads]
    return (
        [f"{name} takes {theirs}, not {ours}"] if theirs and all(ours != each[: len(ours)] for each in theirs) else []
    )


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_the_double_of_tensorrt_has_the_real_signatures(board: Any, contract: Any, version: str) -> None:
    board.become(tensorrt=version)
    import tensorrt

    try:
        api = contract.api("tensorrt", version)
    except FileNotFoundError:
        pytest.skip(f"the contract does not hold {version}")
    assert len(classes_of(tensorrt)) > 20
    assert problems(api, tensorrt) == []


def test_the_double_of_cuda_has_the_real_signatures(board: Any, contract: Any) -> None:
    from cuda.bindings import runtime

    found = sorted(file.stem for file in (contract.folder / "api").glob("cuda.bindings.runtime-*.json"))
    assert found
    for stem in found:
        api = contract.api("cuda.bindings.runtime", stem.partition("runtime-")[2])
        assert [each for each in problems(api, runtime) if "no class _" not in each] == []
        for name in ("cudaHostAllocMapped", "cudaHostAllocDefault", "cudaStreamNonBlocking"):
            assert api.attribute("module", name) is not None


def test_a_misnamed_argument_would_be_seen(board: Any, contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt

    def parse(self: Any, data: bytes) -> bool:
        return True

    monkeypatch.setattr(tensorrt.OnnxParser, "parse", parse)
    monkeypatch.setattr(tensorrt.Builder, "build_engine", parse, raising=False)
    found = problems(contract.api("tensorrt", "10.3.0"), tensorrt)
    assert len(found) == 2 and "OnnxParser.parse takes" in "".join(found) and "no build_engine" in "".join(found)


CALLBACKS = """
import json, sys, threading
import tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
from edgekit.errors import MissingError
from edgekit.runtimes import tensorrt_builder as builder
from edgekit.runtimes.tensorrt_memory import MemoryWatch
from edgekit.runtimes.tensorrt_recipe import parse_recipe

recipe = parse_recipe(sys.stdin.buffer.read())
said = builder.Said()
logger = builder.make_logger(said)
severity = tensorrt_bindings.ILogger.Severity
for level in (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING, severity.INFO):
    logger.log(level, level.name)
order = builder.BuildOrder(b"", recipe, b"", MemoryWatch(recipe.memory, lambda: 1 << 30))
stopped = threading.Event()
monitor = builder._make_monitor(order, stopped)
monitor.phase_start("a phase", None, 3)
going = [monitor.step_complete("a phase", 0)]
stopped.set()
going.append(monitor.step_complete("a phase", 1))
monitor.phase_finish("a phase")
try:
    builder.build_plan(order)
except MissingError as error:
    why = error.why
print(json.dumps([said.errors, said.warnings, going, builder._network_flags(recipe), why]))
"""


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 2), ("10.16.1.11", 2), ("11.4.0.106", 0)])
def test_the_real_bindings_take_our_callbacks_and_cannot_start_here(
    contract: Any, version: str, flags: int, tmp_path: Path
) -> None:
    """Over libraries whose factories give nothing: our classes pass as theirs, and no more is shown."""
    cache = contract.folder.parent
    wheels = sorted(cache.glob(f"wheels/tensorrt-cu*-bindings-{version}-*"))
    stubs = sorted(cache.glob(f"stubs/{version.split('.')[0]}-*"))
    if not wheels or not stubs:
        pytest.skip(f"the contract's cache does not hold the bindings of {version}")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(wheels[0]), *filter(None, sys.path)]),
        "LD_LIBRARY_PATH": str(stubs[0]),
    }
    recipe = {
        "schema": "edgekit/tensorrt-build/2",
        "target": "orin-nano",
        "tensorrt": {"min": "10.3"},
        "network_flags": ["STRONGLY_TYPED"],
        "builder_flags": [],
        "builder_optimization_level": 3,
        "workspace": {"rule": "fraction-of-free-memory", "fraction": 0.5},
        "memory": {"floor_bytes": 0},
        "profiling_verbosity": "DETAILED",
        "timing_cache": "x",
        "optimization_profiles": [{}],
    }
    done = subprocess.run(
        [sys.executable, "-c", CALLBACKS],
        input=json.dumps(recipe),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors, warnings, going, network_flags, why = json.loads(done.stdout)
    assert (errors, warnings, going) == (["INTERNAL_ERROR", "ERROR"], ["WARNING"], [True, False])
    assert network_flags == flags
    assert "factory function returned nullptr" in why
