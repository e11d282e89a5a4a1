"""One way to read the files of a bundle, be it a folder or a zip; nothing in here knows what a manifest says.

An open archive holds one descriptor: renaming or replacing the path afterwards cannot change what is read. Links are
never followed inside, and only regular files exist.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgekit.bundle.layout import (
    MANIFEST,
    MAX_FILES,
    MAX_TOTAL_BYTES,
    SUFFIX,
    first_collision,
    name_problem,
    parents,
)
from edgekit.bundle.zipformat import ZipEntry, read_entries
from edgekit.errors import InputError, IntegrityError, UsageError

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # without O_NONBLOCK a FIFO would hang us before we see what it is
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)  # what `open` says of a file that was swapped
_WHOLE = 1 << 30  # bytes a call; the kernel reads at most 2 GiB at once
_TAIL = 1 << 20  # bytes of a file's end in which its zip directory would name the manifest


class Archive(ABC):
    """An open folder or zip.

    Attributes:
        where: its path as text, for error messages.
        sizes: every file in it and its size in bytes.
    """

    def __init__(self, where: str, sizes: Mapping[str, int], fd: int) -> None:
        self.where = where
        self.sizes = sizes
        self._held = fd
        self._closer = weakref.finalize(self, os.close, fd)

    @abstractmethod
    def chunks(self, name: str, length: int) -> Iterator[bytes]:
        """The bytes of `name` in pieces of at most `length`; `name` is a key of `sizes`.

        Raises:
            IntegrityError: the file is not what it was when the archive was opened.
            InputError: the system cannot read it.
        """

    def read(self, name: str) -> bytes:
        """All bytes of `name`; raises as `chunks` does."""
        pieces = list(self.chunks(name, _WHOLE))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of the descriptor; reading afterwards is a `UsageError`."""
        self._closer()

    @property
    def _fd(self) -> int:
        if not self._closer.alive:  # the number may belong to somebody else's file by now
            raise UsageError("the bundle is closed", where=self.where, why="it was read after close()")
        return self._held


def open_archive(path: Path) -> Archive:
    """Open a folder or zip and check its structure: names, kinds of files, limits; no content is read yet.

    Raises:
        InputError: there is nothing at `path`, or nothing that claims to be a bundle.
        IntegrityError: it claims to be a bundle and is not laid out like one.
    """
    where = str(path)
    with _unreadable_is_input_error(where):
        try:
            fd = os.open(path, _READ)
        except ValueError as error:  # a NUL character, or a character that file names cannot hold
            raise InputError("this is no path", where=ascii(where), why=str(error), fix="check the path") from error
        try:
            return _open(fd, where)
        except BaseException:
            os.close(fd)
            raise


def _open(fd: int, where: str) -> Archive:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        sizes = _scan_folder(fd, where)
        _check_whole(sizes, where)
        return _Folder(where, sizes, fd)
    if stat.S_ISREG(mode):
        entries = _scan_zip(fd, where)
        _check_whole({entry.name: entry.size for entry in entries}, where)
        return _Zip(where, entries, fd)
    raise _no_bundle(where, "it is neither a folder nor a regular file")


def _check_whole(sizes: Mapping[str, int], where: str) -> None:
    clash = first_collision(sizes)
    if clash:
        raise IntegrityError(f"{clash[0]} and {clash[1]} collide", where=where, why="some file systems confuse them")
    if sum(sizes.values()) > MAX_TOTAL_BYTES:
        raise IntegrityError("the files are too large", where=where, why=f"the limit is {MAX_TOTAL_BYTES} bytes")


class _Folder(Archive):
    def chunks(self, name: str, length: int) -> Iterator[bytes]:
        where = f"{self.where}: {name}"
        with _unreadable_is_input_error(where), _opened(self._fd, name, where) as fd:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise IntegrityError(f"{name} is not a regular file", where=where, why="it was replaced")
            size = self.sizes[name]
            yield from _pieces(fd, 0, size, length, where)
            if status.st_size != size or os.pread(fd, 1, size):
                raise IntegrityError(
                    f"{name} has {status.st_size} bytes, not {size}", where=where, why="it changed after the check"
                )


