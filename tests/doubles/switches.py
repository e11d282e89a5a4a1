"""What the doubles pretend to be, and how they misbehave. One object, `NOW`, that tests change and restore."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Switches:
    """The machine, and its faults.

    Attributes:
        tensorrt: the version of TensorRT.
        gpu, capability, sm_count, integrated, driver, devices: what CUDA says.
        machine: what `platform.machine` says in a process that has this folder on its path; None leaves it.
        memory: what cudaMemGetInfo calls free, bytes.
        wrong_from: the tensor from which on values are wrong (negated); with `only_fused`, not where it is an output.
        nan_from: the tensor from which on values are NaN.
        refuse: operators that the parser refuses, besides those that edgekit's own rules refuse.
        rules: whether the parser refuses what edgekit's rules call unsupported, where they are installed.
        build_fails: the builder returns None after logging this error.
        enqueue_fails: execute_async_v3 returns False from this call on, counted from 1.
        run_fails: enqueued work fails from this run on, counted from 1.
        capture_fails: a stream that is being captured takes no work.
        alloc_fails: cudaHostAlloc and cudaMalloc have no memory.
        no_driver: what asks for a device raises, as cuda-python 12.6 does without libcuda.so.1.
        no_start: TensorRT's factories give nothing.
        no_context: create_execution_context returns None.
        timing_refused: a timing cache that was saved is not accepted.
        data_dependent: outputs whose sizes are called unknown.
        on_step: called at each step of a build.
    """

    tensorrt: str = "10.3.0"
    gpu: str = "Double of Orin"
    capability: tuple[int, int] = (8, 7)
    sm_count: int = 8
    integrated: bool = True
    driver: int = 12060
    devices: int = 1
    machine: str | None = None
    memory: int = 6 << 30
    wrong_from: str | None = None
    only_fused: bool = False
    nan_from: str | None = None
    refuse: tuple[str, ...] = ()
    rules: bool = True
    build_fails: str | None = None
    enqueue_fails: int | None = None
    run_fails: int | None = None
    capture_fails: bool = False
    alloc_fails: bool = False
    no_driver: bool = False
    no_start: bool = False
    no_context: bool = False
    timing_refused: bool = False
    data_dependent: tuple[str, ...] = ()
    on_step: Callable[[], None] | None = None
    calls: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> int:
        """Count a call, from 1."""
        self.calls[what] = self.calls.get(what, 0) + 1
        return self.calls[what]


def _from_environment() -> Switches:
    given: dict[str, Any] = json.loads(os.environ.get("EDGEKIT_DOUBLE", "{}"))
    return Switches(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


NOW = _from_environment()
