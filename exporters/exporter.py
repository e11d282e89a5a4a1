"""What all exporters share: the request, the plan, the result, and how one is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from edgekit import plugins
from edgekit.errors import UnsupportedError, UsageError
from edgekit.graph.graph import Graph
from edgekit.graph.layers import find_layers
from edgekit.graph.macs import macs_by_node
from edgekit.graph.qdq import lower
from edgekit.graph.quantspec import QuantSpec
from edgekit.graph.wiring import Wiring
from edgekit.profiles import DeviceProfile
from edgekit.runtimes.backend import Backend
from edgekit.spec import ModelSpec

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "w8a16")


@dataclass(frozen=True)
class LoweringRequest:
    """A canonical graph on its way to one target.

    Attributes:
        graph, spec: the model, at the profile's opset and IR.
        profile: the target.
        precision: one of `PRECISIONS`, or `auto` for the profile's default.
        quant: what runs in int8; `graph` is then the prepared graph that it belongs to.
    """

    graph: Graph
    spec: ModelSpec
    profile: DeviceProfile
    precision: str = "auto"
    quant: QuantSpec | None = None


@dataclass(frozen=True)
class PlanRow:
    """Where one node would run: `problem` is why it cannot, None where it can."""

    node: str
    op: str
    where: str
    precision: str
    macs: int
    problem: str | None = None


@dataclass(frozen=True)
class Plan:
    """What would run where and in which precision, and what is unsupported and why.

    Attributes:
        reason: why this precision.
        notes: what the reader should know besides.
    """

    target: str
    runtime: str
    precision: str
    reason: str
    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> list[PlanRow]:
        """The rows that cannot run."""
        return [row for row in self.rows if row.problem is not None]

    def require_supported(self) -> None:
        """Raise `UnsupportedError` naming the first problem and counting the others."""
        if self.problems:
            first = self.problems[0]
            raise UnsupportedError(
                f"{len(self.problems)} node(s) cannot run on {self.target}",
                where=f"{first.op} {first.node}",
                why=first.problem,
                fix="see all of them with --dry-run",
            )


@dataclass(frozen=True)
class Artifact:
    """A file for the bundle."""

    path: str
    role: str
    data: bytes


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        files: the bundle's files.
        graph: the lowered graph, for finding a divergence tensor by tensor.
        precision: what the runtime computes or stores in.
        settings: what the backend must be told at load.
        rehearsal: what can compute the lowered graph here although it is not the target's runtime; None where that
            exists on ordinary machines and is itself what is checked.
        portable: whether the files hold on any machine that has the runtime.
    """

    files: tuple[Artifact, ...]
    graph: Graph
    precision: str
    settings: Mapping[str, str]
    rehearsal: Backend | None = None
    portable: bool = True


class Exporter(Protocol):
    """One runtime's exporter. `plan` decides and can be printed; `export` does what the plan says."""

    @property
    def name(self) -> str:
        """The runtime's name."""
        ...

    def plan(self, request: LoweringRequest) -> Plan:
        """What would happen.

        Raises:
            UnsupportedError: the precision is refused on this target, with the reason.
            MissingError: a tool that the export needs is not installed.
        """
        ...

    def export(self, request: LoweringRequest, plan: Plan) -> Exported:
        """The lowered model as files in memory.

        Raises:
            UnsupportedError: the plan has problems, or int8 is planned and the request holds no `quant`.
        """
        ...

    @property
    def coverage_source(self) -> Literal["runtime", "rule"]:
        """Whether `int8_nodes` is what the runtime itself says, or what a static rule says in its stead."""
        ...

    def int8_nodes(self, exported: Exported) -> frozenset[str]:
        """The names of the canonical graph's compute nodes that run in int8; what cannot be told runs in float."""
        ...


def exporter_for(profile: DeviceProfile) -> Exporter:
    """The exporter of the profile's runtime, from any installed package."""
    exporter: Exporter = plugins.load("edgekit.exporters", profile.runtime)
    return exporter


def choose_precision(request: LoweringRequest, refused: Mapping[str, str]) -> tuple[str, str]:
    """The precision to export in, and why.

    Args:
        request: asks for `auto` or a precision.
        refused: precision to the reason why this runtime does not take it.

    Raises:
        UnsupportedError: the asked precision is refused.
        UsageError: the asked precision is unknown.
    """
    asked, profile = request.precision, request.profile
    if asked == "auto":
        return profile.default_precision, profile.because.get("default_precision", "the profile's default")
    if asked in refused:
        raise UnsupportedError(
            f"--precision {asked} is refused for {profile.name}",
            where=f"exporter {profile.runtime}",
            why=refused[asked],
            fix=f"use --precision {profile.default_precision}, or leave it away",
        )
    if asked not in PRECISIONS:
        raise UsageError(f"unknown precision {asked!r}", where="--precision", fix=f"auto, {', '.join(PRECISIONS)}")
    return asked, "asked for"


def lowered(request: LoweringRequest, runtime: str) -> Graph:
    """The request's graph in the int8 form of `runtime`.

    Raises:
        UnsupportedError: nothing was calibrated, or the runtime has no such form.
    """
    if request.quant is None:
        raise UnsupportedError("int8 needs a calibrated QuantSpec", where=f"exporter {runtime}", fix="calibrate first")
    return lower(request.graph, request.quant, runtime)


def plan_rows(
    request: LoweringRequest, where: str, precision: str, problems: Mapping[str, str], rest: str = "fp32"
) -> tuple[PlanRow, ...]:
    """A row a node.

    Args:
        problems: node names to reasons.
        rest: what nodes outside int8 compute in, where `precision` is int8.
    """
    graph = request.graph
    macs = macs_by_node(graph.model)
    int8 = _planned_int8(request) if precision == "int8" else frozenset()
    return tuple(
        PlanRow(
            node.name,
            node.op_type,
            "nowhere" if node.name in problems else where,
            "int8" if node.name in int8 else rest if precision == "int8" else precision,
            macs.get(node.name, 0),
            problems.get(node.name),
        )
        for node in graph.model.graph.node
    )


def _planned_int8(request: LoweringRequest) -> frozenset[str]:
    """The layers of the spec, or, before anything was calibrated, those that could be in one."""
    if request.quant is not None:
        return frozenset(request.quant.layers)
    return frozenset(find_layers(Wiring(request.graph.model))[0])
