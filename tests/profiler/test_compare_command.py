"""`edgekit compare`: reports or bundles, text or JSON, and exit codes only where a limit was asked for."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edgekit.cli.compare import command
from edgekit.errors import UsageError
from edgekit.profiler.storage import write_report

APP = typer.Typer()
APP.command()(command)


def run(*arguments):
    return CliRunner().invoke(APP, [str(one) for one in arguments])


@pytest.fixture
def reports(make, tmp_path):
    """`base`, `same` and `slow`, 8 processes each; `slow` by 10 %."""
    paths = []
    for seed, (name, level) in enumerate({"base": 8.0, "same": 8.0, "slow": 8.8}.items()):
        rng = np.random.default_rng(seed)
        processes = [level * np.exp(0.003 * rng.standard_normal()) + 0.1 * rng.standard_normal(200) for _ in range(8)]
        paths.append(tmp_path / f"{name}.profile.json")
        write_report(make(processes), paths[-1])
    return paths


def test_text_names_outcome_ratio_layers_and_conditions(reports):
    done = run(*reports)
    assert done.exit_code == 0, done.output
    assert "same against base: no change" in done.output and "slow against base: changed" in done.output
    assert re.search(r"ratio 1\.(09|10)\d* \[[^]]*\] at 95 %, over processes", done.output)
    assert "layers: none changed" in done.output and "conditions: alike" in done.output


def test_json_is_one_document(reports):
    found = json.loads(run(*reports, "--json").output)
    assert [one["outcome"] for one in found["pairs"]] == ["no change", "changed"]
    assert found["pairs"][1]["ratio"]["value"] == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize(("limit", "code"), [(1.3, 0), (1.03, 3), (1.1, 5)])
def test_a_limit_decides_the_exit_code(reports, limit, code):
    done = run(reports[0], reports[2], "--max-slowdown", limit)
    assert "slow against base" in done.output
    assert getattr(done.exception, "exit_code", done.exit_code) == code
    assert run(reports[0], reports[2], "--max-slowdown", limit, "--json").exit_code == code


def test_reports_and_bundles_do_not_mix(reports, tmp_path):
    for arguments, why in (((reports[0], tmp_path / "b.edgekit"), "with one another"), ((reports[0],), "nothing to")):
        done = run(*arguments)
        assert isinstance(done.exception, UsageError) and why in str(done.exception)
