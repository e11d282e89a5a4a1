"""A signed bundle with any change anywhere is refused with an `IntegrityError`, or reads exactly as before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bundle.reader import Bundle
from edgekit.bundle.writer import write_bundle
from edgekit.errors import IntegrityError

LAW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def originals(tmp_path_factory, full, private_key) -> Path:
    """A folder with the signed bundles `b` and `b.edgekit`, which have small files so that headers weigh more."""
    folder = tmp_path_factory.mktemp("signed")
    files = {"selftest/images.npy": ("selftest", b"12"), "selftest/maps.npy": ("selftest", b"")}
    for name in ("b", "b.edgekit"):
        write_bundle(folder / name, full, {**files, "model.onnx": ("model", b"graph")}, private_key=private_key).close()
    return folder


def everything(path: Path, key: bytes | None) -> tuple[bytes, dict[str, bytes]]:
    """All that a reader of the bundle can see."""
    with Bundle.open(path, key=key) as bundle:
        bundle.verify()
        return bundle.manifest_raw, {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}


def changes(raw: bytes) -> st.SearchStrategy[bytes]:
    """Byte strings that differ from `raw` by a flip, a cut, an insertion, a deletion or a move."""
    at = st.integers(0, max(0, len(raw) - 1))

    def flip(where: int, bits: int) -> bytes:
        return raw[:where] + bytes(byte ^ bits for byte in raw[where : where + 1]) + raw[where + 1 :]

    def move(a: int, b: int, c: int) -> bytes:
        a, b, c = sorted((a, b, c))
        return raw[:a] + raw[b:c] + raw[a:b] + raw[c:]

    return st.one_of(
        st.builds(flip, at, st.integers(1, 255)),
        at.map(lambda n: raw[:n]),
        st.builds(lambda n, more: raw[:n] + more + raw[n:], at, st.binary(min_size=1, max_size=40)),
        st.builds(lambda n, count: raw[:n] + raw[n + count :], at, st.integers(1, 100)),
        st.builds(move, at, at, at),
    ).filter(lambda changed: changed != raw)


@LAW
@given(st.data())
def test_any_change_to_a_zip_is_refused(originals, tmp_path, key, data):
    raw = (originals / "b.edgekit").read_bytes()
    bad = tmp_path / "bad.edgekit"
    bad.write_bytes(data.draw(changes(raw)))
    for with_key in (key, None):  # every byte of a zip is checked, so even without a key nothing passes
        with pytest.raises(IntegrityError):
            everything(bad, with_key)


def test_every_single_flipped_bit_of_a_zip_is_refused(originals, tmp_path, key):
    raw = bytearray((originals / "b.edgekit").read_bytes())
    bad = tmp_path / "bad.edgekit"
    for at in range(len(raw)):
        raw[at] ^= 1 << at % 8
        bad.write_bytes(raw)
        raw[at] ^= 1 << at % 8
        with pytest.raises(IntegrityError):
            everything(bad, key)


@LAW
@given(st.data())
def test_any_change_to_a_file_of_a_folder_is_refused(originals, tmp_path, key, data):
    names = sorted(str(path.relative_to(originals / "b")) for path in (originals / "b").rglob("*") if path.is_file())
    name = data.draw(st.sampled_from(names))
    changed = data.draw(
        changes((originals / "b" / name).read_bytes()) if name != "selftest/maps.npy" else st.just(b"x")
    )
    bad = tmp_path / "bad"
    shutil.copytree(originals / "b", bad, dirs_exist_ok=True)
    (bad / name).write_bytes(changed)
    with pytest.raises(IntegrityError):
        everything(bad, key)
    try:  # without a key the manifest vouches for itself, but nothing else may come out
        everything(bad, None)
    except IntegrityError:
        return
    assert name in ("manifest.json", "manifest.sig")


def _delete(path: Path) -> None:
    path.unlink()


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "aside")
    path.symlink_to(path.parent.parent / "aside")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _case(path: Path) -> None:
    path.rename(path.with_name(path.name.upper()))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("trick", [_delete, _link, _pipe, _case, _folder])
@pytest.mark.parametrize("name", ["manifest.sig", "model.onnx", "selftest/maps.npy"])
def test_any_trick_with_a_name_in_a_folder_is_refused(originals, tmp_path, key, trick, name):
    bad = tmp_path / "bad"
    shutil.copytree(originals / "b", bad)
    trick(bad / name)
    with pytest.raises(IntegrityError):
        everything(bad, key)


def test_the_originals_read(originals, key):
    assert everything(originals / "b", key) == everything(originals / "b.edgekit", key)
