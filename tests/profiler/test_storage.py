"""A profile on the disk: written whole, read strictly, and described by a schema that is made from the dataclasses."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import replace
from importlib import resources

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, InputError, IntegrityError
from edgekit.profiler.report import SCHEMA
from edgekit.profiler.schema import schema, schema_text
from edgekit.profiler.storage import (
    by_process,
    parse_report,
    read_report,
    report_bytes,
    samples_folder,
    write_report,
)

PUBLISHED = (resources.files("edgekit.profiler") / "report.schema.json").read_text("utf-8")
VALIDATOR = jsonschema.Draft202012Validator(json.loads(PUBLISHED))


def test_what_is_written_is_read_back(powered, tmp_path):
    path = tmp_path / "b.profile.json"
    write_report(powered, path)
    report, arrays = read_report(path)
    assert report == powered.report
    assert set(arrays) == set(powered.arrays)
    for name, array in powered.arrays.items():
        assert np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.profile", "b.profile.json"]
    assert sorted(one.name for one in (tmp_path / "b.profile").iterdir()) == sorted(powered.arrays)


def test_an_older_profile_is_replaced_with_its_samples(made, powered, tmp_path):
    path = tmp_path / "b.profile.json"
    write_report(powered, path)
    write_report(made, path)
    report, arrays = read_report(path)
    assert report == made.report and set(arrays) == set(made.arrays)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.profile", "b.profile.json"]
    with pytest.raises(InputError, match="there is a profile"):
        write_report(made, path, replace=False)


def test_a_failure_leaves_the_older_profile(made, tmp_path, monkeypatch):
    path = tmp_path / "b.profile.json"
    write_report(made, path)
    odd = replace(made, arrays={**made.arrays, "odd.npy": np.array(["text"])})
    with pytest.raises(EdgekitError):
        write_report(odd, path)
    assert read_report(path)[0] == made.report
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.profile", "b.profile.json"]


def test_the_document_is_as_the_published_schema_says(made, powered):
    for one in (made, powered):
        VALIDATOR.validate(json.loads(report_bytes(one.report)))


def test_the_published_schema_is_that_of_the_dataclasses():
    assert schema_text() == PUBLISHED, "python -m edgekit.profiler.schema > edgekit/profiler/report.schema.json"
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$id"] == SCHEMA


def _places(data, path=()):
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _places(value, (*path, key))
    if isinstance(data, list):
        for index, value in enumerate(data):
            yield from _places(value, (*path, index))


STRANGE = [None, True, 0, -1, 2**40, 0.5, "", "x", "FAIL", [], ["x"], {}, {"x": "y"}, {"reason": "r"}]


@given(st.data())
def test_reader_and_schema_judge_alike(powered_once, data):
    changed = json.loads(report_bytes(powered_once.report))
    path = data.draw(st.sampled_from([place for place in _places(changed) if place]))
    at = changed
    for step in path[:-1]:
        at = at[step]
    action = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "remove":
        del at[path[-1]]
    elif action == "add" and isinstance(at, dict):
        at["surprise"] = 1
    else:
        at[path[-1]] = data.draw(st.sampled_from(STRANGE))
    try:
        parse_report(json.dumps(changed).encode(), "r")
        ours = True
    except EdgekitError:
        ours = False
    assert ours == VALIDATOR.is_valid(changed), (path, action)


@pytest.fixture(scope="module")
def powered_once(make):
    return make([np.linspace(1, 2, 60)])


@pytest.mark.parametrize("name", ["b.json", ".profile.json", "b.profile", "b"])
def test_a_name_that_no_report_has_is_refused(made, tmp_path, name):
    with pytest.raises(InputError, match=r"ends in \.profile\.json"):
        write_report(made, tmp_path / name)


@pytest.mark.parametrize("name", ["../x.npy", "x.txt", "X.npy", "a b.npy", ".npy", "x.npy\n"])
def test_names_of_samples_stay_in_their_folder(made, tmp_path, name):
    with pytest.raises(InputError, match="no name for samples"):
        write_report(replace(made, arrays={**made.arrays, name: np.zeros(3)}), tmp_path / "b.profile.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({"latency_ms.npy": None}, "are missing"),
        ({"latency_ms.npy": np.ones(3)}, "does not fit"),
        ({"latency_ms.npy": np.ones(1200, np.float32)}, "does not fit"),
        ({"latency_ms.npy": np.full(1200, np.nan)}, "does not fit"),
        ({"latency_ms.npy": np.full(1200, -1.0)}, "does not fit"),
        ({"processes.npy": np.zeros(1200, np.int64)}, "does not fit"),
        ({"processes.npy": np.zeros(1200)}, "does not fit"),
        ({"start_s.npy": np.zeros(5)}, "does not fit"),
        ({"start_s.npy": np.full(1200, np.inf)}, "does not fit"),
        ({"energy_t_s.npy": np.zeros(5), "energy_w.npy": np.zeros(4)}, "does not fit"),
        ({"energy_t_s.npy": np.zeros(5), "energy_w.npy": np.full(5, np.nan)}, "does not fit"),
        ({"energy_t_s.npy": np.zeros(5), "energy_j.npy": np.zeros((5, 1))}, "does not fit"),
        ({"energy_t_s.npy": np.arange(5.0)[::-1], "energy_w.npy": np.zeros(5)}, "does not fit"),
        ({"energy_t_s.npy": np.zeros(0), "energy_w.npy": np.zeros(0)}, "does not fit"),
    ],
)
def test_samples_that_do_not_fit_are_refused_on_both_ways(made, tmp_path, arrays, error):
    from edgekit.bundle.npy import encode_array

    path = tmp_path / "b.profile.json"
    kept = {name: array for name, array in {**made.arrays, **arrays}.items() if array is not None}
    with pytest.raises(EdgekitError, match=error):
        write_report(replace(made, arrays=kept), path)
    write_report(made, path)
    for name, array in arrays.items():
        place = tmp_path / "b.profile" / name
        place.unlink(missing_ok=True)
        if array is not None:
            place.write_bytes(encode_array(array))
    with pytest.raises(EdgekitError, match=error):
        read_report(path)


def test_pickles_links_and_strangers_among_the_samples_are_refused(made, tmp_path):
    path = tmp_path / "b.profile.json"
    folder = tmp_path / "b.profile"
    write_report(made, path)
    np.save(folder / "evil.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(IntegrityError, match=r"no \.npy file of plain numbers"):
        read_report(path)
    (folder / "evil.npy").unlink()
    (folder / "evil.npy").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="cannot be read"):
        read_report(path)
    (folder / "evil.npy").unlink()
    os.mkfifo(folder / "evil.npy")
    with pytest.raises(InputError, match="cannot be read"):
        read_report(path)
    (folder / "evil.npy").unlink()
    (folder / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="does not belong"):
        read_report(path)


def test_missing_parts_are_named(made, tmp_path):
    path = tmp_path / "b.profile.json"
    with pytest.raises(InputError, match="cannot be read"):
        read_report(path)
    path.write_bytes(report_bytes(made.report))
    with pytest.raises(InputError, match="samples are missing"):
        read_report(path)


@pytest.mark.parametrize("document", [b"[]", b"{}", b'{"schema": "edgekit/profile/2"}', b'{"schema": 1}'])
def test_other_documents_are_refused(document):
    with pytest.raises(InputError, match="no profile"):
        parse_report(document, "r")


def test_a_document_that_is_not_strict_is_refused(made):
    text = report_bytes(made.report)
    for raw in (b"", text[:-3], text.replace(b'"kind"', b'"kind": "measured", "kind"'), text.replace(b"0.12", b"NaN")):
        with pytest.raises(IntegrityError):
            parse_report(raw, "r")
    estimated = text.replace(b'"kind": "measured"', b'"kind": "estimated"')
    with pytest.raises(InputError, match="measured"):
        parse_report(estimated, "r")


def test_latencies_are_told_apart_by_process(made):
    series = by_process(made.report, made.arrays)
    assert [len(one) for one in series] == [400, 400, 400]
    assert np.array_equal(np.concatenate(series), made.arrays["latency_ms.npy"])
    alone = {"latency_ms.npy": made.arrays["latency_ms.npy"]}
    assert len(by_process(made.report, alone)) == 1


def test_the_folder_is_beside_the_report(tmp_path):
    assert samples_folder(tmp_path / "a.b.profile.json") == tmp_path / "a.b.profile"


def test_every_field_of_a_report_is_in_the_schema(made):
    fields = {field.name for field in dataclasses.fields(made.report)}
    assert set(schema()["$defs"]["Report"]["properties"]) == fields
