"""The cache of engines: keys, refusals, and writing that is whole or not at all. No TensorRT, and no double of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle.strictjson import render_json
from edgekit.errors import InputError, IntegrityError, MissingError
from edgekit.runtimes.tensorrt_cache import (
    ENGINE,
    NOTE,
    SCHEMA,
    CachedEngine,
    Checked,
    EngineCache,
    EngineNote,
    Place,
    engine_key,
    sha256,
)
from edgekit.structure import encode

HERE = Place("10.3.0", "12.6", "8.7", 8, "Orin")
PLAN = b"an engine" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    return EngineCache.of_user()


def engine(place: Place = HERE, model: bytes = b"model", plan: bytes = PLAN) -> CachedEngine:
    key = engine_key(model, b"recipe", place)
    checked = (Checked("selftest-0", 1e-3, 2e-2),)
    note = EngineNote(SCHEMA, key, sha256(model), sha256(b"recipe"), sha256(plan), len(plan), place, checked)
    return CachedEngine(plan, note)


KEY = engine().note.key


def test_what_was_published_is_loaded(cache: EngineCache) -> None:
    assert cache.load(KEY, HERE) is None
    path = cache.publish(engine())
    assert cache.load(KEY, HERE) == engine()
    assert path == cache.place_of(KEY)
    assert sorted(file.name for file in path.iterdir()) == [NOTE, ENGINE]
    newer = engine(plan=b"another")
    cache.publish(newer)
    assert cache.load(KEY, HERE) == newer
    assert [entry.name for entry in cache.folder.iterdir()] == [KEY]


def test_nobody_else_may_read_or_write_there(cache: EngineCache) -> None:
    before = os.umask(0)
    try:
        cache.publish(engine())
        cache.publish_timing("t", HERE, b"x")
    finally:
        os.umask(before)
    modes = {entry.stat().st_mode & 0o777 for entry in (cache.folder, cache.folder.parent, cache.place_of(KEY))}
    assert modes == {0o700}
    files = [path for path in cache.folder.rglob("*") if path.is_file()]
    assert len(files) == 3 and {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.parametrize(
    "other",
    [
        engine_key(b"model2", b"recipe", HERE),
        engine_key(b"modelr", b"ecipe", HERE),
        engine_key(b"model", b"recipe2", HERE),
        *(
            engine_key(b"model", b"recipe", replace(HERE, **{name: value}))
            for name, value in {
                "tensorrt": "10.3.1",
                "cuda": "12.7",
                "compute_capability": "8.6",
                "sm_count": 4,
            }.items()
        ),
    ],
)
def test_the_key_depends_on_everything_that_an_engine_does(other: str) -> None:
    assert other != KEY and len(other) == 64


@given(st.tuples(st.binary(max_size=4), st.binary(max_size=4)), st.tuples(st.binary(max_size=4), st.binary(max_size=4)))
def test_two_keys_are_equal_only_where_model_and_recipe_are(
    one: tuple[bytes, bytes], other: tuple[bytes, bytes]
) -> None:
    assert (engine_key(*one, HERE) == engine_key(*other, HERE)) == (one == other)


def test_the_key_does_not_depend_on_the_gpus_name() -> None:
    assert engine_key(b"model", b"recipe", replace(HERE, gpu="Orin (nvgpu)")) == KEY


def rewrite(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        document = json.loads((folder / NOTE).read_text())
        change(document)
        (folder / NOTE).write_text(json.dumps(document))

    return act


def flip(folder: Path) -> None:
    data = bytearray((folder / ENGINE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / ENGINE).write_bytes(data)


def link(folder: Path) -> None:
    (folder / ENGINE).rename(folder.with_name("elsewhere"))
    (folder / ENGINE).symlink_to(folder.with_name("elsewhere"))


def fifo(folder: Path) -> None:
    (folder / ENGINE).unlink()
    os.mkfifo(folder / ENGINE, 0o600)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (flip, "was changed or damaged"),
        (lambda folder: (folder / ENGINE).write_bytes(PLAN[:-1]), "was changed or damaged"),
        (lambda folder: (folder / ENGINE).unlink(), "engine.plan cannot be read"),
        (lambda folder: (folder / NOTE).unlink(), "engine.json cannot be read"),
        (lambda folder: (folder / NOTE).write_text("{"), "note cannot be read"),
        (lambda folder: (folder / NOTE).write_text("[]"), "note cannot be read"),
        (lambda folder: (folder / NOTE).write_bytes(b" " * (1 << 21)), "too large"),
        (link, "engine.plan cannot be read"),
        (fifo, "is no plain file"),
        (rewrite(lambda note: note.update(surprise=1)), "note cannot be read"),
        (rewrite(lambda note: note.update(key="0" * 64)), "not the one that its folder names"),
        (rewrite(lambda note: note.update(engine_sha256="0" * 64)), "was changed or damaged"),
        (rewrite(lambda note: note["place"].update(tensorrt="10.16.1")), "TensorRT: built for 10.16.1, here is 10.3.0"),
        (rewrite(lambda note: note["place"].update(compute_capability="9.0")), "built for 9.0, here is 8.7"),
        (rewrite(lambda note: note["place"].update(sm_count=4)), "built for 4, here is 8"),
        (rewrite(lambda note: note["place"].update(cuda="13.2")), "CUDA: built for 13.2, here is 12.6"),
        (lambda folder: folder.chmod(0o770), "others can write"),
        (lambda folder: (folder / ENGINE).chmod(0o602), "others can write"),
        (lambda folder: (folder / NOTE).chmod(0o620), "others can write"),
    ],
)
def test_an_engine_that_is_not_to_be_trusted_is_refused(
    cache: EngineCache, act: Callable[[Path], None], said: str
) -> None:
    act(cache.publish(engine()))
    with pytest.raises(IntegrityError) as caught:
        cache.load(KEY, HERE)
    assert said in str(caught.value)
    assert caught.value.exit_code == 3
    cache.drop(KEY)
    assert cache.load(KEY, HERE) is None
    cache.publish(engine())
    assert cache.load(KEY, HERE) == engine()


def test_a_link_in_place_of_an_engines_folder_is_refused(cache: EngineCache) -> None:
    path = cache.publish(engine())
    path.rename(cache.folder.parent / "moved")
    path.symlink_to(cache.folder.parent / "moved")
    with pytest.raises(IntegrityError, match="no folder"):
        cache.load(KEY, HERE)
    cache.drop(KEY)
    assert (cache.folder.parent / "moved" / ENGINE).exists()


@pytest.mark.parametrize("level", ["engines", "edgekit"])
def test_a_cache_that_others_can_write_is_refused(cache: EngineCache, level: str) -> None:
    {"engines": cache.folder, "edgekit": cache.folder.parent}[level].chmod(0o777)
    with pytest.raises(IntegrityError, match="others can write") as caught:
        EngineCache.of_user()
    assert "chmod go-w" in str(caught.value.fix)


def test_a_cache_of_another_user_is_refused(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.publish(engine())
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(IntegrityError, match="belongs to another user"):
        EngineCache.of_user()
    with pytest.raises(IntegrityError, match="belongs to another user"):
        cache.load(KEY, HERE)


def test_a_cache_that_is_a_file_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written"):
        EngineCache.of_user()


def test_the_home_folder_is_used_where_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EngineCache.of_user().folder == tmp_path / ".cache" / "edgekit" / "engines"


def test_a_full_disk_leaves_the_old_engine_and_nothing_else(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.publish(engine())

    def full(fd: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(MissingError, match="no room left") as caught:
            cache.publish(engine(plan=b"newer"))
        with pytest.raises(MissingError, match="no room left"):
            cache.publish_timing("t", HERE, b"x")
    assert caught.value.exit_code == 4
    assert [entry.name for entry in cache.folder.iterdir()] == [KEY]
    assert cache.load(KEY, HERE) == engine()


def test_what_a_crash_left_is_passed_over(cache: EngineCache) -> None:
    left = cache.folder / ".partial-0123"
    left.mkdir()
    (left / ENGINE).write_bytes(b"half")
    (cache.folder / "stray").mkdir()
    assert cache.others(sha256(b"model"), HERE) is None
    cache.publish(engine(place=replace(HERE, sm_count=4)))
    assert cache.others(sha256(b"model"), HERE) == (
        "an engine of this model is here, but multiprocessors (power mode): built for 4, here is 8"
    )
    assert cache.others(sha256(b"other model"), HERE) is None


def test_dropping_what_is_not_there_does_nothing(cache: EngineCache) -> None:
    cache.drop(KEY)
    assert list(cache.folder.iterdir()) == []


def test_timing_is_kept_for_one_gpu_and_one_tensorrt(cache: EngineCache) -> None:
    assert cache.timing("orin.timing", HERE) == b""
    cache.publish_timing("orin.timing", HERE, b"one")
    cache.publish_timing("orin.timing", HERE, b"two")
    assert cache.timing("orin.timing", HERE) == b"two"
    assert cache.timing("orin.timing", replace(HERE, tensorrt="10.4")) == b""
    assert cache.timing("other.timing", HERE) == b""


def test_a_note_is_json_of_our_dialect(cache: EngineCache) -> None:
    path = cache.publish(engine())
    assert (path / NOTE).read_bytes() == render_json(encode(engine().note), NOTE)
