"""The rows of `int8.py`'s table, and what each says of its bar."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from detectors import Published

from edgekit.errors import EdgekitError, InconclusiveError
from edgekit.evaluate.bootstrap import Drop
from edgekit.race import ratio_interval, told

Latencies = dict[tuple[str, str], npt.NDArray[np.float64]]
"""Milliseconds (rounds,) by runtime and by who quantized."""

PEER_BAR = 1.02
LABELS = {"ours": "ours, all int8", "published": "ours, published"}
"""Who quantized, in words: every layer that can be, or the form that the export publishes after its search."""
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

    def against_peer(self, name: str, runtime: str, times: Latencies, who: str, form: str = "ours") -> None:
        """Ours over a peer's: the upper end of the 95 % interval of the ratio of medians has to be within the bar."""
        ours, theirs = times[runtime, form], times[runtime, who]
        low, value, high = ratio_interval(ours, theirs, 0)
        word = "ok" if high <= PEER_BAR else "MISSED" if low > PEER_BAR else "INCONCLUSIVE"
        said = f"{value:.3f}x ({low:.3f} to {high:.3f}), minima {ours.min() / theirs.min():.3f}x"
        print(f"{_head(name, runtime)} {LABELS[form]} / {who} {_ms(theirs)}: {said}", end="")
        print(f"  bar <= {PEER_BAR:g}x by its upper bound  {self._judged(word)}", flush=True)

    def race(self, name: str, runtime: str, times: Latencies) -> None:
        """Which precision a race would publish, if quality lets it; no bar. `all int8` is told, not published."""
        reference = times[runtime, "fp32"]
        gains = {"fp32": 1.0}
        for who, label in (("bf16", "bf16"), ("ours", "all int8"), ("published", "published int8")):
            if (runtime, who) not in times:
                continue
            interval = ratio_interval(reference, times[runtime, who], 0)
            gains |= {label: interval[1]} if interval[0] > 1 and who != "ours" else {}
            print(f"{_head(name, runtime)} fp32 {_ms(reference)}, {label} {_ms(times[runtime, who])}: {told(interval)}")
        fastest = max(gains, key=gains.__getitem__)
        print(f"{_head(name, runtime)} of what can be published the fastest is {fastest}", flush=True)

    def drop(self, name: str, runtime: str, who: str, value: float, lost: Drop, bar: float | None) -> None:
        """A score and what is lost from fp32 in the same runtime, by the paired bootstrap's 95 % upper bound."""
        verdict = f"  bar <= {bar:g}  {self._judged(WORDS[lost.verdict(bar)])}" if bar is not None else ""
        label = LABELS.get(who, who)
        print(f"{_head(name, runtime)} {label:<16} {value:6.2f} %{_lost(lost, who)}{verdict}", flush=True)

    def drop_against_peer(self, name: str, runtime: str, who: str, lost: Drop, form: str = "ours") -> None:
        """A peer's score minus ours: certainly above 0 is a miss, certainly not above it is ok.

        The published form is not judged: its search saw these samples, and the peer's did not.
        """
        said = f"{who} minus {LABELS[form]}{_lost(lost, form, 'points')}"
        judged = form != "published"
        verdict = f"bar <= 0  {self._judged(WORDS[lost.verdict(0.0)])}" if judged else "no bar: peers do not search"
        print(f"{_head(name, runtime)} {said}  {verdict}", flush=True)

    def published(self, name: str, runtime: str, found: Published) -> None:
        """What the export published, and how it came to that; no bar."""
        asked = f"{found.looks} look{'s' if found.looks > 1 else ''} at the held-out samples"
        said = f"{100 * found.coverage:.1f} % of MACs in int8, {found.returned} layers returned to float, {asked}"
        before = f" ({'; '.join(found.tried)})" if found.tried else ""
        seen = f"{found.drop:+.2f} points lost, at most {found.drop_upper:.2f}"
        print(f"{_head(name, runtime)} published for {found.target}: {said}{before}; the export saw {seen}", flush=True)

    def refused(self, name: str, runtime: str, error: EdgekitError) -> None:
        """The export published no int8: undecided, or a miss."""
        word = self._judged("INCONCLUSIVE" if isinstance(error, InconclusiveError) else "MISSED")
        print(f"{_head(name, runtime)} publishes no int8: {error.what}: {error.why}  {word}", flush=True)

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
