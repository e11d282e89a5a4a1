"""The HTML page: everything in it, nothing from elsewhere, and no text that is more than text."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import MissingError
from edgekit.profiler.report import Layer, Soak, Unknown, Verdict

pytest.importorskip("matplotlib", reason="the page needs the extra `report`")

from edgekit.profiler.page import page, write_page

VOID = {"meta", "br", "hr", "img", "input", "link"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{ & {0} \u202e\x1b[31m"


class Reading(html.parser.HTMLParser):
    """Counts what is in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def all_there(powered):
    soak = Soak(600.0, 10.0, tuple(8 + 0.02 * i for i in range(60)), 0.87, 320.0)
    verdicts = (
        Verdict("latency_p99_ms", 20.0, "PASS", 9.1, 9.4, "its bound, 9.4, keeps 20"),
        Verdict("energy_mj", 80.0, "FAIL", 88.0, 86.4, "its bound, 86.4, is beyond 80"),
        Verdict("load_ms", 80.0, "INCONCLUSIVE", 84.5, None, "not decided", 120),
    )
    return replace(powered, report=replace(powered.report, soak=soak, verdicts=verdicts))


def test_it_has_every_section_and_plot(all_there):
    read = Reading(page(all_there.report, all_there.arrays))
    sections = [value for tag, name, value in read.attributes if (tag, name) == ("section", "id")]
    wanted = ["latency", "split", "cold", "energy", "soak", "layers", "conditions", "certificate", "budgets"]
    assert sections == wanted
    assert read.tags["svg"] == 4 and read.tags["figcaption"] == 4
    text = " ".join(read.texts)
    for fact in ("femtodet 3 for host", "88.0 ± 1.6 mJ", "stem.conv", "governor", "INCONCLUSIVE (run 120 more)"):
        assert fact in text, fact


