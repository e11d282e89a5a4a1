"""A bundle that is not what it claims to be: exit 3 and one clear sentence, from every command that opens one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from edgekit.bundle.zipformat import zip_chunks

COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "{bundle}"),
    "inspect --json": ("inspect", "{bundle}", "--json"),
    "verify": ("verify", "{bundle}"),
    "verify --key": ("verify", "{bundle}", "--key", "{key}"),
    "run": ("run", "{bundle}", "{picture}"),
}
FILES = ("manifest.json", "manifest.sig", "model.onnx", "selftest/0/inputs-0.npy", "selftest/0/outputs-0.npy")


@pytest.fixture(params=["folder", "zip"])
def bundle(request: pytest.FixtureRequest, small_bundles: dict[str, Path], folder: Path) -> Path:
    """A copy of the signed bundle, to be changed."""
    original = small_bundles[request.param]
    copy = folder / original.name
    if original.is_dir():
        shutil.copytree(original, copy)
    else:
        shutil.copy(original, copy)
    return copy


@pytest.fixture
def call(edgekit: Any, small_bundles: dict[str, Path], cells_png: Path) -> Callable[..., Any]:
    def run(command: str, bundle: Path, key: str = "key") -> Any:
        words = {"bundle": bundle, "key": small_bundles[key], "picture": cells_png}
        return edgekit(*(part.format(**words) for part in COMMANDS[command]))

    return run


def contents(bundle: Path) -> dict[str, bytes]:
    if bundle.is_dir():
        return {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def change(bundle: Path, name: str, how: Callable[[bytes], bytes]) -> None:
    """Change one file of a bundle, in place."""
    if bundle.is_dir():
        (bundle / name).write_bytes(how((bundle / name).read_bytes()))
        return
    raw, inner = bundle.read_bytes(), contents(bundle)[name]
    assert raw.count(inner) == 1
    bundle.write_bytes(raw.replace(inner, how(inner)))


def flip(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


def assert_refused(done: Any, *names: str) -> None:
    assert done.code == 3, done.sentence
    said = done.document["what"] if done.out.startswith("{") else done.err.splitlines()[0].removeprefix("error: ")
    assert said and len(said) < 200
    assert any(name in done.sentence for name in names), done.sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_an_intact_bundle_is_accepted(bundle: Path, call: Any, command: str) -> None:
    assert call(command, bundle).code == 0


LISTED = [name for name in FILES if not name.startswith("manifest")]


@pytest.mark.parametrize(
    ("command", "name"),
    # Whether manifest and signature are the right ones, only a key can tell.
    [*((command, name) for command in COMMANDS for name in LISTED), *(("verify --key", name) for name in FILES[:2])],
)
def test_a_flipped_bit_in_any_file_is_refused(bundle: Path, call: Any, command: str, name: str) -> None:
    change(bundle, name, flip)
    assert_refused(call(command, bundle), name, "signature", "manifest", "zip")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", LISTED)
def test_a_truncated_file_is_refused_by_name(bundle: Path, call: Any, command: str, name: str) -> None:
    if bundle.is_dir():
        change(bundle, name, lambda raw: raw[:-1])
    else:
        bundle.write_bytes(bundle.read_bytes()[:-200])
    assert_refused(call(command, bundle), name, "b.edgekit")


@pytest.mark.parametrize("command", ["verify --key"])
def test_a_signature_of_another_key_is_refused(bundle: Path, call: Any, command: str) -> None:
    assert_refused(call(command, bundle, key="stranger"), "signature", "key")


def test_a_swapped_signature_is_refused(bundle: Path, edgekit: Any, small_bundles: dict[str, Path]) -> None:
    from edgekit.bundle import load_private_key, sign_bytes

    key = load_private_key(small_bundles["private"])
    foreign = sign_bytes(key, b"another manifest")
    assert len(foreign) == len(contents(bundle)["manifest.sig"])
    if bundle.is_dir():
        (bundle / "manifest.sig").write_bytes(foreign)
    else:
        rewrite(bundle, {**contents(bundle), "manifest.sig": foreign})
    assert_refused(edgekit("verify", bundle, "--key", small_bundles["key"]), "signature")


def rewrite(bundle: Path, files: dict[str, bytes]) -> None:
    bundle.write_bytes(b"".join(zip_chunks(sorted(files.items()))))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt"])
def test_a_path_out_of_the_zip_is_refused_and_nothing_is_written(
    small_bundles: dict[str, Path], folder: Path, call: Any, command: str, name: str
) -> None:
    bundle = folder / "evil.edgekit"
    rewrite(bundle, {**contents(small_bundles["zip"]), name: b"evil"})
    before = sorted(folder.parent.rglob("*"))
    assert_refused(call(command, bundle), "evil.txt")
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_or_a_foreign_file_in_the_folder_is_refused(
    small_bundles: dict[str, Path], folder: Path, call: Any, command: str
) -> None:
    for name, make in (("link", lambda p: p.symlink_to("/etc/passwd")), ("extra", lambda p: p.write_text("?"))):
        bundle = folder / f"with-{name}"
        shutil.copytree(small_bundles["folder"], bundle)
        make(bundle / name)
        assert_refused(call(command, bundle), name)


@pytest.mark.parametrize("command", ["verify", "run"])
def test_an_unsigned_bundle_is_refused_with_a_key(
    bundle: Path, edgekit: Any, small_bundles: dict[str, Path], cells_png: Path, command: str
) -> None:
    if bundle.is_dir():
        (bundle / "manifest.sig").unlink()
    else:
        rewrite(bundle, {name: raw for name, raw in contents(bundle).items() if name != "manifest.sig"})
    picture = [cells_png] if command == "run" else []
    assert edgekit(command, bundle, *picture).code == 0
    assert_refused(edgekit(command, bundle, *picture, "--key", small_bundles["key"]), "not signed")


def test_what_is_no_bundle_at_all_is_a_usage_error(edgekit: Any, folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "text.edgekit").write_text("hello")
    for path in ("nothing", "empty", "text.edgekit"):
        done = edgekit("inspect", path)
        assert done.code in (2, 3)
        assert path in done.err


def test_the_real_command_says_it_in_one_sentence(bundle: Path, small_bundles: dict[str, Path]) -> None:
    change(bundle, "model.onnx", flip)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "edgekit.cli.main", "verify", str(bundle)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert re.match(r"error: model\.onnx (was changed or|is) damaged\n  where: .*model\.onnx\n  why: ", done.stderr)
    assert "Traceback" not in done.stderr
