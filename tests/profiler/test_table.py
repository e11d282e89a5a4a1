"""The report as text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit.profiler.modules import by_module
from edgekit.profiler.report import Interval, Layer, Quantile, Soak, Throughput, Unknown, Verdict
from edgekit.profiler.table import interval, number, quantile, render, sections, uncertain


def test_a_percentile_without_support_says_how_many_runs_it_takes(make):
    text = render(make([np.linspace(5, 6, 98)]).report)
    assert "n/a (98 < 299)" in text and "n/a (98 < 2995)" in text
    assert quantile(Quantile(0.99, None, None, None, 0.95, 299, "n/a (98 < 299)"), 98) == "n/a (98 < 299)"
    assert quantile(Quantile(0.9, 5.0, 5.25), 98) == "5.000 ms, at most 5.250 at 95 %"


def test_energy_that_is_not_there_says_why_and_what_would_bring_it(made):
    text = render(made.report)
    assert "  n/a: no power sensor was found in /sys/class/powercap\n" in text
    assert "  fix: sudo chmod a+r .../energy_uj, or --meter CMD\n" in text


def test_every_part_that_may_be_missing_says_why(made):
    unknown = {name: Unknown(f"why {name}", f"fix {name}") for name in ("cold", "layers", "energy")}
    text = render(replace(made.report, cold=None, layers=None, energy=None, unknown=unknown))
    for name in unknown:
        assert f"n/a: why {name}" in text and f"fix: fix {name}" in text
    assert render(replace(made.report, cold=None, unknown={})).count("n/a: not measured") == 2


def test_energy_is_told_with_its_uncertainty_and_boundary(powered):
    text = render(powered.report)
    for fact in ("88.0 ± 1.6 mJ (k = 2)", "56.0 ± 1.9 mJ", "11.00 ± 0.20 W", "carrier board not included", "6.6 ms"):
        assert fact in text, fact
    energy = replace(powered.report.energy, valid=False, reasons=("a gap of 2 s",))
    assert "not valid: a gap of 2 s" in render(replace(powered.report, energy=energy))


def test_budgets_certificate_soak_and_throughput_are_told(made):
    report = replace(
        made.report,
        verdicts=(Verdict("latency_p99_ms", 20, "INCONCLUSIVE", None, None, "98 < 299 runs", 201),),
        certificate=replace(made.report.certificate, valid=False, reasons=("it throttled",), notes=()),
        soak=Soak(1200, 10, (8.0, 9.0), 0.9, 320.0, None),
        throughput=(Throughput(4, 2, Interval(310.0, 300.0, 320.0), 25.0),),
        latency=replace(made.report.latency, mode="open", rate_hz=30, late=4, steady=False, steady_reason="it drifts"),
    )
    text = render(report)
    for fact in (
        *("INCONCLUSIVE (run 201 more)", "not valid: do not compare", "because it throttled", "Soak of 1,200 s"),
        *(
            "after 320 s",
            "310.0 [300.0, 320.0] at 95 %",
            "open loop at 30 a second",
            "4 started after",
            "no: it drifts",
        ),
    ):
        assert fact in text, fact


def test_text_from_strangers_cannot_steer_a_terminal(made):
    evil = "a\x1b[2Jb\nc\u202ed\x9b"
    report = replace(
        made.report,
        subject=replace(made.report.subject, name=evil),
        layers=(Layer(evil, evil, 1.0, evil),),
        unknown={"energy": Unknown(evil, evil)},
        certificate=replace(made.report.certificate, reasons=(evil,)),
    )
    text = render(report)
    assert not [one for one in text if not one.isprintable() and one != "\n"]
    lines = render(replace(made.report, layers=report.layers, certificate=report.certificate)).count("\n")
    assert text.count("\n") == lines


def test_rows_are_as_wide_as_their_columns(powered):
    for section in sections(powered.report):
        widths = {len(row) for row in section.rows} | ({len(section.columns)} if section.columns else set())
        assert len(widths) <= 1, section.title


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (12345.6, "12,346"), (8.12345, "8.123"), (0.0123456, "0.01235"), (1e-12, "0.000000000")],
)
def test_numbers_have_four_digits_and_no_exponent(value, text):
    assert number(value) == text


def test_an_uncertainty_has_two_digits_and_the_value_as_many_decimals():
    assert uncertain(12.3456, 0.4123) == "12.35 ± 0.41"
    assert uncertain(1234.5, 23.4) == "1,234 ± 23"
    assert uncertain(5.0, 0.0) == "5.000 ± 0"


def test_an_interval_that_is_not_there_says_why():
    told = interval(Interval(8.0, reason="n/a (n_eff 12 < 50)"), "ms")
    assert told == "8.000 ms, interval n/a (n_eff 12 < 50)"


def test_layers_are_added_up_by_module():
    layers = (Layer("a", "Conv", 2.0, "m"), Layer("b", "Relu", 1.0, "m", "f.py:3"), Layer("c", "Add", 1.0))
    first, second = by_module(layers)
    assert (first.name, first.total_ms, first.layers, first.ops, first.line, first.known) == (
        *("m", 3.0, 2, ("Conv", "Relu"), "f.py:3", True),
    )
    assert (second.name, second.known) == ("c", False)
    assert first.share + second.share == 1
    assert by_module(()) == ()


def test_many_modules_are_cut_with_what_the_rest_takes(made):
    layers = tuple(Layer(f"n{i}", "Conv", 1.0, f"m{i:02}") for i in range(20))
    assert "and 8 more with 40.0 %" in render(replace(made.report, layers=layers))
