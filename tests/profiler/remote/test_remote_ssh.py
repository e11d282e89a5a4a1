"""Over a real sshd: the whole way there and back, connections that break, and all that has to be refused."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InconclusiveError, InputError, IntegrityError, MissingError, UsageError
from edgekit.profiler.remote import state as states
from edgekit.profiler.remote.device import UnreachableError, script
from edgekit.profiler.remote.measure import Outcome, Request, profile_on, resume

from .conftest import Make, Server, make_key, profiler

pytestmark = pytest.mark.xdist_group("sshd")


@pytest.fixture
def profile(server: Server, make: Make, tmp_path: Path, python: str) -> Callable[..., Outcome]:
    """`profile_on` the loopback with a small bundle and the stand-in for the profiler."""

    def run(steps: int = 1, **changes: Any) -> Outcome:
        fields = {"bundle": changes.pop("bundle", None) or make(), "out": tmp_path / "report", "python": python}
        fields |= {name: changes.pop(name) for name in ("out", "arguments", "wheelhouse", "python") if name in changes}
        settings = {"command": profiler(steps), "ssh_options": server.options, **changes}
        return profile_on(settings.pop("address", server.address), Request(**fields), **settings)

    return run


def test_the_report_comes_back_and_nothing_is_left_there(
    profile: Callable[..., Outcome], server: Server, tmp_path: Path, state: Path
) -> None:
    lines: list[str] = []
    outcome = profile(3, told=lines.append)
    assert outcome.code == 0
    assert outcome.files == (tmp_path / "report.profile", tmp_path / "report.profile.json")
    assert json.loads((tmp_path / "report.profile.json").read_bytes())["bundle"] == "cells"
    assert (tmp_path / "report.profile/latency_ms.npy").read_bytes() == bytes(range(256)) * 4096
    assert [line for line in lines if line.startswith("step")] == [f"step {n} of 3" for n in (1, 2, 3)]
    assert json.loads(outcome.stdout)["edgekit"].startswith(str(server.home / ".cache/edgekit/remote"))
    assert not server.runs and not list(state.glob("*")) and set(outcome.seconds) == {"prepare", "run", "fetch"}


def test_all_of_edgekit_goes_along_and_needs_no_pip(
    profile: Callable[..., Outcome], server: Server, whole: None
) -> None:
    code = """
import pathlib, sys, edgekit
from edgekit.bundle import Bundle
with Bundle.open(pathlib.Path(sys.argv[1])) as bundle:
    bundle.verify()
