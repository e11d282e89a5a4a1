"""docs/orin-nano.md: its commands are run in their order, the board's against doubles, and what it says is held to.

The doubles are no device (tests/doubles/README.md), and waiting is cut short: figures are not looked at.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest

if sys.version_info < (3, 11):
    pytest.skip("the guide begins on the host, whose side needs Python 3.11", allow_module_level=True)

pytest.importorskip("torch")
pytest.importorskip("onnx")
image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "orin-nano.md"
TEXT = GUIDE.read_text("utf-8")
BOARDS_NAME = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
Edgekit = Callable[[list[str]], tuple[int, str]]
PROMPT = re.compile(r"^(host|board)\$ (.*)$")

# One worker runs the guide once, and makes what the errors need once.
pytestmark = pytest.mark.xdist_group("orin-guide")

# What the guide has beside edgekit's own commands, and why it is not run here.
NOT_RUN = {
    "cat /etc/nv_tegra_release": "a file of Jetson Linux",
    "sudo apt update": "NVIDIA's packages",
    "sudo apt install nvidia-jetpack python3-venv": "NVIDIA's packages",
    "dpkg -l | grep -i nvinfer": "NVIDIA's packages",
    "python3 -c 'import tensorrt; print(tensorrt.__version__)'": "the module is NVIDIA's",
    "python -m pip wheel --no-deps -w dist PATH/TO/EDGEKIT": "tests/device makes and installs that wheel",
    "scp dist/edgekit-0.1.0-py3-none-any.whl femtodet-orin-nano.edgekit classifier-orin-nano.edgekit release.pub "
    "board:": "one folder stands for both machines",
    "scp boxes.edgekit cells.png board:": "one folder stands for both machines",
    "/usr/bin/python3 -m venv --system-site-packages env": "the Python is Ubuntu's; tests/device makes such a one",
    ". env/bin/activate": "the environment is this one",
    "pip install './edgekit-0.1.0-py3-none-any.whl[image]' 'cuda-python==12.6.*' 'numpy==1.26.*'": "packages for Arm",
    "grep POWER_MODEL /etc/nvpmodel.conf": "a file of Jetson Linux",
    "sudo nvpmodel -q": "a tool of Jetson Linux",
    "sudo nvpmodel -m 2": "a tool of Jetson Linux",
    "sudo jetson_clocks": "a tool of Jetson Linux",
    "free -m": "procps, for people",
    "sudo systemctl isolate multi-user.target": "closes a desktop",
    "scp 'board:femtodet-orin-nano.edgekit.*.proof.*' board:.config/edgekit/device.pub .": "copied by `Walk.fetch`",
    "cd unpacked": "the next commands are trtexec's",
    "export PATH=$PATH:/usr/src/tensorrt/bin": "where NVIDIA's packages put trtexec",
}
# Commands of others that are run.
RUN = ("python3 -m zipfile -e femtodet-orin-nano.edgekit unpacked",)
# What is measured is not looked at, and need not take long.
SHORT: dict[str, Any] = {"runs": 5, "warmup_s": 0.2}
# Options that the text names and that are not edgekit's.
OTHERS_OPTIONS = {"--fp16", "--useDLACore"}


@dataclass(frozen=True)
class Command:
    """A command of the guide, and the lines that it shows of the output."""

    where: str
    line: str
    shown: tuple[str, ...]


def guide_commands() -> tuple[Command, ...]:
    found: list[Command] = []
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE):
        for line in re.sub(r" \\\n\s+", " ", block).splitlines():
            prompt = PROMPT.match(line)
            if prompt:
                found.append(Command(prompt[1], prompt[2], ()))
            else:
                last = found.pop()
                found.append(Command(last.where, last.line, (*last.shown, line)))
    return tuple(found)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


COMMANDS = guide_commands()


def as_pattern(shown: str) -> re.Pattern[str]:
    """A line of the guide: `...` stands for anything, a figure for any other, blanks for any number of them."""
    kinds = {"more": ".*", "blank": r"\s+", "figure": r"-?\d[\d.,]*(?:e[-+]\d+)?"}
    token = r"(?P<more>\.\.\.)|(?P<blank>\s+)|(?P<figure>(?<![\w.])-?\d[\d.]*(?:e[-+]\d+)?(?!\w))|(?P<other>.)"
    parts = [kinds.get(str(each.lastgroup)) or re.escape(each[0]) for each in re.finditer(token, shown)]
    return re.compile(r"\s*" + "".join(parts) + r"\s*")


@pytest.fixture
def edgekit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edgekit:
    """The command in this process, in an empty folder: its exit code, and all that it printed."""
    from edgekit.cli.main import main

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(arguments: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edgekit", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), err + out

    return run


class Walk:
    """One folder, in which the guide is followed."""

    def __init__(self, edgekit: Edgekit, folder: Path, home: Path) -> None:
        self.edgekit, self.folder, self.home = edgekit, folder, home

    def follow(self, command: Command) -> None:
        words = shlex.split(command.line)
        if command.line in RUN:
            subprocess.run([sys.executable, *words[1:]], cwd=self.folder, check=True)
            return
        if words[0] != "edgekit":
            assert command.line in NOT_RUN, f"nobody runs {command.line!r}"
            if "device.pub" in command.line:
                self.fetch()
            return
        code, printed = self.edgekit([each for word in words[1:] for each in self._files(word)])
        fails = any(line.startswith("error:") for line in command.shown)
        assert (code != 0) == fails, f"{command.line}: exit code {code}\n{printed}"
        for shown in command.shown:
            pattern = as_pattern(shown)
            assert any(pattern.fullmatch(line) for line in printed.splitlines()), f"{command.line}\n{shown}\n{printed}"

    def fetch(self) -> None:
        """What the guide copies back from the board, besides what is in the folder."""
        shutil.copy(self.home / "edgekit" / "device.pub", self.folder)

    def _files(self, word: str) -> list[str]:
        return sorted(str(path) for path in Path().glob(word)) if "*" in word and "=" not in word else [word]


@pytest.fixture
def walk(edgekit: Edgekit, tmp_path: Path, classifier: Any) -> Walk:
    """A folder with what the reader brings: a classifier with its data, and a picture; and the guide's own file."""
    from edgekit.smear import draw_smear

    folder = tmp_path / "work"
    for path in (Path(classifier.options.source), classifier.train, classifier.test):
        shutil.copy(path, folder)
    (folder / "labels.txt").write_text("\n".join(classifier.options.labels))
    image.fromarray(draw_smear().image).save(folder / "cells.png")
    for block in blocks("python"):
        name = re.match(r"# (\S+\.py)\n", block)
        if name:
            (folder / name[1]).write_text(block)
    return Walk(edgekit, folder, tmp_path / "config")


