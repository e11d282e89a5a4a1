"""What starting up may load, and that nothing opens a connection, from the export to the detections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HEAVY = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "PIL", "cryptography", "google.protobuf")


def python(code: str, folder: Path, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [*prefix, sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def loaded(code: str, folder: Path) -> set[str]:
    """The modules that are loaded after `code`, which may print."""
    done = python(f"import sys\n{code}\nimport json\nprint('\\n' + json.dumps(list(sys.modules)))", folder)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_but_itself(folder: Path) -> None:
    modules = loaded("import edgekit", folder)
    assert not modules & {*HEAVY, "typer", "click", "rich"}
    assert [name for name in modules if name.startswith("edgekit")] == ["edgekit"]


HELP = """
import edgekit.cli.main as main
sys.argv = ["edgekit", *{arguments!r}]
try:
    main.main()
except SystemExit as left:
    assert not left.code, left.code
"""


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["run", "--help"]], ids=" ".join)
def test_help_loads_neither_numpy_nor_a_backend_nor_torch(folder: Path, arguments: list[str]) -> None:
    assert not loaded(HELP.format(arguments=arguments), folder) & set(HEAVY)


@pytest.mark.parametrize("arguments", [["targets"], ["init"]], ids=" ".join)
def test_listing_boards_loads_neither_a_backend_nor_torch(folder: Path, arguments: list[str]) -> None:
    assert not loaded(HELP.format(arguments=arguments), folder) & set(HEAVY)


def test_inspecting_loads_neither_a_backend_nor_torch(folder: Path, small_bundles: dict[str, Path]) -> None:
    for arguments in (["inspect", str(small_bundles["zip"])], ["verify", str(small_bundles["folder"])]):
        assert not loaded(HELP.format(arguments=arguments), folder) & (set(HEAVY) - {"numpy", "cryptography"})


# Every new socket ends the process; local ones too, nothing here has a use for them.
GUARD = """
import socket, sys

class NoSocket(socket.socket):
    def __init__(self, *_, **__):
        print("a socket was opened", file=sys.stderr)
        raise SystemExit(99)

socket.socket = NoSocket
socket.create_connection = NoSocket
socket.getaddrinfo = NoSocket
"""

END_TO_END = """
import os
from edgekit.cli.main import main

for arguments in {commands!r}:
    sys.argv = ["edgekit", *arguments]
    try:
        main()
    except SystemExit as left:
        assert not left.code, (arguments, left.code)
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
assert sys.modules["openvino_telemetry"] is None
assert not [name for name in sys.modules if name.startswith(("openvino_telemetry.", "requests", "urllib3", "httpx"))]
"""


@pytest.fixture
def commands(detector: Path, spec_file: Path, cells_png: Path) -> list[list[str]]:
    """From an export for each family to detections and a proof."""
    for package in ("torch", "onnx", "openvino"):
        pytest.importorskip(package)
    model = ("--model", str(detector), "--spec", str(spec_file))
    return [
        [
            "export",
            *model,
            "-t",
            "snapdragon-865",
            "-t",
            "intel-n100",
            "-t",
            "orin-nano",
            "-t",
            "host",
            "-o",
            "all",
            "--json",
        ],
        ["run", "all/snapdragon-865.edgekit", str(cells_png), "--json"],
        ["run", "all/intel-n100.edgekit", str(cells_png), "--json"],
        ["run", "all/orin-nano.edgekit", str(cells_png), "--runtime", "onnxruntime", "--json"],
        ["prove", "all/host.edgekit", "--json"],
        ["doctor", "--json"],
    ]


def test_from_export_to_detections_no_connection_is_made(
    folder: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    commands.append(["export", "-t", "host", "-o", "shipped", "--json"])  # through torch's exporter
    done = python(GUARD + END_TO_END.format(commands=commands), folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_guard_sees_a_connection(folder: Path) -> None:
    done = python(GUARD + "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')", folder)
    assert done.returncode == 99


def test_from_export_to_detections_it_works_where_there_is_no_network(
    folder: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    done = python(GUARD + END_TO_END.format(commands=commands), folder, prefix=without_network())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def without_network() -> list[str]:
    """The command that gives a process a network namespace with no interface but a loopback that is down."""
    unshare = shutil.which("unshare")
    for options in (["-rn"], ["-n"]):
        if unshare and subprocess.run([unshare, *options, "true"], capture_output=True, check=False).returncode == 0:
            return [unshare, *options]
    pytest.skip("this machine lets nobody make a network namespace (unshare)")
