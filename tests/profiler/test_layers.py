"""Layer times and where they came from: names that runtimes decorate are led back to modules and lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.bundle import Bundle, Origin
from edgekit.errors import UnsupportedError
from edgekit.profiler.layers import _origin, layer_times
from edgekit.profiler.subject import feeds_of

ORIGINS = {
    "node_conv2d": Origin("backbone.stem.conv", "models/femtodet.py", 41),
    "node_conv2d_1": Origin("head.reg", "models/femtodet.py", 88),
    "/stem/Conv": Origin("stem", None, None),
}


@pytest.mark.parametrize(
    ("name", "module", "line"),
    [
        ("node_conv2d", "backbone.stem.conv", "models/femtodet.py:41"),
        ("conv2d", "backbone.stem.conv", "models/femtodet.py:41"),
        ("conv2d_1", "head.reg", "models/femtodet.py:88"),
        ("node_conv2d_1_nchwc", "head.reg", "models/femtodet.py:88"),
        ("conv2d_quant", "backbone.stem.conv", "models/femtodet.py:41"),
        ("node_conv2d/WithoutBiases", "backbone.stem.conv", "models/femtodet.py:41"),
        ("conv2d_token_12", "backbone.stem.conv", "models/femtodet.py:41"),
        ("/stem/Conv/fused_relu", "stem", None),
        ("reorder", None, None),
        ("", None, None),
    ],
)
def test_a_decorated_name_is_led_back(name: str, module: str | None, line: str | None) -> None:
    assert _origin(name, ORIGINS) == (module, line)


@pytest.mark.parametrize("target", ["snapdragon-865", "intel-n100"])
def test_layers_of_a_real_model_are_timed_and_mostly_known(femtodet_bundles: dict[str, Path], target: str) -> None:
    with Bundle.open(femtodet_bundles[target]) as bundle:
        found = layer_times(bundle, feeds_of(bundle), threads=1)
    times = [layer.median_ms for layer in found]
    assert len(found) > 20 and times == sorted(times, reverse=True) and min(times) >= 0
    whole = sum(times)
    assert sum(layer.median_ms for layer in found if layer.module) >= 0.8 * whole
    assert {layer.op for layer in found if layer.op.startswith("Conv")}


def test_a_runtime_that_times_no_layers_says_so(femtodet_bundles: dict[str, Path], monkeypatch, tmp_path) -> None:
    class Plain:
        name = "plain"

    monkeypatch.setattr("edgekit.profiler.layers.backend_named", lambda name: Plain())
    with (
        Bundle.open(femtodet_bundles["snapdragon-865"]) as bundle,
        pytest.raises(UnsupportedError, match="does not time layers"),
    ):
        layer_times(bundle, feeds_of(bundle))
