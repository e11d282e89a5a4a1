"""Addresses, this machine as a device, and what is remembered of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, InconclusiveError, MissingError, UnsupportedError, UsageError
from edgekit.profiler.remote import job
from edgekit.profiler.remote.device import Address, UnreachableError, open_device, parse_address, script
from edgekit.profiler.remote.folders import make_folder, new_run_id, remove_folder
from edgekit.profiler.remote.local import LocalDevice
from edgekit.profiler.remote.measure import Request, profile_on
from edgekit.profiler.remote.ssh import _quoted

from .conftest import Make, profiler


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", Address("local")),
        ("adb:0123456789ABCDEF", Address("adb", "0123456789ABCDEF")),
        ("adb:192.168.1.7:5555", Address("adb", "192.168.1.7:5555")),
        ("adb:emulator-5554", Address("adb", "emulator-5554")),
        ("ssh://orin", Address("ssh", "orin")),
        ("ssh://me@orin.local:2222", Address("ssh", "orin.local", "me", 2222)),
        ("ssh://me@[fe80::1%eth0]:22/", Address("ssh", "fe80::1%eth0", "me", 22)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "orin", "ssh://", "ssh://-oProxyCommand=x", "ssh://-l@orin", "ssh://a b", "ssh://orin:99999", "adb:"),
        *("adb:-s", "ssh://orin/path", "ssh://me@orin\n", "telnet://orin", "ssh://me:word@orin", "ssh://$(x)@orin"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no device"):
        open_device(text)


@given(st.text())
def test_an_address_never_becomes_an_option(text: str) -> None:
    for form in (text, f"ssh://{text}", f"adb:{text}"):
        try:
            address = parse_address(form)
        except UsageError:
            continue
        assert not address.host.startswith("-") and not (address.user or "").startswith("-")


@given(st.text(max_size=40).filter(lambda text: "\x00" not in text and text.isprintable()))
def test_arguments_reach_a_script_as_they_are(text: str) -> None:
    done = LocalDevice().run(script('printf %s "$1"', text))
    assert done.out.decode() == text


def test_sftp_is_not_told_what_it_would_misread() -> None:
    assert _quoted('/a "b"/it\'s $(x); y') == '"/a \\"b\\"/it\'s $(x); y"'
    for path in ("/a*", "/a?", "/[a]", "/a\nb", "/a\\b"):
        with pytest.raises(UnsupportedError, match="sftp"):
            _quoted(path)


def test_this_machine_is_a_device_too(make: Make, tmp_path: Path, python: str) -> None:
    root = tmp_path / "root"
    (tmp_path / "report.profile.json").write_text("old")
    outcome = profile_on(
        "local", Request(make(), tmp_path / "report", python=python), command=profiler(), root=str(root)
    )
    assert [path.name for path in outcome.files] == ["report.profile", "report.profile.json"]
    assert json.loads((tmp_path / "report.profile.json").read_bytes())["bundle"] == "cells"
    assert not list((root / "edgekit/remote").iterdir()) and outcome.log == "step 1 of 1\n"


def test_a_shell_s_own_loop_follows_where_tail_is_not_gnu_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grep").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "grep").chmod(0o755)
    device = LocalDevice(str(tmp_path / "root"))
    folder = make_folder(device, new_run_id())
    job.start(device, folder, ("sh", "-c", "echo one >&2; sleep 0.3; echo two >&2; exit 7"), {})
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    pieces: list[bytes] = []
    job.follow(device, folder, 2, pieces.append)
    assert b"".join(pieces) == b"e\ntwo\n" and job.status(device, folder) == job.Status("ended", 7)


def test_a_device_that_was_started_again_is_told_from_one_that_runs(tmp_path: Path) -> None:
    device = LocalDevice(str(tmp_path / "root"))
    folder = make_folder(device, new_run_id())
    job.start(device, folder, ("sleep", "30"), {})
    assert job.status(device, folder).state == "running"
    boot = (Path(folder) / "boot").read_text()
    (Path(folder) / "boot").write_text("another\n")
    assert job.status(device, folder).state == "restarted"
    (Path(folder) / "boot").write_text(boot)
    job.stop(device, folder)
    assert job.status(device, folder).state == "died"
    remove_folder(device, folder)
    assert job.status(device, folder).state == "gone"


def test_only_a_run_s_own_folder_is_removed(tmp_path: Path) -> None:
    device = LocalDevice()
    for folder in (tmp_path, tmp_path / "0123456789abcdef", tmp_path / "edgekit/remote/short"):
        folder.mkdir(parents=True, exist_ok=True)
        with pytest.raises(MissingError, match="folder stays"):
            remove_folder(device, str(folder))
        assert folder.is_dir()


def test_a_root_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="no place for our files"):
        make_folder(LocalDevice(str(tmp_path / "file")), new_run_id())


def test_a_shell_that_talks_by_itself_is_found_out(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uname").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/sh").write_text("#!/bin/sh\necho Welcome\n")
    for name in ("uname", "sh"):
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InconclusiveError, match="cannot be understood") as error:
        profile_on("local", Request(make(), tmp_path / "report"))
    assert "prints nothing by itself" in str(error.value.fix)


def test_a_local_command_that_hangs_is_given_up() -> None:
    with pytest.raises(UnreachableError, match="did not end"):
        LocalDevice().run(("sleep", "20"), timeout=0.2)


def test_runs_are_remembered_for_this_user_alone(state: Path) -> None:
    from edgekit.profiler.remote import state as states

    record = states.RunRecord("0123456789abcdef", "ssh://orin", ("-F", "c"), "/r", "/out", "2026-11-25T00:00:00+00:00")
    states.remember(record)
    path = state / "0123456789abcdef.json"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert states.recall(record.run_id) == record and states.pending() == [record]
    states.forget(record.run_id)
    states.forget(record.run_id)
    assert not states.pending()
    for name in ("../../x", "", "0123"):
        with pytest.raises(UsageError):
            states.recall(name)


def test_there_has_to_be_a_place_for_the_report(make: Make, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="no folder for the report"):
        profile_on("local", Request(make(), tmp_path / "none" / "report"))
