"""Runs bundles on the device: `load(path)` gives a `Session`, with the same API over every backend."""

from edgekit.runtimes.session import Prediction, Session, load

__all__ = ["Prediction", "Session", "load"]
