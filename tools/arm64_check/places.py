"""Where a model runs: ONNX Runtime or OpenVINO on this machine, or ONNX Runtime on an emulated Arm core."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from arm64_check.cache import Emulator
from edgekit.errors import GateError, InconclusiveError, MissingError, UsageError

WORKER = Path(__file__).with_name("worker.py")
Tensors = Mapping[str, np.ndarray]

# A core's name to what it stands for. All have the dot product and lack i8mm, as the cores of both boards do:
# Snapdragon 865: Kryo 585, Cortex-A77 and A55; QCS6490: Kryo 670, Cortex-A78 and A55 (their profiles name the sources).
# ONNX Runtime has other kernels for the narrow A55. `max` would have i8mm, and kernels that no such board runs.
CORES = {
    "cortex-a76": "the big cores of Snapdragon 865 and QCS6490",
    "cortex-a55": "their small ones",
    "neoverse-n1": "a server's",
}
_HAS, _LACKS = "asimddp", "i8mm"  # as /proc/cpuinfo and AT_HWCAP call them


@dataclass(frozen=True)
class Place:
    """A runtime on a machine.

    Attributes:
        runtime: `onnxruntime` or `openvino`.
        python: the command that is its Python.
        site: where that Python's packages are, None for its own.
        cpu: the emulated core, None on this machine.
    """

    runtime: str
    python: tuple[str, ...]
    site: Path | None = None
    cpu: str | None = None

    @property
    def name(self) -> str:
        """For people: `onnxruntime on cortex-a76`."""
        return f"{self.runtime} on {self.cpu or 'this machine'}"


@dataclass(frozen=True)
class Ran:
    """What a place gave: its outputs, one mapping per sample, and what the worker tells about it."""

    place: Place
    outputs: tuple[dict[str, np.ndarray], ...]
    runtime: str
    machine: str
    operators: dict[str, int]

    @property
    def title(self) -> str:
        """`aarch64 cortex-a76, onnxruntime 1.32.0`."""
        return f"{' '.join(each for each in (self.machine, self.place.cpu) if each)}, {self.runtime}"


def native(runtime: str) -> Place:
    """This machine.

    Raises:
        MissingError: the runtime is not installed.
    """
    if find_spec(runtime) is None:
        raise MissingError(f"{runtime} is not installed", where="this machine", fix=f"pip install 'edgekit[{runtime}]'")
    return Place(runtime, (sys.executable, "-I"))


def emulated(emulator: Emulator, cpu: str) -> Place:
    """ONNX Runtime on an emulated core, one of `CORES`."""
    if cpu not in CORES:
        known = ", ".join(f"{name} ({what})" for name, what in CORES.items())
        raise UsageError(f"no such core: {cpu!r}", where="--cpu", why="it has to be like a board's", fix=known)
    return Place("onnxruntime", tuple(emulator.python(cpu)), emulator.site, cpu)


def run(place: Place, model: bytes, samples: Sequence[Tensors], settings: Mapping[str, str], timeout_s: float) -> Ran:
    """Run `model` on every sample.

    Raises:
        GateError: the runtime refuses the model or dies of it, or the emulated core is not what it should be.
        InconclusiveError: it took longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="arm64-check-") as made:
        folder = Path(made)
        (folder / "model.onnx").write_bytes(model)
        (folder / "settings.json").write_text(json.dumps(dict(settings)))
        for index, sample in enumerate(samples):
            np.savez(folder / f"feeds-{index:03}.npz", **sample)
        _work(place, folder, timeout_s)
        facts = json.loads((folder / "facts.json").read_text())
        outputs = tuple(_load(folder / f"outputs-{index:03}.npz") for index in range(len(samples)))
    if place.cpu is not None and (_HAS not in facts["features"] or _LACKS in facts["features"]):
        raise GateError(
            f"the emulated {place.cpu} is not a core of the boards",
            where=place.name,
            why=f"{_HAS} wanted, {_LACKS} not; it has {' '.join(facts['features'])}",
        )
    return Ran(place, outputs, facts["runtime"], facts["machine"], facts["operators"])


def _work(place: Place, folder: Path, timeout_s: float) -> None:
    command = [*place.python, str(WORKER), str(folder), place.runtime, *([str(place.site)] if place.site else [])]
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}  # x86 settings mean nothing on Arm
    try:
        done = subprocess.run(
            command,
            env=plain,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        why = f"not done after {timeout_s:g} s"
        raise InconclusiveError("the run was stopped", where=place.name, why=why, fix="--timeout") from error
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no word of why")
        raise GateError(
            "the model does not run", where=place.name, why=f"exit status {done.returncode}: {last.strip()[:300]}"
        )


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