@pytest.fixture
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model is loaded and traced once, however often it is exported: tracing takes seconds."""
    from edgekit import intake

    real: Callable[[Any], Any] = intake.take_in
    kept: dict[Any, Any] = {}

    def once(config: Any) -> Any:
        key = (repr(config.model), repr(config.calibration))
        return kept.setdefault(key, real(config)) if key not in kept else kept[key]

    monkeypatch.setattr("edgekit.intake.take_in", once)
    monkeypatch.setattr("edgekit.pipeline.take_in", once)


def hurried(measure: Callable[..., Any], *given: Any, **more: Any) -> Any:
    """`measure_energy` with short phases, by a clock that runs five times too fast."""
    haste = {"clock": lambda: 5 * time.monotonic_ns(), "sleep": lambda seconds: time.sleep(seconds / 5)}
    return measure(*given, **{**more, **haste, "idle_s": 0.5, "window_s": 1.0})


def everywhere(monkeypatch: pytest.MonkeyPatch, name: str, other: partial[Any]) -> None:
    """Put `other` in the place of the function that it wraps, in every module of the profiler that imported it."""
    wrapped = (other.func, *other.args)
    for module in [each for key, each in sys.modules.items() if key.startswith("edgekit.profiler.")]:
        if any(getattr(module, name, None) is each for each in wrapped):
            monkeypatch.setattr(module, name, other)


@pytest.fixture
def as_board(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Called once, makes of this process, and of those that it starts, a double of the board."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "twins"))

    @lru_cache(maxsize=1)
    def become() -> Any:
        from orin_nano import orin_nano
        from tree import build

        from edgekit.profiler import latency, profile, short

        board = request.getfixturevalue("board")
        monkeypatch.setenv("EDGEKIT_DOUBLE", json.dumps({"machine": "aarch64"}))
        monkeypatch.setenv("EDGEKIT_SYSFS_ROOT", str(build(tmp_path / "twin", orin_nano())))
        monkeypatch.setattr("edgekit.prove.machine_names", lambda: (BOARDS_NAME,))
        plan = latency.Plan
        monkeypatch.setattr(latency, "Plan", lambda **given: plan(**{**given, **SHORT}))
        monkeypatch.setattr(short, "PLAN", plan(**SHORT))
        monkeypatch.setattr("edgekit.profiler.split.RUNS", 5)
        everywhere(monkeypatch, "cold", partial(profile.cold, processes=1))
        everywhere(monkeypatch, "measure_energy", partial(hurried, short.measure_energy))
        return board

    return become

    """The machine's own name again, and none of the doubles."""
    real = platform.machine

    def become() -> None:
        monkeypatch.setattr(platform, "machine", real)

    return become


