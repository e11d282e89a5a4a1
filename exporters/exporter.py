"""What all exporters share: the request, the plan, the result, and how one is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from edgekit import plugins
from edgekit.errors import UnsupportedError, UsageError
from edgekit.graph.graph import Graph
from edgekit.graph.macs import macs_by_node
from edgekit.profiles import DeviceProfile
from edgekit.spec import ModelSpec


@dataclass(frozen=True)
class LoweringRequest:
    """A canonical graph on its way to one target.

    Attributes:
        graph, spec: the model, at the profile's opset and IR.
        profile: the target.
        precision: `fp32`, `fp16`, or `auto` for the profile's default.
    """

    graph: Graph
    spec: ModelSpec
    profile: DeviceProfile
    precision: str = "auto"


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
        rehearsal: the runtime that can compute the lowered graph here although it is not the target's own; None where
            the target's runtime exists on ordinary machines and is itself what is checked.
        portable: whether the files hold on any machine that has the runtime.
    """

    files: tuple[Artifact, ...]
    graph: Graph
    precision: str
    settings: Mapping[str, str]
    rehearsal: str | None = None
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
        """The lowered model as files in memory."""
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
    if asked not in ("fp32", "fp16"):
        raise UsageError(f"unknown precision {asked!r}", where="--precision", fix="auto, fp32 or fp16")
    return asked, "asked for"


def plan_rows(graph: Graph, where: str, precision: str, problems: Mapping[str, str]) -> tuple[PlanRow, ...]:
    """A row a node; `problems` maps node names to reasons."""
    macs = macs_by_node(graph.model)
    return tuple(
        PlanRow(
            node.name,
            node.op_type,
            "nowhere" if node.name in problems else where,
            precision,
            macs.get(node.name, 0),
            problems.get(node.name),
        )
        for node in graph.model.graph.node
    )
