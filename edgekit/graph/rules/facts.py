"""The data behind a target's rules: what is known of each version, the rules themselves, and what a finding is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from edgekit.errors import UnsupportedError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Severity = Literal["error", "warning", "note"]
Refuser = Literal["parser", "builder", "board", "edgekit"]
Version = tuple[int, ...]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """What one rule says of one node, or of the whole model.

    Attributes:
        rule: the rule's id in `tensorrt_rules.toml`.
        severity: an `error` fails the export; the others are told.
        node: a node of the main graph, also where a node inside its body is meant; None for the model as a whole.
        module: the torch module's qualified name; None where it is not known.
        line: its source line, such as `net.py:12`; None where it is not known.
        message: what is wrong, with the tensor, value or inner node.
        fix: what would change it.
        source: the document that says so.
        by: who says no: TensorRT's `parser` or `builder`, the `board`, or `edgekit`.
    """

    rule: str
    severity: Severity
    node: str | None
    module: str | None
    message: str
    fix: str
    source: str
    line: str | None = None
    by: Refuser = "parser"

    def describe(self) -> str:
        """One line for a reader."""
        module = f" of module {self.module!r}" if self.module else ""
        line = f" ({self.line})" if self.line else ""
        where = f" at node {self.node!r}{module}{line}" if self.node else ""
        return f"{self.severity} {self.rule}{where}: {self.message}; fix: {self.fix} [{self.source}]"


@dataclass(frozen=True)
class Rule:
    """A row of `tensorrt_rules.toml`; `data` holds what its predicate needs besides."""

    id: str
    title: str
    severity: Severity
    by: Refuser
    source: str
    fix: str
    since: Version | None
    below: Version | None
    data: dict[str, Any]


@dataclass(frozen=True)
class Form:
    """A row of `tensorrt_forms.toml`; the file says what each `kind` looks at."""

    operators: frozenset[str]
    kind: str
    says: str
    source: str
    since: Version | None
    below: Version | None
    severity: Severity
    data: dict[str, Any]


@dataclass(frozen=True)
class Span:
    """The versions that a graph must serve, from `low` up to but without `high`: None is open, the same is just one."""

    low: Version
    high: Version | None

    @classmethod
    def of(cls, low: str, high: str | None) -> Span:
        """From texts such as `10.3` and `10.4`."""
        return cls(parse_version(low), parse_version(high) if high else None)

    def meets(self, since: Version | None, below: Version | None) -> bool:
        """Whether something that holds from `since` and below `below` holds for one of these versions."""
        begun = since is None or self.high is None or since < self.high or since <= self.low
        return begun and (below is None or self.low < below)


@dataclass(frozen=True)
class Operator:
    """What a version's parser says of an operator; empty `types` are unknown ones."""

    types: tuple[str, ...]
    restriction: str
    source: str


@dataclass(frozen=True)
class Release:
    """What is known of one version's parser.

    Attributes:
        operators: those that it takes, by name.
        unsupported: those that its list calls unsupported, with the list.
        opset_min, opset_max, opset_source: the operator sets that it covers.
        ir_max, ir_source: the newest IR version that the ONNX inside it knows.
        listed: whether a list of just this version was read; else `source` names the older one that stands in.
    """

    operators: dict[str, Operator]
    unsupported: dict[str, str]
    opset_min: int
    opset_max: int
    opset_source: str
    ir_max: int
    ir_source: str
    listed: bool
    source: str


def parse_version(text: str) -> Version:
    """`10.16.1.11` as numbers.

    Raises:
        UsageError: it is no version.
    """
    parts = text.split(".")
    if not all(part.isdigit() for part in parts):
        raise UsageError(f"{text!r} is no TensorRT version", where="TensorRT rules", fix="write it like 10.3")
    return tuple(int(part) for part in parts)


@cache
def operator_table() -> dict[str, Any]:
    """The list of 10.1 with its source: `operators` by name with types and restrictions, and `unsupported`."""
    return _load("tensorrt_ops.toml")


@cache
def rule_table() -> tuple[Rule, ...]:
    """All rules, in the file's order."""
    known = {"id", "title", "severity", "by", "source", "fix", "since", "below"}
    return tuple(
        Rule(
            row["id"],
            row["title"],
            row["severity"],
            row["by"],
            row["source"],
            row["fix"],
            _version(row, "since"),
            _version(row, "below"),
            {key: value for key, value in row.items() if key not in known},
        )
        for row in _load("tensorrt_rules.toml")["rules"]
    )


@cache
def form_table() -> tuple[Form, ...]:
    """All forms that are not taken, in the file's order."""
    known = {"operators", "kind", "says", "source", "since", "below", "severity"}
    return tuple(
        Form(
            frozenset(row["operators"]),
            row["kind"],
            row["says"],
            row["source"],
            _version(row, "since"),
            _version(row, "below"),
            row.get("severity", "error"),
            {key: value for key, value in row.items() if key not in known},
        )
        for row in _load("tensorrt_forms.toml")["forms"]
    )


@cache
def release(version: Version) -> Release:
    """What is known of `version`: the list of 10.1 and every dated change up to it.

    Raises:
        UnsupportedError: `version` is older than the oldest list.
    """
    base, later = operator_table(), _load("tensorrt_releases.toml")
    lists = [row for row in later["lists"] if parse_version(row["version"]) <= version]
    if not lists:
        raise UnsupportedError(
            f"nothing is known of TensorRT {'.'.join(map(str, version))}",
            where="TensorRT rules",
            why=f"the oldest operator list that was read is that of {base['tensorrt']}",
            fix="ask for a newer version",
        )
    operators = {
        name: Operator(tuple(row["types"]), row.get("restriction", ""), base["source"])
        for name, row in base["operators"].items()
    }
    for row in later["changes"]:
        if parse_version(row["since"]) <= version:
            old = operators.get(row["operator"], Operator((), "", row["source"]))
            types, said = tuple(row.get("types", old.types)), row.get("restriction", old.restriction)
            operators[row["operator"]] = Operator(types, said, row["source"])
    opset = _latest(later["opsets"], version)
    ir = _latest(later["irs"], version)
    nearest = lists[-1]
    return Release(
        operators,
        {name: nearest["source"] for name in base["unsupported"] if name not in operators},
        opset["min"],
        opset["max"],
        opset["source"],
        ir["max"],
        ir["source"],
        version[:2] == parse_version(nearest["version"]),
        nearest["source"],
    )


def _latest(rows: list[dict[str, Any]], version: Version) -> dict[str, Any]:
    return [row for row in rows if parse_version(row["since"]) <= version][-1]


def _load(name: str) -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _version(row: dict[str, Any], key: str) -> Version | None:
    return parse_version(row[key]) if key in row else None
