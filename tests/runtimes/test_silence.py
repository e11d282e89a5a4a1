"""Nothing phones home: telemetry is off before a runtime is imported, and running a bundle opens no connection."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Make = Callable[..., Path]
RUNTIMES = ("onnxruntime", "openvino")

# What watches from before edgekit's first line: the environment when a runtime is imported, and every new socket.
PREAMBLE = """
import os, socket, sys

class Watch:
    seen = {}

    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "openvino"):
            self.seen[name] = [os.environ.get("ORT_DISABLE_TELEMETRY"), "openvino_telemetry" in sys.modules]

sys.meta_path.insert(0, Watch())

class NoSocket(socket.socket):
    def __init__(self, *_, **__):
        raise SystemExit("a socket was opened")

socket.socket = NoSocket
socket.create_connection = NoSocket
os.environ.pop("ORT_DISABLE_TELEMETRY", None)
"""

RUN = """
import json, numpy
import edgekit
with edgekit.load(sys.argv[1]) as session:
    session.warmup()
    session.predict(numpy.zeros((40, 30, 3), numpy.uint8))
telemetry = [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name] is not None]
print(json.dumps({
    "seen": Watch.seen,
    "now": os.environ.get("ORT_DISABLE_TELEMETRY"),
    "blocked": "openvino_telemetry" in sys.modules and sys.modules["openvino_telemetry"] is None,
    "telemetry": telemetry,
    "loaded": [name for name in ("torch", "onnx", "typer", "rich", "requests", "urllib3") if name in sys.modules],
}))
"""


def python(code: str, *arguments: object, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    # In the repository, `-c` would find the checkout before the package.
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_telemetry_is_off_before_the_runtime_is_imported_and_no_socket_is_opened(make: Make, runtime: str) -> None:
    pytest.importorskip(runtime)
    done = python(PREAMBLE + RUN, make(runtime=runtime))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert list(report["seen"]) == [runtime], "the other runtime was imported too"
    assert report["telemetry"] == []
    assert report["loaded"] == []
    if runtime == "onnxruntime":
        assert report["seen"][runtime][0] == report["now"] == "1"
    else:
        assert report["seen"][runtime][1]
        assert report["blocked"]


def test_the_guard_sees_a_socket() -> None:
    done = python(PREAMBLE + "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')")
    assert done.returncode == 1
    assert "a socket was opened" in done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bundle_runs_where_there_is_no_network_at_all(make: Make, runtime: str) -> None:
    pytest.importorskip(runtime)
    prefix = without_network()
    done = python(PREAMBLE + RUN, make(runtime=runtime), prefix=prefix)
    assert done.returncode == 0, done.stderr


def without_network() -> list[str]:
    """The command that gives a process a network namespace with no interface but a loopback that is down."""
    unshare = shutil.which("unshare")
    for options in (["-rn"], ["-n"]):
        if unshare and subprocess.run([unshare, *options, "true"], capture_output=True, check=False).returncode == 0:
            return [unshare, *options]
    pytest.skip("this machine lets nobody make a network namespace (unshare)")
