"""The wheelhouse: our own wheel, what is downloaded and why, and what the device is told before anything is pushed."""

from __future__ import annotations

import ensurepip
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgekit.errors import InputError, IntegrityError, MissingError, UsageError
from edgekit.profiler.remote import wheelhouse
from edgekit.profiler.remote.markers import environment, parse_requirement
from edgekit.profiler.remote.measure import Request, profile_on
from edgekit.profiler.remote.preflight import Need, problems, satisfied
from edgekit.profiler.remote.probe import Facts, PythonFacts
from edgekit.profiler.remote.wheelhouse import (
    Wheel,
    Wheelhouse,
    prepare_wheelhouse,
    read_wheelhouse,
    runtime_requirements,
)
from edgekit.profiler.remote.wheels import build_own_wheel
from edgekit.structure import encode

from .conftest import Make, Server, profiler, start_server

ROOT = Path(__file__).resolve().parents[3]
ORIN = environment("3.10", "aarch64")


def test_our_wheel_is_the_code_that_runs_here(tmp_path: Path) -> None:
    wheel = build_own_wheel(tmp_path)
    (tmp_path / "again").mkdir()
    assert build_own_wheel(tmp_path / "again").read_bytes() == wheel.read_bytes()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "edgekit/profiles/orin-nano.toml" in names and "edgekit/runtimes/session.py" in names
        assert not [name for name in names if "__pycache__" in name or ".." in name]
        ours = (Path(wheelhouse.__file__)).read_bytes()
        assert archive.read("edgekit/profiler/remote/wheelhouse.py") == ours
        assert b"edgekit.cli.main:main" in archive.read("edgekit-0.1.0.dist-info/entry_points.txt")


def test_pip_takes_our_wheel(tmp_path: Path) -> None:
    wheel = build_own_wheel(tmp_path)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (site / "edgekit/profiles/orin-nano.toml").is_file() and (site / "bin/edgekit").is_file()


def test_what_the_orin_nano_needs() -> None:
    """JetPack brings TensorRT; CUDA's bindings have to be of its CUDA."""
    found = {each.name: each.text for each in runtime_requirements("tensorrt", "10.3", "10.4", ORIN, "12.6")}
    assert found == {"tensorrt": "tensorrt>=10.3,<10.4", "cuda-python": "cuda-python==12.6.*"}
    assert [each.text for each in runtime_requirements("onnxruntime", "1.20", None, ORIN)] == ["onnxruntime>=1.20"]


def write_wheel(folder: Path, name: str, *requires: str, version: str = "1.0") -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {each}" for each in requires]
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\ntext\n")


class Index:
    """Stands in for `pip download`: gives what was asked for, and of its needs only those without a marker."""

    needs: ClassVar[dict[str, tuple[str, ...]]] = {
        "typer": ("click>=8", "typing-extensions; python_version < '3.11'"),
        "onnxruntime": ("flatbuffers", "sympy[full]; platform_machine == 'aarch64'"),
        "sympy": ("mpmath; extra == 'full'", "gmpy2; extra == 'other'"),
    }

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, wanted: Sequence[str], folder: Path, *kind: Any) -> None:
        self.asked.append(list(wanted))
        for text in wanted:
            name = parse_requirement(text).name
            pending = [name]
            while pending:
                each = pending.pop()
                write_wheel(folder, each.replace("-", "_"), *self.needs.get(each, ()))
                pending += [
                    n for n in map(parse_requirement, self.needs.get(each, ())) if not n.marker for n in [n.name]
                ]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index()
    monkeypatch.setattr(wheelhouse, "_download", index)
    return index


def test_what_only_the_device_s_markers_ask_for_is_added(index: Index, tmp_path: Path) -> None:
    house = prepare_wheelhouse("qcs6490", tmp_path / "w", python="3.10")
    names = {wheel.name for wheel in house.wheels}
    assert {"tomli", "typing-extensions", "sympy", "mpmath", "flatbuffers", "click", "pip", "edgekit"} <= names
    assert "gmpy2" not in names and len(index.asked) > 1
    assert read_wheelhouse(tmp_path / "w") == house
    assert (house.python, house.isa, house.runtime) == ("3.10", "aarch64", "onnxruntime")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w"]


def test_the_orin_nano_gets_no_tensorrt(index: Index, tmp_path: Path) -> None:
    house = prepare_wheelhouse("orin-nano", tmp_path / "w")
    assert not house.has("tensorrt") and house.has("cuda-python") and house.python == "3.10"
    assert "cuda-python==12.6.*" in index.asked[0]


