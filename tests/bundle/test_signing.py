"""Keys, signatures, and bundles that are signed, unsigned or signed by somebody else."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle import signing
from edgekit.bundle.reader import Bundle
from edgekit.bundle.signing import (
    check_signature,
    generate_keys,
    load_private_key,
    load_public_key,
    public_pem,
    sign_bundle,
    sign_bytes,
)
from edgekit.bundle.writer import write_bundle
from edgekit.bundle.zipformat import zip_chunks
from edgekit.errors import InputError, IntegrityError, UsageError

OTHER = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)


def test_generated_keys_sign_and_verify_and_the_private_one_is_private(tmp_path):
    private, public = generate_keys(tmp_path / "fleet.v1")
    assert (private.name, public.name) == ("fleet.v1.key", "fleet.v1.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert b"BEGIN PRIVATE KEY" in private.read_bytes() and b"BEGIN PUBLIC KEY" in public.read_bytes()
    check_signature(load_public_key(public), b"data", sign_bytes(load_private_key(private), b"data"))


@pytest.mark.parametrize("suffix", [".key", ".pub"])
def test_existing_keys_are_never_overwritten(tmp_path, suffix):
    (tmp_path / f"k{suffix}").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        generate_keys(tmp_path / "k")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_dangling_link_is_not_followed_for_a_key(tmp_path):
    (tmp_path / "k.key").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match="exists"):
        generate_keys(tmp_path / "k")
    assert not (tmp_path / "target").exists()


def test_half_a_key_pair_is_not_left_behind(tmp_path, monkeypatch):
    real = signing.write_file

    def fail_on_public(path, chunks, **options):
        if path.suffix == ".pub":
            raise OSError(28, "No space left on device")
        real(path, chunks, **options)

    monkeypatch.setattr(signing, "write_file", fail_on_public)
    with pytest.raises(Exception, match="no room"):
        generate_keys(tmp_path / "k")
    assert not list(tmp_path.iterdir())


def test_keys_without_a_name_are_a_usage_error():
    with pytest.raises(UsageError, match="name"):
        generate_keys(Path())


def test_keys_in_a_folder_that_does_not_exist_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        generate_keys(tmp_path / "absent" / "k")


def _pem(key, password=None):
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.fixture(scope="module")
def wrong_keys():
    strange = rsa.generate_private_key(65537, 2048)
    spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return {
        "empty": b"",
        "noise": bytes(range(256)),
        "half": _pem(OTHER)[:60],
        "password": _pem(OTHER, b"secret"),
        "rsa private": _pem(strange),
        "rsa public": strange.public_key().public_bytes(*spki),
    }


@pytest.mark.parametrize(
    "kind", ["empty", "noise", "half", "password", "rsa private", "rsa public", "absent", "folder"]
)
def test_an_unusable_key_is_an_input_error(tmp_path, wrong_keys, kind, make):
    path = tmp_path / "k"
    if kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes(wrong_keys[kind])
    bundle = make("b")
    for use in (load_private_key, load_public_key, lambda path: Bundle.open(bundle, key=path)):
        with pytest.raises(InputError) as caught:
            use(path)
        assert caught.value.exit_code == 2 and caught.value.where and caught.value.fix


def test_the_halves_of_a_key_are_not_taken_for_each_other(tmp_path):
    private, public = generate_keys(tmp_path / "k")
    with pytest.raises(InputError, match="no public key"):
        load_public_key(private)
    with pytest.raises(InputError, match="no private key"):
        load_private_key(public)


def test_the_document_is_as_published(private_key):
    document = json.loads(sign_bytes(private_key, b"data"))
    assert document.keys() == {"schema", "algorithm", "key_id", "signature"}
    assert (document["schema"], document["algorithm"]) == ("edgekit/signature/1", "ed25519")
    assert document["key_id"] == signing.key_id(private_key.public_key()) and len(document["key_id"]) == 16
    private_key.public_key().verify(base64.b64decode(document["signature"]), b"data")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
def test_openssl_accepts_the_signature(tmp_path, private_key, key):
    document = json.loads(sign_bytes(private_key, b"data"))
    for name, content in {"sig": base64.b64decode(document["signature"]), "pub": key, "data": b"data"}.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "pub", "-rawin", "-in", "data", "-sigfile", "sig"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in done.stdout, done.stderr


@given(st.binary(max_size=64), st.data())
def test_other_data_other_keys_and_any_changed_byte_of_the_document_are_refused(payload, data):
    document = sign_bytes(OTHER, payload)
    public = OTHER.public_key()
    check_signature(public, payload, document)
    at = data.draw(st.integers(0, len(document) - 1))
    changed = document[:at] + bytes([document[at] ^ data.draw(st.integers(1, 255))]) + document[at + 1 :]
    for wrong in (changed, document[:at], document + b"\n", document.replace(b"\n ", b"\n  ", 1)):
        with pytest.raises(IntegrityError):
            check_signature(public, payload, wrong)
    with pytest.raises(IntegrityError, match="does not fit"):
        check_signature(public, payload + b"x", document)
    with pytest.raises(IntegrityError, match="another key"):
        check_signature(Ed25519PrivateKey.from_private_bytes(b"\1" * 32).public_key(), payload, document)


def test_a_forged_key_id_does_not_help(private_key):
    mine = json.loads(sign_bytes(OTHER, b"data"))
    mine["key_id"] = signing.key_id(private_key.public_key())
    forged = (json.dumps(mine, sort_keys=True, indent=1) + "\n").encode()
    with pytest.raises(IntegrityError, match="does not fit"):
        check_signature(private_key.public_key(), b"data", forged)


def test_a_signed_bundle_opens_with_its_key_only(place, full, files, private_key, key, tmp_path):
    (tmp_path / "k.pub").write_bytes(key)
    with write_bundle(place, full, files, private_key=private_key) as bundle:
        assert bundle.signed and bundle.key_id == signing.key_id(private_key.public_key())
    for form in (key, tmp_path / "k.pub", str(tmp_path / "k.pub"), None):
        with Bundle.open(place, key=form) as bundle:
            bundle.verify()
    with pytest.raises(IntegrityError, match="another key") as caught:
        Bundle.open(place, key=public_pem(OTHER))
    assert "manifest.sig" in caught.value.where


def test_an_unsigned_bundle_does_not_open_with_a_key(place, full, files, key):
    write_bundle(place, full, files).close()
    with pytest.raises(IntegrityError, match="not signed"):
        Bundle.open(place, key=key)


def test_signing_a_bundle_where_it_stands_equals_writing_it_signed(place, full, files, private_key, key):
    write_bundle(place, full, files).close()
    sign_bundle(place, private_key)
    with Bundle.open(place, key=key) as bundle:
        bundle.verify()
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    twin = place.with_name("twin" + place.suffix)
    write_bundle(twin, full, files, private_key=private_key).close()
    if place.is_file():
        assert place.read_bytes() == twin.read_bytes()
    else:
        assert (place / "manifest.sig").read_bytes() == (twin / "manifest.sig").read_bytes()


def test_signing_again_replaces_the_signature(place, full, files, private_key, key):
    write_bundle(place, full, files, private_key=OTHER).close()
    sign_bundle(place, private_key)
    Bundle.open(place, key=key).close()


def test_signing_through_a_link_keeps_the_link(place, full, files, private_key, key):
    write_bundle(place, full, files).close()
    link = place.with_name("current")
    link.symlink_to(place.name)
    sign_bundle(link, private_key)
    assert link.is_symlink()
    Bundle.open(place, key=key).close()


def test_a_damaged_bundle_is_not_signed(place, full, files, private_key):
    write_bundle(place, full, files).close()
    damaged = place / "model.onnx" if place.is_dir() else place
    damaged.write_bytes(damaged.read_bytes().replace(b"a graph", b"A graph", 1))
    before = _contents(place)
    with pytest.raises(IntegrityError):
        sign_bundle(place, private_key)
    assert _contents(place) == before


def _contents(place):
    return {path: path.read_bytes() for path in sorted(place.parent.rglob("*")) if path.is_file()}


def test_the_signature_covers_the_bytes_and_not_their_meaning(make, private_key, key):
    path = make("b", private_key=private_key)
    raw = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(raw + b"\n")
    Bundle.open(path).close()
    with pytest.raises(IntegrityError, match="does not fit"):
        Bundle.open(path, key=key)


def test_a_signature_from_another_bundle_is_refused(make, full, private_key, key):
    path, other = (
        make("b", private_key=private_key),
        make("c", manifest=replace(full, version=4), private_key=private_key),
    )
    shutil.copy(other / "manifest.sig", path / "manifest.sig")
    with pytest.raises(IntegrityError, match="does not fit"):
        Bundle.open(path, key=key)


def test_a_manifest_is_not_parsed_before_its_signature_holds(tmp_path, private_key, key, monkeypatch):
    document = sign_bytes(private_key, b"other")
    path = tmp_path / "b.edgekit"
    path.write_bytes(b"".join(zip_chunks([("manifest.json", b"{}"), ("manifest.sig", document)])))
    monkeypatch.setattr("edgekit.bundle.reader.parse_manifest", lambda *_: pytest.fail("parsed"))
    with pytest.raises(IntegrityError, match="does not fit"):
        Bundle.open(path, key=key)


def test_a_malformed_signature_is_refused_even_without_a_key(make):
    path = make("b.edgekit")
    with zipfile.ZipFile(path) as archive:
        items = {name: archive.read(name) for name in archive.namelist()}
    for document in (b"", b"{}", b"x" * 300, b'{"schema": "edgekit/signature/1"}'):
        path.write_bytes(b"".join(zip_chunks(sorted({**items, "manifest.sig": document}.items()))))
        with pytest.raises(IntegrityError) as caught:
            Bundle.open(path)
        assert "manifest.sig" in caught.value.where
