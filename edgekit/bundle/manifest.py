"""The manifest: everything that a bundle says about itself, as frozen dataclasses that are JSON both ways.

`manifest.schema.json` beside this file is the same format as a JSON Schema (draft 2020-12); a test keeps the two equal.
The dataclasses know more: rules between fields, such as names that collide, raise `ValueError` when one is built.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit.bundle.evidence import (
    Choice,
    LayerNoise,
    Parity,
    Quality,
    Variant,
    check_not_negative,
    check_sha256,
    check_text,
)
from edgekit.bundle.layout import MANIFEST, MAX_FILES, MAX_TOTAL_BYTES, SIGNATURE, first_collision, name_problem
from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.errors import InputError, IntegrityError
from edgekit.spec import ModelSpec
from edgekit.structure import decode, encode

SCHEMA = "edgekit/bundle/1"


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle.

    Attributes:
        path: where it lies, parts separated by `/`; see `layout.NAME_PATTERN`.
        sha256: of its bytes, 64 lowercase hexadecimal digits.
        size: in bytes.
        role: what it is for: `model`, `weights`, `recipe`, `selftest`, `label`, `variant`, or a word of an exporter's.
    """

    path: str
    sha256: str
    size: int
    role: str

    def __post_init__(self) -> None:
        problem = name_problem(self.path)
        if problem:
            raise ValueError(f"the path {self.path[:80]!a} {problem}")
        if self.path.casefold() in (MANIFEST, SIGNATURE):
            raise ValueError(f"{self.path} is never listed: the signature covers the manifest, not the other way round")
        check_sha256("sha256", self.sha256)
        if not 0 <= self.size <= MAX_TOTAL_BYTES:
            raise ValueError(f"size is a number of bytes from 0 to {MAX_TOTAL_BYTES}, not {self.size}")
        check_text("role", self.role)


@dataclass(frozen=True)
class RuntimeNeed:
    """A range of runtime versions: `min` <= version, and version < `below` where it is given; numbers and dots."""

    name: str
    min: str
    below: str | None = None

    def __post_init__(self) -> None:
        check_text("name", self.name)
        for version in (self.min, self.below):
            if version is not None and not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}", version):
                raise ValueError(f"a version is one to four numbers with dots between, not {version[:40]!a}")


@dataclass(frozen=True)
class TargetNeed:
    """What the device must have.

    Attributes:
        name: the device profile that the bundle was exported for.
        runtime: the runtime and its versions.
        precision: what the runtime computes in, such as `fp32` or `fp16`.
        isa: instruction sets, any of which will do (`x86_64`, `aarch64`); empty means any machine.
        settings: handed to the backend at load, such as OpenVINO's `INFERENCE_PRECISION_HINT`.
        identity: words, any of which the board's own name for itself holds: questions are answered on such a board.
    """

    name: str
    runtime: RuntimeNeed
    precision: str
    isa: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    identity: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_text("precision", self.precision)


@dataclass(frozen=True)
class HistoryStep:
    """One step from the source to this bundle: its name, the configuration it ran with and what it reported."""

    step: str
    config: dict[str, Any]
    result: dict[str, Any]

    def __post_init__(self) -> None:
        check_text("step", self.step)


@dataclass(frozen=True)
class Question:
    """What the exporting machine could not decide: the board answers it, and until then it is open.

    Attributes:
        what, reason: the question, and why it could not be answered there.
        tolerance: the bound that the answer has to keep.
        prediction: what was expected, in `unit`.
    """

    id: str
    kind: Literal["parity", "quality", "latency", "energy", "race"]
    what: str
    reason: str
    tolerance: float | None = None
    prediction: float | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        check_text("id", self.id)
        check_text("what", self.what)
        check_not_negative(tolerance=self.tolerance or 0.0)


