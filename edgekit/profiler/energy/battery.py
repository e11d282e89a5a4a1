"""A battery's fuel gauge, as Linux and Android show it in /sys/class/power_supply. The whole device is in the figure.

By the ABI (Documentation/ABI/testing/sysfs-class-power) currents are microamperes, negative while discharging. Makers
report milliamperes and the other sign too, so both are inferred: a busy device draws more than an idle one, and draws
between 0.1 and 15 W. What stays ambiguous is refused.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from edgekit.errors import MissingError
from edgekit.profiler.energy.files import Files
from edgekit.profiler.energy.meter import Accuracy, Clock, Kind, Reading, Sleep, rectangular
from edgekit.profiles.profile import Sensor

LEAST_WINDOW_S = 30.0
GAIN_LIMIT = 0.03
"""Assumed, of current and voltage together: gauges differ, and no maker of phones states it."""
LEAST_W, MOST_W = 0.1, 15.0
LEAST_V, MOST_V = 2.5, 25.0
PROBE_S = 5.0
POLL_S = 0.05
LEAST_CHANGE = 0.05
"""A busy device draws at least this much more than an idle one, or the probe says nothing."""

Busy = Callable[[float], None]


@dataclass(frozen=True)
class Units:
    """How to read the node: watts are `current * amp * voltage * volt`, with the sign in `amp`."""

    amp: float
    volt: float


@dataclass(frozen=True)
class Probed:
    """What the idle and busy phases showed: raw values of `current_now` and `voltage_now`."""

    idle: tuple[float, ...]
    busy: tuple[float, ...]
    voltage: float
    seconds: float


class Battery:
    """One node that discharges.

    Args:
        folder: of the node.
        units: as `infer_units` found them.
        probed: what they were inferred from; also how often the gauge has a new value.
    """

    kind: Kind = "power"
    wraps_at_j = None
    clock_u_s = 0.0
    least_window_s = LEAST_WINDOW_S
    poll_s = POLL_S

    def __init__(self, files: Files, folder: str, boundary: str, units: Units, probed: Probed) -> None:
        self._files, self._folder, self._units = files, folder, units
        self.name = f"battery {folder.rsplit('/', 1)[-1]}"
        self.boundary = boundary
        values = (*probed.idle, *probed.busy)
        changes = sum(a != b for a, b in pairwise(values))
        self.period_s = max(POLL_S, probed.seconds / max(1, changes))
        self.aperture_s = self.period_s
        steps = sorted({abs(a - b) for a, b in pairwise(values) if a != b})
        step_w = (steps[0] if steps else 0.0) * abs(units.amp) * probed.voltage * units.volt
        self.accuracy = Accuracy(rectangular(GAIN_LIMIT), 0.0, step_w, "3 % of gauge, assumed: makers state none")
        self.settings: Mapping[str, str] = {
            "node": folder,
            "current_unit": "uA" if abs(units.amp) < 1e-4 else "mA",
            "discharging_is": "negative" if units.amp < 0 else "positive",
            "period_s": f"{self.period_s:.2f}, as seen",
        }

    def probe(self) -> float:
        """Watts; see `Meter.probe`."""
        require_discharging(self._files, self._folder)
        try:
            return self._watts()
        except OSError as error:
            raise _silent(self._folder, error) from error

    def read(self, clock: Clock) -> Reading:
        """Watts that the device draws."""
        before = clock()
        watts = self._watts()
        return Reading(before, clock(), watts)

    def _watts(self) -> float:
        current = self._files.number(f"{self._folder}/current_now") * self._units.amp
        return current * self._files.number(f"{self._folder}/voltage_now") * self._units.volt


def open_battery(sensor: Sensor, files: Files, clock: Clock, sleep: Sleep, busy: Busy) -> Battery:
    """Find the node that lives, and infer its unit and sign from 5 s idle and 5 s busy.

    Args:
        busy: keeps the processor at work for so many seconds, without blocking the caller's thread.

    Raises:
        MissingError: no battery, one that charges, or a unit or sign that cannot be told.
    """
    nodes = [zone for zone in files.glob(sensor.paths) if files.maybe(f"{zone}/type") == "Battery"]
    if not nodes:
        raise MissingError(
            "there is no battery", where=", ".join(sensor.paths), why="no node has the type Battery", fix=EXTERNAL
        )
    for node in nodes:
        require_discharging(files, node)
    probed = probe_nodes(files, nodes, clock, sleep, busy)
    alive = [node for node in nodes if node in probed and len({*probed[node].idle, *probed[node].busy}) > 1]
    if len(alive) != 1:
        raise MissingError(
            f"{len(alive)} of {len(nodes)} battery nodes give currents that change",
            where=", ".join(nodes),
            why="one of them has to be told from copies and dead nodes",
            fix=EXTERNAL,
        )
    node = alive[0]
    return Battery(files, node, sensor.boundary, infer_units(probed[node], node), probed[node])


EXTERNAL = (
    "use an external meter, or, over adb, see that `cat /sys/class/power_supply/battery/current_now` gives values"
)


def require_discharging(files: Files, node: str) -> None:
    """Raise unless the battery is what feeds the device.

    Raises:
        MissingError: it charges, or does not say.
    """
    status = files.maybe(f"{node}/status")
    if status != "Discharging":
        raise MissingError(
            f"the battery is not discharging: {status or 'no status'}",
            where=f"{node}/status",
            why="a supply feeds the device past the gauge, so its current is not what the device draws",
            fix="unplug it and use wireless adb or ssh; a USB hub that cuts VBUS serves too",
        )


def probe_nodes(files: Files, nodes: list[str], clock: Clock, sleep: Sleep, busy: Busy) -> dict[str, Probed]:
    """Currents of each node that gives any, idle and then busy."""
    phases: list[dict[str, list[float]]] = []
    for phase in (lambda _: None, busy):
        currents: dict[str, list[float]] = {node: [] for node in nodes}
        phase(PROBE_S)
        end = clock() + round(PROBE_S * 1e9)
        while clock() < end:
            for node in nodes:
                text = files.maybe(f"{node}/current_now")
                if text is not None:
                    currents[node].append(_number(text))
            sleep(POLL_S)
        phases.append(currents)
    found = {}
    for node in nodes:
        voltage = files.maybe(f"{node}/voltage_now")
        if phases[0][node] and phases[1][node] and voltage:
            found[node] = Probed(tuple(phases[0][node]), tuple(phases[1][node]), _number(voltage), 2 * PROBE_S)
    return found


def infer_units(probed: Probed, node: str) -> Units:
    """Unit and sign, each from what would make sense, alone.

    Raises:
        MissingError: none or more than one does.
    """
    volts = [unit for unit in (1e-6, 1e-3) if LEAST_V <= probed.voltage * unit <= MOST_V]
    if len(volts) != 1:
        raise _ambiguous(
            node, f"voltage_now says {probed.voltage:g}, which is no battery's in microvolts or millivolts"
        )
    idle, busy = statistics.median(probed.idle), statistics.median(probed.busy[len(probed.busy) // 3 :])
    if idle * busy <= 0:
        raise _ambiguous(node, f"the current changes its sign between idle ({idle:g}) and busy ({busy:g})")
    if abs(busy) < (1 + LEAST_CHANGE) * abs(idle):
        raise _ambiguous(node, f"a busy device does not draw more: {idle:g} idle, {busy:g} busy")
    sign = 1.0 if busy > 0 else -1.0
    for unit in (1e-6, 1e-3):
        watts = [abs(value) * unit * probed.voltage * volts[0] for value in (idle, busy)]
        if all(LEAST_W <= value <= MOST_W for value in watts):
            return Units(sign * unit, volts[0])
    raise _ambiguous(node, f"{busy:g} is neither in uA nor in mA between {LEAST_W} and {MOST_W} W")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _silent(node: str, error: OSError) -> MissingError:
    return MissingError("the battery gives no current", where=node, why=str(error), fix=EXTERNAL)


def _ambiguous(node: str, why: str) -> MissingError:
    return MissingError("the battery's current cannot be told in watts", where=node, why=why, fix=EXTERNAL)
