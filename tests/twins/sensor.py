"""A model of an INA3221, loads in front of it and a clock that only tests move. It is never called a device.

The truth comes from the load, in closed form; nothing here is shared with the integrator under test. The sensor: every
6.6 ms (give or take, by its oscillator) it converts one channel after the other, 1.1 ms for a current and 1.1 ms for a
voltage, so V and I of a reading are of different instants; a read waits for the end of the cycle; steps are 8 mA and
8 mV; gains and offsets are drawn once a sensor from the data sheet's bounds; some reads fail, some are late.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CYCLE_S = 6.6e-3
STEP_A, STEP_V = 8e-3, 8e-3
SHUNT_OHM = 5e-3


@dataclass(frozen=True)
class Load:
    """Watts over time: a floor, a rise towards a plateau as a chip warms up, and rectangular bursts.

    Attributes:
        floor_w: always.
        rise_until_s: what has risen until then stays.
        rise_w, rise_s: `rise_w * (1 - exp(-(t - t0) / rise_s))` from `rise_from_s` on.
        starts_s, widths_s: (n,), bursts of `burst_w`, in order and apart.
    """

    floor_w: float
    burst_w: float = 0.0
    starts_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    widths_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    rise_w: float = 0.0
    rise_s: float = 1.0
    rise_from_s: float = 0.0
    rise_until_s: float = math.inf

    def joules(self, t: Any) -> Any:
        """Energy from 0 to `t`, exactly."""
        t = np.asarray(t, np.float64)
        u = np.clip(t, self.rise_from_s, self.rise_until_s) - self.rise_from_s
        total = self.floor_w * t + self.rise_w * (u + self.rise_s * np.expm1(-u / self.rise_s))
        if math.isfinite(self.rise_until_s):
            risen = -np.expm1((self.rise_from_s - self.rise_until_s) / self.rise_s)
            total = total + self.rise_w * risen * np.maximum(t - self.rise_until_s, 0)
        if len(self.starts_s):
            done = np.concatenate([[0.0], np.cumsum(self.widths_s)])
            i = np.searchsorted(self.starts_s, t, side="right")
            last = np.maximum(i - 1, 0)
            inside = np.clip(t - self.starts_s[last], 0.0, self.widths_s[last])
            total = total + self.burst_w * np.where(i > 0, done[last] + inside, 0.0)
        return total

    def truth_j(self, start_s: float, end_s: float) -> float:
        return float(self.joules(end_s) - self.joules(start_s))


@dataclass(frozen=True)
class Unit:
    """One sensor's errors, fixed for its life."""

    current_gain: float = 0.0
    voltage_gain: float = 0.0
    voltage_offset_v: float = 0.0
    shunt_gain: float = 0.0
    offset_a: float = 0.0
    cycle_s: float = CYCLE_S
    phase_s: float = 0.0
    supply_v: float = 5.0
    source_ohm: float = 0.008
    noise_steps: float = 0.5
    failing: float = 0.001
    late: float = 0.01

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Unit:
        """Evenly within the maxima of TI SBOS576: gains 0.25 % and 50 ppm/K, offsets 80 uV and 0.5 uV/K of the current
        and 16 mV of the voltage, conversions 10 % longer or shorter, up to 40 K above 25 degC; shunt 1 %.
        """
        warmer = rng.uniform(0, 40)
        return cls(
            current_gain=rng.uniform(-0.0025, 0.0025) + warmer * rng.uniform(-50e-6, 50e-6),
            voltage_gain=rng.uniform(-0.0025, 0.0025) + warmer * rng.uniform(-50e-6, 50e-6),
            voltage_offset_v=rng.uniform(-0.016, 0.016),
            shunt_gain=rng.uniform(-0.01, 0.01),
            offset_a=(rng.uniform(-80e-6, 80e-6) + warmer * rng.uniform(-0.5e-6, 0.5e-6)) / SHUNT_OHM,
            cycle_s=CYCLE_S * (1 + rng.uniform(-0.1, 0.1)),
            phase_s=rng.uniform(0, CYCLE_S),
            supply_v=rng.uniform(4.85, 5.15),
        )

    def amps(self, power_w: Any, noise: Any) -> Any:
        """What the current's register shows for a mean power while it converts."""
        volt = self.volts_at(power_w)
        ideal = power_w / volt * (1 + self.current_gain + self.shunt_gain) + self.offset_a
        return np.round(ideal / STEP_A + noise) * STEP_A

    def volts(self, power_w: Any, noise: Any) -> Any:
        seen = self.volts_at(power_w) * (1 + self.voltage_gain) + self.voltage_offset_v
        return np.round(seen / STEP_V + noise) * STEP_V

    def volts_at(self, power_w: Any) -> Any:
        """The supply under load: it drops across the source's resistance."""
        half = self.supply_v / 2
        return half + np.sqrt(half**2 - self.source_ohm * power_w)