from edgekit import plugins
print(plugins.load("edgekit.runtimes", "onnxruntime").__class__.__module__, edgekit.__file__)
"""
    module, place = profile(command=profiler(code=code)).stdout.decode().split()
    assert module == "edgekit.runtimes.onnxruntime" and place.startswith(str(server.home / ".cache/edgekit/remote"))


def test_the_folder_there_is_private(profile: Callable[..., Outcome], server: Server) -> None:
    seen: list[int] = []
    profile(told=lambda _: seen.extend(path.stat().st_mode & 0o777 for path in server.runs))
    assert set(seen) == {0o700}


def test_a_zip_and_the_files_of_arguments_go_along(profile: Callable[..., Outcome], make: Make, tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_text("key")
    profile(bundle=make("cells.edgekit"), arguments=("--key", tmp_path / "k.pub", "--note", "a b; $(exit 3) 'c' \"d\""))
    said = json.loads((tmp_path / "report.profile.json").read_bytes())["arguments"]
    assert said[0] == "--key" and said[1].endswith(".pub") and said[2:] == ["--note", "a b; $(exit 3) 'c' \"d\""]


ODD = 'it\'s "odd"; $(touch pwned) `x` & * [a] \\ \u00e9'


def test_odd_names_are_names_and_nothing_else(
    profile: Callable[..., Outcome], make: Make, server: Server, tmp_path: Path
) -> None:
    (tmp_path / ODD).mkdir()
    bundle = make().rename(tmp_path / ODD / f"{ODD}\n2")
    root = server.folder / 'it\'s "there"; $(touch pwned) & so'
    outcome = profile(bundle=bundle, out=tmp_path / ODD / ODD, root=str(root))
    assert outcome.files == (tmp_path / ODD / f"{ODD}.profile", tmp_path / ODD / f"{ODD}.profile.json")
    assert not list((root / "edgekit/remote").glob("*"))
    assert not [path for place in (tmp_path, server.folder) for path in place.rglob("pwned")]


def test_a_connection_that_breaks_is_taken_up_again(profile: Callable[..., Outcome], server: Server) -> None:
    lines: list[str] = []

    def told(line: str) -> None:
        lines.append(line)
        if line == "step 3 of 12":
            assert server.sever() > 0

    assert profile(12, told=told).code == 0
    assert "connected again" in lines
    assert [line for line in lines if line.startswith("step")] == [f"step {n} of 12" for n in range(1, 13)]
    assert not server.runs


def test_without_patience_the_run_is_named_and_fetched_later(
    profile: Callable[..., Outcome], server: Server, tmp_path: Path
) -> None:
    def told(line: str) -> None:
        if line == "step 1 of 5":
            server.sever()

    with pytest.raises(UnreachableError, match="connection") as lost:
        profile(5, told=told, patience_s=0)
    run_id = states.pending()[0].run_id
    assert lost.value.exit_code == 4 and lost.value.fix == f"edgekit profile --resume {run_id}"
    assert not (tmp_path / "report.profile.json").exists() and len(server.runs) == 1
    assert resume(run_id).code == 0
    assert (tmp_path / "report.profile.json").exists() and not server.runs
    with pytest.raises(UsageError, match="no run"):
        resume(run_id)


def test_a_fetch_that_breaks_is_done_again(
    profile: Callable[..., Outcome], server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgekit.profiler.remote.ssh import SshDevice

    pull, cut = SshDevice.pull, []

    def cutting(device: SshDevice, path: str, to: Path) -> None:
        if path.endswith("/out") and not cut:
            cut.append(server.sever())
        pull(device, path, to)

    monkeypatch.setattr(SshDevice, "pull", cutting)
    assert profile().code == 0 and cut[0] > 0
    assert (tmp_path / "report.profile/latency_ms.npy").stat().st_size == 1 << 20


def test_an_interrupt_ends_the_run_there(profile: Callable[..., Outcome], server: Server, state: Path) -> None:
    pids: list[int] = []

    def told(line: str) -> None:
        if line == "step 1 of 100":
            pids.extend(int((path / "pid").read_text()) for path in server.runs)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(100, told=told)
    assert len(pids) == 1 and not Path(f"/proc/{pids[0]}").exists()
    assert not server.runs and not list(state.glob("*"))


def test_a_run_that_is_killed_there_is_inconclusive(profile: Callable[..., Outcome], server: Server) -> None:
    def told(line: str) -> None:
        if line == "step 1 of 100":
            os.killpg(int((server.runs[0] / "pid").read_text()), signal.SIGKILL)

    with pytest.raises(InconclusiveError, match="came to no end") as died:
        profile(100, told=told)
    assert "killed" in str(died.value.why)
    for path in server.runs:
        shutil.rmtree(path)


REFUSES = """
import json, sys
from edgekit.errors import InputError
print(json.dumps(InputError("the input is odd", where="image", why="because", fix="turn it").as_json()))
sys.exit(2)
"""


def test_an_error_there_is_the_same_error_here(profile: Callable[..., Outcome], server: Server) -> None:
    with pytest.raises(InputError, match="the input is odd") as error:
        profile(command=profiler(code=REFUSES))
    assert error.value.where == f"{server.address}: image" and error.value.fix == "turn it"
    assert not server.runs


@pytest.mark.parametrize("mischief", ["(out.parent / '.bashrc').write_text('x')", "(out / 'x').symlink_to('/etc')"])
def test_a_device_writes_nothing_here_but_its_report(
    profile: Callable[..., Outcome], server: Server, tmp_path: Path, mischief: str
) -> None:
    code = f"import pathlib, sys; out = pathlib.Path(sys.argv[2]); out.mkdir(); {mischief}"
    if "symlink" in mischief:  # sftp leaves links behind by itself
        profile(command=profiler(code=code))
        assert not list((tmp_path / "report").iterdir())
        return
    with pytest.raises(IntegrityError, match="does not belong"):
        profile(command=profiler(code=code))
    assert not (tmp_path / ".bashrc").exists()
    shutil.rmtree(server.runs[0])  # it stays, for whoever wants to look


WAITS = """
import sys, time
from edgekit.profiler.remote.device import open_device
with open_device(sys.argv[1], ssh_options=sys.argv[2:]) as device:
    print(device._folder(), flush=True)
    time.sleep(60)
