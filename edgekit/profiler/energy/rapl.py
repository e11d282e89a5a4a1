"""Energy counters of Intel and AMD processors, by Linux's powercap (Documentation/power/powercap).

`intel-rapl-mmio` is the same package a second time (mlco2/codecarbon#950): zones are grouped by name, and one of each
is read. Only root may read them since CVE-2020-8694; a rule for a group is written out for the user, never applied.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from edgekit.errors import MissingError
from edgekit.profiler.energy.files import Files
from edgekit.profiler.energy.meter import Accuracy, Clock, Kind, Reading, rectangular
from edgekit.profiles.profile import Sensor

UPDATE_S = 1e-3
LEAST_WINDOW_S = 5.0
GAIN_LIMIT = 0.05
"""Assumed: no maker states an accuracy. Readings follow plug power closely (K. N. Khan et al., ACM ToMPECS 3, 2018) and
differ from it by what lies outside the package, by tens of percent (M. Fahad et al., Energies 12, 2019)."""
WHOLE = "psys"
PLATFORM = "the platform as the processor's maker sees it (psys): nearest to the whole machine, not the power supply"

RULE = """\
sudo groupadd -f edgekit && sudo usermod -aG edgekit "$USER"
echo 'SUBSYSTEM=="powercap", KERNEL=="intel-rapl*:*", RUN+="/usr/bin/chgrp edgekit /sys%p/energy_uj", \
RUN+="/usr/bin/chmod 0440 /sys%p/energy_uj"' | sudo tee /etc/udev/rules.d/70-edgekit-rapl.rules
sudo udevadm control --reload && sudo udevadm trigger --subsystem-match=powercap
(or: echo 'z /sys/class/powercap/intel-rapl*:*/energy_uj 0440 root edgekit' | \
sudo tee /etc/tmpfiles.d/edgekit-rapl.conf && sudo systemd-tmpfiles --create edgekit-rapl.conf)
then log in again"""


class Rapl:
    """One zone's counter.

    Args:
        zone: its folder; its name stands in `settings`.
        boundary: what the zone covers.
        range_uj: where it wraps, of `max_energy_range_uj`.
    """

    kind: Kind = "counter"
    period_s = UPDATE_S
    aperture_s = 0.0
    clock_u_s = 0.0
    poll_s = 0.05
    least_window_s = LEAST_WINDOW_S

    def __init__(self, files: Files, zone: str, label: str, boundary: str, range_uj: float, also: str) -> None:
        self._files, self._counter = files, f"{zone}/energy_uj"
        self.name = f"rapl {label}"
        self.boundary = boundary
        self.wraps_at_j: float | None = range_uj / 1e6
        self.accuracy = Accuracy(rectangular(GAIN_LIMIT), 0.0, 0.0, "5 %, assumed: Intel and AMD state none")
        self.settings: Mapping[str, str] = {"zone": zone, "wraps_at_j": f"{self.wraps_at_j:.0f}", "not_added": also}

    def probe(self) -> float:
        """Joules; see `Meter.probe`."""
        try:
            return self._files.number(self._counter) / 1e6
        except OSError as error:
            raise refused(self._counter, error) from error

    def read(self, clock: Clock) -> Reading:
        """Joules since the counter last wrapped."""
        before = clock()
        microjoules = self._files.number(self._counter)
        return Reading(before, clock(), microjoules / 1e6)


def open_rapl(sensor: Sensor, files: Files) -> Rapl:
    """The zone that covers most: `psys` where it counts, otherwise the package.

    Raises:
        MissingError: no zones, more packages than one, or no permission to read.
    """
    zones = _by_name(files, sensor)
    if not zones:
        raise MissingError(
            "the processor's energy counters (RAPL) are not there",
            where=", ".join(sensor.paths),
            why="the kernel shows none: virtual machines and containers seldom have them",
            fix="run on the machine itself; on bare metal: sudo modprobe intel_rapl_msr",
        )
    packages = sorted(name for name in zones if name.startswith("package"))
    others = ", ".join(sorted(zones))
    if WHOLE in zones and _counts(files, zones[WHOLE]):
        return Rapl(files, zones[WHOLE], WHOLE, PLATFORM, _range(files, zones[WHOLE]), others)
    if len(packages) != 1:
        raise MissingError(
            f"the processor has {len(packages)} packages, and which one works is not known",
            where=", ".join(zones.values()),
            why="one package's counter would leave the others out",
            fix="measure on a machine with one processor, or use an external meter",
        )
    zone = zones[packages[0]]
    return Rapl(files, zone, packages[0], sensor.boundary, _range(files, zone), others)


def _by_name(files: Files, sensor: Sensor) -> dict[str, str]:
    """Name to folder, top-level zones only; of two with one name the first provider's, whose counter can be read."""
    found: dict[str, str] = {}
    for zone in files.glob(sensor.paths):
        name = files.maybe(f"{zone}/name")
        if name is None or zone.rsplit("/", 1)[-1].count(":") != 1:
            continue
        if name not in found or (not _readable(files, found[name]) and _readable(files, zone)):
            found[name] = zone
    return found


def _readable(files: Files, zone: str) -> bool:
    return files.maybe(f"{zone}/energy_uj") is not None


def _counts(files: Files, zone: str) -> bool:
    """Whether it is not the zero of a platform that does not fill it in."""
    text = files.maybe(f"{zone}/energy_uj")
    return text is not None and text.isdigit() and int(text) > 0


def _range(files: Files, zone: str) -> float:
    path = f"{zone}/max_energy_range_uj"
    try:
        return files.number(path)
    except OSError as error:
        raise MissingError(
            "the energy counter does not say where it wraps",
            where=path,
            why=str(error),
            fix="a newer kernel; without it a wrap cannot be told from a fall",
        ) from error


def refused(counter: str, error: OSError) -> MissingError:
    """What a counter that cannot be read means, with the rule that lets a group read it."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingError(
            "this user may not read the processor's energy counter (RAPL)",
            where=counter,
            why="it is root's alone since CVE-2020-8694: the counter leaks what other processes compute",
            fix=RULE,
        )
    return MissingError(
        "the processor's energy counter (RAPL) gives no value", where=counter, why=str(error), fix="check dmesg"
    )
