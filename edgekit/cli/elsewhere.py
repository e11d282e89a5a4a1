"""`edgekit profile` on another machine: the same options again as text, and the report as if it had been made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.output import note

if TYPE_CHECKING:
    from edgekit.profiler.remote.measure import Outcome


@dataclass(frozen=True)
class Elsewhere:
    """Where to measure, by the options of these names."""

    device: str | None = None
    wheelhouse: Path | None = None
    python: str = "python3"
    root: str = ""
    run: str | None = None

    @property
    def asked(self) -> bool:
        """Whether the command goes to another machine at all."""
        return self.run is not None or self.device not in (None, "local")

    def measure(self, bundle: Path, out: Path, key: Path | None, options: Mapping[str, Any]) -> Outcome:
        """Run there, or fetch what ran there before; the report lies beside `out`.

        Raises:
            EdgekitError: as the command raised it there, or because the device does not answer.
        """
        from edgekit.profiler.remote.measure import Request, profile_on, resume

        if self.run is not None:
            return resume(self.run, told=note)
        request = Request(bundle, out, arguments_of({"key": key, **options}), self.wheelhouse, self.python, key)
        return profile_on(str(self.device), request, told=note, root=self.root)


def arguments_of(options: Mapping[str, Any]) -> tuple[str | Path, ...]:
    """Options by the names of the command's parameters, as the words that give them; None is left away."""
    words: list[str | Path] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            words += [f"--{flag}", one if isinstance(one, Path) else str(one)]
    return tuple(words)