def test_a_python_that_nobody_knows_has_to_be_named(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which Python") as error:
        prepare_wheelhouse("snapdragon-865", tmp_path / "w")
    assert "--python" in str(error.value.fix)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists"):
        prepare_wheelhouse("orin-nano", tmp_path / "there")
    with pytest.raises(UsageError, match="not versions"):
        prepare_wheelhouse("orin-nano", tmp_path / "w", python="3.10; rm")


def test_a_changed_wheel_is_seen(index: Index, tmp_path: Path) -> None:
    prepare_wheelhouse("orin-nano", tmp_path / "w")
    (tmp_path / "w/numpy-1.0-py3-none-any.whl").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="not the one"):
        read_wheelhouse(tmp_path / "w")
    with pytest.raises(InputError, match="no wheelhouse"):
        read_wheelhouse(tmp_path)


def test_pip_s_own_words_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(MissingError, match="does not find all wheels") as error:
        prepare_wheelhouse("orin-nano", tmp_path / "w")
    assert "No matching distribution found" in str(error.value.why) and not list(tmp_path.iterdir())


# --- the preflight, as a function -------------------------------------------------------------------------------------

HOUSE = Wheelhouse(
    *("orin-nano", "tensorrt", "3.10", "aarch64", "2.28"),
    (Wheel("numpy-2.0-cp310-cp310-manylinux_2_28_aarch64.whl", "numpy", "2.0", 50 << 20, "0" * 64),),
)
PYTHON = PythonFacts(
    *((3, 10, 12), "CPython", ("glibc", "2.35"), 1 << 40, True),
    {
        "numpy": "1.21.5",
        "typer": "0.12.3",
        "cryptography": "42.0",
        "tomli": "2",
        "tensorrt": "10.3.0.30",
        "cuda-python": "12.6.2",
    },
)
FACTS = Facts("aarch64", "Linux 5.15", "", "", "/usr/bin/python3", "/root/.cache", (), PYTHON)
NEED = Need("tensorrt", "10.3", "10.4", ("aarch64",), 1 << 20, "orin-nano")


def said(facts: Facts, house: Wheelhouse | None = HOUSE, need: Need = NEED) -> str:
    return "; ".join(each.what for each in problems(facts, need, house))


def test_a_board_that_is_ready_has_no_problem() -> None:
    assert said(FACTS) == ""


def test_an_old_package_of_the_system_is_replaced_by_the_wheelhouse_or_named() -> None:
    assert said(FACTS, None) == "numpy 1.21.5 is there, numpy>=1.26 is needed"


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        (replace(FACTS, interpreter=replace(PYTHON, version=(3, 8, 10))), "its Python is 3.8.10, edgekit needs 3.10"),
        (replace(FACTS, interpreter=replace(PYTHON, version=(3, 12, 3))), "is 3.12, the wheelhouse is for 3.10"),
        (
            replace(FACTS, interpreter=replace(PYTHON, libc=("glibc", "2.27"))),
            "glibc is 2.27, the wheelhouse needs 2.28",
        ),
        (replace(FACTS, interpreter=replace(PYTHON, libc=("libc", ""))), "its C library is libc"),
        (replace(FACTS, interpreter=replace(PYTHON, implementation="PyPy")), "PyPy"),
        (
            replace(FACTS, interpreter=replace(PYTHON, free=1 << 20)),
            "1 MiB are free in /root/.cache, 365 MiB are needed",
        ),
        (replace(FACTS, machine="x86_64"), "the device is x86_64, the wheelhouse is for aarch64"),
        (replace(FACTS, interpreter=None), "/usr/bin/python3 is no Python 3"),
        (replace(FACTS, busy=("/r/0123456789abcdef",)), "run 0123456789abcdef is under way"),
        (
            replace(FACTS, interpreter=replace(PYTHON, packages={**PYTHON.packages, "tensorrt": "10.16.1"})),
            "tensorrt 10.16.1 is there, tensorrt>=10.3,<10.4 is needed",
        ),
    ],
)
def test_each_problem_is_named(facts: Facts, problem: str) -> None:
    assert problem in said(facts)


