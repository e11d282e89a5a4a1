"""Wheels, stub libraries and what they say, in one cache folder; nothing is installed.

The wheels come from the machine's own package index through pip, without dependencies. Of each only what the check
reads is kept: NVIDIA's libraries (gigabytes) are never fetched.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import MissingError
from trt_contract import versions
from trt_contract.api import Api, Library

HERE = Path(__file__).resolve().parent
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
COMPILERS = ("cc", "gcc", "clang")
PIP = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=15")
# NVIDIA published the bindings of a version for one or two CUDA majors; what they offer is the same.
CUDA_MAJORS = ("cu13", "cu12")


@dataclass(frozen=True)
class Contract:
    """A cache folder that is filled.

    Attributes:
        folder: holds `api/MODULE-VERSION.json` and `wheels/`.
    """

    folder: Path

    def api(self, module: str, version: str) -> Api:
        """What `module` of `version` offers."""
        return Api.read(module, version, self.folder / "api" / f"{module}-{version}.json")

    def libraries(self) -> tuple[Library, ...]:
        """Every module in all its supported versions."""
        trt = Library("tensorrt", tuple(self.api("tensorrt", each) for each in versions.TENSORRT))
        cuda = [Library(name, tuple(self.api(name, each) for each in versions.CUDA)) for name in versions.CUDA_MODULES]
        return (trt, *cuda)


def default_folder() -> Path:
    """`~/.cache/edgekit/trt_contract`, or where `XDG_CACHE_HOME` says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit" / "trt_contract"


def prepare(cache: Path, offline: bool = False) -> Contract:
    """Fetch what is not there (about 60 MB, once), compile the stubs and ask every module what it offers.

    Raises:
        MissingError: no network, no wheel for this Python, no C compiler; or `offline` and something is not cached.
    """
    folder = cache / f"{sys.implementation.cache_tag}-{platform.machine()}-{_fingerprint()}"
    wanted = [("tensorrt", each) for each in versions.TENSORRT]
    wanted += [(module, each) for module in versions.CUDA_MODULES for each in versions.CUDA]
    missing = [each for each in wanted if not (folder / "api" / f"{each[0]}-{each[1]}.json").is_file()]
    if missing and offline:
        raise _unfetched("{} of {}".format(*missing[0]), "it is not in the cache, and nothing may be fetched")
    for module, version in missing:
        _describe(cache, folder, module, version)
    return Contract(folder)


def wheel(cache: Path, distribution: str, version: str, keep: Callable[[str], bool], offline: bool = False) -> Path:
    """The unpacked wheel, of which only the files that `keep` says yes to are there.

    Raises:
        MissingError: it cannot be fetched, or is not in the cache and `offline`.
    """
    folder = cache / "wheels" / f"{distribution}-{version}-{sys.implementation.cache_tag}-{platform.machine()}"
    if folder.is_dir():
        return folder
    if offline:
        raise _unfetched(f"{distribution} {version}", "it is not in the cache, and nothing may be fetched")

    def fill(building: Path) -> None:
        with tempfile.TemporaryDirectory() as made:
            command = [sys.executable, "-m", "pip", "download", *PIP, f"--dest={made}", f"{distribution}=={version}"]
            _run(command, f"{distribution} {version}")
            with zipfile.ZipFile(next(Path(made).glob("*.whl"))) as archive:
                archive.extractall(building, [each for each in archive.namelist() if keep(each)])

    return _publish(folder, fill)


def _describe(cache: Path, folder: Path, module: str, version: str) -> None:
    """Run `dump` on one module in a bare interpreter, and keep what it says."""
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}
    if module == "tensorrt":
        paths = [_bindings(cache, version)]
        environment["LD_LIBRARY_PATH"] = str(_stubs(cache, version.split(".")[0]))
        name = "tensorrt_bindings"
    else:
        paths = [
            wheel(cache, "cuda-bindings", version, _runs),
            wheel(cache, "cuda-pathfinder", versions.PATHFINDER, _runs),
        ]
        name = module
    environment["PYTHONPATH"] = os.pathsep.join(str(each) for each in [HERE.parent, *paths])
    said = _run([sys.executable, "-S", "-m", "trt_contract.dump", name], f"import {name} {version}", environment)
    (folder / "api").mkdir(parents=True, exist_ok=True)
    part = folder / "api" / f".{module}-{version}.{os.getpid()}"
    part.write_text(said)
    part.replace(folder / "api" / f"{module}-{version}.json")


def _bindings(cache: Path, version: str) -> Path:
    """TensorRT's bindings, whichever CUDA major they were published for."""
    *first, last = (f"tensorrt-{major}-bindings" for major in CUDA_MAJORS)
    for name in first:
        with suppress(MissingError):
            return wheel(cache, name, version, _runs)
    return wheel(cache, last, version, _runs)


def _runs(name: str) -> bool:
    return name.endswith((".so", ".py"))


def _stubs(cache: Path, major: str) -> Path:
    """The folder with the stub libraries of one TensorRT generation."""
    source = HERE / "stub.c"
    folder = cache / "stubs" / f"{major}-{platform.machine()}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise _unfetched("the stub libraries", f"no C compiler: {', '.join(COMPILERS)} are not on the path")

    def fill(building: Path) -> None:
        for name in LIBRARIES:
            file = f"lib{name}.so.{major}"
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(building / file), str(source)]
            _run(command, file)

    return _publish(folder, fill)


def _publish(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a new folder and put it in place; another process may be faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".preparing-") as made:
        building = Path(made) / "new"
        building.mkdir()
        fill(building)
        if not folder.is_dir():
            try:
                building.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder


def _fingerprint() -> str:
    """Of the code that describes a module: another reading of the same wheel is another description."""
    sources: Iterable[Path] = (HERE / "dump.py", HERE / "signatures.py")
    return hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()[:12]


def _run(command: list[str], what: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise _unfetched(what, next((line for line in lines if line.startswith("ERROR")), lines[-1]))
    return done.stdout


def _unfetched(where: str, why: str) -> MissingError:
    return MissingError(
        "the TensorRT contract cannot be read",
        where=where,
        why=why,
        fix="with a package index in reach and a C compiler: PYTHONPATH=tools .venv/bin/python -m trt_contract",
    )
