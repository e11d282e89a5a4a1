"""The table of errors in docs/orin-nano.md: each is brought about on doubles of the board, with its exit code."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

for package in ("torch", "onnx"):
    pytest.importorskip(package)

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "orin-nano.md").read_text("utf-8")
Command = Callable[..., Any]

pytestmark = pytest.mark.xdist_group("orin-guide")

PARSER, BUILDER = "TensorRT's parser does not take 1 node(s) of the model", "TensorRT cannot build the model"


def missing(module: str, before: str | None = None) -> Callable[..., None]:
    def lack(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
        if before is not None:
            import_module(before)  # the double needs what is to be missing
        monkeypatch.setitem(sys.modules, module, None)

    return lack


def switch(**fields: Any) -> Callable[..., None]:
    return lambda board, **_: board.become(**fields)


def elsewhere(monkeypatch: pytest.MonkeyPatch, **_: Any) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def little_memory(board: Any, **_: Any) -> None:
    board.free(100)


def wrong_values(board: Any, bundle: Path, **_: Any) -> None:
    from edgekit.bundle import Bundle

    with Bundle.open(bundle) as opened:
        tensors = json.loads(opened.read("landmarks.json"))["tensors"]
    board.become(wrong_from=tensors[len(tensors) // 2]["tensor"])


def copied_engine(board: Any, edgekit: Command, bundle: Path, **_: Any) -> None:
    assert edgekit("build", bundle).code == 0
    (engine,) = board.engines()
    note = engine.with_name("engine.json")
    note.write_text(note.read_text().replace('"8.7"', '"8.6"'))


def damaged_engine(board: Any, edgekit: Command, bundle: Path, **_: Any) -> None:
    assert edgekit("build", bundle).code == 0
    (engine,) = board.engines()
    engine.write_bytes(engine.read_bytes() + b"?")


def open_cache(board: Any, edgekit: Command, bundle: Path, **_: Any) -> None:
    assert edgekit("build", bundle).code == 0
    board.cache.chmod(0o777)


def failed_run(board: Any, edgekit: Command, bundle: Path, **_: Any) -> None:
    assert edgekit("build", bundle).code == 0
    board.become(enqueue_fails=1)


def nothing(**_: Any) -> None:
    """As it is."""


@dataclass(frozen=True)
class Trouble:
    """How an error comes about: what is done before, and the command that then says it."""

    cause: Callable[..., None]
    command: str = "build BUNDLE"


TROUBLES = {
    "TensorRT is not installed, or not for this Python": Trouble(missing("tensorrt")),
    "cuda-python is not installed, or not for this system": Trouble(missing("cuda.bindings", "tensorrt")),
    "the bundle needs tensorrt >= 10.3, < 10.4": Trouble(switch(tensorrt="10.16.1")),
    "the bundle needs a machine with aarch64": Trouble(elsewhere),
    "no GPU can be used here": Trouble(switch(no_driver=True)),
    "TensorRT cannot start": Trouble(switch(no_start=True)),
    PARSER: Trouble(switch(refuse=("GlobalAveragePool", "ReduceMean"))),
    BUILDER: Trouble(switch(build_fails="Could not find any implementation for node")),
    "too little memory is free to build the engine": Trouble(little_memory),
    "TensorRT ran out of memory": Trouble(switch(build_fails="Error Code 2: OutOfMemory")),
    "the GPU has no memory left": Trouble(switch(alloc_fails=True)),
    "the engine of target orin-nano does not compute what the model did": Trouble(wrong_values),
    "the engine was not built for this machine": Trouble(copied_engine),
    "the engine was changed or damaged": Trouble(damaged_engine),
    "others can write into the engine cache": Trouble(open_cache),
    "this was signed with another key": Trouble(nothing, "verify SIGNED --key STRANGER"),
    "TensorRT did not run the model": Trouble(failed_run, "prove BUNDLE"),
    "2 question(s) stay open": Trouble(nothing, "prove BUNDLE"),
    "nothing is to be built for classifier": Trouble(nothing, "build OTHER"),
}


def table_of_errors() -> dict[str, int]:
    rows = re.findall(r"^\| `([^`]+)` \| (\d) \| [^|]+ \| [^|]+ \|$", TEXT, re.MULTILINE)
    return {says: int(code) for says, code in rows}


def test_every_error_of_the_table_has_a_test_and_the_other_way_round() -> None:
    assert set(table_of_errors()) == set(TROUBLES)


@pytest.fixture(scope="module")
def places(classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The paths that stand for the capitals in a command."""
    from edgekit import pipeline
    from edgekit.bundle import generate_keys, load_private_key, sign_bundle
    from edgekit.config import Config

    folder = tmp_path_factory.mktemp("troubles")
    config = Config(model=classifier.options)
    found = {
        "BUNDLE": pipeline.export(config, "orin-nano", folder / "classifier.edgekit").path,
        "OTHER": pipeline.export(config, "host", folder / "other.edgekit").path,
        "SIGNED": folder / "signed.edgekit",
        "STRANGER": generate_keys(folder / "stranger")[1],
    }
    shutil.copy(found["BUNDLE"], found["SIGNED"])
    sign_bundle(found["SIGNED"], load_private_key(generate_keys(folder / "mine")[0]))
    return found


@pytest.mark.parametrize("says", TROUBLES, ids=lambda says: says.replace(" ", "-")[:40])
def test_the_errors_of_the_table_come_with_their_exit_codes(
    says: str, places: dict[str, Path], edgekit: Command, board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.profiler import latency

    monkeypatch.setattr("edgekit.profiler.short.PLAN", latency.Plan(runs=5, warmup_s=0.2))
    trouble = TROUBLES[says]
    with monkeypatch.context() as patch:
        trouble.cause(board=board, monkeypatch=patch, edgekit=edgekit, bundle=places["BUNDLE"])
        done = edgekit(*(places.get(word, word) for word in trouble.command.split()))
    assert says in done.sentence
    assert "\n  fix: " in done.sentence
    assert done.code == table_of_errors()[says]
