"""Writing so that a reader sees the old or the new, never a part: a temporary sibling, fsync, one rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgekit.errors import InputError, MissingError

_AT_FDCWD = -100  # linux/fcntl.h
_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h: flags of renameat2(2)
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)  # what file systems without these flags answer


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """A free name beside `path`, with its suffix; whatever lies there at the end is removed, failure or not."""
    fresh = path.with_name(f".partial-{secrets.token_hex(8)}{path.suffix}")
    try:
        yield fresh
    except BaseException:
        with contextlib.suppress(OSError):  # the failure under way is the one to report
            _remove(fresh)
        raise
    _remove(fresh)


def write_file(path: Path, chunks: Iterable[bytes], *, mode: int = 0o666) -> None:
    """Write a new file and wait until it is on the disk; a partial one is removed.

    Args:
        path: must not exist.
        chunks: the contents.
        mode: permissions, before the umask.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(fd)


def publish(fresh: Path, path: Path, *, replace: bool) -> None:
    """Give `fresh`, a file or folder, the name `path` in one step; with `replace`, `fresh` then names the old one.

    Raises:
        OSError: `FileExistsError` where something is at `path` and `replace` is false; nothing has changed then.
    """
    exists = os.path.lexists(path)
    if exists and not replace:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    if not _rename(fresh, path, _EXCHANGE if exists else _NOREPLACE):
        _rename_plainly(fresh, path, exists)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def unwritable_is_typed(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write at `path` into ours: `MissingError` for a full disk, else `InputError`."""
    try:
        yield
    except OSError as error:
        where = ascii(str(path)) if not str(path).isprintable() else str(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MissingError(
                "there is no room left to write this", where=where, why=error.strerror, fix="free some space"
            ) from error
        fix = "check that the folder around it exists and can be written"
        raise InputError("this cannot be written", where=where, why=error.strerror, fix=fix) from error


def _rename(old: Path, new: Path, flag: int) -> bool:
    """renameat2(2), or False where the C library or the file system does not have it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(flag)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(new))


def _rename_plainly(fresh: Path, path: Path, exists: bool) -> None:
    """Without renameat2: a reader may find nothing at `path` for a moment, never a part."""
    if not exists:
        fresh.rename(path)
        return
    aside = path.with_name(f".replaced-{secrets.token_hex(8)}")
    path.rename(aside)
    try:
        fresh.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    aside.rename(fresh)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
