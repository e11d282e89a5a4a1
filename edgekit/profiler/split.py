"""What an application waits for besides the model: its own steps around the runtime, timed one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from edgekit.processing.classify import top_k
from edgekit.processing.detect import detections
from edgekit.processing.preprocess import prepare_batch
from edgekit.profiler.loops import closed_loop
from edgekit.profiler.report import Share
from edgekit.runtimes.session import Session
from edgekit.spec import DetectionPostprocess

RUNS = 50
PICTURE = (1080, 1920, 3)
"""Height, width and channels of the picture that preprocessing is timed on."""


def split(session: Session, feeds: Mapping[str, np.ndarray]) -> tuple[Share, ...]:
    """Medians of each part; `python` is what `session.run` adds to the runtime's own call."""
    whole = _median_ms(lambda: session.run(feeds))
    engine = _median_ms(lambda: session.run_engine(feeds))
    device = _device_ms(session, feeds)
    shares = [_pre(session), Share("device", engine if device is None else device)]
    if device is None:
        why = "the runtime reads and writes the CPU's memory"
        shares[1:1] = [Share("copy in", None, why)]
        shares.append(Share("copy out", None, why))
    else:
        why = "in `python`: copies are queued with the launch"
        shares[1:1] = [Share("copy in", None, why)]
        shares.append(Share("copy out", None, why))
    return (*shares, _post(session, feeds), Share("python", max(0.0, whole - (engine if device is None else device))))


def _pre(session: Session) -> Share:
    pre = session.spec.preprocess
    if pre is None:
        return Share("pre", None, "the bundle carries no preprocessing")
    picture = np.random.default_rng(0).integers(0, 256, PICTURE, dtype=np.uint8)
    return Share("pre", _median_ms(lambda: prepare_batch(pre, [picture])))


def _post(session: Session, feeds: Mapping[str, np.ndarray]) -> Share:
    pre, post = session.spec.preprocess, session.spec.postprocess
    if pre is None or post is None:
        return Share("post", None, "the bundle carries no postprocessing")
    outputs = session.run(feeds)
    picture = np.zeros(PICTURE, np.uint8)
    placements = [prepare_batch(pre, [picture])[1][0]] * len(next(iter(outputs.values())))
    if isinstance(post, DetectionPostprocess):
        return Share("post", _median_ms(lambda: detections(post, outputs, placements)))
    return Share("post", _median_ms(lambda: top_k(post, outputs)))


def _device_ms(session: Session, feeds: Mapping[str, np.ndarray]) -> float | None:
    """The device's own clock; None where there is none."""
    session.run(feeds)
    if session.device_ms is None:
        return None
    times = []
    for _ in range(RUNS):
        session.run(feeds)
        times.append(session.device_ms)
    return float(np.median(np.array(times)))


def _median_ms(call: Callable[[], object]) -> float:
    closed_loop(call, 5, time.perf_counter_ns)
    return float(np.median(closed_loop(call, RUNS, time.perf_counter_ns).latency_ms))
