"""TI INA3221, the power monitor on Jetson modules, by the hwmon driver of Linux (drivers/hwmon/ina3221.c).

Every read waits for the end of a conversion cycle, so a voltage costs a current: 8 currents are read for one voltage,
which moves slowly. Settings are recorded and never written: the sensor's averages also feed the board's throttling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgekit.errors import MissingError
from edgekit.profiler.energy.files import Files
from edgekit.profiler.energy.meter import Accuracy, Clock, Kind, Reading, rectangular
from edgekit.profiles.profile import Rail, Sensor

CURRENTS_A_VOLTAGE = 8
LEAST_WINDOW_S = 10.0
SHUNT_TOLERANCE = 0.01
"""Assumed, of the shunt resistors: no data sheet of the module states it."""
BUS_OFFSET_V = 0.016
GAIN_PER_K, OFFSET_V_PER_K = 50e-6, 0.5e-6
WARMER_K = 40.0
"""TI SBOS576, electrical characteristics, maxima: offset of the voltage, drifts of gains and of the current's offset;
a board is taken to be 40 K above the data sheet's 25 degC."""
CONVERSIONS = 6
CYCLE_S = 6.6e-3
"""At reset: shunt and bus voltage of three channels, six conversions of 1.1 ms (reset value 0x7127)."""


class Ina3221:
    """The total rail of a module; the other rails are parts of it, are never added, and may fail.

    Args:
        folder: of the hwmon device.
        channel: of the total, as its label says.
        rails: what the other channels said when they were asked, for the record.
    """

    kind: Kind = "power"
    least_window_s = LEAST_WINDOW_S
    wraps_at_j = None
    clock_u_s = 0.0

    def __init__(self, sensor: Sensor, files: Files, folder: str, channel: int, rails: Mapping[str, str]) -> None:
        self._files = files
        self._current = f"{folder}/curr{channel}_input"
        self._voltage = f"{folder}/in{channel}_input"
        self._turn, self._volt = 0, math.nan
        self._steps = _number(sensor, "current_step_ma", 8.0), _number(sensor, "voltage_step_mv", 8.0)
        self._gain = _number(sensor, "gain_percent", 0.25) / 100
        self._offset_w = _number(sensor, "offset_mw", 80.0) / 1e3
        self.name = f"ina3221 {sensor.total}"
        self.boundary = sensor.boundary
        interval = _setting(files, f"{folder}/update_interval")
        samples = _setting(files, f"{folder}/samples")
        self.period_s = interval / 1e3 if interval else CYCLE_S
        self.poll_s = self.period_s / 2
        self.aperture_s = self.period_s / CONVERSIONS
        shunt = _setting(files, f"{folder}/shunt{channel}_resistor")
        self._shunt_uohm = shunt or _declared_shunt(sensor)
        self._scale = _declared_shunt(sensor) / self._shunt_uohm
        self.settings: Mapping[str, str] = {
            "samples": _told(samples),
            "update_interval_ms": _told(interval),
            "shunt_uohm": _told(shunt),
            **rails,
        }

    @property
    def accuracy(self) -> Accuracy:
        """Gains, offsets and the shunt, evenly within their limits; the voltage's offset is a gain."""
        volt = self._volt if math.isfinite(self._volt) else 5.0
        milliamp, millivolt = self._steps
        drift = rectangular(GAIN_PER_K * WARMER_K)
        gains = (rectangular(self._gain), rectangular(self._gain), drift, drift, rectangular(SHUNT_TOLERANCE))
        of_voltage = math.hypot(rectangular(BUS_OFFSET_V), millivolt / 1e3 / math.sqrt(12)) / volt
        warm_w = OFFSET_V_PER_K * WARMER_K / (self._shunt_uohm / 1e6) * volt
        return Accuracy(
            math.hypot(*gains, of_voltage),
            math.hypot(rectangular(self._offset_w * self._scale * volt / 5.0), rectangular(warm_w)),
            milliamp / 1e3 * self._scale * volt,
            "TI SBOS576: maxima of offset and gain, 25 to 65 degC; shunt 1 %, assumed",
        )

    def probe(self) -> float:
        """Watts; see `Meter.probe`."""
        try:
            self._volt = self._files.number(self._voltage) / 1e3
            return self._files.number(self._current) / 1e3 * self._volt
        except OSError as error:
            raise MissingError(
                f"{self.name} gives no value",
                where=self._current,
                why=str(error),
                fix="`cat` that file on the board: its driver or the sensor does not answer",
            ) from error

    def read(self, clock: Clock) -> Reading:
        """Watts, from the current now and the latest voltage."""
        if self._turn % CURRENTS_A_VOLTAGE == 0 or math.isnan(self._volt):
            self._read_voltage()
        self._turn += 1
        before = clock()
        milliamp = self._files.number(self._current)
        return Reading(before, clock(), milliamp / 1e3 * self._volt)

    def _read_voltage(self) -> None:
        try:
            self._volt = self._files.number(self._voltage) / 1e3
        except OSError:
            if math.isnan(self._volt):  # otherwise the one before it serves
                raise


def open_ina3221(sensor: Sensor, files: Files) -> Ina3221:
    """Find the sensor and the channel whose label is the total's, whatever their numbers are since the last boot.

    Raises:
        MissingError: no such sensor, or no channel with that label.
    """
    folders = files.glob(sensor.paths)
    if not folders:
        raise MissingError(
            "there is no INA3221 power monitor",
            where=", ".join(sensor.paths),
            why="the kernel shows none there",
            fix="on a Jetson: lsmod | grep ina3221, and load the driver; in a container, mount /sys",
        )
    for folder in folders:
        labels = {label: n for n in (1, 2, 3) if (label := files.maybe(f"{folder}/in{n}_label"))}
        channel = labels.get(sensor.total or "")
        if channel is not None:
            rails = {rail.label: _state(files, folder, labels, rail) for rail in sensor.rails}
            rails.pop(sensor.total or "", None)
            return Ina3221(sensor, files, folder, channel, rails)
    raise MissingError(
        f"no channel of the power monitor is called {sensor.total}",
        where=", ".join(folders),
        why="its labels are others: another module or carrier board",
        fix="name the device's own profile with --target",
    )


def _state(files: Files, folder: str, labels: Mapping[str, int], rail: Rail) -> str:
    """What a part of the total said; a channel that fails is recorded as such and harms no other."""
    channel = labels.get(rail.label, rail.channel)
    try:
        milliamp = files.number(f"{folder}/curr{channel}_input")
    except OSError as error:
        return f"unreadable: {error}"
    return f"{milliamp:.0f} mA when probed; part of the total"


def _setting(files: Files, path: str) -> float | None:
    """A positive number, None where the driver says none."""
    try:
        value = files.number(path)
    except OSError:
        return None
    return value if value > 0 else None


def _told(setting: float | None) -> str:
    return "unknown" if setting is None else f"{setting:g}"


def _number(sensor: Sensor, fact: str, default: float) -> float:
    value = sensor.facts[fact].value if fact in sensor.facts else None
    return float(value) if isinstance(value, int | float) else default


def _declared_shunt(sensor: Sensor) -> float:
    """Micro-ohms, of which the profile states offset and steps."""
    return next(
        (float(rail.shunt_uohm) for rail in sensor.rails if rail.label == sensor.total and rail.shunt_uohm), 5e3
    )
