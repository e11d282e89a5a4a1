"""What a meter is. That a file or a library is there proves nothing: a meter exists once it has given a value.

NVML on a Jetson initialises, counts one device, and knows no power (HazyResearch/intelligence-per-watt#40).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

Kind = Literal["power", "counter"]
Clock = Callable[[], int]
"""Nanoseconds of a clock that never steps, such as `time.monotonic_ns`; wall clocks do, with NTP."""
Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Accuracy:
    """What averaging cannot remove: standard uncertainties, k = 1.

    Attributes:
        gain: fraction of the value.
        offset_w: watts, the same in every reading.
        step_w: one step of quantisation, a full step, not its deviation.
        source: who says so, or that it is assumed.
    """

    gain: float
    offset_w: float
    step_w: float
    source: str


def rectangular(limit: float) -> float:
    """The standard uncertainty where only limits of plus and minus `limit` are known (JCGM 100:2008, 4.3.7)."""
    return limit / math.sqrt(3)


class Reading(NamedTuple):
    """A value, and when it was asked for and given; watts, or joules of a counter that wraps."""

    before_ns: int
    after_ns: int
    value: float


class Meter(Protocol):
    """A source of power or energy.

    Attributes:
        name: for reports, such as `ina3221 VDD_IN`.
        boundary: what its figure covers, and what not.
        kind: `power` gives watts, `counter` joules since some instant.
        period_s: between two values of its own.
        aperture_s: how long one value averages over; 0 for an instant.
        poll_s: how often to ask; a read that waits for the sensor paces itself.
        clock_u_s: standard uncertainty of its clock against ours; 0 where it is ours.
        least_window_s: no shorter window is credible.
        wraps_at_j: a counter starts at 0 again there; None where it does not.
        settings: what belongs in the report, such as the sensor's own averaging.
    """

    @property
    def name(self) -> str: ...
    @property
    def boundary(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def period_s(self) -> float: ...
    @property
    def aperture_s(self) -> float: ...
    @property
    def poll_s(self) -> float: ...
    @property
    def clock_u_s(self) -> float: ...
    @property
    def least_window_s(self) -> float: ...
    @property
    def wraps_at_j(self) -> float | None: ...
    @property
    def accuracy(self) -> Accuracy: ...
    @property
    def settings(self) -> Mapping[str, str]: ...

    def probe(self) -> float:
        """One value, the proof that the meter exists.

        Raises:
            MissingError: there is none, and why, and what would bring it.
        """
        ...

    def read(self, clock: Clock) -> Reading:
        """One value, with its times.

        Raises:
            OSError: this one failed; the next may not.
        """
        ...
