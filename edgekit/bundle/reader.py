"""Opening a bundle: nothing is parsed before its structure and signature are checked, nothing returned unhashed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgekit.bundle.archive import Archive, open_archive
from edgekit.bundle.layout import MANIFEST, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE
from edgekit.bundle.manifest import FileEntry, Manifest, parse_manifest
from edgekit.bundle.npy import decode_array
from edgekit.bundle.signature import parse_signature
from edgekit.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_CHUNK = 1 << 20  # bytes hashed at a time by `verify`, so that checking needs no memory


@dataclass(frozen=True, eq=False)
class Bundle:
    """A folder or an uncompressed `.edgekit` zip, open for reading. Safe to read from several threads.

    It holds one descriptor until `close`, the end of its `with` block, or until it is garbage.

    Attributes:
        path: where it was opened.
        manifest: what it says about itself.
        manifest_raw: the bytes of `manifest.json`, which a signature covers.
        key_id: the key that the signature names, or None if there is none. Only `open(..., key=...)` proves it.
    """

    path: Path
    manifest: Manifest
    manifest_raw: bytes = field(repr=False)
    key_id: str | None
    _archive: Archive = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, key: str | os.PathLike[str] | bytes | None = None) -> Bundle:
        """Open a bundle and check its layout, its signature and its list of files; contents are checked when read.

        Args:
            path: a folder or zip; the path itself may be a link, nothing inside may.
            key: the file of an Ed25519 public key, or its PEM as bytes. Then only a bundle signed with it opens.

        Raises:
            InputError: nothing is there, it is no bundle at all, or the key is unusable.
            IntegrityError: it is not the bundle that it claims to be.
        """
        path = Path(path)
        public_key = _public_key(key)
        archive = open_archive(path)
        try:
            raw, key_id = _read_signed(archive, public_key)
            manifest = parse_manifest(raw, f"{path}: {MANIFEST}")
            _check_listing(archive, manifest)
        except BaseException:
            archive.close()
            raise
        return cls(path, manifest, raw, key_id, archive)

    @property
    def signed(self) -> bool:
        """Whether it carries a signature, which is proven only if it was opened with a key."""
        return self.key_id is not None

    @property
    def digest(self) -> str:
        """SHA-256 of `manifest.json`: one name for the bundle and, through the hashes in it, for all its contents."""
        return hashlib.sha256(self.manifest_raw).hexdigest()

    def read(self, name: str) -> bytes:
        """The bytes of a listed file; size and SHA-256 were checked on the very bytes returned.

        Raises:
            InputError: the manifest lists no such file.
            IntegrityError: the file is not the one that the manifest names.
        """
        entry = self._entry(name)
        data = self._archive.read(name)
        self._check(entry, hashlib.sha256(data).hexdigest())
        return data

    def read_array(self, name: str) -> npt.NDArray[Any]:
        """The array in a listed `.npy` file, read-only; any shape, dtype bool, (u)int8-64 or float16-64.

        Raises:
            InputError: the manifest lists no such file.
            IntegrityError: as `read`, or it is no `.npy` file of plain numbers.
        """
        return decode_array(self.read(name), f"{self.path}: {name}")

    def files_with_role(self, role: str) -> list[str]:
        """The paths of the files with this role, in the manifest's order."""
        return [entry.path for entry in self.manifest.files if entry.role == role]

    def verify(self) -> None:
        """Read every file and check its size and hash, in constant memory.

        Raises:
            IntegrityError: naming the first file that is not the one that the manifest names.
        """
        for entry in self.manifest.files:
            digest = hashlib.sha256()
            for chunk in self._archive.chunks(entry.path, _CHUNK):
                digest.update(chunk)
            self._check(entry, digest.hexdigest())

    def close(self) -> None:
        """Let go of the file or folder; closing twice does no harm, reading afterwards is a `UsageError`."""
        self._archive.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, name: str) -> FileEntry:
        entry = next((entry for entry in self.manifest.files if entry.path == name), None)
        if entry is None:
            known = ", ".join(entry.path for entry in self.manifest.files[:20]) or "none"
            raise InputError(
                f"the bundle has no file {name!a}", where=str(self.path), why="it is not listed", fix=f"files: {known}"
            )
        return entry

    def _check(self, entry: FileEntry, sha256: str) -> None:
        if sha256 != entry.sha256:
            raise IntegrityError(
                f"{entry.path} was changed or damaged",
                where=f"{self.path}: {entry.path}",
                why=f"its SHA-256 is {sha256[:16]}..., the manifest says {entry.sha256[:16]}...",
                fix="get the bundle again from where it came from",
            )


def _public_key(key: str | os.PathLike[str] | bytes | None) -> Ed25519PublicKey | None:
    if key is None:
        return None
    from edgekit.bundle import signing  # cryptography loads only where a signature is checked

    return signing.parse_public_key(key, "key") if isinstance(key, bytes) else signing.load_public_key(Path(key))


def _read_signed(archive: Archive, public_key: Ed25519PublicKey | None) -> tuple[bytes, str | None]:
    """The manifest's bytes and the id of the key that signed them; with a key, only after the signature holds."""
    raw = _read_limited(archive, MANIFEST, MAX_MANIFEST_BYTES)
    where = f"{archive.where}: {SIGNATURE}"
    if SIGNATURE not in archive.sizes:
        if public_key is not None:
            raise IntegrityError(
                "the bundle is not signed",
                where=archive.where,
                why=f"a key was given and there is no {SIGNATURE}",
                fix="sign it with `edgekit sign`, or get a signed one",
            )
        return raw, None
    document = _read_limited(archive, SIGNATURE, MAX_SIGNATURE_BYTES)
    if public_key is not None:
        from edgekit.bundle.signing import check_signature

        check_signature(public_key, raw, document, where)
    return raw, parse_signature(document, where).key_id


def _read_limited(archive: Archive, name: str, limit: int) -> bytes:
    if archive.sizes[name] > limit:
        raise IntegrityError(
            f"{name} is too large", where=archive.where, why=f"{archive.sizes[name]} bytes; the limit is {limit}"
        )
    return archive.read(name)


def _check_listing(archive: Archive, manifest: Manifest) -> None:
    """The files that are there are those that are listed, with the listed sizes."""
    listed = {entry.path: entry.size for entry in manifest.files}
    present = {name: size for name, size in archive.sizes.items() if name not in (MANIFEST, SIGNATURE)}
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            raise _not_as_listed(archive, f"{name} is missing", "the manifest lists it")
        if name not in listed:
            raise _not_as_listed(archive, f"{name} does not belong here", "the manifest does not list it")
        if present[name] != listed[name]:
            why = f"it has {present[name]} bytes, the manifest says {listed[name]}"
            raise _not_as_listed(archive, f"{name} has the wrong size", why)


def _not_as_listed(archive: Archive, what: str, why: str) -> IntegrityError:
    return IntegrityError(what, where=archive.where, why=why, fix="get the bundle again from where it came from")