def test_the_guide_can_be_followed_from_its_first_command_to_its_last(
    walk: Walk, one_model: None, as_board: Callable[[], Any], capsys: Any
) -> None:
    for command in COMMANDS:
        if command.where == "board":
            as_board()
        walk.follow(command)
    assert (walk.folder / "femtodet-orin-nano.profile.json").exists()
    report = json.loads((walk.folder / "femtodet-orin-nano.profile.json").read_text("utf-8"))
    assert report["energy"]["meter"] == "ina3221 VDD_IN"
    recipe = json.loads((walk.folder / "unpacked" / "build.json").read_text("utf-8"))
    lines = [re.sub(r" \\\n\s+", " ", block).strip() for block in blocks("sh")]
    assert lines == [recipe["trtexec"]["10"], recipe["trtexec"]["11"]]
    (snippet,) = [block for block in blocks("python") if "edgekit.load(" in block]
    capsys.readouterr()
    exec(compile(snippet, str(GUIDE), "exec"), {})  # the page's own snippet
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("tensorrt 10.3.0 10 WBC 0.9")
    assert printed[1:] == ["(1, 300, 6)", "int8 ('batch', 3, 16, 16)"]


def test_every_command_is_run_or_its_reason_is_stated() -> None:
    lines = [command.line for command in COMMANDS]
    others = [line for line in lines if not line.startswith("edgekit ")]
    assert sorted(others) == sorted([*NOT_RUN, *RUN])
    verbs = {line.split()[1] for line in lines if line.startswith("edgekit ")}
    assert verbs == {*("export", "keygen", "inspect", "verify", "doctor", "build", "prove", "profile", "run")}
    first = next(index for index, command in enumerate(COMMANDS) if command.where == "board")
    host_only = {"export", "keygen", "inspect"}
    assert not host_only & {command.line.split()[1] for command in COMMANDS[first:]}


def test_every_fenced_block_is_of_a_kind_that_is_checked() -> None:
    kinds = re.findall(r"^```(\w*)\n.*?^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert set(kinds) == {"console", "python", "sh"}


def test_a_figure_may_differ_and_a_word_may_not() -> None:
    assert as_pattern("fp16  built ...  2 passed").fullmatch("fp16    built   146 KiB  1 passed")
    assert as_pattern("parity   1.3e-03 relative").fullmatch("parity   9.0e-04 relative")
    assert not as_pattern("fp16  built").fullmatch("int8  built")
    assert not as_pattern("2 passed").fullmatch("2 failed")


def test_options_that_the_text_names_exist() -> None:
    from typer.main import get_command

    from edgekit.cli.main import app

    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", prose))
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    known = {option for command in commands.values() for parameter in command.params for option in parameter.opts}
    assert named - known == OTHERS_OPTIONS
    for verb in re.findall(r"`edgekit ([a-z]+)", prose):
        assert verb in commands, verb


def test_the_table_of_versions_is_that_of_the_profiles() -> None:
    from edgekit import profiles

    rows = dict(re.findall(r"^\| ([^|]+?) +\| ([^\n]+?) \|$", TEXT, re.MULTILINE))
    sides = [profiles.get("orin-nano"), profiles.get("orin-nano-jp72")]
    facts = [{name: str(fact.value) for name, fact in side.facts.items()} for side in sides]
    wanted = {
        "Jetson Linux": [fact["l4t"] for fact in facts],
        "Ubuntu, Python": [f"{fact['ubuntu']}, {side.python}" for fact, side in zip(facts, sides, strict=True)],
        "CUDA": [fact["cuda"] for fact in facts],
        "TensorRT": [fact["tensorrt"] for fact in facts],
    }
    for name, values in wanted.items():
        assert [cell.strip() for cell in rows[name].split("|")] == values
    modes = {mode.name: mode.id for mode in sides[0].power_modes}
    assert [modes[name] for name in ("15W", "25W", "MAXN_SUPER")] == [0, 1, 2]
    active = {mode.name: mode.active_sms.value for mode in sides[0].power_modes}
    assert active["15W"] == active["25W"] == active["MAXN_SUPER"] != active["7W"]
    assert all(f"`{target}`" in TEXT for target in ("orin-nano", "orin-nano-4gb", "orin-nano-jp72"))


def test_files_that_the_page_names_are_there() -> None:
    for path in re.findall(r"`((?:profiles|exporters|tests)/[\w./-]+)`", TEXT):
        assert (ROOT / path).exists(), path
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in headings, anchor


def test_no_time_and_no_energy_of_a_double_stands_on_the_page() -> None:
    assert not re.search(r"\d\s*(ms|mJ|mW|W \(k|fps)\b", TEXT)
    assert "No step of this page was ever taken on a Jetson" in TEXT
