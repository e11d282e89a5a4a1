"""`edgekit targets`: the boards that can be exported for."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli.output import Json, emit, say, table


def command(
    name: Annotated[str | None, typer.Argument(help="One target, with everything that is known of it.")] = None,
    json: Json = False,
) -> None:
    """List the targets, or show one with its facts and their sources."""
    from edgekit import profiles

    if name is None:
        emit(
            profiles.all_profiles(),
            json,
            lambda found: table(
                ("target", "also", "runtime", "precision", "opset", "what"),
                [(p.name, ", ".join(p.aliases), p.runtime, p.default_precision, p.opset, p.title) for p in found],
            ),
        )
        return
    profile = profiles.get(name)
    if json:
        emit(profile, True, lambda _: None)
        return
    say(f"{profile.name}: {profile.title}")
    for pin, reason in sorted(profile.because.items()):
        say(f"  {pin} = {getattr(profile, pin, None)}: {reason}")
    for key, fact in sorted(profile.facts.items()):
        doubt = "" if fact.verified else " [unverified]"
        say(f"  {key}: {fact.value} {fact.unit or ''}{doubt} ({fact.source})")
    for mode in profile.power_modes:
        say(f"  power mode {mode.name} (id {mode.id}){' default' if mode.default else ''}")
