"""Folders made or changed by an attacker, before opening and between opening and reading."""

from __future__ import annotations

import os
import socket

import pytest

from edgekit.bundle import archive, layout
from edgekit.bundle.reader import Bundle
from edgekit.errors import InputError, IntegrityError


@pytest.fixture
def folder(make):
    return make("b")


def refusal(path) -> str:
    with pytest.raises(IntegrityError) as caught:
        Bundle.open(path).verify()
    assert caught.value.exit_code == 3 and str(path) in caught.value.where
    return caught.value.what


def test_a_flipped_byte_is_refused_with_the_file_name(folder, files):
    for name in files:
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        assert f"{name} was changed" in refusal(folder)
        (folder / name).write_bytes(raw)
    Bundle.open(folder).verify()


@pytest.mark.parametrize("name", ["model.onnx", "weights/model.bin"])
def test_a_truncated_or_grown_file_is_refused_with_its_name(folder, name):
    raw = (folder / name).read_bytes()
    for changed in (raw[:-1], b"", raw + b"\0"):
        (folder / name).write_bytes(changed)
        assert f"{name} has the wrong size" in refusal(folder)


def test_a_missing_file_is_refused_with_its_name(folder):
    (folder / "model.onnx").unlink()
    assert "model.onnx is missing" in refusal(folder)


@pytest.mark.parametrize("name", ["extra.bin", "weights/extra", "new/extra"])
def test_a_file_that_is_not_listed_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    assert f"{name} does not belong here" in refusal(folder)


@pytest.mark.parametrize("name", [".hidden", "weights/.hidden", "a b", "ü", "a\nb", "a\\b", "\u202egpj", b"\xff\xfe"])
def test_a_file_with_a_name_that_hides_it_is_refused_and_shown_in_ascii(folder, name):
    os.close(os.open(os.fsencode(folder) + b"/" + os.fsencode(name), os.O_CREAT))
    assert refusal(folder).isascii() and "\n" not in refusal(folder)


def test_a_folder_that_holds_nothing_is_refused(folder):
    (folder / "weights" / "more").mkdir()
    assert "weights/more holds no file" in refusal(folder)


def test_a_link_to_a_file_is_refused_even_where_the_contents_are_right(folder):
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")
    assert "'model.onnx' is a symbolic link" in refusal(folder)


def test_a_link_to_a_folder_is_refused_even_where_the_contents_are_right(folder):
    (folder / "weights").rename(folder.parent / "elsewhere")
    (folder / "weights").symlink_to(folder.parent / "elsewhere")
    assert "'weights' is a symbolic link" in refusal(folder)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "dangling"])
def test_no_name_at_all_may_be_a_link(folder, name):
    (folder / "manifest.json").rename(folder.parent / "m")
    (folder / "manifest.json").symlink_to(folder.parent / "m")
    if name != "manifest.json":
        (folder.parent / "m").rename(folder / "manifest.json")
        (folder / name).symlink_to("nowhere")
    assert f"{name!r} is a symbolic link" in refusal(folder)


def test_a_pipe_or_socket_is_refused_without_waiting_for_it(folder):
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    assert "'model.onnx' is not a regular file" in refusal(folder)
    (folder / "model.onnx").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "model.onnx"))
        assert "'model.onnx' is not a regular file" in refusal(folder)


def test_a_folder_where_the_manifest_should_be_is_refused(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    (folder / "manifest.json" / "x").touch()
    with pytest.raises(IntegrityError):
        Bundle.open(folder)


def test_names_that_differ_only_in_case_are_refused(folder):
    (folder / "MODEL.onnx").touch()
    assert "collide" in refusal(folder)
    (folder / "MODEL.onnx").unlink()
    (folder / "Manifest.json").touch()
    assert "collide" in refusal(folder)


def test_a_flood_of_files_is_refused(folder, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 20)
    for i in range(30):
        (folder / f"x{i}").touch()
    assert "more than 20 files" in refusal(folder)


def test_very_deep_folders_are_refused(folder):
    at = folder
    for _ in range(120):
        at = at / "dd"
        at.mkdir()
    assert "longer than 200" in refusal(folder)


def test_sparse_files_beyond_the_limit_are_refused_unread(folder):
    os.truncate(folder / "model.onnx", layout.MAX_TOTAL_BYTES)
    assert "too large" in refusal(folder)
    os.truncate(folder / "model.onnx", 10)
    os.truncate(folder / "manifest.json", layout.MAX_MANIFEST_BYTES + 1)
    assert "manifest.json is too large" in refusal(folder)


@pytest.mark.parametrize("swap", ["content", "shorter", "longer", "link", "folder link", "fifo", "gone"])
def test_a_file_replaced_between_opening_and_reading_is_refused(folder, swap):
    target = folder / "weights" / "model.bin"
    with Bundle.open(folder) as bundle:
        raw = target.read_bytes()
        target.unlink()
        if swap == "content":
            target.write_bytes(raw[::-1])
        elif swap == "shorter":
            target.write_bytes(raw[:-1])
        elif swap == "longer":
            target.write_bytes(raw + b"\0")
        elif swap == "link":
            (folder.parent / "x").write_bytes(raw)
            target.symlink_to(folder.parent / "x")
        elif swap == "folder link":
            (folder / "weights").rmdir()
            (folder.parent / "y").mkdir()
            (folder.parent / "y" / "model.bin").write_bytes(raw)
            (folder / "weights").symlink_to(folder.parent / "y")
        elif swap == "fifo":
            os.mkfifo(target)
        for read in (lambda: bundle.read("weights/model.bin"), bundle.verify):
            with pytest.raises(IntegrityError) as caught:
                read()
            assert "weights/model.bin" in caught.value.where


def test_another_bundle_moved_into_the_place_of_an_open_one_is_not_read(make, files):
    path = make("b")
    with Bundle.open(path) as bundle:
        path.rename(path.with_name("old"))
        make("b", files={**files, "model.onnx": ("model", b"other")})
        assert bundle.read("model.onnx") == files["model.onnx"][1]


def test_an_input_output_error_of_the_disk_is_an_input_error(folder, monkeypatch):
    with Bundle.open(folder) as bundle:

        def broken(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", broken)
        with pytest.raises(InputError, match="cannot be read"):
            bundle.read("model.onnx")
