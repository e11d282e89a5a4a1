"""Ed25519 keys, signatures over bytes, and signing a bundle where it stands."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgekit.bundle.atomic import publish, staging, unwritable_is_typed, write_file
from edgekit.bundle.layout import MANIFEST, SIGNATURE
from edgekit.bundle.reader import Bundle
from edgekit.bundle.signature import parse_signature, signature_document
from edgekit.bundle.zipformat import zip_chunks
from edgekit.errors import InputError, IntegrityError, UsageError

_MAX_KEY_BYTES = 64 << 10  # a PEM key is about 120 bytes; this stops a wrong file from filling the memory


def generate_keys(stem: Path) -> tuple[Path, Path]:
    """Write a new key pair: `STEM.key` (PKCS8 PEM, only its owner can read it) and `STEM.pub` (PEM).

    Returns:
        The paths of the private and of the public key.

    Raises:
        UsageError: one of the files exists.
        InputError, MissingError: they cannot be written.
    """
    stem = Path(stem)
    if not stem.name:
        raise UsageError("the keys need a name", where=str(stem), why="the path names a folder", fix="add a name to it")
    private_path, public_path = stem.with_name(stem.name + ".key"), stem.with_name(stem.name + ".pub")
    for path in (private_path, public_path):
        if os.path.lexists(path):
            raise UsageError(
                f"{path} exists", where=str(path), why="a key that is overwritten is lost", fix="choose another name"
            )
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with unwritable_is_typed(stem):
        write_file(private_path, [pem], mode=0o600)
        try:
            write_file(public_path, [public_pem(key)])
        except BaseException:
            private_path.unlink()
            raise
    return private_path, public_path


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read `STEM.key`.

    Raises:
        InputError: unreadable, or not an Ed25519 private key in PEM without a password.
    """
    try:
        key = serialization.load_pem_private_key(_read_key(Path(path)), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise _bad_key(str(path), "private", ".key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad_key(str(path), "private", ".key")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read `STEM.pub`.

    Raises:
        InputError: unreadable, or not an Ed25519 public key in PEM.
    """
    return parse_public_key(_read_key(Path(path)), str(path))


def parse_public_key(pem: bytes, where: str) -> Ed25519PublicKey:
    """The public key in `pem`; raises as `load_public_key` does."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key(where, "public", ".pub") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _bad_key(where, "public", ".pub")
    return key


def public_pem(private_key: Ed25519PrivateKey) -> bytes:
    """The public half as the contents of `STEM.pub`."""
    return private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_id(public_key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of SHA-256 of the raw public key: a name for it, not a proof."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()[:16]


def sign_bytes(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """A signature document for `data`, detached; equal inputs give equal documents (RFC 8032 is deterministic)."""
    return signature_document(key_id(key.public_key()), key.sign(data))


def check_signature(public_key: Ed25519PublicKey, data: bytes, document: bytes, where: str = "signature") -> None:
    """Check that `document` is the key owner's signature of exactly `data`.

    Raises:
        IntegrityError: malformed, by another key, or of other data.
    """
    signature = parse_signature(document, where)
    expected = key_id(public_key)
    if signature.key_id != expected:
        raise IntegrityError(
            "this was signed with another key",
            where=where,
            why=f"the signature names key {signature.key_id}, and the key given is {expected}",
            fix="pass the public key of whoever should have signed it, or do not trust it",
        )
    try:
        public_key.verify(signature.raw, data)
    except InvalidSignature as error:
        raise IntegrityError(
            "the signature does not fit",
            where=where,
            why="what it covers was changed after signing, or the signature was",
            fix="get it again from where it came from",
        ) from error


def sign_bundle(path: Path, private_key: Ed25519PrivateKey) -> None:
    """Verify the bundle at `path`, then write (or replace) its `manifest.sig`, atomically.

    The signature covers `manifest.json` byte for byte as it stands, and through the hashes in it every other file.

    Raises:
        InputError: there is no bundle, or its place cannot be written.
        IntegrityError: the bundle is damaged; it is left as it is.
    """
    path = Path(os.path.realpath(path))  # a link to a bundle stays a link
    with Bundle.open(path) as bundle, unwritable_is_typed(path):
        document = sign_bytes(private_key, bundle.manifest_raw)
        if path.is_dir():
            bundle.verify()
            with staging(path) as fresh:
                write_file(fresh, [document])
                publish(fresh, path / SIGNATURE, replace=True)
        else:
            with staging(path) as fresh:
                write_file(fresh, zip_chunks(_contents(bundle, document)))
                with Bundle.open(fresh, key=public_pem(private_key)) as signed:
                    signed.verify()
                publish(fresh, path, replace=True)


def _contents(bundle: Bundle, document: bytes) -> Iterator[tuple[str, bytes]]:
    extra = {MANIFEST: bundle.manifest_raw, SIGNATURE: document}
    for name in sorted([*extra, *(entry.path for entry in bundle.manifest.files)]):
        yield name, extra[name] if name in extra else bundle.read(name)


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError("the key cannot be read", where=ascii(str(path)), why=why, fix="check the path") from error


def _bad_key(where: str, half: str, suffix: str) -> InputError:
    return InputError(
        f"this is no {half} key that edgekit can use",
        where=where,
        why=f"it should be an Ed25519 {half} key in PEM, without a password",
        fix=f"pass the file ending in {suffix} that `edgekit keygen` wrote",
    )
