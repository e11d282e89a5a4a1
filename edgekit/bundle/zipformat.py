"""The one zip that we write for a set of files, and the check that a zip is that one.

Stored entries in order of their names, no gaps, no comments, no extra fields, a fixed time: equal files, equal bytes.
Reading accepts nothing else, so no two readers can see different files in it. Layout: PKWARE APPNOTE 6.3.10,
sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (end records) and 4.5.3 (zip64).
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgekit.bundle.layout import MAX_FILES, MAX_NAME_LENGTH, name_problem
from edgekit.errors import IntegrityError

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64_MAGIC, _LOCATOR64_MAGIC = b"PK\x06\x06", b"PK\x06\x07"

_VERSION, _VERSION64 = 20, 45  # "version needed to extract" without and with zip64
_UNIX = 3 << 8  # made on Unix: the upper half of the external attributes is a file mode
_MODE = (stat.S_IFREG | 0o644) << 16
_DATE = 1 << 5 | 1  # 1 January 1980, the first day that a zip can name
_MARK = 0xFFFFFFFF  # in a 32-bit field: the value stands in the zip64 field
_LIMIT = _MARK  # sizes and offsets from here on move there
_ZIP64_ID = 1


@dataclass(frozen=True)
class ZipEntry:
    """One file: `size` and `offset` (of its local header) in bytes, `crc` is CRC-32 of its bytes."""

    name: str
    size: int
    crc: int
    offset: int

    @property
    def data_offset(self) -> int:
        """Where the file's bytes begin."""
        return self.offset + len(_local_header(self))

    @property
    def end(self) -> int:
        """Where the next thing begins."""
        return self.data_offset + self.size


