"""`edgekit.toml` and the flags: the same names, the flag wins, and a mistake is named with its file and field."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from edgekit.cli.init import TEMPLATE, command
from edgekit.cli.main import app
from edgekit.config import FILE, SECTIONS, Config, ExportOptions, load_config, parse_flag_table
from edgekit.errors import InputError

OPTIONS = [
    (section, option.name)
    for section, options in SECTIONS.items()
    for option in fields(options)
    if option.name != "trust_code"  # a flag only, never an option of the file
]
# One value for each option, and another that a flag gives.
VALUES: dict[str, tuple[Any, Any]] = {
    "source": ("a.onnx", "b.onnx"),
    "name": ("a", "b"),
    "spec": ("a.json", "b.json"),
    "shapes": ({"x": ["batch", 3]}, {"x": ("n", 4)}),
    "preprocess": ({"resize": "crop"}, {"resize": "stretch"}),
    "postprocess": ({"kind": "classification", "outputs": ["a"]}, {"kind": "classification", "outputs": ["b"]}),
    "labels": (["cat", "dog"], "labels.txt"),
    "data": ("a", "b"),
    "split": ("val", "test"),
    "metric": ("ap", "ap50"),
    "steps": (["fuse"], ("fuse", "rewrite")),
    "calibration_data": ("a", "b"),
    "calibration_split": ("train", "trainval"),
    "calibration_samples": (2, 3),
    "observer": ("octav", "minmax"),
    "activations": ("dynamic", "static"),
    "equalize": (False, True),
    "bias_correction": (False, True),
    "keep_float": (["head.*"], ("stem.*",)),
    "min_coverage": (0.5, 0.9),
    "search": (False, True),
    "allow_slower": (True, False),
    "parity_samples": (2, 3),
    "tolerance": (1e-3, 0.0),
    "max_drop": (1.0, 0.0),
    "quality_samples": (7, 9),
    "target": (["host", "intel"], ("orin-nano",)),
    "input": ("uint8-nhwc", "as-is"),
    "end_to_end": (True, False),
    "precision": ("fp16", "fp32"),
    "output": ("a", "b"),
    "sign_key": ("a.key", "b.key"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def section_of(config: Config, section: str, option: str) -> Any:
    return getattr(getattr(config, section), option)


def test_the_table_above_knows_every_option() -> None:
    assert {option for _, option in OPTIONS} == set(VALUES)


@pytest.mark.parametrize(("section", "option"), OPTIONS)
def test_every_option_of_the_file_is_a_flag_of_export(section: str, option: str) -> None:
    export = typer.main.get_command(app).commands["export"]  # type: ignore[attr-defined]
    flags = {param.name: param.opts for param in export.params}
    assert f"--{option.replace('_', '-')}" in flags[option]


@pytest.mark.parametrize(("section", "option"), OPTIONS)
def test_the_file_gives_a_value_and_the_flag_wins(folder: Path, section: str, option: str) -> None:
    in_file, flag = VALUES[option]
    (folder / FILE).write_text(f"[{section}]\n{option} = {toml(in_file)}\n")
    config, found = load_config(None, {})
    assert found == Path(FILE)
    assert section_of(config, section, option) != section_of(Config(), section, option)
    overridden, _ = load_config(None, {option: flag})
    (folder / FILE).unlink()
    assert overridden == load_config(None, {option: flag})[0]
    assert section_of(overridden, section, option) != section_of(config, section, option)


def test_without_a_file_the_shipped_model_is_exported() -> None:
    config, found = load_config(None, {"target": ("orin-nano",)})
    assert found is None
    assert config.model.source == "femtodet"
    assert config.export.targets == ("orin-nano",)


def test_one_target_needs_no_list(folder: Path) -> None:
    (folder / FILE).write_text('[export]\ntarget = "intel"\n')
    assert load_config(None, {})[0].export.targets == ("intel",)


def test_another_file_is_read_where_it_is_asked_for(folder: Path) -> None:
    (folder / FILE).write_text("not TOML")
    (folder / "other.toml").write_text('[model]\nname = "n"\n')
    config, found = load_config(Path("other.toml"), {})
    assert (config.model.name, found) == ("n", Path("other.toml"))


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("[modle]\n", "edgekit.toml", "unknown field 'modle'"),
        ("source = 'a.onnx'\n", "edgekit.toml", "unknown field 'source'"),
        ("[model]\nsorce = 'a.onnx'\n", "edgekit.toml.model", "unknown field 'sorce'"),
        ("model = 3\n", "edgekit.toml.model", "expected a table, got 3"),
        ("[model]\nsource = 3\n", "edgekit.toml.model.source", "expected text, got 3"),
        ("[model]\ntrust_code = true\n", "edgekit.toml.model.trust_code", "cannot be set in a file"),
        ("[model]\nshapes = {x = [1.5]}\n", "edgekit.toml.model.shapes.x[0]", "a whole number or text"),
        ("[model]\npostprocess = {}\n", "edgekit.toml.model.postprocess.kind", "classification, detection"),
        ("[recipe]\nsteps = 'fuse'\n", "edgekit.toml.recipe.steps", "got 'fuse'"),
        ("[calibration]\ncalibration_samples = 0\n", "edgekit.toml.calibration", "at least 1, not 0"),
        ("[quality]\ntolerance = '1e-4'\n", "edgekit.toml.quality.tolerance", "expected a number or nothing"),
        ("[quality]\ntolerance = -1\n", "edgekit.toml.quality", "not negative"),
        ("[quality]\ntolerance = nan\n", "edgekit.toml.quality.tolerance", "got nan"),
        ("[quality]\nquality_samples = 0\n", "edgekit.toml.quality", "at least 1, not 0"),
        ("[export]\nprecision = 'int3'\n", "edgekit.toml.export.precision", "auto, fp32, fp16"),
        ("[export]\ninput = 'jpeg'\n", "edgekit.toml.export.input", "as-is, uint8-nhwc"),
    ],
)
def test_a_mistake_is_named_with_file_and_field(folder: Path, text: str, where: str, said: str) -> None:
    (folder / FILE).write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(None, {})
    assert caught.value.exit_code == 2
    assert caught.value.where == where
    assert said in caught.value.what


def test_a_flag_of_the_wrong_type_is_an_input_error_without_a_file() -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, {"precision": "int3"})
    assert caught.value.where == "options.export.precision"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[model]\nsource = \n", "line 2, column 10"),
        (b"[model\n", "line 1, column 7"),
        (b"[model]\nname = 'a'\nname = 'b'\n", "line 3"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_what_is_not_toml_is_refused_with_line_and_column(folder: Path, content: bytes, reason: str) -> None:
    (folder / FILE).write_bytes(content)
    with pytest.raises(InputError, match="not TOML") as caught:
        load_config(None, {})
    assert caught.value.where == FILE
    assert reason in str(caught.value.why)


def test_a_file_that_was_asked_for_and_is_not_there_is_an_input_error(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_config(folder / "nothing.toml", {})
    with pytest.raises(InputError, match="cannot be read"):
        load_config(folder, {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{height = 224, width = 8}", {"height": 224, "width": 8}),
        ('image=["batch", 3]', {"image": ["batch", 3]}),
        ("a = [1]\nb = [2]", {"a": [1], "b": [2]}),
        ("[1, 2]", [1, 2]),
    ],
)
def test_a_flag_may_be_a_toml_value(text: str, value: Any) -> None:
    assert parse_flag_table(text, "--shapes") == value


@pytest.mark.parametrize("text", ["{height = }", "height", "{height: 3}", "[1, 2"])
def test_a_flag_that_is_no_toml_value_is_named(text: str) -> None:
    with pytest.raises(InputError, match="--shapes is not a TOML value") as caught:
        parse_flag_table(text, "--shapes")
    assert caught.value.where == f"--shapes {text}"
    assert "for example" in str(caught.value.fix)


def uncommented(text: str) -> str:
    """The template with every option that it comments out."""
    return re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE)


def test_what_init_writes_is_read_and_means_the_defaults(folder: Path) -> None:
    command(source="femtodet", target="orin-nano", json=True)
    config, found = load_config(None, {})
    assert found == Path(FILE)
    assert config == Config(export=ExportOptions(target="orin-nano"))


def test_every_option_that_init_comments_out_is_accepted_and_none_is_forgotten(folder: Path) -> None:
    command(source="femtodet", target="orin-nano", json=True)
    text = uncommented((folder / FILE).read_text())
    (folder / FILE).write_text(text)
    config, _ = load_config(None, {})
    for section, option in OPTIONS:
        assert re.search(rf"^{option} = ", text, re.MULTILINE), f"init does not mention {option}"
        assert section_of(config, section, option) is not None
    assert config.quality.tolerance == 1e-4
    assert TEMPLATE.count("\n# ") > 15


@pytest.mark.parametrize("source", ['a "quoted" name', "back\\slash", "folder/größe.pt2", "{braces}"])
def test_what_init_is_told_arrives_whatever_it_contains(folder: Path, source: str) -> None:
    command(source=source, target="intel", json=True)
    assert load_config(None, {})[0].model.source == source