"""


def test_a_connection_ends_with_the_process_that_made_it(server: Server) -> None:
    assert wait_for_connections(server, 0) == 0
    command = [sys.executable, "-c", WAITS, server.address, *server.options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        left = process.stdout.readline().strip()
        assert server.connections > 0
        process.kill()
    shutil.rmtree(left)
    assert wait_for_connections(server, 0) == 0


def wait_for_connections(server: Server, wanted: int) -> int:
    """How many there are once they are as many as `wanted`, or after 10 s."""
    for _ in range(200):
        if server.connections == wanted:
            break
        time.sleep(0.05)
    return server.connections


def test_a_crash_there_is_told_with_its_last_words(profile: Callable[..., Outcome], server: Server) -> None:
    with pytest.raises(InconclusiveError, match="failed there") as error:
        profile(command=profiler(code="raise RuntimeError('out of luck')"))
    assert "RuntimeError: out of luck" in str(error.value.why) and not server.runs


def test_a_wrong_host_key_is_refused_whatever_the_configuration_says(
    profile: Callable[..., Outcome], server: Server, tmp_path: Path
) -> None:
    make_key(tmp_path / "other")
    kind, key = (tmp_path / "other.pub").read_text().split()[:2]
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    config = (server.folder / "config").read_text().replace(str(server.folder / "known_hosts"), str(tmp_path / "known"))
    (tmp_path / "config").write_text(config + "StrictHostKeyChecking no\n")
    with pytest.raises(UnreachableError, match="cannot connect") as refused:
        profile(ssh_options=("-F", str(tmp_path / "config"), "-oStrictHostKeyChecking=no"))
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in str(refused.value.why) or "verification" in str(
        refused.value.why
    )
    assert "another key" in str(refused.value.fix)
    assert not server.runs


def test_an_unknown_host_is_refused(profile: Callable[..., Outcome], server: Server, tmp_path: Path) -> None:
    config = (server.folder / "config").read_text().replace(str(server.folder / "known_hosts"), str(tmp_path / "none"))
    (tmp_path / "config").write_text(config)
    with pytest.raises(UnreachableError, match="cannot connect") as refused:
        profile(ssh_options=("-F", str(tmp_path / "config")))
    assert "fingerprint" in str(refused.value.fix) and not (tmp_path / "none").exists()


def test_a_key_that_is_not_admitted_is_refused_without_asking(
    profile: Callable[..., Outcome], server: Server, tmp_path: Path
) -> None:
    make_key(tmp_path / "stranger")
    config = (server.folder / "config").read_text().replace(f"{server.folder}/user", str(tmp_path / "stranger"))
    (tmp_path / "config").write_text(config)
    with pytest.raises(UnreachableError) as refused:
        profile(ssh_options=("-F", str(tmp_path / "config")))
    assert "ssh-copy-id" in str(refused.value.fix)


def test_nobody_listening_is_said(profile: Callable[..., Outcome], server: Server) -> None:
    with pytest.raises(UnreachableError) as refused:
        profile(address=f"ssh://{getpass.getuser()}@127.0.0.1:1")
    assert "Connection refused" in str(refused.value.why) and "ssh server" in str(refused.value.fix)


def test_no_python_there(profile: Callable[..., Outcome], server: Server) -> None:
    with pytest.raises(MissingError, match="1 thing is missing") as refused:
        profile(python="python3.99")
    assert refused.value.why == "there is no Python" and not server.runs


def test_everything_that_is_missing_is_said_at_once(
    profile: Callable[..., Outcome], make: Make, server: Server
) -> None:
    with pytest.raises(MissingError, match="2 things are missing") as refused:
        profile(bundle=make(isa=("riscv64",), least="99.0"))
    assert "riscv64" in str(refused.value.why) and "onnxruntime>=99.0 is needed" in str(refused.value.why)
    assert "edgekit wheelhouse" in str(refused.value.fix) and not server.runs


def test_two_runs_at_once_would_disturb_one_another(profile: Callable[..., Outcome], tmp_path: Path) -> None:
    refused: list[MissingError] = []

    def told(line: str) -> None:
        if line == "step 1 of 3" and not refused:
            with pytest.raises(MissingError, match="not ready") as error:
                profile(bundle=tmp_path / "cells")
            refused.append(error.value)

    assert profile(3, told=told).code == 0
    assert "is under way there" in str(refused[0].why) and "--resume" in str(refused[0].fix)


def test_a_command_that_hangs_is_given_up(server: Server) -> None:
    with server.device() as device, pytest.raises(UnreachableError, match=r"within 0\.5 s"):
        device.run(("sleep", "20"), timeout=0.5)


def test_exit_codes_and_both_streams_come_back(server: Server) -> None:
    with server.device() as device:
        done = device.run(script('printf %s "$1"; echo two >&2; exit 7', "a  b\n'c'"))
    assert (done.code, done.out, done.err) == (7, b"a  b\n'c'", b"two\n")


def test_a_file_that_cannot_be_put_there_says_why(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with server.device() as device:
        with pytest.raises(MissingError, match="could not be copied"):
            device.push(tmp_path / "f", str(server.home / "no/such/folder/f"))
        with pytest.raises(MissingError, match="could not be copied"):
            device.pull(str(server.home / "nothing"), tmp_path / "got")


def test_the_connection_is_shared_and_ends_with_the_context(server: Server) -> None:
    before = server.said.read_text().count("Accepted publickey")
    with server.device() as device:
        for _ in range(5):
            assert device.run(("true",)).code == 0
    assert server.said.read_text().count("Accepted publickey") == before + 1
    with pytest.raises(UnreachableError):
        device.run(("true",))
