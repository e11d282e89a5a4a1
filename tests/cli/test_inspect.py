"""`edgekit inspect` shows why a bundle has its precision, what else it carries, and where quantization hurts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import (
    Candidate,
    Choice,
    Coverage,
    LayerNoise,
    Manifest,
    MeasuredOn,
    Quality,
    RuntimeNeed,
    Source,
    TargetNeed,
    Variant,
    write_bundle,
)
from edgekit.spec import ModelSpec

LOST = Quality("measured", metric="ap50", parent=91.5, bundle=91.1, max_drop=0.5, samples=72)
UNKNOWN = Quality("unknown", reason="there is no metric")


@pytest.fixture
def bundle(folder: Path) -> Any:
    """Write a bundle with a choice, a variant and noisy layers."""

    def write(**fields: Any) -> Path:
        coverage = Coverage(0.8, 0.95, 95, 100, "runtime", {f"Mul_{i}": "decode arithmetic" for i in range(12)})
        choice = Choice(
            "int8",
            "race",
            "int8 is 2.00x (1.90 to 2.10) as fast as fp32",
            (
                Candidate("fp32", True, quality=LOST, latency_ms=4.0, speedup=(1.0, 1.0, 1.0)),
                Candidate("int8", True, None, LOST, coverage, 2.0, (1.9, 2.0, 2.1)),
                Candidate("bf16", False, "the CPU here has no bf16"),
            ),
            MeasuredOn("A CPU", "x86_64", "Linux 6.8", "onnxruntime 1.32.0", "AVX2 (all of this CPU)", 1),
        )
        manifest = Manifest(
            name="cells",
            version=1,
            model=ModelSpec("cells", "tensor", (), ()),
            target=TargetNeed("host", RuntimeNeed("onnxruntime", "1"), "int8"),
            files=(),
            source=Source("onnx", "m.onnx", "0" * 64),
            history=(),
            parity=(),
            quality=LOST,
            questions=(),
            selftest=(),
            tools={},
            origins={},
            **{
                "choice": choice,
                "variants": (Variant("fp32", {"model": "variants/fp32/model.onnx"}, {}, 1e-4, LOST),),
                "layers": tuple(LayerNoise(f"conv_{i}", "t", 10.0 + i, f"stem.{i}", "m.py", i) for i in range(12)),
                **fields,
            },
        )
        files = {"model.onnx": ("model", b"int8"), "variants/fp32/model.onnx": ("variant", b"fp32")}
        write_bundle(folder / "b", manifest, files).close()
        return folder / "b"

    return write


def test_choice_candidates_coverage_variants_and_worst_layers_are_shown(edgekit: Any, bundle: Any) -> None:
    done = edgekit("inspect", bundle())
    assert done.code == 0
    for line in (
        "precision  int8, chosen by: race; int8 is 2.00x (1.90 to 2.10) as fast as fp32",
        "measured   on A CPU (x86_64), onnxruntime 1.32.0, AVX2 (all of this CPU), 1 thread(s)",
        "candidate  fp32: 4 ms, 1.00x of float's speed (1.00 to 1.00), ap50 91.50 -> 91.10",
        "candidate  int8: 2 ms, 2.00x of float's speed (1.90 to 2.10), ap50 91.50 -> 91.10, "
        "95% of MACs in int8 (the runtime says; bar 80%)",
        "candidate  bf16: not eligible, the CPU here has no bf16",
        "float      Mul_0: decode arithmetic",
        "float      ... and 2 more; --json lists all",
        "variant    fp32: variants/fp32/model.onnx, ap50 91.50 -> 91.10; self-tests within 0.0001",
    ):
        assert f"{line}\n" in done.out
    assert "conv_0" in done.out and "10.0" in done.out and "m.py:9" in done.out and "conv_10" not in done.out


def test_nothing_is_said_of_what_a_bundle_does_not_have(edgekit: Any, bundle: Any) -> None:
    done = edgekit("inspect", bundle(choice=None, variants=(), layers=()))
    assert done.code == 0
    for word in ("precision ", "candidate", "measured", "noisiest", "variant    "):
        assert word not in done.out


def test_a_candidate_without_figures_says_why(edgekit: Any, bundle: Any) -> None:
    rule = Coverage(0.8, 1.0, 100, 100, "rule")
    choice = Choice(
        "int8",
        "policy, not measured",
        "Arm dotprod",
        (Candidate("int8", True, "not measured here", UNKNOWN, rule),),
    )
    done = edgekit("inspect", bundle(choice=choice))
    assert "precision  int8, chosen by: policy, not measured; Arm dotprod\n" in done.out
    assert "candidate  int8: 100% of MACs in int8 (by rule; bar 80%), not measured here\n" in done.out
    assert "\nmeasured " not in done.out


def test_json_holds_all_of_it(edgekit: Any, bundle: Any) -> None:
    document = edgekit("inspect", bundle(), "--json").document
    assert document["choice"]["chosen_by"] == "race"
    assert document["variants"][0]["precision"] == "fp32"
    assert len(document["layers"]) == len(document["choice"]["candidates"][1]["coverage"]["float_nodes"]) == 12
