"""One file a runtime: each says what it would do with a graph (`plan`), and does it (`export`)."""

from edgekit.exporters.exporter import Artifact, Exported, Exporter, LoweringRequest, Plan, PlanRow, exporter_for

__all__ = ["Artifact", "Exported", "Exporter", "LoweringRequest", "Plan", "PlanRow", "exporter_for"]