@dataclass(frozen=True)
class Reads:
    """What a reader got that asks for a voltage before every eight currents: seconds, amperes, volts."""

    before_s: NDArray[np.float64]
    after_s: NDArray[np.float64]
    amps: NDArray[np.float64]
    volts: NDArray[np.float64]
    failures: int


def read_all(load: Load, unit: Unit, seconds: float, rng: np.random.Generator) -> Reads:
    """Every current from 0 to `seconds`, each with the voltage that was read last."""
    cycles = int(seconds / unit.cycle_s)
    skipped = rng.random(cycles) < unit.late  # the reader came too late for this one
    ends = unit.phase_s + unit.cycle_s * np.flatnonzero(~skipped)
    given = ends + rng.exponential(60e-6, len(ends))
    asked = np.concatenate([[0.0], given[:-1]]) + 40e-6
    is_voltage = np.arange(len(ends)) % 9 == 0
    begun = ends - unit.cycle_s  # currents first, voltages after them
    noise = rng.normal(0, unit.noise_steps, len(ends))
    conversion = unit.cycle_s / 6
    current_w = (load.joules(begun + conversion) - load.joules(begun)) / conversion
    voltage_w = (load.joules(begun + 2 * conversion) - load.joules(begun + conversion)) / conversion
    held = np.maximum.accumulate(np.where(is_voltage, np.arange(len(ends)), 0))
    volts = unit.volts(voltage_w, noise)[held]
    kept = ~is_voltage & (rng.random(len(ends)) >= unit.failing)
    failures = int((~is_voltage).sum() - kept.sum())
    return Reads(asked[kept], given[kept], unit.amps(current_w, noise)[kept], volts[kept], failures)


LEAD_S, IDLE_S, SETTLE_S = 0.5, 10.0, 1.0


@dataclass(frozen=True)
class Session:
    """A load with the instants of its phases, seconds, and the starts of its inferences."""

    load: Load
    before: tuple[float, float]
    window: tuple[float, float]
    after: tuple[float, float]
    starts_s: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        return self.after[1] + LEAD_S

    @property
    def truth_j(self) -> float:
        return self.load.truth_j(*self.window)

    @property
    def above_idle_j(self) -> float:
        idle = sum(self.load.truth_j(*one) / (one[1] - one[0]) for one in (self.before, self.after)) / 2
        return self.truth_j - idle * (self.window[1] - self.window[0])


def steady(rng: np.random.Generator, window_s: float = 10.0) -> Session:
    """Back to back: one long burst of 3 to 11 W above an idle board of 3 to 6 W."""
    starts = np.arange(0.0, window_s, rng.uniform(0.008, 0.03))
    return _session(Load(rng.uniform(3, 6), rng.uniform(3, 11)), starts, None, window_s)


def bursty(rng: np.random.Generator, window_s: float = 10.0, period_s: float | None = None) -> Session:
    """Bursts of 3 ms at 15 to 60 a second, each up to 0.2 ms off its time."""
    period = period_s or 1 / rng.uniform(15, 60)
    count = math.ceil(window_s / period)
    starts = np.arange(count) * period + rng.uniform(0, 2e-4, count)
    return _session(Load(rng.uniform(3, 6), rng.uniform(3, 11)), starts, 3e-3, count * period)


def drifting(rng: np.random.Generator, window_s: float = 10.0) -> Session:
    """Steady, with up to 2 W more as the chip warms up over 3 to 20 s; it leaks on when idle."""
    plain = steady(rng, window_s)
    rise = replace(
        plain.load,
        rise_w=rng.uniform(0.5, 2.0),
        rise_s=rng.uniform(3, 20),
        rise_from_s=plain.window[0],
        rise_until_s=plain.window[1],
    )
    return replace(plain, load=rise)


def locked(period_s: float, phase: float, window_s: float = 10.0) -> Session:
    """3 ms bursts of 8 W on 4 W exactly every `period_s`, `phase` of a period late."""
    count = math.ceil(window_s / period_s)
    starts = (np.arange(count) + phase) * period_s
    return _session(Load(4.0, 8.0), starts, 3e-3, (count + 1) * period_s)


LOADS = {"steady": steady, "bursty": bursty, "drifting": drifting}


