"""Writing a bundle: whole, verified by reading it back, and in place with one rename, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bundle.atomic import publish, staging, sync_folder, unwritable_is_typed, write_file
from edgekit.bundle.layout import MANIFEST, SIGNATURE, SUFFIX, parents
from edgekit.bundle.manifest import FileEntry, Manifest, manifest_bytes, unlisted
from edgekit.bundle.reader import Bundle
from edgekit.bundle.zipformat import zip_chunks
from edgekit.errors import EdgekitError, InputError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def write_bundle(
    path: str | os.PathLike[str],
    manifest: Manifest,
    files: Mapping[str, tuple[str, bytes]],
    *,
    private_key: Ed25519PrivateKey | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle and open it; the same arguments give the same bytes.

    Args:
        path: a zip if it ends in `.edgekit`, else a folder; the folder around it exists.
        manifest: complete but for `files`, which is empty and is filled in here.
        files: path in the bundle to role and contents.
        private_key: signs it.
        overwrite: replace a bundle that is at `path`; anything that is no intact bundle is never replaced.

    Raises:
        UsageError: `path` exists (and `overwrite` is false, or it is no bundle), or `manifest.files` is not empty.
        InputError: a name or value that no bundle may hold, or a place that cannot be written.
        MissingError: the disk is full.

    After a failure `path` is as it was; only if the disk fails to confirm the final rename is the new one there, whole.
    """
    path = Path(path)
    replacing = _check_place(path, overwrite)
    contents = _contents(manifest, files)
    key = None
    if private_key is not None:
        from edgekit.bundle import signing  # cryptography loads only where something is signed

        contents[SIGNATURE] = signing.sign_bytes(private_key, contents[MANIFEST])
        key = signing.public_pem(private_key)
    with unwritable_is_typed(path), staging(path) as fresh:
        if path.suffix == SUFFIX:
            write_file(fresh, zip_chunks(sorted(contents.items())))
        else:
            _write_folder(fresh, contents)
        with Bundle.open(fresh, key=key) as written:
            written.verify()
        publish(fresh, path, replace=replacing)
    return Bundle.open(path, key=key)


def _check_place(path: Path, overwrite: bool) -> bool:
    """Whether there is a bundle at `path` to replace."""
    if path.name in ("", ".."):
        raise UsageError("the bundle needs a name", where=str(path), why="the path has none", fix="add a name to it")
    if not os.path.lexists(path):
        return False
    if not overwrite:
        raise UsageError(
            f"{path} exists", where=str(path), why="it is not replaced unasked", fix="choose another path, or overwrite"
        )
    if path.is_symlink():
        raise UsageError(f"{path} is a link", where=str(path), why="only a bundle is replaced", fix="pass its target")
    try:
        Bundle.open(path).close()
    except EdgekitError as error:
        raise UsageError(
            f"{path} is not replaced, because it is no intact bundle",
            where=str(path),
            why=error.what,
            fix="remove it yourself, or choose another path",
        ) from error
    return True


def _contents(manifest: Manifest, files: Mapping[str, tuple[str, bytes]]) -> dict[str, bytes]:
    if manifest.files:
        raise UsageError("the manifest already lists files", where=MANIFEST, why="the writer fills them in")
    try:
        entries = tuple(
            FileEntry(name, hashlib.sha256(data).hexdigest(), len(data), role)
            for name, (role, data) in sorted(files.items())
        )
        complete = replace(manifest, files=entries)
    except ValueError as error:
        raise InputError(str(error), where="files", why="no bundle may hold this", fix="use another name") from error
    problem = unlisted(complete)
    if problem is not None:
        raise InputError(problem, where=MANIFEST, why="that is not among the files")
    return {MANIFEST: manifest_bytes(complete), **{name: data for name, (_, data) in files.items()}}


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    inside = sorted({parent for name in contents for parent in parents(name)})
    for name in ("", *inside):
        (folder / name).mkdir()
    for name, data in sorted(contents.items()):
        write_file(folder / name, [data])
    for name in ("", *inside):
        sync_folder(folder / name)
