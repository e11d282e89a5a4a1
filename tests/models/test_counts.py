"""Parameters and multiply-accumulates, vanilla and deployed, are those that were worked out apart from the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.models.counts import count  # noqa: E402
from edgekit.models.mixer import mixer  # noqa: E402
from edgekit.models.poolformer import poolformer  # noqa: E402
from edgekit.models.swin import swin  # noqa: E402
from edgekit.models.vision import deployed_skeleton  # noqa: E402
from edgekit.models.vit import vit  # noqa: E402

PICTURE = (1, 3, 224, 224)
# Million parameters; GMAC of layers alone, and with attention's products. Closed form, equal to RePaViT's table 1.
TABLE = [
    (vit, "deit-tiny", None, "5.72", "1.07", "1.25"),
    (vit, "deit-tiny", 0.5, "4.38", "0.81", "0.99"),
    (vit, "deit-tiny", 0.75, "3.49", "0.64", "0.82"),
    (vit, "deit-small", None, "22.05", "4.24", "4.60"),
    (vit, "deit-small", 0.5, "16.72", "3.20", "3.55"),
    (vit, "deit-small", 0.75, "13.18", "2.50", "2.86"),
    (vit, "deit-base", None, "86.57", "16.85", "17.56"),
    (vit, "deit-base", 0.5, "65.30", "12.67", "13.38"),
    (vit, "deit-base", 0.75, "51.13", "9.88", "10.59"),
    (vit, "vit-large", None, "304.33", "59.65", "61.55"),
    (vit, "vit-large", 0.75, "178.37", "34.86", "36.77"),
    (vit, "vit-huge", None, "632.20", "124.14", "127.31"),
    (vit, "vit-huge", 0.75, "369.85", "72.49", "75.67"),
    (swin, "swin-tiny", None, "28.29", "4.35", "4.49"),
    (swin, "swin-tiny", 0.75, "17.48", "2.62", "2.76"),
    (swin, "swin-small", None, "49.61", "8.51", "8.74"),
    (swin, "swin-small", 0.75, "29.93", "5.04", "5.27"),
    (swin, "swin-base", None, "87.77", "15.13", "15.43"),
    (swin, "swin-base", 0.75, "52.81", "8.96", "9.27"),
]


@pytest.mark.parametrize(("build", "name", "theta", "parameters", "layers", "everything"), TABLE)
def test_counts_equal_the_table_to_every_printed_digit(
    build: Callable[..., nn.Module],
    name: str,
    theta: float | None,
    parameters: str,
    layers: str,
    everything: str,
) -> None:
    for normalization in ("layer",) if theta is None else ("layer", "batch"):
        with torch.device("meta"):
            module = deployed_skeleton(build(name, theta=theta, normalization=normalization))
        counts = count(module, PICTURE)
        assert f"{counts.parameters / 1e6:.2f}" == parameters
        assert f"{counts.macs_layers / 1e9:.2f}" == layers
        assert f"{counts.macs_all / 1e9:.2f}" == everything


@pytest.mark.parametrize(
    ("build", "name", "parameters"),
    [  # as published with their papers' code
        (mixer, "mixer-small", 18_528_264),
        (mixer, "mixer-base", 59_880_472),
        (poolformer, "poolformer-s12", 11_915_176),
        (poolformer, "poolformer-m36", 56_172_520),
    ],
)
def test_plain_mixers_and_poolformers_have_their_published_sizes(
    build: Callable[..., Any], name: str, parameters: int
) -> None:
    with torch.device("meta"):
        module = build(name)
        assert count(module, PICTURE).parameters == parameters


def test_attention_is_counted_in_one_convention_and_not_in_the_other() -> None:
    with torch.device("meta"):
        counts = count(vit("deit-small").eval(), PICTURE)
    assert counts.macs_all - counts.macs_layers == 12 * 2 * 197**2 * 384


def test_a_deployed_layer_costs_what_the_closed_form_says() -> None:
    with torch.device("meta"):
        plain = vit("deit-small", depth=1, classes=1)
        merged = deployed_skeleton(vit("deit-small", depth=1, classes=1, theta=0.75, normalization="batch"))
    width, mu, rho = 384, 1, 4
    saved = (2 * rho - 2 * mu - 1) * width**2 + (rho - mu) * width + 2 * width  # matrices, biases, the norm
    counts = [count(module.eval(), PICTURE) for module in (plain, merged)]
    assert counts[0].parameters - counts[1].parameters == saved
    assert counts[0].macs_layers - counts[1].macs_layers == 197 * (2 * rho - 2 * mu - 1) * width**2


def test_counting_leaves_no_hooks_behind() -> None:
    with torch.device("meta"):
        module = vit("deit-tiny", depth=1)
        count(module, PICTURE)
    assert not any(part._forward_hooks for part in module.modules())
