"""Start-up: `import edgekit` against an empty Python, `edgekit --help` against a bare typer app of the same size."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import Pair, report

ROUNDS = 15


def main() -> bool:
    """Measure and print; true where the bars are met."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(_bare_app(), encoding="utf-8")
        imports = _processes([sys.executable, "-c", "import edgekit"], [sys.executable, "-c", "pass"])
        helps = _processes([sys.executable, "-m", "edgekit.cli.main", "--help"], [sys.executable, str(bare), "--help"])
    return all(
        [
            report("import edgekit / python -c pass", "<= 2x", imports, imports.ratio, imports.ratio <= 2),
            report("edgekit --help / bare typer app", "<= 1.5x", helps, helps.ratio, helps.ratio <= 1.5),
        ]
    )


def _bare_app() -> str:
    """A typer app with the very commands and options of ours, and nothing behind them."""
    from edgekit.cli.main import app

    lines = ["from __future__ import annotations", "from typing import Optional", "import typer", "app = typer.Typer()"]
    for registered in app.registered_commands:
        assert registered.callback is not None
        names = [name for name in registered.callback.__annotations__ if name != "return"]
        options = ", ".join(f"{name}: Optional[str] = typer.Option(None, help='{name}')" for name in names)
        lines += [f"@app.command('{registered.name}')", f"def command_{registered.name}({options}):", "    'Does it.'"]
    return "\n".join([*lines, "app()", ""])


def _processes(a: list[str], b: list[str]) -> Pair:
    """CPU time of whole processes, in turn."""
    taken: dict[int, list[float]] = {0: [], 1: []}
    for round_number in range(ROUNDS + 1):
        for index, command in enumerate((a, b)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if round_number:  # the first fills the caches
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                taken[index].append(used * 1e3)
    return Pair(statistics.median(taken[0]), min(taken[0]), statistics.median(taken[1]), min(taken[1]), ROUNDS)


if __name__ == "__main__":
    raise SystemExit(not main())
