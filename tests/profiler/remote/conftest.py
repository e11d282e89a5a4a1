"""A real sshd on the loopback, with keys, a port and a home folder of its own, and what is run over it."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgekit import errors
from edgekit.bundle import Manifest, Quality, RuntimeNeed, Source, TargetNeed, write_bundle
from edgekit.profiler.remote import install
from edgekit.profiler.remote.device import Device, open_device
from edgekit.profiler.remote.folders import Places
from edgekit.spec import ModelSpec

SSHD = shutil.which("sshd", path=os.pathsep.join(["/usr/sbin", "/sbin", os.environ.get("PATH", "")]))
TOOLS = ("ssh", "sftp", "ssh-keygen")
# Stands in for the profiler: says where it runs, how it goes on, and leaves a report of several files.
PROFILER = """
import json, pathlib, sys, time, zipfile
import edgekit
bundle = pathlib.Path(sys.argv[1])
read = zipfile.ZipFile(bundle).read if bundle.is_file() else lambda name: (bundle / name).read_bytes()
name = json.loads(read("manifest.json"))["name"]
out, steps = pathlib.Path(sys.argv[2]), int(sys.argv[3])
for step in range(steps):
    print(f"step {step + 1} of {steps}", file=sys.stderr)
    time.sleep(0.2)
pathlib.Path(f"{out}.profile.json").write_text(json.dumps({"bundle": name, "arguments": sys.argv[4:]}))
folder = pathlib.Path(f"{out}.profile")
folder.mkdir()
(folder / "latency_ms.npy").write_bytes(bytes(range(256)) * 4096)
print(json.dumps({"edgekit": edgekit.__file__, "python": sys.executable}))
"""


def profiler(steps: int = 1, code: str = PROFILER) -> Callable[[Places, Sequence[str]], Sequence[str]]:
    """A command for `profile_on` that runs `code` with the bundle, the report's place and a number of steps."""
    return lambda places, rest: (places.python, "-c", code, places.bundle, places.report, str(steps), *rest)


@dataclass
class Server:
    """An sshd that listens on a port of the loopback; `options` is what its client needs to know."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    said: Path
    devices: list[Device] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def options(self) -> tuple[str, ...]:
        return ("-F", str(self.folder / "config"))

    @property
    def home(self) -> Path:
        """The home folder that sessions see."""
        return self.folder / "home"

    @property
    def runs(self) -> list[Path]:
        """Folders of runs that are there."""
        return sorted((self.home / ".cache/edgekit/remote").glob("*"))

    def device(self, **changes: Any) -> Device:
        return open_device(changes.pop("address", self.address), ssh_options=self.options, **changes)

    @property
    def connections(self) -> int:
        """Processes that serve one."""
        return sum(map(_is_sshd, _descendants(self.process.pid)))

    def sever(self) -> int:
        """Kill the processes that serve connections, as if the cable were pulled; how many there were."""
        return sum(_kill(child) for child in _descendants(self.process.pid) if _is_sshd(child))


def _descendants(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [each for child in found for each in _descendants(child)]


def _is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    except OSError:
        return False


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)


def start_server(folder: Path, variables: dict[str, str]) -> Server:
    """Start an sshd that admits this user by a key of the test's."""
    folder.mkdir()
    (folder / "home").mkdir()
    for name in ("host", "user"):
        make_key(folder / name)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = " ".join(f'"{name}={value}"' for name, value in {"HOME": folder / "home", **variables}.items())
    (folder / "sshd_config").write_text(f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {folder}/host
        PidFile {folder}/pid
        AuthorizedKeysFile {folder}/authorized_keys
        StrictModes no
        UsePAM no
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        Subsystem sftp internal-sftp
        SetEnv {settings}
    """)
    kind, key = (folder / "host.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "config").write_text(f"""
        Host *
            IdentityFile {folder}/user
            IdentitiesOnly yes
            UserKnownHostsFile {folder}/known_hosts
            GlobalKnownHostsFile /dev/null
    """)
    said = folder / "said"
    assert SSHD
    with said.open("wb") as stream:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stdout=stream, stderr=stream)
    for _ in range(200):
        if "listening" in said.read_text() or process.poll() is not None:
            break
        time.sleep(0.02)
    if process.poll() is not None:
        pytest.skip(f"sshd does not start here: {said.read_text().strip()}")
    return Server(folder, port, process, said)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An sshd whose sessions see this environment's packages as their system's; the test skips where there is none."""
    if SSHD is None or any(shutil.which(tool) is None for tool in TOOLS):
        pytest.skip("openssh-server and openssh-client are not installed")
    if os.geteuid() == 0:  # its own start script makes this folder; sshd refuses to start as root without it
        Path("/run/sshd").mkdir(exist_ok=True, mode=0o755)
    packages = sysconfig.get_paths()["purelib"]
    server = start_server(tmp_path_factory.mktemp("sshd") / "s", {"PYTHONPATH": packages})
    yield server
    server.sever()
    server.process.terminate()
    server.process.wait()


@pytest.fixture(autouse=True)
def light(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the errors instead of all of edgekit, which takes a second; not with the fixture `whole`."""
    if "whole" in request.fixturenames:
        return

    def pack(folder: Path) -> Path:
        path = folder / "edgekit-0.1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("edgekit/__init__.py", "")
            archive.write(str(errors.__file__), "edgekit/errors.py")
        return path

    monkeypatch.setattr(install, "build_own_wheel", pack)


@pytest.fixture
def whole() -> None:
    """The device gets all of edgekit."""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's runs are remembered, empty."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "edgekit" / "remote"


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, detector: Path, detector_spec: ModelSpec) -> Make:
    """Write a bundle of the small detector: `make("b.edgekit", isa=("riscv64",))`."""

    def write(
        name: str = "cells", *, isa: tuple[str, ...] = (), runtime: str = "onnxruntime", least: str = "1.0"
    ) -> Path:
        manifest = Manifest(
            name="cells",
            version=1,
            model=detector_spec,
            target=TargetNeed("host", RuntimeNeed(runtime, least, None), "fp32", isa, {}),
            files=(),
            source=Source("onnx", "detector.onnx", "0" * 64),
            history=(),
            parity=(),
            quality=Quality("unknown", reason="it is a test"),
            questions=(),
            selftest=(),
            tools={},
            origins={},
        )
        path = tmp_path / name
        write_bundle(path, manifest, {"model.onnx": ("model", detector.read_bytes())}).close()
        return path

    return write


@pytest.fixture
def python() -> str:
    """The interpreter that devices on the loopback use."""
    return sys.executable
