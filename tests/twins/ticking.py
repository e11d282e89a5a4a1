"""A clock that only moves when somebody sleeps or works, so that loops can be tested to the nanosecond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat

import numpy as np

MS = 1_000_000
_FREE_LOOKS, _AWAKE_NS = 5, 50_000


class Ticking:
    """Nanoseconds from 0. Looking costs nothing, but who looks again and again waits awake: 50 us a look."""

    def __init__(self) -> None:
        self.now = 0
        self.slept: list[float] = []
        self._seen, self._looks = 0, 0

    def __call__(self) -> int:
        self._looks = self._looks + 1 if self.now == self._seen else 0
        if self._looks > _FREE_LOOKS:
            self.now += _AWAKE_NS
            self._looks = _FREE_LOOKS
        self._seen = self.now
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)

    def call(self, *milliseconds: float, then: float | None = None) -> Callable[[], None]:
        """A call that takes these times in turn, and `then`, or the last of them, ever after."""
        left: Iterator[float] = chain(milliseconds, repeat(milliseconds[-1] if then is None else then))

        def work() -> None:
            self.now += round(next(left) * MS)

        return work


def noise(mean_ms: float, share: float = 0.02, count: int = 5000, seed: int = 0) -> np.ndarray:
    """Times around a mean, independent of one another; float64 milliseconds, all above 0."""
    return np.asarray(mean_ms * np.clip(1 + share * np.random.default_rng(seed).standard_normal(count), 0.5, 2))
