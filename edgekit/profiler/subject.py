"""What a profile runs: a bundle's session on one of its own inputs."""

from __future__ import annotations

import numpy as np

from edgekit import profiles
from edgekit.bundle import Bundle, Manifest
from edgekit.errors import UsageError
from edgekit.profiler.budgets import Figure
from edgekit.profiler.report import Subject
from edgekit.profiles import DeviceProfile
from edgekit.runtimes.session import Session
from edgekit.spec import TensorSpec


def feeds_of(bundle: Bundle, batch: int = 1) -> dict[str, np.ndarray]:
    """The first self-test's inputs, repeated to `batch`; zeros where the bundle has none.

    Raises:
        UsageError: the model's batch dimension is fixed to another size.
    """
    manifest = bundle.manifest
    tests = manifest.selftest
    found = {}
    for tensor in manifest.model.inputs:
        one = bundle.read_array(tests[0].inputs[tensor.name]) if tests else _zeros(tensor)
        found[tensor.name] = one if batch == len(one) else _repeated(tensor, one, batch)
    return found


def device_of(target: str) -> DeviceProfile:
    """The target's profile; that of any host for a target that is not installed here."""
    known = {each.name for each in profiles.all_profiles()}
    return profiles.get(target if target in known else "host")


def subject_of(bundle: Bundle, session: Session, threads: int | None) -> Subject:
    """Which bundle, and what runs it."""
    manifest = bundle.manifest
    return Subject(
        manifest.name,
        manifest.version,
        bundle.digest,
        manifest.target.name,
        session.precision,
        session.runtime,
        bundle.signed,
        threads,
    )


def quality_of(manifest: Manifest, precision: str | None = None) -> Figure:
    """Points of the task's metric that the export lost, by what the bundle's manifest says of its own held-out data."""
    variant = next((each for each in manifest.variants if each.precision == precision), None)
    quality = variant.quality if variant else manifest.quality
    if quality.drop is None:
        return Figure(None, None, None, missing=quality.reason or "the bundle states no drop with bounds")
    return Figure(quality.drop, quality.drop_lower, quality.drop_upper, quality.samples or 0)


def _zeros(tensor: TensorSpec) -> np.ndarray:
    return np.zeros([dim if isinstance(dim, int) else 1 for dim in tensor.shape], np.dtype(tensor.dtype))


def _repeated(tensor: TensorSpec, array: np.ndarray, batch: int) -> np.ndarray:
    if not tensor.shape or not isinstance(tensor.shape[0], str):
        raise UsageError(
            f"input {tensor.name!r} does not take a batch of {batch}",
            where=f"--batch {batch}",
            why=f"its first dimension is fixed: {tensor.shape}",
            fix="export it with an open batch dimension, or leave --batch away",
        )
    return np.ascontiguousarray(np.concatenate([array[:1]] * batch))
