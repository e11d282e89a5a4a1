"""Reports made of drawn latencies, as a profile would have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from edgekit.profiler.blocks import quantile_interval
from edgekit.profiler.quantiles import least_samples, lower_bound, upper_bound
from edgekit.profiler.report import (
    Certificate,
    Cold,
    Condition,
    Energy,
    Joules,
    Latency,
    Layer,
    Quantile,
    Report,
    Share,
    Subject,
    Unknown,
)


@dataclass(frozen=True)
class Made:
    """A report and its samples; the shape of `edgekit.profiler.profile.Profile`."""

    report: Report
    arrays: dict[str, Any]


NO_METER = Unknown("no power sensor was found in /sys/class/powercap", "sudo chmod a+r .../energy_uj, or --meter CMD")


def _quantile(ordered: np.ndarray, q: float) -> Quantile:
    needed = least_samples(q)
    if len(ordered) < needed:
        return Quantile(q, None, None, None, 0.95, needed, f"{len(ordered)} < {needed}")
    value = float(np.quantile(ordered, q))
    return Quantile(q, value, upper_bound(ordered, q), lower_bound(ordered, q), 0.95, needed)


def _latency(series: Sequence[np.ndarray]) -> Latency:
    every = np.concatenate(series)
    ordered, median = np.sort(every), float(np.median(every))
    return Latency(
        mode="closed",
        rate_hz=None,
        batch=1,
        runs=len(every),
        warmup_runs=200,
        processes=len(series),
        steady=True,
        steady_reason=None,
        median_ms=quantile_interval(every, 0.5),
        quantiles=tuple(_quantile(ordered, q) for q in (0.5, 0.9, 0.99, 0.999)),
        mean_ms=float(every.mean()),
        mad_ms=float(np.median(np.abs(every - median))),
        cov=float(every.std() / every.mean()),
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        slope_per_s=0.0002,
        lag1=0.12,
        effective_runs=0.8 * len(every),
        samples="latency_ms.npy",
    )


def _made(series: Sequence[np.ndarray], **changes: Any) -> Made:
    latency = _latency(series)
    starts = [np.concatenate([[0.0], np.cumsum(each)[:-1]]) / 1000 for each in series]
    arrays = {
        "latency_ms.npy": np.concatenate(series),
        "processes.npy": np.repeat(np.arange(len(series)), [len(each) for each in series]),
        "start_s.npy": np.concatenate(starts),
    }
    report = Report(
        subject=Subject("femtodet", 3, "ab" * 32, "host", "fp32", "onnxruntime", True, 1),
        conditions=(
            Condition("governor", "performance"),
            Condition("temperature", "48.5", "53.0", "°C", "/sys/class/thermal/thermal_zone0/temp"),
            Condition("load of other processes", "0.04", "0.06"),
        ),
        certificate=Certificate(True, (), ("clocks are not pinned",)),
        latency=latency,
        cold=Cold(231.0, 84.5, 12.4, 187 << 20, 5),
        split=(
            Share("pre", 1.92),
            Share("copy in", None, "the runtime reads the CPU's memory"),
            Share("device", 7.9),
            Share("copy out", None, "the runtime writes the CPU's memory"),
            Share("post", 0.41),
            Share("python", 0.03),
        ),
        layers=(
            Layer("/stem/conv/Conv_nchwc", "Conv", 1.4, "stem.conv", "femtodet.py:41", "fp32"),
            Layer("/blocks.0/dw/Conv", "Conv", 1.1, "blocks.0.dw", "femtodet.py:77", "fp32"),
            Layer("/blocks.0/pw/Conv", "Conv", 0.9, "blocks.0.pw", "femtodet.py:78", "fp32"),
            Layer("/blocks.0/pw/Relu", "Relu", 0.2, "blocks.0.pw", "femtodet.py:79", "fp32"),
            Layer("reorder_token_7", "ReorderOutput", 0.1),
        ),
        energy=None,
        unknown={"energy": NO_METER},
        started_utc="2026-11-25T15:00:00+00:00",
        tools={"python": "3.11.2", "onnxruntime": "1.32.0"},
    )
    return Made(replace(report, **changes), arrays)


@pytest.fixture(scope="session")
def make() -> Callable[..., Made]:
    """From a series of latencies a process, and fields of the report to replace."""
    return _made


@pytest.fixture
def made() -> Made:
    """3 processes of 400 runs around 8 ms with a tail."""
    rng = np.random.default_rng(7)
    return _made([8 + 0.1 * rng.standard_normal(400) + rng.exponential(0.15, 400) for _ in range(3)])


@pytest.fixture
def powered(made: Made) -> Made:
    """With an energy trace: 2 s idle at 4 W, 10 s at 11 W, 2 s idle."""
    rng = np.random.default_rng(8)
    times = np.arange(0, 14, 0.0066)
    watts = np.where((times > 2) & (times < 12), 11.0, 4.0) + 0.15 * rng.standard_normal(len(times))
    energy = Energy(
        meter="ina3221 VDD_IN",
        boundary="the whole module, the carrier board not included",
        period_ms=6.6,
        window_s=10.0,
        inferences=1250,
        total=Joules(88.0, 1.6),
        above_idle=Joules(56.0, 1.9),
        average_w=11.0,
        average_uncertainty_w=0.2,
        idle_w=4.0,
        idle_drift=False,
        rate_hz=None,
        per_second_j=11.0,
        readings=1515,
        effective_readings=1480.0,
        valid=True,
        reasons=(),
        samples="energy_w.npy",
    )
    arrays = {**made.arrays, "energy_t_s.npy": times, "energy_w.npy": watts}
    return Made(replace(made.report, energy=energy, unknown={}), arrays)
