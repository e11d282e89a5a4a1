"""The second net: mypy --strict on our files, with the stubs of one generation of bindings at a time."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import GateError
from trt_contract import stubs, versions
from trt_contract.cache import Contract

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("exporters", "profiles", "runtimes")  # as package-dir in pyproject.toml has them
# The stubs replace what `tensorrt` and `cuda` would be; whatever else our files import is read, but not judged here.
_CONFIG = """\
[mypy]
strict = True
python_version = 3.11
follow_imports = silent
ignore_missing_imports = True
warn_unused_ignores = False
show_error_codes = True
"""
_LINE = re.compile(r"^(?P<file>.+?):(?P<line>\d+): (?P<kind>error|note): (?P<text>.*)$")


@dataclass(frozen=True)
class TypeProblem:
    """What mypy says, and with the stubs of which versions."""

    file: Path
    line: int
    text: str
    generation: versions.Generation

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text} [tensorrt {self.generation.tensorrt}]"


def check_types(
    files: Sequence[Path],
    contract: Contract,
    generation: versions.Generation,
    cache: Path,
    instead: Mapping[Path, Path] | None = None,
) -> list[TypeProblem]:
    """Run mypy on `files`.

    Args:
        files: as edgekit installs them: `runtimes/x.py` is `edgekit.runtimes.x`.
        cache: where mypy keeps what it learned; one folder a generation.
        instead: files whose text is taken from another file, for mutation tests.

    Raises:
        GateError: mypy itself failed.
    """
    folder = cache / generation.tensorrt
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        seen = {_view(folder) / Path(*module_of(each).split(".")).with_suffix(".py"): each for each in files}
        _write_stubs(contract, generation, folder)
        _begin_with_what_is_known(folder)
        places = {ours: place for place, ours in seen.items()}
        shadows = [part for ours, other in (instead or {}).items() for part in (str(places[ours]), str(other))]
        said = _mypy(folder, [module_of(each) for each in files], shadows)
    matches = filter(None, map(_LINE.match, said))
    errors = [(folder / each["file"], int(each["line"]), each["text"]) for each in matches if each["kind"] == "error"]
    return [TypeProblem(seen.get(file, file), line, text, generation) for file, line, text in errors]


def _mypy(folder: Path, modules: Sequence[str], shadows: Sequence[str]) -> list[str]:
    """Run mypy in `folder`; the lines that it prints."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(folder / "mypy.ini"), "--no-error-summary"]
    command += ["--no-pretty", f"--cache-dir={folder / 'memory'}"]
    for ours, other in zip(shadows[::2], shadows[1::2], strict=True):
        command += ["--shadow-file", ours, other]
    for each in modules:
        command += ["-m", each]
    path = f"{folder / 'stubs'}{os.pathsep}{folder / 'view'}"
    environment = {**os.environ, "MYPYPATH": path, "PYTHONSAFEPATH": "1", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode not in (0, 1) or (done.returncode == 1 and not any(map(_LINE.match, lines))):
        why = (done.stderr or done.stdout).strip()[-500:]
        raise GateError("mypy failed", where=" ".join(command[2:6]), why=why)
    return lines


def module_of(file: Path) -> str:
    """The module that `runtimes/x.py` is installed as."""
    parts = file.resolve().relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "edgekit" else ("edgekit", *parts))


def _view(folder: Path) -> Path:
    """A folder with edgekit as it is installed, made of links: what is here now, installed or not."""
    view = folder / "view" / "edgekit"
    view.mkdir(parents=True, exist_ok=True)
    wanted = {each.name: each for each in (ROOT / "edgekit").iterdir() if each.name != "__pycache__"}
    wanted |= {room: ROOT / room for room in ROOMS}
    for old in view.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, target in wanted.items():
        link = view / name
        if not link.is_symlink() or link.readlink() != target:  # the cache may have served another checkout
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return view.parent


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One run at a time: links, stubs and mypy's memory are shared."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _begin_with_what_is_known(folder: Path) -> None:
    """What mypy learned of numpy with the stubs of another generation it need not learn again."""
    others = [each for each in folder.parent.glob("*/memory") if each.parent != folder]
    if not (folder / "memory").is_dir() and others:
        shutil.copytree(others[0], folder / "memory")


def _write_stubs(contract: Contract, generation: versions.Generation, folder: Path) -> None:
    (folder / "stubs").mkdir(exist_ok=True)
    (folder / "mypy.ini").write_text(_CONFIG)
    stubs.write(contract.api("tensorrt", generation.tensorrt), folder / "stubs")
    for name in versions.CUDA_MODULES:
        stubs.write(contract.api(name, generation.cuda), folder / "stubs")
