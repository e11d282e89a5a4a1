"""Do two runs say the same? The gate that follows every export asks it of outputs, and of inner tensors on a breach."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# A tensor that is smaller than this is judged as if it were this large: with the fp32 bar of 1e-4, deviations up to
# 1e-6 pass. A sigmoid near zero is exact to one float32 step at 1.0 only, 1.2e-7, however small it comes out
# (torch.testing.assert_close allows 1e-5 in float32).
_FLOOR = 1e-2


@dataclass(frozen=True)
class Gap:
    """How far a tensor is from its reference.

    Attributes:
        tensor: its name.
        max_abs: the largest absolute deviation; infinite where the two cannot be compared.
        relative: `max|a - b| / max(0.01, max|b|)`, b the reference; infinite where the two cannot be compared.
        finite: both hold numbers wherever the reference does, and equal infinities elsewhere. False never passes.
        reason: why the two cannot be compared, or None.
    """

    tensor: str
    max_abs: float
    relative: float
    finite: bool
    reason: str | None = None

    def within(self, tolerance: float) -> bool:
        """Whether the relative deviation is at most `tolerance`."""
        return self.finite and self.relative <= tolerance

    def describe(self) -> str:
        """The deviation, or why there is none, in words."""
        return self.reason or f"relative deviation {self.relative:.3g} (absolute {self.max_abs:.3g})"


def compare(reference: Mapping[str, Array], candidate: Mapping[str, Array], derived: Collection[str] = ()) -> list[Gap]:
    """One gap for every tensor of either side, in the reference's order; the candidate may add those in `derived`.

    A tensor that is missing on one side, of another shape or dtype, or not a number where the reference is one has a
    gap that never passes. So has a reference that holds NaN: it proves nothing.
    """
    gaps = [_gap(name, wanted, candidate.get(name)) for name, wanted in reference.items()]
    return gaps + [
        _hopeless(name, "the reference has no such tensor") for name in candidate if name not in {*reference, *derived}
    ]


def first_divergence(
    reference: Iterable[tuple[str, Array]], candidate: Mapping[str, Array], tolerance: float
) -> Gap | None:
    """The first gap above `tolerance`, in the order in which `reference` computes its tensors.

    Tensors that the candidate does not show are passed over: optimised away, they cannot be compared.
    """
    for name, wanted in reference:
        if name in candidate:
            gap = _gap(name, wanted, candidate[name])
            if not gap.within(tolerance):
                return gap
    return None


def _gap(name: str, wanted: Array, got: Array | None) -> Gap:
    if got is None:
        return _hopeless(name, "the candidate has no such tensor")
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return _hopeless(name, f"{got.dtype} {got.shape} instead of {wanted.dtype} {wanted.shape}")
    if wanted.dtype.kind not in "biuf":
        return _hopeless(name, f"{wanted.dtype} is not a number")
    if wanted.size == 0:
        return Gap(name, 0.0, 0.0, finite=True)
    whole = wanted.dtype.kind in "biu"
    if whole and np.array_equal(wanted, got):
        return Gap(name, 0.0, 0.0, finite=True)
    exact, seen = wanted.astype(np.float64), got.astype(np.float64)
    if np.isnan(exact).any():
        return _hopeless(name, "the reference holds NaN")
    numbers = np.isfinite(exact)
    if not np.array_equal(np.isfinite(seen), numbers) or not np.array_equal(seen[~numbers], exact[~numbers]):
        return _hopeless(name, "NaN or infinity where the reference has something else")
    exact, seen = exact[numbers], seen[numbers]
    max_abs = float(np.abs(seen - exact).max(initial=0.0))
    if whole:
        max_abs = max(1.0, max_abs)  # unequal whole numbers, even if float64 cannot tell them apart
    return Gap(name, max_abs, max_abs / max(_FLOOR, float(np.abs(exact).max(initial=0.0))), finite=True)


def _hopeless(name: str, reason: str) -> Gap:
    return Gap(name, math.inf, math.inf, finite=False, reason=reason)
