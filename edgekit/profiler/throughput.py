"""Inferences a second: several sessions at once, each in a thread of its own, all kept busy over one common window."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from edgekit.errors import UsageError
from edgekit.profiler.loops import Clock, Instants, undisturbed
from edgekit.profiler.quantiles import Floats
from edgekit.profiler.report import Interval, Throughput

Call = Callable[[], object]

SECONDS = 5.0
WARMUP_S = 1.0
BLOCKS = 20
"""Means of blocks stand for independent samples; 10 to 30 blocks are advised (B. Schmeiser, Operations Research 30,
1982), because more of them are shorter and depend on one another."""
LEAST_A_BLOCK = 5
"""Runs in a block, below which its mean is a matter of where its edges fall."""

_STUDENT = 2.093  # 97.5 % of Student's t with BLOCKS - 1 = 19 degrees of freedom


class Lane(NamedTuple):
    """When one stream began, and when each of its runs ended: int64 nanoseconds, (), (runs,)."""

    began_ns: int
    ends_ns: Instants


def throughput(
    calls: Sequence[Call],
    batch: int = 1,
    *,
    seconds: float = SECONDS,
    warmup_s: float = WARMUP_S,
    threads: int | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Throughput:
    """Run all `calls` at once, back to back.

    Args:
        calls: one a stream, each with a session of its own: a session serves one thread.
        batch: inputs in one call.
        seconds: of the window, after `warmup_s` in which all streams run already.
        threads: of one inference, for the report.

    Raises:
        UsageError: no stream, or no time.
        EdgekitError: as a call raised it; the other streams stop then.
    """
    if not calls or batch < 1 or not (math.isfinite(seconds) and seconds > 0):
        raise UsageError("nothing runs", where=f"{len(calls)} streams, batch {batch}, {seconds} s", fix="1 or more")
    lanes = _run(calls, warmup_s, seconds, clock)
    return summarise(lanes, batch, threads)


def threads_a_stream(threads: int | None, streams: int, cores: int | None = None) -> int | None:
    """What was asked for; otherwise the cores are shared out, since runtimes take all of them for each session."""
    if threads is not None or streams == 1:
        return threads
    return max(1, (cores or os.cpu_count() or 1) // streams)


def summarise(lanes: Sequence[Lane], batch: int, threads: int | None = None) -> Throughput:
    """The rate over the time in which every stream was at work."""
    start = max(lane.began_ns for lane in lanes)
    end = min(int(lane.ends_ns[-1]) for lane in lanes)
    edges = np.linspace(start, end, BLOCKS + 1)
    done = np.sum([_progress(lane, edges) for lane in lanes], axis=0)
    rates = np.diff(done) * batch / np.diff(edges / 1e9)
    taken = np.concatenate([np.diff(lane.ends_ns, prepend=lane.began_ns) for lane in lanes]) / 1e6
    return Throughput(batch, len(lanes), _interval(rates, float(done[-1])), float(np.median(taken)), threads)


def _progress(lane: Lane, at: Floats) -> Floats:
    """How many runs were done by then; a run under way counts for the part of it that has passed."""
    instants = np.concatenate([[lane.began_ns], lane.ends_ns])
    done = np.interp(at, instants, np.arange(len(instants)))
    return np.asarray(done - done[0])


def _interval(rates: Floats, runs: float) -> Interval:
    """Of the mean, from the means of blocks (A. M. Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3)."""
    value = float(rates.mean())
    if runs < LEAST_A_BLOCK * BLOCKS:
        return Interval(value, reason=f"n/a ({runs:.0f} < {LEAST_A_BLOCK * BLOCKS} runs)")
    half = _STUDENT * float(rates.std(ddof=1)) / math.sqrt(BLOCKS)
    return Interval(value, max(0.0, value - half), value + half)


def _run(calls: Sequence[Call], warmup_s: float, seconds: float, clock: Clock) -> list[Lane]:
    start = threading.Barrier(len(calls))
    stop = threading.Event()

    def stream(call: Call) -> Lane:
        try:
            start.wait()
            warm = clock() + round(warmup_s * 1e9)
            while clock() < warm and not stop.is_set():
                call()
            return _lane(call, seconds, stop, clock)
        except BaseException:
            stop.set()
            start.abort()
            raise

    with undisturbed(), ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(stream, call) for call in calls]
        failed = [error for error in (future.exception() for future in futures) if error is not None]
        for error in sorted(failed, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
            raise error
        return [future.result() for future in futures]


def _lane(call: Call, seconds: float, stop: threading.Event, clock: Clock) -> Lane:
    began = clock()
    end = began + round(seconds * 1e9)
    ends = np.empty(1024, np.int64)
    count = 0
    while not stop.is_set():
        call()
        if count == len(ends):
            ends = np.concatenate([ends, np.empty_like(ends)])
        ends[count] = now = clock()
        count += 1
        if now >= end:
            break
    return Lane(began, ends[:count].copy())
