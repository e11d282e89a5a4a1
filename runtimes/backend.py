"""The seam to a runtime: a backend opens a model's bytes as an engine, and an engine runs arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class EngineRequest:
    """What a backend is asked to open.

    Attributes:
        model: the model file's bytes: ONNX, or the XML of an OpenVINO IR.
        weights: the IR's weights; None where the model holds its own.
        settings: the runtime's own options, as the manifest pins them.
        threads: threads for one inference; None leaves it to the runtime.
        outputs: the outputs' names; a runtime may know a tensor by several.
    """

    model: bytes
    weights: bytes | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    outputs: tuple[str, ...] = ()


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
