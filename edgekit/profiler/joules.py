"""The energy of a loaded session, by the machine's own meter or the user's."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from edgekit.errors import MissingError
from edgekit.profiler.energy.external import align, open_program
from edgekit.profiler.energy.find import find_meter, keep_busy
from edgekit.profiler.energy.integrate import power_trace
from edgekit.profiler.energy.measure import Phases, measure_energy
from edgekit.profiler.energy.meter import Meter
from edgekit.profiler.energy.recording import ThreadRecording, Trace
from edgekit.profiler.report import Energy, Unknown
from edgekit.profiler.storage import ENERGY_TIMES, ENERGY_WATTS
from edgekit.profiles import DeviceProfile
from edgekit.runtimes.session import Session

_ALIGNMENT_S = 60.0


def session_energy(
    session: Session,
    feeds: Mapping[str, np.ndarray],
    device: DeviceProfile,
    *,
    program: str | None = None,
    rate_hz: float | None = None,
) -> tuple[Energy, dict[str, np.ndarray]]:
    """Joules of an inference, and the trace that they come from.

    Args:
        device: names the sensors of this machine.
        program: prints `t_monotonic_ns,volt,amp` lines, and is used instead of them.
        rate_hz: inferences a second; back to back where None.

    Raises:
        MissingError: there is no meter, or it stopped.
        InconclusiveError: there were too few readings.
    """
    traced: dict[str, np.ndarray] = {}
    with _meter(device, program) as meter:

        def keep(trace: Trace, phases: Phases) -> str:
            traced[ENERGY_TIMES], traced[ENERGY_WATTS] = power_trace(meter, trace, phases.before.start_ns)
            return ENERGY_WATTS

        session.warmup()
        energy = measure_energy(
            meter,
            lambda: session.run(feeds),
            sync=lambda: None,  # `run` returns when the outputs are there, on every backend
            rate_hz=rate_hz,
            keep=keep,
        )
    return energy, traced


@contextmanager
def _meter(device: DeviceProfile, program: str | None) -> Iterator[Meter]:
    if program is None:
        found = find_meter(device)
        if isinstance(found, Unknown):
            raise MissingError(found.reason, fix=found.fix)
        yield found
        return
    external = open_program(shlex.split(program))
    try:
        record = lambda meter: ThreadRecording(meter, time.monotonic_ns, time.sleep, _ALIGNMENT_S)  # noqa: E731
        align(external, record=record, clock=time.monotonic_ns, sleep=time.sleep, busy=_load)
        yield external
    finally:
        external.close()


def _load(seconds: float) -> None:
    keep_busy(seconds)
    time.sleep(seconds)
