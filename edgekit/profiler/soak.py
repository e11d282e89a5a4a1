"""Minutes of work: the speed that stays once a device is warm, and when it was first held back."""

from __future__ import annotations

import math
import re
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgekit.errors import UsageError
from edgekit.profiler.environment import Snapshot
from edgekit.profiler.heat import moved
from edgekit.profiler.loops import Clock, Laps, open_loop, undisturbed
from edgekit.profiler.quantiles import Floats
from edgekit.profiler.report import Soak
from edgekit.profiler.storage import SOAK, SOAK_STARTS

BUCKET_S = 10.0
LEAST_BUCKETS = 5
"""The last fifth is compared with the best bucket."""
LEAST_CLOCK = 0.95
"""Of its floor, below which a pinned clock was taken down by the chip."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, eq=False)
class Soaked:
    """The figures, and every run: when it started, in seconds, and how long it took."""

    figures: Soak
    starts_s: Floats
    latency_ms: Floats

    @property
    def arrays(self) -> dict[str, Floats]:
        """By the names that reports give them."""
        return {SOAK_STARTS: self.starts_s, SOAK: self.latency_ms}


def parse_duration(text: str) -> float:
    """`90s`, `20m` or `1.5h` to seconds.

    Raises:
        UsageError: anything else.
    """
    told = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text)
    seconds = float(told[1]) * _UNITS[told[2]] if told else 0.0
    if not 0 < seconds < 1e6:
        raise UsageError("a duration is a number with s, m or h", where=f"--soak {text}", fix="--soak 20m")
    return seconds


def soak(
    call: Callable[[], object],
    seconds: float,
    look: Callable[[], Snapshot],
    *,
    rate_hz: float | None = None,
    bucket_s: float = BUCKET_S,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> Soaked:
    """Run `call` for so long, and look at the machine after every bucket.

    Args:
        look: a snapshot of the machine, taken between two buckets.
        rate_hz: None for back to back; otherwise the product's own rate, timed from when each call is due.

    Raises:
        UsageError: shorter than five buckets.
    """
    check_soak(seconds, bucket_s)
    count = round(seconds / bucket_s)
    first, origin = look(), clock()
    starts: list[Floats] = []
    taken: list[Floats] = []
    after, why = None, _untold(first)
    for index in range(count):
        end = origin + round((index + 1) * bucket_s * 1e9)
        laps = _bucket(call, end, rate_hz, clock, sleep)
        starts.append(np.asarray((laps.start_ns - origin) / 1e9))
        taken.append(laps.latency_ms)
        found = held_back(first, look()) if after is None else None
        if found is not None:
            after, why = (clock() - origin) / 1e9, found
    medians = tuple(float(np.median(one)) for one in taken)
    figures = Soak(round((clock() - origin) / 1e9, 1), bucket_s, medians, sustained(medians), after, why, SOAK)
    return Soaked(figures, np.concatenate(starts), np.concatenate(taken))


def check_soak(seconds: float | None, bucket_s: float = BUCKET_S) -> None:
    """Raise where that does not make five buckets.

    Raises:
        UsageError: it does not.
    """
    if seconds is not None and not (math.isfinite(seconds) and round(seconds / bucket_s) >= LEAST_BUCKETS):
        why, least = "the last fifth is compared with the best", LEAST_BUCKETS * bucket_s
        raise UsageError("that is too short", where=f"--soak {seconds:g}s", why=why, fix=f"{least:g}s or more")


def sustained(medians_ms: tuple[float, ...]) -> float:
    """The speed of the last fifth over that of the best bucket: 1 where nothing was lost."""
    last = medians_ms[-math.ceil(len(medians_ms) / LEAST_BUCKETS) :]
    return float(min(medians_ms) / np.median(last))


def held_back(before: Snapshot, now: Snapshot) -> str | None:
    """What shows that the chip was held back since `before`; None where nothing does.

    A clock that is not pinned wanders by itself: of that one only a lower cap counts.
    """
    for move in moved(before.counters, now.counters):
        if move.events:
            return f"{move.name} counted {move.events} {move.kind} events"
    states = {device.name: device.state for device in before.cooling}
    for device in now.cooling:
        if device.state > states.get(device.name, 0):
            return f"{device.name} slowed the chip down"
    clocks = {clock.name: clock for clock in before.clocks}
    for clock in now.clocks:
        was = clocks.get(clock.name)
        if was is None:
            continue
        if was.cap_mhz is not None and clock.cap_mhz is not None and clock.cap_mhz < was.cap_mhz:
            return f"the cap of the clock {clock.name} fell from {was.cap_mhz:g} to {clock.cap_mhz:g} MHz"
        floor, current = was.floor_mhz, clock.current_mhz
        if was.pinned and floor is not None and current is not None and current < LEAST_CLOCK * floor:
            return f"the clock {clock.name}, pinned at {floor:g} MHz, ran at {current:g} MHz"
    return None


def _untold(snapshot: Snapshot) -> str | None:
    """Why throttling could not be told here, where nothing tells of it."""
    if snapshot.cooling or snapshot.clocks or any(counter.kind != "quota" for counter in snapshot.counters):
        return None
    return "nothing tells of throttling here: no counter, no cooling device, no clock can be read"


def _bucket(
    call: Callable[[], object], end: int, rate_hz: float | None, clock: Clock, sleep: Callable[[float], object]
) -> Laps:
    """Runs up to the instant `end`, at least one."""
    if rate_hz is not None:
        left_s = (end - clock()) / 1e9
        return open_loop(call, rate_hz, max(1, math.floor(left_s * rate_hz)), clock, sleep)
    instants = array("q")
    with undisturbed():
        while True:
            instants.append(clock())
            call()
            instants.append(now := clock())
            if now >= end:
                break
    pairs = np.array(instants, np.int64).reshape(-1, 2)
    return Laps(pairs[:, 0], pairs[:, 0], pairs[:, 1])
