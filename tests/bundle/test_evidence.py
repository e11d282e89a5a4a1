"""Figures in a manifest do not contradict one another, and a variant is whole or refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import Bundle, Candidate, Choice, Coverage, LayerNoise, MeasuredOn, Quality, Variant
from edgekit.bundle.manifest import manifest_bytes, parse_manifest
from edgekit.errors import InputError, IntegrityError
from edgekit.evaluate import bootstrap

ON = MeasuredOn("A CPU", "x86_64", "Linux 6.8", "onnxruntime 1.32.0", "AVX2 (all of this CPU)", 1)
FLOAT = Candidate("fp32", True, latency_ms=4.0, speedup=(1.0, 1.0, 1.0))
INT8 = Candidate("int8", True, latency_ms=2.0, speedup=(1.9, 2.0, 2.1))
UNKNOWN = Quality("unknown", reason="there is no metric")


def test_a_manifest_of_before_there_were_variants_still_reads(full: Any) -> None:
    data = json.loads(manifest_bytes(replace(full, selftest=())))
    for name in ("choice", "variants", "layers"):
        del data[name]
    old = parse_manifest(json.dumps(data).encode(), "m")
    assert (old.choice, old.variants, old.layers, old.precisions) == (None, (), (), ("fp32",))


def test_choice_variants_and_layers_read_back_as_they_were(varied: Any, varied_files: Any, make: Any) -> None:
    with Bundle.open(make("b.edgekit", manifest=varied, files=varied_files)) as bundle:
        manifest = bundle.manifest
        assert (manifest.choice, manifest.variants, manifest.layers) == (varied.choice, varied.variants, varied.layers)
        assert manifest.precisions == ("fp32", "int8")
        assert bundle.files_with_role("variant") == ["variants/int8/model.onnx"]


@pytest.mark.parametrize("role", ["model", "weights"])
def test_a_variant_whose_file_is_not_listed_is_neither_written_nor_read(
    varied: Any, varied_files: Any, make: Any, role: str
) -> None:
    (variant,) = varied.variants
    away = replace(variant, files={**variant.files, role: "variants/int8/away.bin"})
    with pytest.raises(InputError, match=r"the variant 'int8' reads 'variants/int8/away\.bin'"):
        make("b", manifest=replace(varied, variants=(away,)), files=varied_files)
    with pytest.raises(IntegrityError, match="the variant 'int8' reads"):
        parse_manifest(manifest_bytes(replace(varied, selftest=(), variants=(variant,))), "m")


def test_variants_may_share_the_main_models_files(full: Any, files: Any, make: Any) -> None:
    bf16 = Variant("bf16", {"model": "model.onnx", "weights": "weights/model.bin"}, {"HINT": "bf16"}, 0.02, UNKNOWN)
    with Bundle.open(make("b", manifest=replace(full, variants=(bf16,)), files=files)) as bundle:
        assert bundle.manifest.precisions == ("fp32", "bf16")


def test_no_two_models_of_a_bundle_have_the_same_precision(varied: Any) -> None:
    (variant,) = varied.variants
    for twice in ((variant, variant), (replace(variant, precision="fp32"),)):
        with pytest.raises(ValueError, match="same precision"):
            replace(varied, variants=twice)


def test_the_choice_is_the_main_models_precision(full: Any) -> None:
    with pytest.raises(ValueError, match="the choice was 'int8', but the main model is 'fp32'"):
        replace(full, choice=Choice("int8", "asked", "the user named it"))


def test_a_variant_has_a_model_and_a_precision() -> None:
    for wrong in ({"files": {"weights": "w"}}, {"precision": " "}, {"tolerance": -1.0}):
        with pytest.raises(ValueError):
            Variant(
                **{"precision": "int8", "files": {"model": "m"}, "settings": {}, "tolerance": 0.1, **wrong},
                quality=UNKNOWN,
            )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"measured_on": None}, "measured on"),
        ({"candidates": ()}, "has no latency"),
        ({"candidates": (FLOAT,)}, "the race was won by 'int8', which has no latency"),
        ({"candidates": (FLOAT, Candidate("int8", True, "not run"))}, "has no latency"),
        ({"candidates": (FLOAT, INT8, INT8)}, "same precision"),
        ({"chosen_by": "asked", "measured_on": None}, "say what they were measured on"),
        ({"chosen_by": "policy, not measured", "measured_on": None}, "say what they were measured on"),
        ({"reason": ""}, "reason is empty"),
        ({"precision": ""}, "precision is empty"),
    ],
)
def test_a_race_has_figures_and_figures_have_a_machine(wrong: dict[str, Any], said: str) -> None:
    right = {
        "precision": "int8",
        "chosen_by": "race",
        "reason": "faster",
        "candidates": (FLOAT, INT8),
        "measured_on": ON,
    }
    Choice(**right)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        Choice(**{**right, **wrong})  # type: ignore[arg-type]


def test_policy_needs_no_figures_but_may_have_them() -> None:
    unmeasured = (Candidate("fp32", True, "not measured: another machine"), Candidate("int8", True, "not measured"))
    Choice("int8", "policy, not measured", "the board has dotprod", unmeasured)
    Choice("int8", "asked", "the user named it", (FLOAT, INT8), ON)
    Choice("fp32", "default", "there is one precision")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"eligible": False, "latency_ms": 1.0}, "has a reason"),
        ({"eligible": True}, "has a reason"),
        ({"eligible": False, "reason": ""}, "has a reason"),
        ({"eligible": True, "reason": "x", "speedup": (1.0, 2.0, 3.0)}, "no latency"),
        ({"eligible": True, "latency_ms": -1.0}, "not negative"),
        ({"eligible": True, "latency_ms": 1.0, "speedup": (2.0, 1.0, 3.0)}, "ascending"),
        ({"eligible": True, "latency_ms": 1.0, "speedup": (0.0, 1.0, 3.0)}, "above zero"),
    ],
)
def test_what_a_candidate_does_not_give_it_explains(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Candidate("int8", **fields)


@pytest.mark.parametrize(
    "figures",
    [(1.1, 0.5, 1, 2), (0.5, 1.5, 3, 2), (0.5, 0.9, 1, 2), (0.5, 0.0, 1, 2), (0.5, 0.5, 0, 0), (-0.1, 0, 0, 1)],
)
def test_coverage_is_the_share_that_its_macs_give(figures: Any) -> None:
    Coverage(0.5, 0.5, 1, 2, "runtime")
    Coverage(0.0, 0.0, 0, 0, "rule")
    Coverage(0.5, 0.67, 2, 3, "runtime")  # as it is printed
    with pytest.raises(ValueError):
        Coverage(*figures, "runtime")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_layers_noise_is_a_number(value: float) -> None:
    LayerNoise("n", "t", -3.0)
    with pytest.raises(ValueError, match="not finite"):
        LayerNoise("n", "t", value)


def test_a_machine_is_told_in_full() -> None:
    for wrong in ({"threads": 0}, {"cpu": ""}, {"instruction_set": " "}, {"runtime": ""}):
        with pytest.raises(ValueError):
            replace(ON, **wrong)


def test_the_document_has_every_field_of_quality_and_the_numbers_behind_its_bounds() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "bundle.md").read_text(encoding="utf-8")
    section = text.split("\n## Quality\n")[1].split("\n## ")[0]
    assert [field.name for field in fields(Quality) if f"`{field.name}`" not in section] == []
    for number in (bootstrap.SHARE_REPLICATES, bootstrap.AP_REPLICATES, bootstrap.CALL_REPLICATES):
        assert f"{number:,} for " in section
    assert f"by itself, {bootstrap.CONFIDENCE:g};" in section and f"`{bootstrap.METHOD}`" in section
