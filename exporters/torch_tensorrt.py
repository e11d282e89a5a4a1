"""TensorRT from the torch program, without ONNX: the second road, for a GPU host that is itself the target.

Never run: `torch_tensorrt` asks CUDA for a device when it is imported, and no device was at hand. Its calls are checked
against the signatures in its published sources, and the versions against their metadata; nothing more is claimed.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import MissingError, UnsupportedError
from edgekit.exporters.exporter import Exported, LoweringRequest, Plan, choose_precision, plan_rows
from edgekit.profiles import DeviceProfile
from edgekit.structure import decode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from torch.export import ExportedProgram

NEVER_RUN = "never run: this road was checked against published sources only, no GPU was at hand"
REFUSED = {
    "int8": "a QuantSpec is lowered to ONNX; the first road takes it: use a target whose runtime is tensorrt",
    "w8a16": "TensorRT's integers are 8 bits wide on both sides of a product",
    "bf16": "no gain over fp16 is known on the GPUs that edgekit has profiles of",
}
# The names under which TensorRT is installed: the metapackage, and one for each CUDA (PyPI, 2026-11).
TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


@dataclass(frozen=True)
class Pair:
    """A release of Torch-TensorRT and what it was built for; ranges are from (inclusive) and below (exclusive).

    Attributes:
        wheel: the release whose metadata and signatures were read.
        source: where the ranges come from.
        refused: why edgekit does not use it, None where it does.
    """

    torch_tensorrt: tuple[str, ...]
    torch: tuple[str, ...]
    tensorrt: tuple[str, ...]
    wheel: str
    source: str
    refused: str | None = None
    note: str | None = None

    def serves(self, profile: DeviceProfile) -> bool:
        """Whether one of its versions of TensorRT is one of the target's."""
        low, below = (_version(each) for each in self.tensorrt)
        ceiling = profile.runtime_below
        return _version(profile.runtime_min) < below and (ceiling is None or low < _version(ceiling))


@dataclass(frozen=True)
class Machine:
    """What is installed here, and the GPU: compute capability such as `8.7`, None where there is none."""

    versions: dict[str, str] = field(default_factory=dict)
    compute_capability: str | None = None

    @classmethod
    def here(cls) -> Machine:
        """This one; nothing is imported but torch, which tells of the GPU."""
        import torch

        found = {name: _installed(name) for name in ("torch-tensorrt", "torch")}
        found["tensorrt"] = next(filter(None, map(_installed, TENSORRT)), None)
        capability = None
        if torch.cuda.is_available():
            major, minor = torch.cuda.get_device_capability()
            capability = f"{major}.{minor}"
        return cls({name: version for name, version in found.items() if version}, capability)


@cache
def pairs() -> tuple[Pair, ...]:
    """The table of `torch_tensorrt_pairs.toml`, oldest first."""
    text = files(__package__).joinpath("torch_tensorrt_pairs.toml").read_text(encoding="utf-8")
    return tuple(decode(Pair, row, "torch_tensorrt_pairs.toml") for row in tomllib.loads(text)["pairs"])


class TorchTensorRtExporter:
    """The exporter `torch-tensorrt`. It has no ONNX to hand out: `compile_engine` takes the torch program instead.

    Args:
        machine: says what is here; asked once a plan.
    """

    name = "torch-tensorrt"
    coverage_source: Literal["runtime", "rule"] = "rule"

    def __init__(self, machine: Callable[[], Machine] = Machine.here) -> None:
        self._machine = machine

    def plan(self, request: LoweringRequest) -> Plan:
        """As `Exporter.plan`.

        Raises:
            UnsupportedError: no release goes with the target's TensorRT; what is installed does not go together; this
                machine's GPU is not the target's.
            MissingError: a package or a GPU is missing here.
        """
        precision, reason = choose_precision(request, REFUSED)
        if precision in REFUSED:
            raise UnsupportedError(
                f"the default precision of {request.profile.name}, {precision}, is not on this road",
                where="exporter torch-tensorrt",
                why=REFUSED[precision],
                fix="use --precision fp16",
            )
        usable = usable_pairs(request.profile)
        machine = self._machine()
        pair = installed_pair(usable, machine)
        require_same_device(request.profile, machine)
        rows = plan_rows(request, "gpu", precision, {})
        installed = machine.versions
        notes = (
            NEVER_RUN,
            f"torch_tensorrt {installed['torch-tensorrt']} with TensorRT {installed['tensorrt']}: {pair.source}",
            "which operators it converts is decided when it compiles; one that it cannot convert fails the export",
            *((pair.note,) if pair.note else ()),
        )
        return Plan(request.profile.name, self.name, precision, reason, rows, notes)

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:  # noqa: ARG002  # as the protocol has it
        """As `Exporter.export`.

        Raises:
            UnsupportedError: always: the corridor hands over ONNX, and this road begins with the torch program.
        """
        raise UnsupportedError(
            "this road begins with a torch program, not with ONNX",
            where="exporter torch-tensorrt",
            why=NEVER_RUN,
            fix="call edgekit.exporters.torch_tensorrt.compile_engine on a torch.export program, "
            "or export for a target whose runtime is tensorrt",
        )

    def int8_nodes(self, exported: Exported) -> frozenset[str]:  # noqa: ARG002  # as the protocol has it
        """None: int8 is refused."""
        return frozenset()