class _Zip(Archive):
    def __init__(self, where: str, entries: tuple[ZipEntry, ...], fd: int) -> None:
        super().__init__(where, {entry.name: entry.size for entry in entries}, fd)
        self._entries = {entry.name: entry for entry in entries}

    def chunks(self, name: str, length: int) -> Iterator[bytes]:
        where = f"{self.where}: {name}"
        entry, crc = self._entries[name], 0
        with _unreadable_is_input_error(where):
            for piece in _pieces(self._fd, entry.data_offset, entry.size, length, where):
                crc = zlib.crc32(piece, crc)
                yield piece
        if crc != entry.crc:
            raise IntegrityError(f"{name} is damaged", where=where, why="its CRC-32 is not the one in the zip")


def _scan_zip(fd: int, where: str) -> tuple[ZipEntry, ...]:
    total = os.fstat(fd).st_size
    zipped = os.pread(fd, 4, 0) == b"PK\x03\x04" and MANIFEST.encode() in os.pread(fd, _TAIL, max(0, total - _TAIL))
    if not zipped and not where.endswith(SUFFIX):
        raise _no_bundle(where, f"it is neither a folder nor a zip with a {MANIFEST}")
    entries = read_entries(fd, where)
    if MANIFEST not in {entry.name for entry in entries}:
        raise _no_bundle(where, f"the zip holds no {MANIFEST}")
    return entries


def _scan_folder(fd: int, where: str) -> dict[str, int]:
    if not _exists(fd, MANIFEST):
        raise _no_bundle(where, f"the folder holds no {MANIFEST}")
    files: dict[str, int] = {}
    folders: set[str] = set()
    pending = [""]
    while pending:
        inside = pending.pop()
        for name, status in _list_folder(fd, inside, where):
            _check_member(name, status.st_mode, where)
            if stat.S_ISDIR(status.st_mode):
                folders.add(name)
                pending.append(name)
            else:
                files[name] = status.st_size
            if len(files) + len(folders) > MAX_FILES:
                raise IntegrityError(f"the folder holds more than {MAX_FILES} files", where=where, why="no bundle does")
    empty = sorted(folders - {parent for name in files for parent in parents(name)})
    if MANIFEST not in files:
        raise IntegrityError(f"{MANIFEST} is a folder", where=where, why="it should be a file")
    if empty:
        raise IntegrityError(f"the folder {empty[0]} holds no file", where=where, why="no listed file lies in it")
    return files


def _list_folder(root: int, inside: str, where: str) -> Iterator[tuple[str, os.stat_result]]:
    with _opened(root, inside or ".", where, _FOLDER) as fd, os.scandir(fd) as members:
        for member in members:
            yield f"{inside}/{member.name}" if inside else member.name, member.stat(follow_symlinks=False)


def _check_member(name: str, mode: int, where: str) -> None:
    if stat.S_ISLNK(mode):
        flaw = "is a symbolic link"
    elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        flaw = "is not a regular file"
    else:
        problem = name_problem(name)
        flaw = f"has a name that {problem}" if problem else ""
    if flaw:
        why = "a bundle holds only regular files with portable names"
        raise IntegrityError(f"{name!a} {flaw}", where=where, why=why, fix="remove it if it does not belong there")


@contextlib.contextmanager
def _opened(root: int, name: str, where: str, flags: int = _READ) -> Iterator[int]:
    """Open `name` below the folder `root`, one part at a time, so that no part of the way can be a link."""
    *way, last = name.split("/")
    fd = os.dup(root)
    try:
        for part, how in [*((part, _FOLDER) for part in way), (last, flags)]:
            try:
                deeper = os.open(part, how | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                if error.errno not in _REPLACED:
                    raise
                raise IntegrityError(f"{name} is gone or became a link", where=where, why=error.strerror) from error
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)


def _pieces(fd: int, offset: int, size: int, length: int, where: str) -> Iterator[bytes]:
    end = offset + size
    while offset < end:
        piece = os.pread(fd, min(length, end - offset), offset)
        if not piece:
            raise IntegrityError("the file is truncated", where=where, why=f"{end - offset} bytes are missing")
        offset += len(piece)
        yield piece


def _exists(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _unreadable_is_input_error(where: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError("there is no bundle here", where=where, why=error.strerror, fix="check the path") from error
    except OSError as error:
        fix = "check the path and its permissions"
        raise InputError("this cannot be read", where=where, why=error.strerror, fix=fix) from error


def _no_bundle(where: str, why: str) -> InputError:
    return InputError("this is no bundle", where=where, why=why, fix="pass a folder or file that edgekit export wrote")
