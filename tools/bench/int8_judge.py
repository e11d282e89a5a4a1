"""The rows of `int8.py`'s table, and what each says of its bar."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgekit.evaluate.bootstrap import Drop
from edgekit.race import ratio_interval, told

Latencies = dict[tuple[str, str], npt.NDArray[np.float64]]
"""Milliseconds (rounds,) by runtime and by who quantized."""

PEER_BAR = 1.02
WORDS = {"pass": "ok", "fail": "MISSED", "inconclusive": "INCONCLUSIVE"}


@dataclass
class Table:
    """Prints rows as they come and counts their verdicts."""

    verdicts: Counter[str] = field(default_factory=Counter)

    def speedup(self, name: str, runtime: str, times: Latencies, bar: float) -> None:
        """fp32 over ours: the ratio of medians has to reach the bar."""
        before, after = times[runtime, "fp32"], times[runtime, "ours"]
        interval = ratio_interval(before, after, 0)
        minima = f"minima {before.min() / after.min():.2f}x"
        word = self._judged("ok" if interval[1] >= bar else "MISSED")
        print(f"{_head(name, runtime)} fp32 {_ms(before)}, ours {_ms(after)}: {told(interval)}, {minima}", end="")
        print(f"  bar >= {bar:g}x  {word}  n={len(after)}", flush=True)

    def against_peer(self, name: str, runtime: str, times: Latencies, who: str) -> None:
        """Ours over a peer's: the upper end of the 95 % interval of the ratio of medians has to be within the bar."""
        ours, theirs = times[runtime, "ours"], times[runtime, who]
        low, value, high = ratio_interval(ours, theirs, 0)
        word = "ok" if high <= PEER_BAR else "MISSED" if low > PEER_BAR else "INCONCLUSIVE"
        said = f"{value:.3f}x ({low:.3f} to {high:.3f}), minima {ours.min() / theirs.min():.3f}x"
        print(f"{_head(name, runtime)} ours / {who} {_ms(theirs)}: {said}", end="")
        print(f"  bar <= {PEER_BAR:g}x by its upper bound  {self._judged(word)}", flush=True)

    def race(self, name: str, runtime: str, times: Latencies) -> None:
        """Which precision a race would publish, if quality lets it; no bar."""
        reference = times[runtime, "fp32"]
        gains = {"fp32": 1.0}
        for who, label in (("bf16", "bf16"), ("ours", "int8")):
            if (runtime, who) not in times:
                continue
            interval = ratio_interval(reference, times[runtime, who], 0)
            gains |= {label: interval[1]} if interval[0] > 1 else {}
            print(f"{_head(name, runtime)} fp32 {_ms(reference)}, {label} {_ms(times[runtime, who])}: {told(interval)}")
        print(f"{_head(name, runtime)} the fastest is {max(gains, key=gains.__getitem__)}", flush=True)

    def drop(self, name: str, runtime: str, who: str, value: float, lost: Drop, bar: float | None) -> None:
        """A score and what is lost from fp32 in the same runtime, by the paired bootstrap's 95 % upper bound."""
        verdict = f"  bar <= {bar:g}  {self._judged(WORDS[lost.verdict(bar)])}" if bar is not None else ""
        print(f"{_head(name, runtime)} {who:<16} {value:6.2f} %{_lost(lost, who)}{verdict}", flush=True)

    def drop_against_peer(self, name: str, runtime: str, who: str, lost: Drop) -> None:
        """A peer's score minus ours: certainly above 0 is a miss, certainly not above it is ok."""
        word = self._judged(WORDS[lost.verdict(0.0)])
        print(f"{_head(name, runtime)} {who} minus ours{_lost(lost, 'ours', 'points')}  bar <= 0  {word}", flush=True)

    def close(self) -> bool:
        """Print the sums; true where nothing is missed."""
        print("; ".join(f"{word}: {count}" for word, count in sorted(self.verdicts.items())), flush=True)
        return not self.verdicts["MISSED"]

    def _judged(self, word: str) -> str:
        self.verdicts[word] += 1
        return word


def _head(name: str, runtime: str) -> str:
    return f"{name:<16} {runtime:<12}"


def _ms(times: npt.NDArray[np.float64]) -> str:
    return f"{np.median(times):.2f} ms (min {times.min():.2f})"


def _lost(lost: Drop, who: str, word: str = "drop") -> str:
    if who == "fp32":
        return f"  n={lost.samples}"
    return f"  {word} {lost.value:+.2f} ({lost.lower:+.2f} to {lost.upper:+.2f})"