def compile_engine(program: ExportedProgram, inputs: Sequence[Any], plan: Plan) -> bytes:
    """Compile a torch program to a serialized engine for this machine's GPU. Never run.

    Args:
        program: what `torch.export.export` gave, on the GPU, its weights in the plan's precision: the types in the
            program are those of the engine.
        inputs: an example of each input, in order.
        plan: from `TorchTensorRtExporter.plan`.

    Returns:
        What `tensorrt.Runtime.deserialize_cuda_engine` reads.

    Raises:
        UnsupportedError: the plan has problems.
    """
    plan.require_supported()
    from torch_tensorrt import dynamo

    # Its caches default to a folder in /tmp that others can write to, and its engine cache is made of pickles.
    with tempfile.TemporaryDirectory(prefix="edgekit-") as private:
        engine: bytes = dynamo.convert_exported_program_to_serialized_trt_engine(
            program,
            arg_inputs=tuple(inputs),
            require_full_compilation=True,
            cache_built_engines=False,
            reuse_cached_engines=False,
            timing_cache_path=str(Path(private) / "timing_cache.bin"),
        )
    return engine


def usable_pairs(profile: DeviceProfile) -> tuple[Pair, ...]:
    """The pairs that go with the target's TensorRT.

    Raises:
        UnsupportedError: there is none.
    """
    serving = [pair for pair in pairs() if pair.serves(profile)]
    usable = tuple(pair for pair in serving if pair.refused is None)
    if usable:
        return usable
    older = "; ".join(f"torch_tensorrt {pair.wheel} would, but {pair.refused}" for pair in serving)
    raise UnsupportedError(
        f"no release of Torch-TensorRT that edgekit can use goes with the TensorRT of {profile.name}",
        where=f"{profile.name}: TensorRT {profile.runtime_min} up to {profile.runtime_below or 'any'}",
        why=older or f"those it can use go with TensorRT {', '.join(p.tensorrt[0] for p in pairs() if not p.refused)}",
        fix="export for a target whose runtime is tensorrt: its engine is built on the board, from ONNX",
    )


def installed_pair(usable: Sequence[Pair], machine: Machine) -> Pair:
    """The pair that is installed.

    Raises:
        MissingError: a part is not installed.
        UnsupportedError: the parts do not go together, or not with the target.
    """
    newest = usable[-1]
    pin = f"pip install 'torch-tensorrt=={newest.wheel}'"
    for name in ("torch-tensorrt", "torch", "tensorrt"):
        if name not in machine.versions:
            raise MissingError(f"{name} is not installed", where="exporter torch-tensorrt", why=NEVER_RUN, fix=pin)
    asked = machine.versions["torch-tensorrt"]
    pair = next((each for each in usable if _within(asked, each.torch_tensorrt)), None)
    if pair is None:
        known = ", ".join(each.wheel for each in usable)
        raise UnsupportedError(
            f"torch_tensorrt {asked} does not go with the target", where="exporter torch-tensorrt", why=known, fix=pin
        )
    for name, wanted in (("torch", pair.torch), ("tensorrt", pair.tensorrt)):
        if not _within(machine.versions[name], wanted):
            raise UnsupportedError(
                f"torch_tensorrt {asked} does not go with {name} {machine.versions[name]}",
                where="exporter torch-tensorrt",
                why=f"it wants {name} from {wanted[0]} and below {wanted[1]}: {pair.source}",
                fix=pin,
            )
    return pair


def require_same_device(profile: DeviceProfile, machine: Machine) -> None:
    """See that this machine's GPU is of the target's kind: an engine serves the GPU that it was built on.

    Raises:
        MissingError: there is no GPU here.
        UnsupportedError: it is of another kind, or nobody knows the target's.
    """
    if machine.compute_capability is None:
        raise MissingError(
            "there is no GPU here",
            where="torch.cuda",
            why="this road compiles on the GPU that the engine is for",
            fix="run it on the target, with a torch that was built for its CUDA",
        )
    fact = profile.facts.get("compute_capability")
    wanted = None if fact is None else str(fact.value)
    if machine.compute_capability != wanted:
        raise UnsupportedError(
            "this machine's GPU is not the target's",
            where=f"compute capability {machine.compute_capability}, {profile.name} has {wanted or 'one nobody knows'}",
            why="an engine serves the kind of GPU that it was built on (NVIDIA, TensorRT support matrix)",
            fix="run it on the target",
        )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _within(version: str, wanted: tuple[str, ...]) -> bool:
    return _version(wanted[0]) <= _version(version) < _version(wanted[1])


def _version(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: `10.16.1.11` and `2.13.0+cpu` alike."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


EXPORTER = TorchTensorRtExporter()
