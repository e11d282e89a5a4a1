"""Whatever fails while a bundle is written, nothing is left behind and the old one stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.bundle import atomic
from edgekit.bundle.reader import Bundle
from edgekit.bundle.signing import sign_bundle
from edgekit.bundle.writer import write_bundle
from edgekit.errors import EdgekitError, InputError, IntegrityError, MissingError, UsageError

CALLS = ["open", "write", "fsync", "mkdir", "pread"]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def failing(monkeypatch):
    """Let the n-th of the system calls that writing makes fail; returns how many were made."""

    def install(fail_at: int, code: int = errno.ENOSPC) -> list[int]:
        made = [0]
        for name in CALLS:
            real = getattr(os, name)

            def call(*arguments, real=real, **options):
                made[0] += 1
                if made[0] == fail_at:
                    raise OSError(code, os.strerror(code))
                return real(*arguments, **options)

            monkeypatch.setattr(os, name, call)
        return made

    return install


@pytest.mark.parametrize("overwrite", [False, True])
def test_any_system_call_that_fails_leaves_everything_as_it_was(place, full, files, failing, monkeypatch, overwrite):
    if overwrite:
        write_bundle(place, full, files).close()
    before = snapshot(place.parent)
    newer = replace(full, version=4)
    with monkeypatch.context():
        made = failing(-1)
        write_bundle(place.with_name("count" + place.suffix), newer, files).close()
    monkeypatch.undo()
    total = made[0]
    for path in place.parent.glob("count*"):
        _remove(path)
    assert total > 20
    for number in range(1, total):
        failing(number)
        try:
            write_bundle(place, newer, files, overwrite=overwrite).close()
            failed = False
        except EdgekitError:
            failed = True
        monkeypatch.undo()
        if failed and snapshot(place.parent) != before:
            # Only after the rename may the new one stand there, whole: the failure was in telling the disk.
            Bundle.open(place).verify()
            assert number > total * 0.6
        assert [path.name for path in place.parent.iterdir() if path.name.startswith(".")] == []
        if snapshot(place.parent) != before:
            break


def _remove(path: Path) -> None:
    atomic._remove(path)


def test_a_full_disk_is_named_as_such(place, full, files, monkeypatch):
    written = [0]
    real = os.write

    def write(fd, data):
        written[0] += len(data)
        if written[0] > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(MissingError, match="no room") as caught:
        write_bundle(place, full, files)
    assert caught.value.exit_code == 4 and str(place) in caught.value.where
    assert not list(place.parent.iterdir())


def test_a_kernel_that_refuses_to_write_more_leaves_nothing_behind(tmp_path):
    """The real thing: a limit on the size of files, so that write(2) itself fails in the middle of the zip."""
    code = (
        "import sys; from tests_conftest import FILES, MINIMAL; from edgekit.bundle import write_bundle;"
        "from edgekit.errors import InputError\n"
        "try: write_bundle(sys.argv[1], MINIMAL, {'a': ('model', bytes(100_000))})\n"
        "except InputError as error: print(error.why)"
    )
    here = Path(__file__).parent
    (tmp_path / "tests_conftest.py").symlink_to(here / "conftest.py")
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out" / "b.edgekit")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.stdout.strip() == os.strerror(errno.EFBIG), done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_short_writes_are_continued(place, full, files, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    with write_bundle(place, full, files) as bundle:
        bundle.verify()


def test_a_disk_that_returns_other_bytes_than_were_written_is_caught_before_publishing(place, full, files, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data).replace(b"a graph", b"a grape")))
    with pytest.raises(IntegrityError):
        write_bundle(place, full, files)
    assert not list(place.parent.iterdir())


def test_an_interrupt_leaves_nothing_behind(place, full, files, monkeypatch):
    def interrupted(fd):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(place, full, files)
    assert not list(place.parent.iterdir())


def test_an_existing_path_is_not_replaced_unasked(place, full, files):
    write_bundle(place, full, files).close()
    before = snapshot(place.parent)
    with pytest.raises(UsageError, match="exists"):
        write_bundle(place, replace(full, version=4), files)
    assert snapshot(place.parent) == before


def test_a_bundle_is_replaced_by_a_bundle_of_either_shape(place, full, files):
    write_bundle(place, full, files).close()
    with Bundle.open(place) as old:
        with write_bundle(place, replace(full, version=4), {**files, "more": ("label", b"x")}, overwrite=True) as new:
            assert new.manifest.version == 4
            new.verify()
        if place.is_file():
            old.verify()
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_relative_paths_are_relative_to_the_working_folder_and_need_a_name(tmp_path, full, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bundle("b.edgekit", full, files).close()
    assert [path.name for path in tmp_path.iterdir()] == ["b.edgekit"]
    for path in (".", "..", "/"):
        with pytest.raises(UsageError, match="needs a name"):
            write_bundle(path, full, files, overwrite=True)


def test_overwriting_nothing_is_just_writing(place, full, files):
    write_bundle(place, full, files, overwrite=True).close()


@pytest.mark.parametrize(
    "thing", ["folder", "empty folder", "file", "bundle with a thesis in it", "link", "damaged bundle"]
)
def test_what_is_no_intact_bundle_is_never_replaced(tmp_path, make, full, files, thing):
    path = tmp_path / "b"
    if thing.endswith("folder"):
        path.mkdir()
    if thing == "folder":
        (path / "thesis").touch()
    elif thing == "file":
        path.write_text("thesis")
    elif thing.startswith(("bundle", "damaged")):
        make("b")
        (path / ("thesis" if "thesis" in thing else "manifest.json")).write_text("thesis")
    elif thing == "link":
        path.symlink_to(make("target").name)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError):
        write_bundle(path, full, files, overwrite=True)
    assert snapshot(tmp_path) == before


def test_without_the_kernels_exchange_a_bundle_is_replaced_all_the_same(place, full, files, monkeypatch):
    monkeypatch.setattr(atomic, "_rename", lambda *_: False)
    write_bundle(place, full, files).close()
    with write_bundle(place, replace(full, version=4), files, overwrite=True) as bundle:
        assert bundle.manifest.version == 4
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_without_the_kernels_exchange_a_failed_second_rename_brings_the_old_one_back(place, full, files, monkeypatch):
    write_bundle(place, full, files).close()
    before = snapshot(place.parent)
    real, count = Path.rename, [0]

    def rename(self, target):
        count[0] += 1
        if count[0] == 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(atomic, "_rename", lambda *_: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(InputError, match="cannot be written"):
        write_bundle(place, replace(full, version=4), files, overwrite=True)
    assert snapshot(place.parent) == before


def test_the_kernels_exchange_is_used_where_this_machine_has_it(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    if not atomic._rename(tmp_path / "a", tmp_path / "b", atomic._EXCHANGE):
        pytest.skip("this file system has no renameat2 with flags")
    assert (tmp_path / "a").read_text() == "b" and (tmp_path / "b").read_text() == "a"
    with pytest.raises(FileExistsError):
        atomic._rename(tmp_path / "a", tmp_path / "b", atomic._NOREPLACE)


def test_publishing_is_safe_even_against_what_appears_after_the_last_look(tmp_path, monkeypatch):
    (tmp_path / "fresh").write_text("new")
    (tmp_path / "path").write_text("thesis")
    if not atomic._rename(tmp_path / "fresh", tmp_path / "moved", atomic._NOREPLACE):
        pytest.skip("this file system has no renameat2 with flags")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(FileExistsError):
        atomic.publish(tmp_path / "moved", tmp_path / "path", replace=False)
    assert (tmp_path / "path").read_text() == "thesis"


@pytest.mark.parametrize("overwrite", [False, True])
def test_something_that_appears_at_the_path_meanwhile_is_not_replaced(tmp_path, full, files, monkeypatch, overwrite):
    path = tmp_path / "b.edgekit"
    real = Bundle.verify

    def race(bundle):
        path.write_text("thesis")
        real(bundle)

    monkeypatch.setattr(Bundle, "verify", race)
    with pytest.raises(InputError, match="cannot be written"):
        write_bundle(path, full, files, overwrite=overwrite)
    assert snapshot(tmp_path) == {"b.edgekit": b"thesis"}


def test_a_missing_parent_folder_is_an_input_error(tmp_path, full, files):
    with pytest.raises(InputError, match="cannot be written") as caught:
        write_bundle(tmp_path / "absent" / "b", full, files)
    assert "folder around it" in caught.value.fix


def test_names_and_lists_that_no_bundle_may_hold_are_refused_before_writing(tmp_path, full, minimal, files):
    for name in ("../evil", "manifest.json", "a\\b", "", "Manifest.SIG", "model.onnx/x", "MODEL.onnx"):
        with pytest.raises(InputError):
            write_bundle(tmp_path / "b", full, {**files, name: ("model", b"x")})
    with pytest.raises(InputError, match="self-test reads"):
        write_bundle(tmp_path / "b", full, {})
    with write_bundle(tmp_path / "m", minimal, {"a": ("model", b"x")}) as bundle, pytest.raises(UsageError):
        write_bundle(tmp_path / "b", bundle.manifest, {"a": ("model", b"x")})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_permissions_follow_the_umask(place, full, files):
    before = os.umask(0o027)
    try:
        write_bundle(place, full, files).close()
    finally:
        os.umask(before)
    for path in (place, *place.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640)


def test_a_failure_while_signing_leaves_the_bundle_as_it_was(place, full, files, private_key, failing, monkeypatch):
    write_bundle(place, full, files).close()
    before = snapshot(place.parent)
    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(MissingError, match="no room"):
            sign_bundle(place, private_key)
        monkeypatch.undo()
        assert snapshot(place.parent) == before
