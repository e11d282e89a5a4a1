"""The emulator and what runs in it, in one cache folder: QEMU, a small arm64 Debian with Python, and aarch64 wheels.

All comes from the machine's own Debian mirror and package index, through apt (which checks Debian's signatures) and
pip. Nothing is installed: no root, no foreign architecture in dpkg, no binfmt entry.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import MissingError

# QEMU 7.2 of Debian 12 itself crashes in onnxruntime >= 1.28; its backports have 10.0.
QEMU_SUITE, QEMU = "bookworm-backports", "qemu-user"
# Python 3.11, and the libraries that it, numpy and onnxruntime load.
SUITE = "bookworm"
ARM64 = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1", "libstdc++6"),
    *("zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5"),
)
PYTHON = "3.11"
WHEELS = ("onnxruntime", "numpy")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"

_STAMP = "contents.json"  # written last: a folder without it is no cache
_APT_CONFIG = """
Dir::State "{0}/state"; Dir::State::status "{0}/status"; Dir::Cache "{0}/cache";
Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{0}/sources"; Dir::Etc::preferencesparts "{0}/none";
APT::Architecture "amd64"; APT::Architectures {{ "amd64"; "arm64"; }};
APT::Sandbox::User ""; Acquire::Languages "none"; Acquire::Retries "1"; Acquire::http::Timeout "30";
"""
_SOURCE = "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: {}\nSigned-By: {}\n\n"


@dataclass(frozen=True)
class Emulator:
    """A folder that is ready: `qemu-aarch64`, `root` with Python, `site` with the wheels."""

    folder: Path

    @property
    def site(self) -> Path:
        """Where the packages of the emulated Python are."""
        return self.folder / "site"

    def python(self, cpu: str) -> list[str]:
        """The command that is the emulated Python on core `cpu`; arguments follow."""
        root = self.folder / "root"
        interpreter = root / "usr" / "bin" / f"python{PYTHON}"
        return [str(self.folder / "qemu-aarch64"), "-cpu", cpu, "-L", str(root), str(interpreter), "-I", "-S"]


def default_folder() -> Path:
    """`~/.cache/edgekit/arm64`, or where `XDG_CACHE_HOME` says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit" / "arm64"


def find(cache: Path) -> Emulator:
    """The emulator for the versions in constraints.txt.

    Raises:
        MissingError: it is not in the cache.
    """
    folder = _folder(cache)
    if not (folder / _STAMP).is_file():
        raise MissingError(
            "the Arm emulator is not in the cache",
            where=str(folder),
            fix="PYTHONPATH=tools .venv/bin/python -m arm64_check --prepare",
        )
    return Emulator(folder)


def prepare(cache: Path) -> Emulator:
    """Fetch what `find` does not find: about 110 MB, in seconds on a good line.

    Raises:
        MissingError: this machine has no apt, no Debian mirror, no network; `why` says what.
    """
    folder = _folder(cache)
    if (folder / _STAMP).is_file():
        return Emulator(folder)
    mirror = _require_debian()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="preparing-") as made:
        building = Path(made) / "emulator"
        building.mkdir()
        packages = _unpack_debian(Path(made), building, mirror)
        _unpack_wheels(building)
        stamp = {"packages": packages, "wheels": _versions(), "python": PYTHON}
        (building / _STAMP).write_text(json.dumps(stamp, indent=1))
        if not (folder / _STAMP).is_file():  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
    return Emulator(folder)


def _folder(cache: Path) -> Path:
    return cache / "-".join(f"{name}-{version}" for name, version in _versions().items())


def _versions() -> dict[str, str]:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE))
    return {name: pinned[name] for name in WHEELS}


def _require_debian() -> str:
    """The Debian mirror that this machine's apt uses."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise _unfetched("Debian's QEMU for x86-64 is what this tool knows to run", f"here: {platform.machine()}")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise _unfetched(f"{program} is not installed", "the emulator comes from Debian's packages")
    if not KEYRING.is_file():
        raise _unfetched(f"{KEYRING} is not there", "apt-get install debian-archive-keyring")
    targets = _run("apt-get", "indextargets", "--format", "$(ORIGIN) $(SITE)", "Created-By: Packages").splitlines()
    mirrors = [line.removeprefix("Debian ") for line in targets if line.startswith("Debian ")]
    if not mirrors:
        raise _unfetched("apt knows no Debian mirror", "its lists are empty: apt-get update; or this is not Debian")
    return mirrors[0]


def _unpack_debian(work: Path, building: Path, mirror: str) -> list[str]:
    """Fetch Debian packages with an apt of our own, and unpack them; the names of their files."""
    for name in ("state/lists/partial", "cache/archives/partial", "sources", "none", "debs", "qemu"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    (work / "apt.conf").write_text(_APT_CONFIG.format(work))
    sources = _SOURCE.format(mirror, SUITE, "arm64", KEYRING) + _SOURCE.format(mirror, QEMU_SUITE, "amd64", KEYRING)
    (work / "sources" / "arm64.sources").write_text(sources)
    environment = {**os.environ, "APT_CONFIG": str(work / "apt.conf"), "LC_ALL": "C"}
    _run("apt-get", "-qq", "--error-on=any", "update", environment=environment)
    wanted = [f"{QEMU}:amd64", *(f"{name}:arm64" for name in ARM64)]
    _run("apt-get", "-qq", "download", *wanted, environment=environment, folder=work / "debs")
    files = sorted((work / "debs").glob("*.deb"))
    for file in files:
        is_qemu = file.name.startswith(f"{QEMU}_")
        _run("dpkg-deb", "--extract", str(file), str(work / "qemu" if is_qemu else building / "root"))
    shutil.move(work / "qemu" / "usr" / "bin" / "qemu-aarch64", building / "qemu-aarch64")
    return [file.name for file in files]


def _unpack_wheels(building: Path) -> None:
    pins = [f"{name}=={version}" for name, version in _versions().items()]
    where = [f"--platform={each}" for each in PLATFORMS] + [f"--python-version={PYTHON}", "--implementation=cp"]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--no-compile"]
    _run(sys.executable, "-m", "pip", "install", *options, *where, f"--target={building / 'site'}", *pins)


def _run(*command: str, environment: dict[str, str] | None = None, folder: Path | None = None) -> str:
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        lines: Sequence[str] = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise _unfetched(f"{' '.join(command[:3])} failed", lines[-1].strip())
    return done.stdout


def _unfetched(where: str, why: str) -> MissingError:
    return MissingError(
        "the Arm emulator cannot be fetched",
        where=where,
        why=why,
        fix="on Debian or in its container, with a mirror and a package index in reach: arm64_check --prepare",
    )