def test_it_loads_nothing_and_runs_nothing(all_there):
    text = page(all_there.report, all_there.arrays)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    read = Reading(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    assert not [name for _, name, _ in read.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for _, name, value in read.attributes if name == "href")
    assert "default-src 'none'; style-src 'unsafe-inline'" in text


def test_identifiers_are_unique_and_references_lead_somewhere(all_there):
    read = Reading(page(all_there.report, all_there.arrays))
    ids = Counter(value for _, name, value in read.attributes if name == "id")
    assert max(ids.values()) == 1
    used = {value[1:] for _, name, value in read.attributes if name == "href"}
    used |= set(re.findall(r"url\(#([^)]*)\)", " ".join(value or "" for *_, value in read.attributes)))
    assert used and used <= set(ids)


def test_every_colour_of_a_plot_follows_the_readers_setting(all_there):
    text = page(all_there.report, all_there.arrays)
    plots = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", plots)
    assert "prefers-color-scheme:dark" in text
    assert {"var(--ink)", "var(--main)", "var(--second)"} <= set(re.findall(r"var\(--[a-z]+\)", plots))


def test_text_from_strangers_stays_text(all_there):
    report = all_there.report
    layer = Layer(EVIL, EVIL, 9.0, EVIL, EVIL, EVIL)
    report = replace(
        report,
        subject=replace(report.subject, name=EVIL, target=EVIL, runtime=EVIL, precision=EVIL, manifest_sha256=EVIL),
        layers=(layer, *report.layers),
        conditions=(replace(report.conditions[0], name=EVIL, before=EVIL, after=EVIL + "2", unit=EVIL),),
        certificate=replace(report.certificate, valid=False, reasons=(EVIL,), notes=(EVIL,)),
        verdicts=(replace(report.verdicts[0], budget=EVIL, reason=EVIL),),
        energy=replace(report.energy, meter=EVIL, boundary=EVIL, valid=False, reasons=(EVIL,)),
        cold=None,
        unknown={"cold": Unknown(EVIL, EVIL)},
        started_utc=EVIL,
        tools={EVIL: EVIL},
        schema=EVIL,
    )
    text = page(report, all_there.arrays)
    read = Reading(text)
    plain = Reading(page(replace(all_there.report, cold=None), all_there.arrays))
    assert not {"script", "img"} & set(read.tags)
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    assert read.tags["section"] == plain.tags["section"] and read.tags["div"] == plain.tags["div"] + 1
    assert "\u202e" not in text and "\x1b" not in text
    assert "<script>alert(1)</script>" in " ".join(read.texts)


def test_without_energy_the_reason_and_the_fix_are_shown(made):
    text = " ".join(Reading(page(made.report, made.arrays)).texts)
    assert "n/a: no power sensor was found" in text and "fix: sudo chmod" in text


def test_a_counters_trace_is_drawn_as_power(powered):
    times, watts = powered.arrays["energy_t_s.npy"], powered.arrays["energy_w.npy"]
    steps = np.r_[0.0, np.diff(times) * (watts[1:] + watts[:-1]) / 2]
    counted = {**powered.arrays, "energy_j.npy": np.cumsum(steps)}
    del counted["energy_w.npy"]
    text = page(powered.report, counted)
    assert text.count("<svg") == 3 and "idle with the model loaded, 4.000 W" in text
    del counted["energy_j.npy"]
    assert page(powered.report, counted).count("<svg") == 2


def test_an_invalid_report_says_so(made):
    certificate = replace(made.report.certificate, valid=False, reasons=("it throttled",))
    text = page(replace(made.report, certificate=certificate), made.arrays)
    assert "<span class='badge bad'>not valid</span>" in text and "because it throttled" in text


def test_equal_reports_give_equal_pages(made):
    assert page(made.report, made.arrays) == page(made.report, made.arrays)


@pytest.mark.parametrize("runs", [1, 5, 200, 30_000])
def test_few_and_many_runs_can_be_drawn(make, runs):
    rng = np.random.default_rng(1)
    one = make([5 + rng.exponential(0.2, runs)])
    text = page(one.report, one.arrays)
    assert len(text) < 500_000
    assert "n/a (" in text or runs >= 3000


def test_constant_latencies_and_huge_outliers_can_be_drawn(make):
    for series in (np.full(100, 2.0), np.r_[np.full(400, 2.0), 900.0]):
        one = make([series])
        assert page(one.report, one.arrays).count("<svg") == 2


def test_without_matplotlib_the_error_names_the_extra(made, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingError, match=r"edgekit\[report\]"):
        page(made.report, made.arrays)


def test_it_is_written_in_one_step_over_an_older_one(made, tmp_path):
    path = tmp_path / "a.html"
    path.write_text("old")
    write_page(made.report, made.arrays, path)
    assert path.read_text("utf-8").endswith("</html>\n")
    assert [one.name for one in tmp_path.iterdir()] == ["a.html"]


def screenshot(source: Path, picture: Path, *, dark: bool, width: int = 1000, height: int = 3200) -> None:
    """The page as Chromium shows it; no name resolves, so that anything loaded from elsewhere would be missing."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},{height}", f"--screenshot={picture}"]
    options += [f"--user-data-dir={picture.parent / 'user'}"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    done = subprocess.run([CHROMIUM, *options, source.as_uri()], capture_output=True, timeout=300, check=False)
    assert picture.exists(), done.stderr.decode(errors="replace")[-2000:]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_chromium_shows_it_in_light_and_dark(all_there, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="the extra `image` reads the screenshot")
    write_page(all_there.report, all_there.arrays, tmp_path / "a.html")
    seen = {}
    for name, dark in (("light", False), ("dark", True)):
        screenshot(tmp_path / "a.html", tmp_path / f"{name}.png", dark=dark)
        seen[name] = np.asarray(image.open(tmp_path / f"{name}.png").convert("RGB"), np.float64)
    light, dark = seen["light"], seen["dark"]
    assert light.shape == dark.shape == (3200, 1000, 3)
    assert light.mean() > 200 and dark.mean() < 80
    for picture, colours in ((light, ((43, 108, 176), (192, 86, 33))), (dark, ((108, 178, 245), (246, 153, 92)))):
        for colour in colours:  # bars and the median's line are in the page's own colours
            assert (np.abs(picture - colour).max(axis=2) < 8).sum() > 200, colour
