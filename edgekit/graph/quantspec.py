"""The neutral result of quantization: what calibration learned, before any runtime's dialect.

It belongs to one graph, the prepared one: scales that equalisation moved into weights and corrected biases are in
that graph already. A lowering turns both into a file for one runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgekit.bundle.strictjson import parse_json, render_json
from edgekit.structure import decode, encode


@dataclass(frozen=True)
class ActivationQuant:
    """One tensor's clip range.

    Attributes:
        low, high: real values that the integers span, `low <= 0 <= high`: zero is exact in every dialect.
        observer: what chose the range.
        bits: width of the integers.
    """

    low: float
    high: float
    observer: str
    bits: Literal[8] = 8

    def __post_init__(self) -> None:
        if not self.low <= 0 <= self.high or self.low == self.high:
            raise ValueError(f"a clip range spans zero and is not empty, unlike {self.low} to {self.high}")

    @property
    def signed(self) -> bool:
        """Whether negative values occur."""
        return self.low < 0


@dataclass(frozen=True)
class WeightQuant:
    """One weight's clip magnitudes.

    Attributes:
        axis: the axis of the output channels; None for one magnitude in all.
        clip: the magnitude that the largest integer stands for, one a channel.
        bits: width of the integers; 4 is reserved for weight-only language models.
    """

    axis: int | None
    clip: tuple[float, ...]
    bits: Literal[4, 8] = 8

    def __post_init__(self) -> None:
        if not self.clip or min(self.clip) <= 0:
            raise ValueError("a weight's clip magnitudes are positive, at least one")


@dataclass(frozen=True)
class QuantSpec:
    """What runs in int8, and in which ranges.

    Attributes:
        layers: the names of compute nodes (`Conv`, `Gemm`, `MatMul`) that run in int8.
        carriers: nodes between them that stay in int8 where a runtime can.
        products: attention's products of queries and keys that may be in int8, where a runtime gains by it.
        activations: by tensor name.
        weights: by initializer name.
        float_nodes: compute nodes that stay float, with the reason.
        dynamic: whether activations get their ranges at run time, per tensor; `activations` is empty then.
        divisors: what equalisation divided each channel by, by tensor.
        calibration_sha256, samples: the data that the ranges come from, and how many.
        steps: what was done, in order, such as `observe:mse`.
    """

    layers: tuple[str, ...]
    carriers: tuple[str, ...]
    activations: dict[str, ActivationQuant]
    weights: dict[str, WeightQuant]
    float_nodes: dict[str, str]
    calibration_sha256: str
    samples: int
    products: tuple[str, ...] = ()
    divisors: dict[str, tuple[float, ...]] = field(default_factory=dict)
    dynamic: bool = False
    steps: tuple[str, ...] = ()
    schema: Literal["edgekit/quantspec/1"] = "edgekit/quantspec/1"

    def to_json(self) -> bytes:
        """The spec as `strictjson` writes it; `from_json` reads it back equal."""
        return render_json(encode(self), "QuantSpec")

    @classmethod
    def from_json(cls, raw: bytes, where: str = "quant.json") -> QuantSpec:
        """Read a spec.

        Raises:
            IntegrityError: it is not JSON.
            InputError: it is no spec; the message names the field.
        """
        return decode(cls, parse_json(raw, where), where)
