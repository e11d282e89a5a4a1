"""Does a new engine compute what the model did?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from edgekit.errors import GateError
from edgekit.evaluate.parity import compare
from edgekit.runtimes.backend import Check
from edgekit.runtimes.tensorrt_cache import Checked


class Runs(Protocol):
    """Whatever computes outputs from inputs."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name."""
        ...


def run_checks(engine: Runs, checks: Sequence[Check]) -> tuple[tuple[Checked, ...], str | None]:
    """Run all checks until one fails; outputs that a check says nothing of are not looked at.

    Returns:
        Those that passed, and what the first that failed says, None where none did.
    """
    passed: list[Checked] = []
    for check in checks:
        given = engine.run(check.feeds)  # it may have more outputs: boxes that were made of the others, landmarks
        gaps = compare(check.wanted, {name: given[name] for name in check.wanted if name in given})
        bad = next((gap for gap in gaps if not gap.within(check.tolerance)), None)
        if bad is not None:
            return tuple(passed), (
                f"{check.name}, output {bad.tensor!r}: {bad.describe()}; allowed is {check.tolerance:.3g}"
            )
        passed.append(Checked(check.name, max((gap.relative for gap in gaps), default=0.0), check.tolerance))
    return tuple(passed), None


def breach(name: str, where: str, said: str, culprit: str) -> GateError:
    """The error after a check that failed."""
    return GateError(
        f"the engine of {name} does not compute what the model did",
        where=where,
        why=f"{said}; {culprit}",
        fix="no engine was kept; keep the named layer in fp32, or choose another precision, when you export",
    )