def _session(load: Load, starts: NDArray[np.float64], width_s: float | None, window_s: float) -> Session:
    begin = LEAD_S + IDLE_S + LEAD_S
    end = begin + window_s
    absolute = begin + starts
    if width_s is None:
        bursts, widths = np.array([begin]), np.array([window_s])
    else:
        bursts, widths = absolute, np.full(len(absolute), width_s)
    after = end + SETTLE_S
    loaded = replace(load, starts_s=bursts, widths_s=widths)
    return Session(loaded, (LEAD_S, LEAD_S + IDLE_S), (begin, end), (after, after + IDLE_S), absolute)


class Board:
    """A virtual board with one reader in the background: time passes only when somebody works or sleeps.

    The program and the reader have a place in time each; the reader follows, two cycles behind, so that what it reads
    has happened. A read of the sensor takes until the end of its cycle, by the reader's time.
    """

    FOLDER = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"

    def __init__(self, unit: Unit, idle_w: float, seed: int = 0) -> None:
        self.unit, self.idle_w = unit, idle_w
        self.now_s = self.reader_s = 1.0
        self.queue_s = 0.0
        self._rng = np.random.default_rng(seed)
        self._reader: Any = None
        self._reading = False
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._done: list[float] = [0.0]
        self._watts: list[float] = []
        self.texts: dict[str, str | OSError] = {
            f"{self.FOLDER}/{name}": text
            for name, text in {
                "in1_label": "VDD_IN",
                "in2_label": "VDD_CPU_GPU_CV",
                "in3_label": "VDD_SOC",
                "curr2_input": OSError(5, "Input/output error"),
                "curr3_input": "600",
                "shunt1_resistor": "5000",
                "samples": "1",
                "update_interval": "7",
            }.items()
        }

    # --- time

    def clock(self) -> int:
        """Nanoseconds, of whoever asks."""
        return round((self.reader_s if self._reading else self.now_s) * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self._follow()

    def read_in_background(self, reader: Any, every_s: float = 1e-3) -> None:
        """`reader.take()` is called whenever time has passed, at most every `every_s`; None ends it."""
        self._reader, self.reader_s, self._every_s = reader, self.now_s, every_s

    def _follow(self) -> None:
        self._reading = True
        while self._reader is not None and self.reader_s < self.now_s - 2 * self.unit.cycle_s:
            began = self.reader_s
            self._reader.take()
            self.reader_s = max(self.reader_s, began + self._every_s)
        self._reading = False

    # --- load

    def work(self, seconds: float, watts: float) -> None:
        """Work that the caller waits for, with so many watts above idle."""
        self.enqueue(seconds, watts)
        self.sync()

    def enqueue(self, seconds: float, watts: float) -> None:
        """Work that the device does when it is done with what it has; the caller goes on at once."""
        start = max(self.now_s, self.queue_s)
        self.queue_s = start + seconds
        self._starts.append(start)
        self._ends.append(self.queue_s)
        self._watts.append(watts)
        self._done.append(self._done[-1] + seconds * watts)

    def sync(self) -> None:
        self.sleep(max(0.0, self.queue_s - self.now_s))

    def joules(self, t: float) -> float:
        """Energy from 0 to `t`, exactly."""
        i = bisect_right(self._starts, t)
        total = self.idle_w * t + (self._done[i - 1] if i else 0.0)
        return total + (self._watts[i - 1] * (min(t, self._ends[i - 1]) - self._starts[i - 1]) if i else 0.0)

    # --- sysfs

    def glob(self, patterns: Any) -> list[str]:
        return [self.FOLDER] if any("ina3221" in pattern for pattern in patterns) else []

    def text(self, path: str) -> str:
        """A file's content; reads of the sensor wait for the end of its cycle."""
        name = Path(path).name
        if name in ("curr1_input", "in1_input"):
            return self._sensed(name)
        found = self.texts.get(path, FileNotFoundError(2, "No such file or directory"))
        if isinstance(found, OSError):
            raise found
        return found

    def _sensed(self, name: str) -> str:
        unit = self.unit
        at = self.reader_s if self._reading else self.now_s
        end = unit.phase_s + (math.floor((at - unit.phase_s) / unit.cycle_s + 1e-9) + 1) * unit.cycle_s
        if self._reading:
            self.reader_s = end + self._rng.exponential(60e-6)
        else:
            self.now_s = end
        if self._rng.random() < unit.failing and self._reading:
            raise OSError(5, "Input/output error")
        conversion = unit.cycle_s / 6
        begun = end - unit.cycle_s + (0.0 if name == "curr1_input" else conversion)
        mean_w = (self.joules(begun + conversion) - self.joules(begun)) / conversion
        noise = self._rng.normal(0, unit.noise_steps)
        value = unit.amps(mean_w, noise) if name == "curr1_input" else unit.volts(mean_w, noise)
        return str(round(float(value) * 1e3))
