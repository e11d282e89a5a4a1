"""The signature document: what stands in `manifest.sig`. Plain data; the cryptography is in `signing`."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Literal

from edgekit.bundle.layout import MAX_SIGNATURE_BYTES
from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.errors import InputError, IntegrityError
from edgekit.structure import decode, encode

SIGNATURE_BYTES = 64  # RFC 8032, section 5.1.6


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A detached Ed25519 signature.

    Attributes:
        key_id: the first 16 hexadecimal digits of SHA-256 of the raw public key.
        signature: base64 of the 64 bytes.
    """

    schema: Literal["edgekit/signature/1"]
    algorithm: Literal["ed25519"]
    key_id: str
    signature: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{16}", self.key_id):
            raise ValueError("key_id is 16 lowercase hexadecimal digits")
        if len(base64.b64decode(self.signature, validate=True)) != SIGNATURE_BYTES:
            raise ValueError(f"a signature has {SIGNATURE_BYTES} bytes")

    @property
    def raw(self) -> bytes:
        """The 64 bytes of the signature."""
        return base64.b64decode(self.signature)


def signature_document(key_id: str, raw: bytes) -> bytes:
    """The document for the 64 bytes `raw`."""
    text = base64.b64encode(raw).decode("ascii")
    signature = Signature(schema="edgekit/signature/1", algorithm="ed25519", key_id=key_id, signature=text)
    return render_json(encode(signature), "signature")


def parse_signature(document: bytes, where: str) -> Signature:
    """Read a signature document; only the bytes that `signature_document` writes are accepted.

    Raises:
        IntegrityError: it is malformed, or the same content in other bytes.
    """
    if len(document) > MAX_SIGNATURE_BYTES:
        raise _malformed(f"it is larger than {MAX_SIGNATURE_BYTES} bytes", where)
    try:
        signature = decode(Signature, parse_json(document, where), where)
    except InputError as error:
        raise _malformed(error.what, error.where) from error
    if document != signature_document(signature.key_id, signature.raw):
        raise _malformed("its bytes are not those that edgekit writes for it", where)
    return signature


def _malformed(problem: str, where: str | None) -> IntegrityError:
    return IntegrityError("the signature is malformed", where=where, why=problem, fix="sign the bundle again")
