"""The seam to a runtime: a backend opens a model's bytes as an engine, and an engine runs arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, eq=False)
class Check:
    """Known inputs and the outputs that an engine must give for them.

    Attributes:
        name: for messages, such as `selftest-0`.
        feeds, wanted: tensor name to array.
        tolerance: the bound on max|a-b| / max(0.01, max|b|).
    """

    name: str
    feeds: Mapping[str, np.ndarray]
    wanted: Mapping[str, np.ndarray]
    tolerance: float


@dataclass(frozen=True)
class EngineRequest:
    """What a backend is asked to open.

    Attributes:
        model: the model file's bytes: ONNX, or the XML of an OpenVINO IR.
        weights: the IR's weights; None where the model holds its own.
        settings: the runtime's own options, as the manifest pins them.
        threads: threads for one inference; None leaves it to the runtime.
        outputs: the outputs' names; a runtime may know a tensor by several.
        recipe: how an engine is built, for a runtime that builds one on the device.
        landmarks: inner tensors with known values, by which a wrong layer is found.
        checks: reads what a new engine is held to; only backends that build ask for it, while the bundle is open.
        announce: told of the stages of a long build.
    """

    model: bytes
    weights: bytes | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    outputs: tuple[str, ...] = ()
    recipe: bytes | None = None
    landmarks: bytes | None = None
    checks: Callable[[], Sequence[Check]] | None = field(default=None, compare=False)
    announce: Callable[[str], None] | None = field(default=None, compare=False)


class Engine(Protocol):
    """A model that is loaded and compiled."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name; the arrays belong to the caller."""
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


class Backend(Protocol):
    """One runtime. Importing its file does not import the runtime; `version` and `open` do."""

    @property
    def name(self) -> str:
        """The runtime's name, as manifests state it."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """What this backend computes on: `("cpu",)`."""
        ...

    def version(self) -> str:
        """The installed version.

        Raises:
            MissingError: the runtime is not installed.
        """
        ...

    def open(self, request: EngineRequest) -> Engine:
        """Load and compile.

        Raises:
            MissingError: the runtime is not installed.
            InputError: the runtime cannot read the model.
        """
        ...


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that is ready on this device, and how it came to be.

    Attributes:
        key: SHA-256 over everything that it depends on.
        path: its folder in the cache.
        size_bytes: of the engine.
        built: False where it was there already.
        reason: why it was built, or that it was found.
        seconds: wall time of the build; None where there was none.
        checks: how many self-tests it passed now.
        relative: the largest deviation in them; None without any.
        notes: what else is to be known, such as a timing cache that was not usable.
    """

    key: str
    path: str
    size_bytes: int
    built: bool
    reason: str
    seconds: float | None
    checks: int
    relative: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTime:
    """What one executed layer takes: its name and operator as the runtime has them, median milliseconds."""

    node: str
    op: str
    median_ms: float
    precision: str | None = None


@runtime_checkable
class LayerTimer(Protocol):
    """A backend that can time layers; running so is slower than running."""

    def layer_times(self, request: EngineRequest, feeds: Mapping[str, np.ndarray], runs: int) -> list[LayerTime]:
        """Medians over `runs` runs."""
        ...


@runtime_checkable
class Builder(Protocol):
    """A backend whose engines are born on the device."""

    def device(self) -> str:
        """The device that engines are built on here.

        Raises:
            MissingError: there is none, or what reaches it is not installed.
        """
        ...

    def build(self, request: EngineRequest, *, force: bool) -> BuiltEngine:
        """Have an engine in the cache that passes the request's checks.

        Args:
            force: build it even where one is there.

        Raises:
            MissingError: the runtime, a device, memory or room on the disk is missing.
            GateError: the runtime refuses the model, or the engine computes something else; none is kept.
            IntegrityError: the cache holds something that is not to be trusted.
            InconclusiveError: the user stopped the build.
        """
        ...
