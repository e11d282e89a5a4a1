"""Zips made by an attacker: each is refused by name before anything in it is parsed."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from edgekit.bundle import layout, zipformat
from edgekit.bundle.reader import Bundle
from edgekit.errors import IntegrityError


@pytest.fixture
def refused(make, tmp_path):
    """Change the bytes of a good zip (or make others), and return the error that opening them gives."""

    path = make("good.edgekit")

    def attempt(change) -> IntegrityError:
        bad = tmp_path / "bad.edgekit"
        bad.write_bytes(change(path.read_bytes()))
        with pytest.raises(IntegrityError) as caught:
            Bundle.open(bad)
        assert caught.value.exit_code == 3 and str(bad) in caught.value.where
        return caught.value

    return attempt


def rezip(change_info=lambda info: None, extra=(), compression=zipfile.ZIP_STORED):
    """Rewrite a zip with the standard library; `change_info` sees each entry, `extra` adds (name, data)."""

    def change(raw: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as source, zipfile.ZipFile(out, "w") as target:
            items = [(info.filename, source.read(info)) for info in source.infolist()]
            for name, data in [*items, *extra]:
                info = zipfile.ZipInfo(name)
                info.external_attr, info.create_system = 0o100644 << 16, 3
                info.compress_type = compression
                change_info(info)
                target.writestr(info, data)
        return out.getvalue()

    return change


def canonical(*items):
    """A zip in our own layout, with any names and order."""
    return lambda raw: b"".join(zipformat.zip_chunks(items))


@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "a/../../evil", "/etc/passwd", "C:/evil", "a\\b", "./a", "a//b", "a/", ""),
        *(".hidden", "nul\0byte", "end.", "é", "a b", "x" * 201),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(refused, name):
    coded = name.encode()
    header = zipformat._LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 33, 0, 4, 4, len(coded), 0) + coded
    error = refused(lambda raw: header + b"evil" + raw)
    assert "name" in error.what and error.what.isascii() and error.what.isprintable()
    assert layout.name_problem(name) is not None


def test_a_dangerous_name_written_by_the_standard_library_is_refused(refused):
    assert "leads out" in refused(canonical(("../evil", b"x"), ("manifest.json", b"{}"))).what


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_appears_twice_is_refused(refused):
    error = refused(canonical(("manifest.json", b"{}"), ("manifest.json", b"{ }")))
    assert "manifest.json twice" in error.what
    assert "twice" in refused(canonical(("a", b""), ("b", b""), ("manifest.json", b"{}"), ("a", b"1"))).what


def test_names_that_differ_only_in_case_are_refused(refused):
    assert "collide" in refused(canonical(("MODEL.onnx", b""), ("manifest.json", b"{}"), ("model.onnx", b""))).what
    assert "collide" in refused(canonical(("A/x", b""), ("a/y", b""), ("manifest.json", b"{}"))).what
    assert "collide" in refused(canonical(("Manifest.json", b"{}"), ("manifest.json", b"{}"))).what


def test_a_file_that_is_also_a_folder_is_refused(refused):
    assert "collide" in refused(canonical(("a", b""), ("a/b", b""), ("manifest.json", b"{}"))).what


def test_a_compressed_entry_is_refused(refused):
    error = refused(rezip(compression=zipfile.ZIP_DEFLATED))
    assert "compressed" in error.what and "manifest.json" in error.what


def test_an_encrypted_entry_is_refused(refused):
    error = refused(lambda raw: raw[:6] + b"\x01" + raw[7:])
    assert "encrypted" in error.what and "manifest.json" in error.what


def test_a_symbolic_link_is_refused(refused):
    def make_link(info):
        info.date_time = (1980, 1, 1, 0, 0, 0)
        if info.filename == "model.onnx":
            info.external_attr = 0o120777 << 16

    error = refused(rezip(make_link))
    assert error.what == "model.onnx is a symbolic link in the zip"


@pytest.mark.parametrize("field", ["date_time", "extra", "comment", "create_system", "external_attr"])
def test_an_entry_with_anything_that_we_do_not_write_is_refused(refused, field):
    odd = {"date_time": (2024, 1, 1, 0, 0, 0), "extra": b"up\1\0x", "comment": b"hi", "create_system": 0}

    def change(info):
        if info.filename == "model.onnx":
            setattr(info, field, odd.get(field, 0o100755 << 16))

    assert "model.onnx" in refused(rezip(change)).what


def test_a_zip_that_the_standard_library_writes_alike_is_accepted(make, tmp_path):
    path = make("good.edgekit")
    assert rezip()(path.read_bytes()) == path.read_bytes()


def test_a_local_header_that_disagrees_with_the_directory_is_refused(refused):
    # The directory names another file than the header: which one a reader sees depends on the reader.
    error = refused(lambda raw: b"weight_/model.bin".join(raw.rsplit(b"weights/model.bin", 1)))
    assert "weights/model.bin" in error.what and "disagree" in error.what
    assert "disagree" in refused(lambda raw: _patch_directory(raw, 24, 1)).what  # the size
    assert "disagree" in refused(lambda raw: _patch_directory(raw, 16, 1)).what  # the CRC
    assert "disagree" in refused(lambda raw: _patch_directory(raw, 42, 1)).what  # the offset: overlapping entries


def _patch_directory(raw: bytes, field: int, add: int) -> bytes:
    at = raw.index(b"PK\1\2") + field
    (value,) = struct.unpack_from("<I", raw, at)
    return raw[:at] + struct.pack("<I", value + add) + raw[at + 4 :]


def test_a_file_hidden_from_the_directory_is_refused(refused):
    def hide(raw):
        header = b"".join(zipformat.zip_chunks([("zz", b"evil")])).split(b"PK\1\2")[0]
        at = raw.index(b"PK\1\2")
        return raw[:at] + header + raw[at:]

    assert "zz" in refused(hide).what


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda raw: b"MZ" + raw, "damaged: no entry begins at byte 0"),
        (lambda raw: raw + b"\0", "followed by other data"),
        (lambda raw: raw + raw, "followed by other data"),
        (lambda raw: raw[:-2] + b"\3\0hi!", "damaged in its last record"),
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw[:-30], "truncated inside its directory"),
        (lambda raw: raw[:100], "truncated: manifest.json ends beyond"),
        (lambda raw: raw[:20], "truncated inside a header"),
        (lambda raw: raw[:3], "truncated"),
        (lambda raw: b"", "truncated"),
        (lambda raw: raw[: raw.index(b"PK\1\2")], "truncated"),
        (lambda raw: b"#!/bin/sh\n", "damaged"),
    ],
)
def test_a_zip_with_something_before_after_or_missing_is_refused(refused, change, sentence):
    assert sentence in refused(change).what


def test_a_zip_inside_the_end_record_of_another_is_refused(refused):
    # An archive comment that holds a whole second zip: readers that search for the last record see that one.
    def hide(raw):
        return raw[:-2] + struct.pack("<H", len(raw)) + raw

    refused(hide)


@pytest.mark.parametrize("size", [2**32 - 1, 2**40, 2**64 - 1])
def test_a_size_beyond_the_file_is_refused_without_reading_it(refused, size):
    def promise(raw):
        entry = zipformat.ZipEntry("a", size, 0, 0)
        return zipformat._local_header(entry) + raw

    assert "truncated" in refused(promise).what


def test_a_flood_of_entries_is_refused(refused, monkeypatch):
    monkeypatch.setattr(zipformat, "MAX_FILES", 10)
    assert "more than 10" in refused(canonical(*((f"a{i}", b"") for i in range(10)), ("manifest.json", b"{}"))).what


def test_a_manifest_or_signature_over_its_limit_is_refused_unread(refused):
    large = bytes(layout.MAX_MANIFEST_BYTES + 1)
    assert "manifest.json is too large" in refused(canonical(("manifest.json", large))).what
    signature = bytes(layout.MAX_SIGNATURE_BYTES + 1)
    error = refused(canonical(("manifest.json", b"{}"), ("manifest.sig", signature)))
    assert "manifest.sig is too large" in error.what


def test_content_is_checked_against_the_hash_and_not_the_crc_alone(make, tmp_path, files):
    # An attacker can fit the CRC: the zip is in order, the file is not the one that the manifest names.
    path = make("good.edgekit")
    with zipfile.ZipFile(path) as archive:
        items = [(name, archive.read(name)) for name in archive.namelist()]
    forged = [(name, data[::-1] if name == "weights/model.bin" else data) for name, data in items]
    path.write_bytes(b"".join(zipformat.zip_chunks(forged)))
    with Bundle.open(path) as bundle:
        with pytest.raises(IntegrityError, match=r"weights/model\.bin was changed"):
            bundle.read("weights/model.bin")
        with pytest.raises(IntegrityError, match=r"weights/model\.bin was changed"):
            bundle.verify()
        assert bundle.read("model.onnx") == files["model.onnx"][1]


def test_content_that_changes_after_opening_is_refused(make):
    path = make("good.edgekit")
    with Bundle.open(path) as bundle:
        with path.open("r+b") as stream:
            stream.seek(path.read_bytes().index(b"a graph"))
            stream.write(b"A")
        with pytest.raises(IntegrityError, match=r"model\.onnx"):
            bundle.read("model.onnx")
        with path.open("r+b") as stream:
            stream.truncate(100)
        with pytest.raises(IntegrityError, match="truncated"):
            bundle.read("weights/model.bin")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda items: items | {"extra": b""}, "extra does not belong here"),
        (lambda items: {k: v for k, v in items.items() if k != "model.onnx"}, "model.onnx is missing"),
        (lambda items: items | {"model.onnx": b"short"}, "model.onnx has the wrong size"),
    ],
)
def test_files_and_list_must_agree(make, change, sentence):
    path = make("good.edgekit")
    with zipfile.ZipFile(path) as archive:
        items = {name: archive.read(name) for name in archive.namelist()}
    path.write_bytes(b"".join(zipformat.zip_chunks(sorted(change(items).items()))))
    with pytest.raises(IntegrityError, match=sentence):
        Bundle.open(path)
