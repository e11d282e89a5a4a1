"""`edgekit models`: the models that edgekit ships."""

from __future__ import annotations

from edgekit.cli.output import Json, emit, table


def command(json: Json = False) -> None:
    """List the shipped models."""
    from edgekit.models.catalog import CATALOG

    rows = [
        {"name": name, "summary": entry.summary, "weights": entry.weights} for name, entry in sorted(CATALOG.items())
    ]
    emit(rows, json, lambda found: table(("model", "what"), [(row["name"], row["summary"]) for row in found]))
