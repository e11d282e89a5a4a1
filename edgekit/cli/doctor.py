"""`edgekit doctor`: what this machine can export to and run."""

from __future__ import annotations

from edgekit.cli.output import Json, emit, table


def command(json: Json = False) -> None:
    """Say what this machine can export to and run, with the command that fixes each gap."""
    from edgekit.doctor import examine

    emit(
        examine(),
        json,
        lambda found: table(
            ("what", "ready", "version", "why not", "fix"),
            [(c.what, "yes" if c.ready else "no", c.version, c.why, c.fix) for c in found],
        ),
    )
