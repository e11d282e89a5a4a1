"""Manifests made by an attacker: malformed JSON, malformed fields, and lists that contradict themselves."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle.layout import first_collision, name_problem
from edgekit.bundle.manifest import FileEntry, HistoryStep, Parity, Quality, manifest_bytes, parse_manifest
from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.errors import InputError, IntegrityError


@pytest.fixture
def refused(full):
    """The error that a manifest gives after its JSON data was changed in place."""

    def attempt(change) -> IntegrityError:
        data = json.loads(manifest_bytes(replace(full, selftest=())))
        change(data)
        with pytest.raises(IntegrityError) as caught:
            parse_manifest(json.dumps(data).encode(), "manifest.json")
        assert caught.value.exit_code == 3
        return caught.value

    return attempt


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"{} {}", "Extra data"),
        (b"\xff\xfe{}", "utf-8"),
        (b'{"a": "\xc3"}', "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": -Infinity}', "not finite"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": 1, "b": 2, "a": 1}', "'a' appears twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "'b' appears twice"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "100000 digits"),
        (b'{"a": -' + b"9" * 21 + b"}", "21 digits"),
        (b"[" * 100_000, "deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "deep"),
        (b'{"a":' * 90 + b"1" + b"}" * 90, "deep"),
        (b'{"a": "\\ud800"}', "control"),
        (b'{"\\u001b[2J": 1}', "control"),
        (b'{"a": ["\\u202e"]}', "control"),
        (b'{"a": "\0"}', "control"),
    ],
)
def test_json_outside_the_dialect_is_refused(raw, sentence):
    with pytest.raises(IntegrityError) as caught:
        parse_json(raw, "x")
    assert sentence.lower() in str(caught.value).lower() and caught.value.what.isascii()


def test_many_keys_with_one_duplicate_are_refused_in_linear_time():
    raw = b"{" + b",".join(b'"%d":0' % i for i in range(200_000)) + b',"199999":0}'
    begin = time.perf_counter()
    with pytest.raises(IntegrityError, match="twice"):
        parse_json(raw, "x")
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"a": object()}, {"a": {1, 2}}, "\x1b", 10**20])
def test_what_readers_would_refuse_is_not_written(full, value):
    step = HistoryStep("calibrate", {"value": value}, {})
    with pytest.raises(InputError, match="cannot be written"):
        manifest_bytes(replace(full, history=(step,)))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**19), 10**19) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["C"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcäöü", max_size=3), inner, max_size=3),
        max_leaves=20,
    )
)  # fmt: skip
def test_json_reads_back_as_it_was_written(data):
    raw = render_json(data, "x")
    assert parse_json(raw, "x") == data and render_json(parse_json(raw, "x"), "x") == raw


@given(st.binary(max_size=40) | st.text('{}[]",:\\u0123e+-. \ntrufalsn', max_size=40).map(str.encode))
def test_any_bytes_give_data_or_an_integrity_error(raw):
    try:
        parse_manifest(raw, "x")
    except IntegrityError:
        return
    raise AssertionError("40 bytes cannot be a manifest")


@pytest.mark.parametrize("data", [None, [], 3, "text", {}, {"schema": "edgekit/bundle/2"}, {"schema": ["x"]}])
def test_another_format_is_refused_with_the_advice_to_upgrade(data):
    with pytest.raises(IntegrityError, match="format") as caught:
        parse_manifest(json.dumps(data).encode(), "x")
    assert "upgrade" in caught.value.fix


def test_unknown_missing_and_mistyped_fields_are_refused_with_their_place(refused):
    assert "'surprise'" in refused(lambda data: data.update(surprise=1)).what
    assert "'target'" in refused(lambda data: data.pop("target")).what
    assert refused(lambda data: data.update(version="3")).where == "manifest.json.version"
    assert refused(lambda data: data["target"]["runtime"].update(min=["1"])).where == "manifest.json.target.runtime.min"
    assert (
        refused(lambda data: data["model"]["inputs"][0].update(shape="abc")).where
        == "manifest.json.model.inputs[0].shape"
    )
    refused(lambda data: data.update(version=True))
    refused(lambda data: data.update(version=1.5))
    refused(lambda data: data["quality"].update(parent="1"))


@pytest.mark.parametrize("kind", [None, "pickle", 3, [], {}])
def test_an_unknown_kind_of_postprocessing_is_refused(refused, kind):
    refused(lambda data: data["model"]["postprocess"].update(kind=kind))


@pytest.mark.parametrize("version", ["", "1.", "1..2", "v1", "1.2.3.4.5", "1" * 10, "1;rm", "１"])
def test_a_runtime_version_that_is_not_numbers_and_dots_is_refused(refused, version):
    assert "version" in refused(lambda data: data["target"]["runtime"].update(min=version)).what


def entry(path="a", sha256="0" * 64, size=0, role="model"):
    return {"path": path, "sha256": sha256, "size": size, "role": role}


@pytest.mark.parametrize(
    "files",
    [
        [entry("manifest.json")],
        [entry("manifest.sig")],
        [entry("MANIFEST.json")],
        [entry("manifest.json/a")],
        [entry("a"), entry("a")],
        [entry("a"), entry("A")],
        [entry("a/x"), entry("A/y")],
        [entry("a"), entry("a/b")],
        [entry("../a")],
        [entry("/a")],
        [entry("")],
        [entry(size=-1)],
        [entry(size=2**63)],
        [entry("a", size=2**36), entry("b", size=2**36)],
        [entry(sha256="0" * 63)],
        [entry(sha256="G" * 64)],
        [entry(sha256="0" * 63 + "\n")],
        [entry(role=" ")],
        [entry(f"a{i}") for i in range(4095)],
    ],
)
def test_a_list_of_files_that_no_bundle_can_have_is_refused(refused, files):
    refused(lambda data: data.update(files=files))


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "Manifest.SIG"])
def test_the_manifest_and_its_signature_are_never_listed(refused, name):
    assert "never listed" in refused(lambda data: data.update(files=[entry(name)])).what


def test_a_self_test_that_reads_an_unlisted_file_is_refused(refused):
    vector = {"inputs": {"x": "../../etc/passwd"}, "outputs": {"y": "b"}, "tolerance": 0, "origin": "real"}
    assert "../../etc/passwd" in refused(lambda data: data.update(selftest=[vector])).what
    refused(lambda data: data.update(selftest=[{**vector, "inputs": {}}]))


def test_questions_are_told_apart_by_their_ids(refused):
    assert "same id" in refused(lambda data: data["questions"].append(data["questions"][0])).what


def test_quality_is_measured_with_figures_or_unknown_with_a_reason():
    Quality("unknown", reason="no labels")
    measured = {"status": "measured", "metric": "ap50", "parent": 0.0, "bundle": 0.0, "samples": 1}
    Quality(**measured)
    Quality(**measured, drop=-0.5, drop_upper=0.0, drop_lower=-1.0, confidence=0.95, replicates=1)
    for wrong in (
        {"status": "unknown"},
        {"status": "unknown", "reason": ""},
        {"status": "unknown", "reason": "no labels", "parent": 1.0},
        {"status": "measured", "metric": "ap50"},
        {"status": "measured", "metric": "", "parent": 1.0, "bundle": 1.0, "samples": 3},
        {"status": "unknown", "reason": "no labels", "drop": 1.0},
        {**measured, "drop_upper": 1.0},
        {**measured, "drop": 1.0, "confidence": 1.0},
        {**measured, "drop": 1.0, "replicates": 0},
    ):
        with pytest.raises(ValueError, match="quality"):
            Quality(**wrong)


def test_parity_cannot_say_passed_against_its_own_figures(full):
    with pytest.raises(ValueError, match="parity says passed"):
        replace(full.parity[0], relative=1.0)
    with pytest.raises(ValueError, match="parity says passed"):
        replace(full.parity[0], samples=0)
    assert isinstance(replace(full.parity[0], relative=1.0, passed=False), Parity)


part = st.from_regex(r"[a-cA-C]{1,2}", fullmatch=True)


@given(st.lists(st.lists(part, min_size=1, max_size=3).map("/".join), max_size=6))
def test_names_without_a_collision_can_all_exist_where_case_is_ignored(names):
    folders: dict[str, str] = {}
    files: set[str] = set()
    fits = True
    for name in names:
        parts = name.split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        fits &= all(folders.setdefault(a.lower(), a) == a for a in above)
        fits &= name.lower() not in files
        files.add(name.lower())
    fits &= not files & set(folders)
    assert (first_collision(names) is None) == fits


@given(st.text(min_size=1, max_size=12))
def test_an_accepted_name_stays_inside_on_every_system(name):
    if name_problem(name) is None:
        assert name.isascii() and name.isprintable() and not set('\\:*?"<>| ') & set(name)
        assert all(part and part[0] != "." and part[-1] != "." for part in name.split("/"))
        assert FileEntry(name, "0" * 64, 0, "model").path == name
