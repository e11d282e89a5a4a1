"""`edgekit.toml`: the options of an export, each also a flag of the same name; the flag wins."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import InputError
from edgekit.spec import ClassificationPostprocess, DetectionPostprocess
from edgekit.structure import decode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "edgekit.toml"


@dataclass(frozen=True)
class ModelOptions:
    """What to export, and what it is for the outside; `trust_code` is given by its flag only, never by a file."""

    source: str = "femtodet"
    name: str | None = None
    spec: str | None = None
    shapes: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    preprocess: dict[str, Any] | None = None
    postprocess: DetectionPostprocess | ClassificationPostprocess | None = None
    labels: str | tuple[str, ...] | None = None
    data: str | None = None
    split: str | None = None
    metric: str | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class RecipeOptions:
    """The steps between the model and its graph; None is the source's usual recipe."""

    steps: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CalibrationOptions:
    """Real inputs that int8 takes its ranges from; parity is checked on the first of them, or of `model.data`.

    Without `calibration_data`, they are the split `calibration_split` of `model.data`: by default `train`, if it is
    there and is not the held-out one. A `.txt` file calibrates a model of tokens.
    """

    calibration_data: str | None = None
    calibration_split: str | None = None
    calibration_samples: int = 128

    def __post_init__(self) -> None:
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples is at least 1, not {self.calibration_samples}")


@dataclass(frozen=True)
class QuantizationOptions:
    """How int8 is made; see `edgekit.compress.ptq.PtqOptions`.

    Attributes:
        observer: `auto` takes the one whose outputs deviate least on calibration samples that set no range.
        activations: `dynamic` takes ranges at run time, in matrix products, on ONNX Runtime.
        min_coverage: the least share of multiply-accumulates that the runtime must compute in int8, 0 to 1.
        search: return the worst layers to float where the quality gate says no.
    """

    observer: str = "auto"
    activations: Literal["static", "dynamic"] = "static"
    equalize: bool = True
    bias_correction: bool = True
    keep_float: tuple[str, ...] = ()
    min_coverage: float = 0.7
    search: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage is a share from 0 to 1, not {self.min_coverage}")


@dataclass(frozen=True)
class QualityOptions:
    """The bar: relative deviation per tensor, on how many inputs, and points of the metric that may be lost."""

    tolerance: float | None = None
    parity_samples: int = 4
    max_drop: float = 0.5
    quality_samples: int | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None and self.tolerance < 0:
            raise ValueError(f"tolerance is not negative, but {self.tolerance} is")
        if self.parity_samples < 1:
            raise ValueError(f"parity_samples is at least 1, not {self.parity_samples}")
        if self.quality_samples is not None and self.quality_samples < 1:
            raise ValueError(f"quality_samples is at least 1, not {self.quality_samples}")


@dataclass(frozen=True)
class ExportOptions:
    """Where to, and in which form; `end_to_end` puts a detector's decode and suppression into the graph."""

    target: str | tuple[str, ...] = ()
    input: Literal["as-is", "uint8-nhwc"] = "as-is"
    end_to_end: bool = False
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8", "w8a16"] = "auto"
    allow_slower: bool = False
    output: str | None = None
    sign_key: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets as a tuple, however they were written."""
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclass(frozen=True)
class Config:
    """The whole file."""

    model: ModelOptions = ModelOptions()
    recipe: RecipeOptions = RecipeOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    quantization: QuantizationOptions = QuantizationOptions()
    quality: QualityOptions = QualityOptions()
    export: ExportOptions = ExportOptions()


SECTIONS = {
    "model": ModelOptions,
    "recipe": RecipeOptions,
    "calibration": CalibrationOptions,
    "quantization": QuantizationOptions,
    "quality": QualityOptions,
    "export": ExportOptions,
}


def load_config(path: Path | None, flags: Mapping[str, Any]) -> tuple[Config, Path | None]:
    """The configuration, and the file that it came from.

    Args:
        path: a file that was asked for; None takes `edgekit.toml` of the working folder where there is one.
        flags: option name to value, for the flags that were given; they win.

    Raises:
        InputError: the file is missing or malformed, or a value does not fit.
    """
    found = path or (Path(FILE) if Path(FILE).is_file() else None)
    data = read_toml(found) if found else {}
    if isinstance(data.get("model"), dict) and "trust_code" in data["model"]:
        raise InputError(
            "trust_code cannot be set in a file",
            where=f"{found}.model.trust_code",
            why="a folder from somebody else could then run code on this machine",
            fix="pass --trust-code, each time",
        )
    for section, options in SECTIONS.items():
        given = {option.name: flags[option.name] for option in fields(options) if flags.get(option.name) is not None}
        if given and isinstance(data.get(section, {}), dict):
            data[section] = {**data.get(section, {}), **given}
    return decode(Config, data, str(found or "options")), found


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        InputError: missing, not UTF-8, or not TOML; the reason names line and column.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            "the configuration cannot be read", where=str(path), why=error.strerror or str(error)
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            "the configuration is not TOML", where=str(path), why=str(error), fix="edgekit init writes one"
        ) from error


def parse_flag_table(text: str, flag: str) -> Any:
    """The value of a flag that is a TOML value, such as `{height = 224, width = 224}` or `image=["batch", 3, 8, 8]`.

    Raises:
        InputError: it is not TOML.
    """
    bare = text.lstrip().startswith(("{", "["))
    try:
        return tomllib.loads(f"value = {text}" if bare else f"[value]\n{text}")["value"]
    except tomllib.TOMLDecodeError as error:
        example = "for example: {height = 224, width = 224}"
        raise InputError(f"{flag} is not a TOML value", where=f"{flag} {text}", why=str(error), fix=example) from error