@pytest.mark.parametrize(
    ("version", "requirement", "expected"),
    [
        ("1.26.4", "numpy>=1.26", True),
        ("1.3", "numpy>=1.26", False),
        (None, "numpy", False),
        ("1", "numpy", True),
        ("12.6.2", "cuda-python==12.6.*", True),
        ("12.60", "cuda-python==12.6.*", False),
        ("10.4", "tensorrt>=10.3,<10.4", False),
    ],
)
def test_versions(version: str | None, requirement: str, expected: bool) -> None:
    assert satisfied(version, parse_requirement(requirement)) is expected


# --- installed on the loopback ----------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A wheelhouse with nothing but pip: the rest is in what the loopback calls its system."""
    bundled = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"), None)
    if bundled is None:
        pytest.skip("this Python was built without pip's wheel")
    folder = tmp_path / "wheels"
    folder.mkdir()
    shutil.copy(bundled, folder)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheels = (wheelhouse._wheel(folder / bundled.name),)
    whole = Wheelhouse("host", "onnxruntime", version, "x86_64", "2.28", wheels)
    (folder / wheelhouse.MANIFEST).write_text(json.dumps(encode(whole)))
    return folder


@pytest.mark.xdist_group("sshd")
@pytest.mark.parametrize("venv", [True, False], ids=["venv", "target"])
def test_edgekit_is_installed_by_the_wheelhouse_s_pip(
    server: Server,
    make: Make,
    tmp_path: Path,
    house: Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    venv: bool,
    whole: None,
) -> None:
    if not venv:
        from edgekit.profiler.remote import measure

        seen = measure.probe

        def without_venv(*arguments: Any) -> Facts:
            facts = seen(*arguments)
            assert facts.interpreter
            return replace(facts, interpreter=replace(facts.interpreter, venv=False))

        monkeypatch.setattr(measure, "probe", without_venv)
    request = Request(make(), tmp_path / "report", wheelhouse=house, python=python)
    outcome = profile_on(server.address, request, ssh_options=server.options, command=profiler())
    told = json.loads(outcome.stdout)
    assert ("/venv/lib/" if venv else "/site/edgekit/") in told["edgekit"]
    assert told["python"].endswith("/venv/bin/python") is venv and not server.runs


@pytest.fixture
def bare(tmp_path: Path, server: Server) -> Iterator[Server]:
    """A device whose Python has nothing but its standard library; `server` says whether there can be one."""
    device = start_server(tmp_path / "bare", {"PYTHONNOUSERSITE": "1"})
    yield device
    device.sever()
    device.process.terminate()
    device.process.wait()


def base_python(version: str) -> str | None:
    """An interpreter of that version without any packages of ours; a shim on the path may not run."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return str(Path(sys.base_prefix) / "bin" / f"python{version}")
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in [*map(str, installed), f"/usr/bin/python{version}"]:
        if Path(candidate).exists():
            return candidate
    return None


@pytest.mark.slow
@pytest.mark.xdist_group("sshd")
@pytest.mark.parametrize(("version", "pins"), [("3.10", "constraints-device.txt"), ("3.11", "constraints.txt")])
def test_a_device_without_anything_gets_it_all_from_the_wheelhouse(
    bare: Server, make: Make, tmp_path: Path, whole: None, version: str, pins: str
) -> None:
    """The whole way: wheels from the index, the real profiler, and a report of the same form as one from here."""
    python = base_python(version)
    if python is None:
        pytest.skip(f"no Python {version} is installed here")
    prepare_wheelhouse("host", tmp_path / "wheels", python=version, constraint=ROOT / pins)
    quick = ("--most", "1", "--runs", "100", "--no-layers", "--no-energy")
    request = Request(make(), tmp_path / "there", quick, tmp_path / "wheels", python)
    outcome = profile_on(bare.address, request, ssh_options=bare.options)
    assert outcome.code == 0 and outcome.report == tmp_path / "there.profile.json" and not bare.runs
    edgekit = [sys.executable, "-m", "edgekit.cli.main", "profile", request.bundle, "-o", tmp_path / "here", *quick]
    subprocess.run(edgekit, check=True, capture_output=True)
    here, there = (json.loads((tmp_path / f"{name}.profile.json").read_bytes()) for name in ("here", "there"))
    assert here.keys() == there.keys() and here["subject"].keys() == there["subject"].keys()
    assert there["tools"]["python"].startswith(version)
    assert {path.name for path in (tmp_path / "here.profile").iterdir()} == {
        path.name for path in (tmp_path / "there.profile").iterdir()
    }