def zip_chunks(items: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The zip of `items`, (name, bytes) in ascending order of names, piece by piece; holds one item at a time."""
    entries: list[ZipEntry] = []
    offset = 0
    for name, data in items:
        entry = ZipEntry(name, len(data), zlib.crc32(data), offset)
        yield _local_header(entry)
        yield data
        entries.append(entry)
        offset = entry.end
    yield from map(_central_header, entries)
    yield _end_records(entries, offset)


def read_entries(fd: int, where: str) -> tuple[ZipEntry, ...]:
    """The entries of the zip in the open file `fd`, after checking every byte that is not content.

    Raises:
        IntegrityError: truncated, not a zip, or not the one zip that `zip_chunks` writes for these entries.
    """
    total = os.fstat(fd).st_size
    entries: list[ZipEntry] = []
    offset = 0
    while (head := os.pread(fd, _LOCAL.size, offset))[:4] == _LOCAL_MAGIC:
        if len(entries) == MAX_FILES:
            raise _refusal(f"the zip holds more than {MAX_FILES} entries", where)
        entry = _read_local(fd, head, offset, where)
        if entry.end > total:
            raise _refusal(f"the zip is truncated: {entry.name} ends beyond the end of the file", where)
        if entries and entry.name <= entries[-1].name:
            twice = entry.name in {known.name for known in entries}
            flaw = "twice" if twice else f"after {entries[-1].name}, out of order"
            raise _refusal(f"the zip holds {entry.name} {flaw}", where)
        entries.append(entry)
        offset = entry.end
    if head[:4] != _CENTRAL_MAGIC:
        flaw = f"damaged: no entry begins at byte {offset}" if len(head) >= len(_LOCAL_MAGIC) else "truncated"
        raise _refusal(f"the zip is {flaw}", where)
    _check_directory(fd, entries, offset, where)
    return tuple(entries)


def _read_local(fd: int, head: bytes, offset: int, where: str) -> ZipEntry:
    if len(head) < _LOCAL.size:
        raise _refusal("the zip is truncated inside a header", where)
    _, _, flags, method, _, _, crc, _, size, name_length, extra_length = _LOCAL.unpack(head)
    if name_length > MAX_NAME_LENGTH:
        raise _refusal(f"the zip names a file with {name_length} characters, more than {MAX_NAME_LENGTH}", where)
    rest = os.pread(fd, name_length + extra_length, offset + _LOCAL.size)
    name = rest[:name_length].decode("latin-1")
    problem = name_problem(name)
    if problem:
        raise _refusal(f"the zip holds {name!a}, a name that {problem}", where)
    if flags & 1:
        raise _refusal(f"{name} is encrypted in the zip", where)
    if method != 0:
        raise _refusal(f"{name} is compressed in the zip (method {method})", where)
    extra = rest[name_length:]
    if size == _MARK and len(extra) >= 12:
        (size,) = struct.unpack_from("<Q", extra, 4)
    entry = ZipEntry(name, size, crc, offset)
    if head + rest != _local_header(entry):
        raise _refusal(f"the header of {name} in the zip holds a time, flag or field that edgekit never writes", where)
    return entry


def _check_directory(fd: int, entries: list[ZipEntry], offset: int, where: str) -> None:
    """Compare the rest of the file, from `offset` on, with what must stand there."""
    at = offset
    for entry in entries:
        expected = _central_header(entry)
        found = os.pread(fd, len(expected), at)
        if found != expected:
            raise _refusal(_central_flaw(entry, expected, found), where)
        at += len(expected)
    expected = _end_records(entries, offset)
    found = os.pread(fd, len(expected) + 1, at)
    if found != expected:
        begins, ends = found.startswith(expected), expected.startswith(found)
        flaw = "followed by other data" if begins else "truncated" if ends else "damaged in its last record"
        raise _refusal(f"the zip is {flaw}", where)


def _central_flaw(entry: ZipEntry, expected: bytes, found: bytes) -> str:
    if expected.startswith(found):
        return "the zip is truncated inside its directory"
    if found.startswith(_CENTRAL_MAGIC) and len(found) >= _CENTRAL.size:
        attributes = _CENTRAL.unpack_from(found)[15]
        if stat.S_ISLNK(attributes >> 16):
            return f"{entry.name} is a symbolic link in the zip"
    return f"the zip's directory and the header of {entry.name} disagree, or it says what edgekit never writes"


def _local_header(entry: ZipEntry) -> bytes:
    name = entry.name.encode("ascii")
    large = entry.size >= _LIMIT
    size = _MARK if large else entry.size
    extra = _zip64_field(entry.size, entry.size) if large else b""
    version = _VERSION64 if large else _VERSION
    fixed = _LOCAL.pack(_LOCAL_MAGIC, version, 0, 0, 0, _DATE, entry.crc, size, size, len(name), len(extra))
    return fixed + name + extra


def _central_header(entry: ZipEntry) -> bytes:
    name = entry.name.encode("ascii")
    large, far = entry.size >= _LIMIT, entry.offset >= _LIMIT
    size, offset = (_MARK if large else entry.size), (_MARK if far else entry.offset)
    wide = [entry.size, entry.size] * large + [entry.offset] * far
    extra = _zip64_field(*wide) if wide else b""
    version = _VERSION64 if wide else _VERSION
    lengths = (len(name), len(extra), 0)  # the third is a comment's
    fixed = _CENTRAL.pack(
        *(_CENTRAL_MAGIC, _UNIX | version, version, 0, 0, 0, _DATE, entry.crc, size, size),
        *(*lengths, 0, 0, _MODE, offset),
    )
    return fixed + name + extra


def _end_records(entries: list[ZipEntry], offset: int) -> bytes:
    """What stands after the central directory that begins at `offset`."""
    count, size = len(entries), sum(len(_central_header(entry)) for entry in entries)
    far = offset >= _LIMIT
    wide = b""
    if far:
        fields = (_UNIX | _VERSION64, _VERSION64, 0, 0, count, count, size, offset)
        wide = _END64.pack(_END64_MAGIC, _END64.size - 12, *fields)
        wide += _LOCATOR64.pack(_LOCATOR64_MAGIC, 0, offset + size, 1)
    return wide + _END.pack(_END_MAGIC, 0, 0, count, count, size, _MARK if far else offset, 0)


def _zip64_field(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", _ZIP64_ID, 8 * len(values), *values)


def _refusal(what: str, where: str) -> IntegrityError:
    return IntegrityError(
        what,
        where=where,
        why="a bundle is an uncompressed zip exactly as edgekit writes it, so that every reader sees the same files",
        fix="get the bundle again from where it came from, or export it again",
    )
