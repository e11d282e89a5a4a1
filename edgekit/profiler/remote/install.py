"""Puts edgekit onto a device, into the run's own folder: a virtual environment, or a folder for `PYTHONPATH`.

The environment sees the system's packages, since JetPack's TensorRT comes from apt and has no wheel. pip runs from its
own wheel in the wheelhouse, so that a board needs neither pip nor Debian's python3-venv.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from edgekit.errors import MissingError
from edgekit.profiler.remote.device import Device, Result, script
from edgekit.profiler.remote.folders import QUICK_S
from edgekit.profiler.remote.markers import Requirement
from edgekit.profiler.remote.probe import Facts, PythonFacts
from edgekit.profiler.remote.wheelhouse import FROM_SYSTEM, Wheelhouse
from edgekit.profiler.remote.wheels import build_own_wheel

INSTALL_S = 900.0  # unpacking 200 MB onto a slow card
# $1 folder of wheels, $2 Python, the rest is pip's. No settings of the device's reach it, and no index does.
_PIP = """
pip=$(echo "$1"/pip-*.whl); python=$2; shift 2
PIP_CONFIG_FILE=/dev/null exec "$python" "$pip/pip" --isolated install --quiet --disable-pip-version-check \
 --no-index --no-warn-script-location "$@"
"""


def install(
    device: Device,
    folder: str,
    facts: Facts,
    house: tuple[Path, Wheelhouse] | None,
    needed: tuple[Requirement, ...],
    told: Callable[[str], None] = lambda _: None,
) -> tuple[str, str]:
    """Install edgekit, as it is on this machine, below `folder` on the device.

    Args:
        house: a wheelhouse and its folder; without one the device's Python has all packages that edgekit needs.
        needed: what the run requires besides edgekit itself.

    Returns:
        the interpreter to use, and what `PYTHONPATH` has to begin with (empty for nothing).

    Raises:
        MissingError: it cannot be installed, with pip's own words.
    """
    interpreter = facts.interpreter
    assert interpreter is not None, "the preflight saw to it"
    with tempfile.TemporaryDirectory(prefix="edgekit-wheel-") as name:
        own = build_own_wheel(Path(name))
        wheel = f"{folder}/{own.name}"
        told("pushing edgekit")
        device.push(own, wheel)
    if house is None:
        site = f"{folder}/site"
        _require(device.run((facts.python, "-m", "zipfile", "-e", wheel, site), timeout=QUICK_S), "unpack edgekit")
        # Cold starts are measured there, and compiling is no part of one.
        _require(device.run((facts.python, "-m", "compileall", "-q", site), timeout=INSTALL_S), "compile edgekit")
        return facts.python, site
    told(f"pushing {len(house[1].wheels)} wheels, {house[1].size_bytes / (1 << 20):.0f} MiB")
    wheels = f"{folder}/wheels"
    device.push(house[0], wheels)
    told("installing")
    asked = [each.text for each in needed if each.name not in FROM_SYSTEM and house[1].has(each.name)]
    python, site, place = _environment(device, folder, facts, interpreter)
    common = ("--find-links", wheels, *place)
    if asked:
        _require(_pip(device, wheels, python, (*common, *asked)), "install the wheels")
    # By itself and by force: the device's system may have an edgekit of the same version but another day.
    _require(_pip(device, wheels, python, (*common, "--force-reinstall", "--no-deps", wheel)), "install edgekit")
    return python, site


def _environment(
    device: Device, folder: str, facts: Facts, interpreter: PythonFacts
) -> tuple[str, str, tuple[str, ...]]:
    """The interpreter, the addition to PYTHONPATH, and where pip is to put things."""
    if interpreter.venv:
        place = f"{folder}/venv"
        made = device.run(
            (facts.python, "-m", "venv", "--system-site-packages", "--without-pip", place), timeout=INSTALL_S
        )
        if not made.code:
            return f"{place}/bin/python", "", ()
    site = f"{folder}/site"
    return facts.python, site, ("--target", site)


def _pip(device: Device, wheels: str, python: str, arguments: tuple[str, ...]) -> Result:
    return device.run(script(_PIP, wheels, python, *arguments), timeout=INSTALL_S)


def _require(done: Result, what: str) -> None:
    if done.code:
        lines = [line.strip() for line in done.err.decode(errors="replace").splitlines() if "ERROR" in line]
        raise MissingError(
            f"the device could not {what}", where="pip", why=" ".join(lines) or done.last_words, fix="see the reason"
        )
