"""What is written is what is read, in both shapes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit import bundle as room
from edgekit.bundle import zipformat
from edgekit.bundle.manifest import manifest_bytes
from edgekit.bundle.reader import Bundle
from edgekit.bundle.writer import write_bundle
from edgekit.errors import InputError, UsageError


def test_a_bundle_reads_back_equal(place, full, files):
    with write_bundle(place, full, files) as bundle:
        bundle.verify()
        assert replace(bundle.manifest, files=()) == full
        assert [entry.path for entry in bundle.manifest.files] == sorted(files)
        assert {name: (entry.role, bundle.read(name)) for name, entry in _entries(bundle)} == files
        assert bundle.files_with_role("selftest") == ["selftest/images.npy", "selftest/maps.npy"]
        assert bundle.files_with_role("absent") == []
        assert not bundle.signed and bundle.key_id is None
        array = bundle.read_array("selftest/images.npy")
    np.testing.assert_array_equal(array, np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2))
    assert place.is_file() == (place.suffix == ".edgekit")


def _entries(bundle):
    return [(entry.path, entry) for entry in bundle.manifest.files]


def test_a_manifest_alone_is_a_bundle(place, minimal):
    with write_bundle(place, minimal, {}) as bundle:
        bundle.verify()
        assert bundle.manifest == minimal


def test_empty_files_keep_their_place(place, minimal):
    with write_bundle(place, minimal, {"empty": ("recipe", b"")}) as bundle:
        bundle.verify()
        assert bundle.read("empty") == b""


def test_the_same_input_gives_the_same_bytes_whatever_the_order_and_time(make, files, private_key, monkeypatch):
    first = make("a.edgekit", private_key=private_key)
    monkeypatch.setattr("time.time", lambda: 4e9)
    second = make("b.edgekit", files=dict(reversed(files.items())), private_key=private_key)
    assert first.read_bytes() == second.read_bytes()


def test_folder_and_zip_hold_the_same_files_and_digest(make):
    folder, zipped = make("b"), make("b.edgekit")
    with zipfile.ZipFile(zipped) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert archive.read(name) == (folder / name).read_bytes()
            assert archive.getinfo(name).compress_type == zipfile.ZIP_STORED
    with Bundle.open(folder) as one, Bundle.open(zipped) as other:
        assert one.digest == other.digest and len(one.digest) == 64


def test_a_zip_beyond_the_32_bit_fields_is_one_that_other_tools_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipformat, "_LIMIT", 100)
    items = [("a", b"x" * 99), ("b", b"y" * 100), ("c", b"z" * 5), ("d", b"w" * 300)]
    path = tmp_path / "z"
    path.write_bytes(b"".join(zipformat.zip_chunks(items)))
    with path.open("rb") as stream:
        entries = zipformat.read_entries(stream.fileno(), "z")
    assert [(entry.name, entry.size) for entry in entries] == [(name, len(data)) for name, data in items]
    with zipfile.ZipFile(path) as archive:
        assert [(info.filename, archive.read(info)) for info in archive.infolist()] == items


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_opening_holds_one_descriptor_and_closing_or_forgetting_lets_it_go(make, files):
    for path in (make("b"), make("b.edgekit")):
        before = descriptors()
        bundle = Bundle.open(path)
        assert descriptors() == before + 1
        bundle.verify()
        bundle.close()
        bundle.close()
        assert descriptors() == before
        with pytest.raises(UsageError, match="closed"):
            bundle.read("model.onnx")
        Bundle.open(path)
        gc.collect()
        assert descriptors() == before


def test_threads_may_read_at_once(make, files):
    for path in (make("b"), make("b.edgekit")):
        with Bundle.open(path) as bundle:
            wrong = []

            def read(bundle=bundle, wrong=wrong):
                for _ in range(30):
                    for name, (_, data) in files.items():
                        if bundle.read(name) != data:
                            wrong.append(name)

            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not wrong


def test_an_open_bundle_outlives_the_renaming_of_its_path(place, full, files):
    with write_bundle(place, full, files) as bundle:
        place.rename(place.with_name("elsewhere"))
        bundle.verify()
        assert bundle.read("model.onnx") == files["model.onnx"][1]


def test_a_link_to_a_bundle_opens(place, full, files):
    write_bundle(place, full, files).close()
    link = place.with_name("current")
    link.symlink_to(place.name)
    with Bundle.open(link) as bundle:
        bundle.verify()


def test_a_file_that_is_not_listed_cannot_be_read(place, full, files):
    with write_bundle(place, full, files) as bundle:
        for name in ("manifest.json", "absent", "../b"):
            with pytest.raises(InputError, match="no file") as caught:
                bundle.read(name)
            assert "model.onnx" in caught.value.fix


@pytest.mark.parametrize(
    "kind", ["nothing", "picture", "empty file", "stranger's folder", "stranger's zip", "fifo", "nul"]
)
def test_what_is_no_bundle_at_all_is_an_input_error(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "picture":
        path.write_bytes(b"\x89PNG" + bytes(100))
    elif kind == "empty file":
        path.touch()
    elif kind == "stranger's folder":
        path.mkdir()
        (path / "thesis.txt").touch()
        (path / "link").symlink_to("thesis.txt")
    elif kind == "stranger's zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("word/document.xml", "text" * 100)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "nul":
        path = Path("a\0b")
    with pytest.raises(InputError) as caught:
        Bundle.open(path)
    assert caught.value.exit_code == 2 and caught.value.where and caught.value.fix


def test_a_well_formed_zip_without_a_manifest_is_no_bundle(tmp_path):
    path = tmp_path / "b.edgekit"
    path.write_bytes(b"".join(zipformat.zip_chunks([("a", b"1")])))
    with pytest.raises(InputError, match="no bundle"):
        Bundle.open(path)


def test_manifest_bytes_are_sorted_readable_and_end_with_a_newline(full):
    raw = manifest_bytes(full)
    assert raw.endswith(b"}\n") and "Plättchen".encode() in raw and raw.startswith(b'{\n "choice": {')
    lines = [line for line in raw.decode().splitlines() if line.startswith(' "')]
    assert lines == sorted(lines, key=lambda line: line.split('"')[1])


def test_importing_the_room_loads_neither_numpy_nor_cryptography():
    code = (
        "import sys, edgekit.bundle as b; early = set(sys.modules); b.Bundle, b.write_bundle; late = set(sys.modules);"
        "print('numpy' in early, 'cryptography' in early, 'cryptography' in late, b.sign_bytes is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False", "True"]


def test_every_public_name_of_the_room_exists():
    for name in room._HOMES:
        assert getattr(room, name).__name__ == name
    assert set(room._HOMES) <= set(dir(room))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = room.nonsense
