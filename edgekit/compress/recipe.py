"""The recipe: an ordered list of typed steps, checked before anything is touched, whose history is the artefact."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from edgekit.compress.fuse import check_same, fuse, refuse_training_mode
from edgekit.compress.repavit import Reparameterize
from edgekit.errors import UsageError
from edgekit.structure import decode


@runtime_checkable
class Rewritable(Protocol):
    """A network with exact, cheaper forms of its own structure."""

    def rewritten(self) -> nn.Module:
        """The rewritten copy."""
        ...


class Step(Protocol):
    """One typed step of a recipe: a frozen config, its legal predecessors, and a pure `apply`."""

    name: ClassVar[str]
    follows: ClassVar[tuple[str | None, ...]]

    def apply(self, module: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, dict[str, Any]]:
        """The changed copy of `module`, and what is worth recording."""
        ...


@dataclass(frozen=True)
class Fuse:
    """Fold normalization and parallel branches into convolutions."""

    name: ClassVar[str] = "fuse"
    follows: ClassVar[tuple[str | None, ...]] = (None,)

    def apply(self, module: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, dict[str, Any]]:
        fused = fuse(module, example)
        return fused, {"parameters_before": _parameters(module), "parameters_after": _parameters(fused)}


@dataclass(frozen=True)
class Rewrite:
    """Apply the exact rewrites that a network knows of itself; a network that knows none is left as it is."""

    name: ClassVar[str] = "rewrite"
    follows: ClassVar[tuple[str | None, ...]] = ("fuse", "reparameterize")

    def apply(self, module: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, dict[str, Any]]:
        refuse_training_mode(module, self.name)
        rewritten = module.rewritten() if isinstance(module, Rewritable) else copy.deepcopy(module)
        return rewritten, {"deviation": check_same(module, rewritten, example, self.name)}


STEPS: dict[str, type[Fuse] | type[Reparameterize] | type[Rewrite]] = {
    step.name: step for step in (Fuse, Reparameterize, Rewrite)
}


@dataclass(frozen=True)
class Applied:
    """A step that was applied: its name, its config and its result."""

    step: str
    config: dict[str, Any]
    result: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Steps in order; building one checks that each may follow the one before."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        before: str | None = None
        for step in self.steps:
            if before not in step.follows:
                legal = " or ".join(name or "nothing" for name in step.follows)
                raise UsageError(
                    f"step {step.name!r} cannot follow {before or 'nothing'!r}",
                    where="recipe",
                    why=f"it follows {legal}",
                    fix="reorder the recipe",
                )
            before = step.name

    @classmethod
    def parse(cls, items: Sequence[str | Mapping[str, Any]], where: str = "recipe") -> Recipe:
        """A recipe from step names, or tables with `step` and the step's options.

        Raises:
            UsageError: an unknown step, an illegal order, or an option that the step does not have.
        """
        steps: list[Step] = []
        for index, item in enumerate(items):
            table = {"step": item} if isinstance(item, str) else dict(item)
            name = table.pop("step", None)
            if not isinstance(name, str) or name not in STEPS:
                raise UsageError(
                    f"unknown step {name!r}", where=f"{where}[{index}]", fix="known steps: " + ", ".join(sorted(STEPS))
                )
            steps.append(decode(STEPS[name], table, f"{where}[{index}]"))
        return cls(tuple(steps))

    def apply(self, module: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Applied, ...]]:
        """The compressed copy of `module` and the history of the steps.

        Raises:
            GateError: a step changed what the network computes.
            UsageError: a step refuses the module.
        """
        history = []
        for step in self.steps:
            module, result = step.apply(module, example)
            history.append(Applied(step.name, asdict(step), result))  # type: ignore[call-overload]
        return module, tuple(history)


DEFAULT_RECIPE = ("fuse", "rewrite")


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