@dataclass(frozen=True)
class SelfTest:
    """Known inputs and the outputs that they must give.

    Attributes:
        inputs, outputs: tensor name to the path of its `.npy` file in the bundle.
        tolerance: the bound on max|a-b| / max(0.01, max|b|).
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    tolerance: float
    origin: Literal["real", "drawn", "random"]

    def __post_init__(self) -> None:
        check_not_negative(tolerance=self.tolerance)
        if not self.inputs or not self.outputs:
            raise ValueError("a self-test needs at least one input and one output")


@dataclass(frozen=True)
class Source:
    """Where the model came from: `origin` names it, `sha256` is of its weights or file."""

    kind: Literal["builtin", "onnx", "pt2", "module", "huggingface", "checkpoint"]
    origin: str
    sha256: str
    parameters: int | None = None

    def __post_init__(self) -> None:
        check_text("origin", self.origin)
        check_sha256("sha256", self.sha256)
        check_not_negative(parameters=self.parameters or 0)


@dataclass(frozen=True)
class Origin:
    """Where a graph node came from: the torch module's qualified name and its source line, with a relative path."""

    module: str
    file: str | None = None
    line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle's account of itself. Inputs, outputs, pre- and postprocessing, task and labels stand in `model`.

    Attributes:
        version: counts up with every release of `name`, from 1.
        files: every file but the manifest and its signature.
        source: the parent; `history` the steps from it to here, `tools` the versions that took them.
        parity, quality: what was checked, with figures; `questions` what could not be.
        selftest: vectors for the device.
        origins: graph node to the line of code that made it.
        licences: SPDX identifiers, or sentences, for weights and code.
        choice: why the main model has the precision that it has.
        variants: the same model in other precisions; `load(path, precision=...)` opens one.
        layers: where quantization puts its noise, the worst first.
    """

    schema: Literal["edgekit/bundle/1"] = "edgekit/bundle/1"
    name: str
    version: int
    model: ModelSpec
    target: TargetNeed
    files: tuple[FileEntry, ...]
    source: Source
    history: tuple[HistoryStep, ...]
    parity: tuple[Parity, ...]
    quality: Quality
    questions: tuple[Question, ...]
    selftest: tuple[SelfTest, ...]
    tools: dict[str, str]
    origins: dict[str, Origin]
    licences: tuple[str, ...] = ()
    choice: Choice | None = None
    variants: tuple[Variant, ...] = ()
    layers: tuple[LayerNoise, ...] = ()

    def __post_init__(self) -> None:
        check_text("name", self.name)
        if self.version < 1:
            raise ValueError(f"version counts from 1, not {self.version}")
        if len(self.files) > MAX_FILES - 2:
            raise ValueError(f"a bundle holds at most {MAX_FILES} files with manifest and signature")
        clash = first_collision([MANIFEST, SIGNATURE, *(entry.path for entry in self.files)])
        if clash:
            raise ValueError(f"the files {clash[0]} and {clash[1]} collide")
        if sum(entry.size for entry in self.files) > MAX_TOTAL_BYTES:
            raise ValueError(f"the files are more than {MAX_TOTAL_BYTES} bytes together")
        if len({question.id for question in self.questions}) != len(self.questions):
            raise ValueError("two questions have the same id")
        if self.choice is not None and self.choice.precision != self.target.precision:
            raise ValueError(
                f"the choice was {self.choice.precision[:40]!a}, but the main model is {self.target.precision[:40]!a}"
            )
        if len(set(self.precisions)) != len(self.precisions):
            raise ValueError("two models of the bundle have the same precision")

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the bundle can be loaded in, the main model's first."""
        return (self.target.precision, *(variant.precision for variant in self.variants))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it stands in the bundle: sorted keys, UTF-8, an indent of 1, a newline at the end.

    Raises:
        InputError: a step's configuration or result holds what JSON does not, such as NaN.
    """
    return render_json(encode(manifest), MANIFEST)


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Read a manifest.

    Args:
        raw: the file's bytes, at most `layout.MAX_MANIFEST_BYTES`.
        where: the document's name for error messages.

    Raises:
        IntegrityError: naming what is malformed, or of a later format.
    """
    data = parse_json(raw, where)
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise IntegrityError(
            f"this is no manifest of the format {SCHEMA}",
            where=where,
            why=f"its schema is {str(schema)[:60]!a}",
            fix="if a newer edgekit wrote the bundle, upgrade edgekit here",
        )
    try:
        manifest = decode(Manifest, data, where)
    except InputError as error:
        raise IntegrityError(error.what, where=error.where, why=error.why, fix=error.fix) from error
    problem = unlisted(manifest)
    if problem is not None:
        raise IntegrityError(problem, where=where, why="that is not among the files")
    return manifest


def unlisted(manifest: Manifest) -> str | None:
    """Which self-test or variant reads a file that the manifest does not list, or None."""
    listed = {entry.path for entry in manifest.files}
    reads = [
        ("the self-test", path)
        for test in manifest.selftest
        for path in (*test.inputs.values(), *test.outputs.values())
    ]
    reads += [
        (f"the variant {variant.precision[:40]!a}", path)
        for variant in manifest.variants
        for path in variant.files.values()
    ]
    return next((f"{who} reads {path[:80]!a}" for who, path in reads if path not in listed), None)
