"""Bundles: a model's files with a manifest that names, hashes and explains them, and a signature over it.

The names load their module on first use, so that reading a bundle does not import what only writing needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.bundle.evidence import Candidate as Candidate
    from edgekit.bundle.evidence import Choice as Choice
    from edgekit.bundle.evidence import Coverage as Coverage
    from edgekit.bundle.evidence import LayerNoise as LayerNoise
    from edgekit.bundle.evidence import MeasuredOn as MeasuredOn
    from edgekit.bundle.evidence import Parity as Parity
    from edgekit.bundle.evidence import Quality as Quality
    from edgekit.bundle.evidence import Variant as Variant
    from edgekit.bundle.manifest import FileEntry as FileEntry
    from edgekit.bundle.manifest import HistoryStep as HistoryStep
    from edgekit.bundle.manifest import Manifest as Manifest
    from edgekit.bundle.manifest import Origin as Origin
    from edgekit.bundle.manifest import Question as Question
    from edgekit.bundle.manifest import RuntimeNeed as RuntimeNeed
    from edgekit.bundle.manifest import SelfTest as SelfTest
    from edgekit.bundle.manifest import Source as Source
    from edgekit.bundle.manifest import TargetNeed as TargetNeed
    from edgekit.bundle.manifest import manifest_bytes as manifest_bytes
    from edgekit.bundle.manifest import parse_manifest as parse_manifest
    from edgekit.bundle.npy import decode_array as decode_array
    from edgekit.bundle.npy import encode_array as encode_array
    from edgekit.bundle.reader import Bundle as Bundle
    from edgekit.bundle.signing import check_signature as check_signature
    from edgekit.bundle.signing import generate_keys as generate_keys
    from edgekit.bundle.signing import load_private_key as load_private_key
    from edgekit.bundle.signing import load_public_key as load_public_key
    from edgekit.bundle.signing import sign_bundle as sign_bundle
    from edgekit.bundle.signing import sign_bytes as sign_bytes
    from edgekit.bundle.writer import write_bundle as write_bundle

_MANIFEST = (
    *("FileEntry", "HistoryStep", "Manifest", "Origin", "Question", "RuntimeNeed", "SelfTest", "Source", "TargetNeed"),
    *("manifest_bytes", "parse_manifest"),
)
_EVIDENCE = ("Candidate", "Choice", "Coverage", "LayerNoise", "MeasuredOn", "Parity", "Quality", "Variant")
_SIGNING = ("check_signature", "generate_keys", "load_private_key", "load_public_key", "sign_bundle", "sign_bytes")
_HOMES = {
    **dict.fromkeys(_MANIFEST, "manifest"),
    **dict.fromkeys(_EVIDENCE, "evidence"),
    **dict.fromkeys(_SIGNING, "signing"),
    **dict.fromkeys(("decode_array", "encode_array"), "npy"),
    "Bundle": "reader",
    "write_bundle": "writer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
