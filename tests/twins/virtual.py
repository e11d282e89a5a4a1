"""Twins of sensors as edgekit's meters see them: files, recordings and traces on the virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor import Board, Reads, Session, Unit, read_all

from edgekit.profiler.energy.files import Files
from edgekit.profiler.energy.ina3221 import Ina3221, open_ina3221
from edgekit.profiler.energy.integrate import Span
from edgekit.profiler.energy.measure import Phases
from edgekit.profiler.energy.meter import Meter
from edgekit.profiler.energy.recording import Recorder, Trace
from edgekit.profiles.loader import get


class MadeFiles(Files):
    """Files in memory: text, an error to raise, or what a function gives now."""

    def __init__(self, texts: Mapping[str, str | OSError | Callable[[], str]]) -> None:
        self.texts = dict(texts)

    def glob(self, patterns: Any) -> list[str]:
        places = {path.rsplit("/", 1)[0] for path in self.texts} | set(self.texts)
        return [place for pattern in patterns for place in sorted(places) if fnmatch(place, pattern)]

    def text(self, path: str) -> str:
        found = self.texts.get(path, FileNotFoundError(2, "No such file or directory"))
        if isinstance(found, OSError):
            raise found
        return found if isinstance(found, str) else found()


class BoardFiles(Files):
    """A virtual board's files."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def glob(self, patterns: Any) -> list[str]:
        return self.board.glob(patterns)

    def text(self, path: str) -> str:
        return self.board.text(path)


class BackgroundRecording:
    """A recorder that the board drives as its time passes."""

    def __init__(self, board: Board, meter: Meter, seconds: float) -> None:
        self._board = board
        self._recorder = Recorder(meter, board.clock, seconds)
        board.read_in_background(self._recorder, meter.poll_s)

    def trace(self) -> Trace:
        return self._recorder.trace()

    def stop(self) -> None:
        self._board.read_in_background(None)


def jetson_meter(board: Board) -> Ina3221:
    """The meter that the profile of Orin Nano names, on a virtual board."""
    return open_ina3221(get("orin-nano").sensors[0], BoardFiles(board))


def nanoseconds(seconds: Any) -> NDArray[np.int64]:
    return np.round(np.asarray(seconds) * 1e9).astype(np.int64)


def trace_of(reads: Reads) -> Trace:
    return Trace(nanoseconds(reads.before_s), nanoseconds(reads.after_s), reads.amps * reads.volts, reads.failures)


def phases_of(session: Session) -> Phases:
    before, window, after = (
        Span(*(int(instant) for instant in nanoseconds(one))) for one in (session.before, session.window, session.after)
    )
    return Phases(before, window, after, tuple(int(start) for start in nanoseconds(session.starts_s)))


def seen(session: Session, unit: Unit, rng: np.random.Generator) -> tuple[Trace, Phases]:
    """A session as the sensor showed it."""
    return trace_of(read_all(session.load, unit, session.seconds, rng)), phases_of(session)
