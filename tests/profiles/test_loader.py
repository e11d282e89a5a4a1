"""Profile files of strangers: found through entry points, inherited from ours, refused with the file and the field."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import profiles
from edgekit.errors import EdgekitError, InputError, UsageError

BOARD = """
name = "NAME"
title = "a board"
runtime = "onnxruntime"
runtime_min = "1.20"
default_precision = "fp32"
opset = 20
ir = 10
[because]
runtime = "r"
runtime_min = "r"
default_precision = "r"
opset = "r"
ir = "r"
python = "r"
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def board(name: str, head: str = "", tail: str = "") -> str:
    return head + BOARD.replace("NAME", name) + tail


def variant(name: str, extends: str, rest: str = "") -> str:
    return f'name = "{name}"\ntitle = "a variant"\nextends = {extends}\n{rest}'


# --- inheriting -------------------------------------------------------------------------------------------------------


def test_a_variant_has_what_it_states_and_otherwise_what_it_extends(write: Write) -> None:
    facts = '[facts]\ncores = { value = 4, source = "a" }\nheat = { value = 95.0, source = "a" }\n'
    base = write("base.toml", board("base", tail=facts, head='aliases = ["b"]\n'))
    child = write("child.toml", variant("child", '"base"', 'opset = 18\n[facts]\ncores = { value = 8, source = "c" }'))
    first, second = profiles.read_profiles([child, base])
    assert (first.name, first.aliases, first.opset) == ("base", ("b",), 20)
    assert (second.name, second.aliases, second.opset, second.ir) == ("child", (), 18, 10)
    assert (second.fact("cores").value, second.fact("cores").source) == (8, "c")
    assert second.fact("heat") == first.fact("heat")


def test_a_restated_fact_keeps_nothing_of_the_old_one(write: Write) -> None:
    old = '[facts]\ncores = { value = 4, source = "a", unit = "cores", verified = false, computed = true }\n'
    base = write("base.toml", board("base", tail=old))
    child = write("child.toml", variant("child", '"base"', '[facts]\ncores = { value = 8, source = "c" }'))
    fact = profiles.read_profiles([base, child])[1].fact("cores")
    assert fact == profiles.Fact(8, "c", unit=None, verified=True, computed=False)


def test_a_list_is_replaced_and_not_joined(write: Write) -> None:
    mode = '[[power_modes]]\nname = "{0}"\nid = {1}\n'
    base = write("base.toml", board("base", tail=mode.format("slow", 0) + mode.format("fast", 1)))
    child = write("child.toml", variant("child", '"base"', mode.format("only", 7)))
    assert [each.name for each in profiles.read_profiles([base, child])[1].power_modes] == ["only"]


def test_of_two_parents_each_gives_what_it_states_itself(write: Write) -> None:
    fact = "[facts]\n{0} = {{ value = {1}, source = 's' }}\n"
    files = [
        write("base.toml", board("base", tail=fact.format("chip", 1) + "system = { value = 1, source = 's' }\n")),
        write("chip.toml", variant("chip", '"base"', fact.format("chip", 2))),
        write("system.toml", variant("system", '"base"', fact.format("system", 2))),
        write("zboth.toml", variant("zboth", '["chip", "system"]')),
    ]
    both = profiles.read_profiles(files)[-1]
    assert (both.fact("chip").value, both.fact("system").value) == (2, 2)


stated = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(stated, min_size=1, max_size=5))
def test_along_any_chain_the_last_statement_holds(levels: list[dict[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        files, expected = [], {}
        for depth, facts in enumerate(levels):
            table = "[facts]\n" + "".join(
                f'{key} = {{ value = {n}, source = "s{depth}" }}\n' for key, n in facts.items()
            )
            expected.update({key: (n, f"s{depth}") for key, n in facts.items()})
            extends = f'"board-{depth - 1}"'
            text = variant(f"board-{depth}", extends, table) if depth else board("board-0", tail=table)
            files.append(Path(folder) / f"{depth}.toml")
            files[-1].write_text(text, encoding="utf-8")
        last = profiles.read_profiles(reversed(files))[-1]
    assert {name: (fact.value, fact.source) for name, fact in last.facts.items()} == expected


@pytest.mark.parametrize(
    ("links", "circle"),
    [
        ({"a": "a"}, "a -> a"),
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"a": "b", "b": "c", "c": "b"}, "b -> c -> b"),
    ],
)
def test_profiles_that_extend_one_another_in_a_circle_are_refused(
    write: Write, links: dict[str, str], circle: str
) -> None:
    files = [write(f"{name}.toml", variant(name, f'"{parent}"')) for name, parent in links.items()]
    with pytest.raises(InputError, match="circle") as caught:
        profiles.read_profiles(files)
    assert circle in caught.value.what
    assert ".toml" in str(caught.value.where)


def test_extending_what_is_not_there_names_the_file_and_the_nearest_name(write: Write) -> None:
    files = [write("base.toml", board("base")), write("child.toml", variant("child", '"bass"'))]
    with pytest.raises(InputError, match="'child' extends 'bass'") as caught:
        profiles.read_profiles(files)
    assert "child.toml" in str(caught.value.where)
    assert "did you mean base" in str(caught.value.fix)


def test_a_mistake_of_the_parent_is_reported_in_the_parents_file(write: Write) -> None:
    files = [
        write("zbase.toml", board("zbase", head='memory_bytes = "8 GB"\n')),
        write("a.toml", variant("a", '"zbase"')),
    ]
    with pytest.raises(InputError) as caught:
        profiles.read_profiles(files)
    assert "zbase.toml: zbase.memory_bytes" in str(caught.value.where)


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "tail", "field"),
    [
        ("opsett = 20\n", "", "my-board"),
        ('isa = "aarch64"\n', "", "my-board.isa"),
        ("memory_bytes = true\n", "", "my-board.memory_bytes"),
        ("", "[facts]\ncores = 8\n", "my-board.facts.cores"),
        ("", "[facts]\ncores = { value = 8 }\n", "my-board.facts.cores"),
        ("", '[facts]\ncores = { value = 8, source = " " }\n', "my-board.facts.cores"),
        ("", '[facts]\ncores = { value = 2026-11-24, source = "s" }\n', "my-board.facts.cores.value"),
        ("", '[facts]\nheat = { value = nan, source = "s" }\n', "my-board.facts.heat.value"),
        ("", '[paths]\nheat = { value = "/sys/heat", source = "s" }\n', "my-board"),
        ("", '[[clusters]]\ncore = "A55"\ncount = 0\nsource = "s"\n', "my-board.clusters[0]"),
        ("", '[[power_modes]]\nname = "15W"\nid = "0"\n', "my-board.power_modes[0].id"),
        ("", '[[power_modes]]\nname = "15W"\nid = 0\n[[power_modes]]\nname = "7W"\nid = 0\n', "my-board"),
        (
            "",
            '[[sensors]]\nkind = "k"\nboundary = "b"\npaths = []\nsource = "s"\ntotal = "IN"\n'
            'rails = [{ channel = 1, label = "OUT", covers = "c" }]\n',
            "my-board.sensors[0]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_file_and_the_field(
    write: Write, head: str, tail: str, field: str
) -> None:
    path = write("my-board.toml", board("my-board", head, tail))
    with pytest.raises(InputError) as caught:
        profiles.read_profiles([path])
    assert caught.value.where == f"{path}: {field}"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('runtime_min = "1.20"', 'runtime_min = "latest"', "'latest' is no version"),
        ('runtime_min = "1.20"', 'runtime_min = "1.20"\nruntime_below = "1.20.0"', "no version is at least 1.20"),
        ('runtime_min = "1.20"', 'runtime_min = "1.20"\nruntime_below = "1.9"', "no version is at least 1.20"),
        ('opset = "r"\n', "", "the pin 'opset' has no reason"),
        ("ir = 10", 'ir = 10\nsettings = { HINT = "f32" }', "the pin 'settings' has no reason"),
        ('default_precision = "fp32"', 'default_precision = "int3"', "expected one of fp32, fp16, bf16, int8"),
        ("ir = 10", 'ir = 10\ncandidates = ["fp32"]', "the pin 'candidates' has no reason"),
        ("ir = 10", 'ir = 10\nrace_env = { A = "1" }', "the pin 'race_env' has no reason"),
        ("ir = 10", 'ir = 10\nrace_needs = { int8 = ["avx2"] }', "the pin 'race_needs' has no reason"),
        ("ir = 10", 'ir = 10\ncandidates = ["fp32", "int3"]', "expected one of fp32, fp16, bf16, int8"),
        ('title = "a board"', "", "missing field 'title'"),
        ('name = "my-board"', "", "missing field 'name'"),
        ('name = "my-board"', 'name = "My Board"', "'My Board' is no name"),
        ('name = "my-board"', 'name = "../board"', "'../board' is no name"),
        ('name = "my-board"', "name = ", "not TOML"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(write: Write, old: str, new: str, complaint: str) -> None:
    text = board("my-board")
    assert old in text
    path = write("my-board.toml", text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        profiles.read_profiles([path])
    assert complaint in caught.value.what + str(caught.value.why)
    assert str(path) in str(caught.value.where)


@pytest.mark.parametrize(
    ("candidates", "complaint"),
    [
        ('["int8", "fp32"]', "the first candidate is the float that the others have to beat, not int8"),
        ('["fp32", "int8", "int8"]', "the candidate 'int8' stands twice"),
    ],
)
def test_candidates_are_different_and_float_is_first(write: Write, candidates: str, complaint: str) -> None:
    text = (
        board("b").replace("ir = 10", f"ir = 10\ncandidates = {candidates}").replace('ir = "r"', 'ir = "r"\nCANDIDATES')
    )
    path = write("b.toml", text.replace("CANDIDATES", 'candidates = "r"'))
    with pytest.raises(InputError, match=complaint):
        profiles.read_profiles([path])


def test_a_later_minor_version_is_later_although_its_text_sorts_before(write: Write) -> None:
    text = board("my-board").replace('runtime_min = "1.20"', 'runtime_min = "1.9"\nruntime_below = "1.20"')
    path = write("b.toml", text.replace('ir = "r"', 'ir = "r"\nruntime_below = "r"'))
    assert profiles.read_profiles([path])[0].runtime_below == "1.20"


@pytest.mark.parametrize(
    ("first", "second"), [("", ""), ('aliases = ["y"]\n', 'aliases = ["y"]\n'), ("", 'aliases = ["x"]\n')]
)
def test_a_name_or_alias_that_two_files_claim_is_refused_with_both(write: Write, first: str, second: str) -> None:
    one = write("one.toml", board("x", head=first))
    two = write("two.toml", board("x" if first == second == "" else "z", head=second))
    with pytest.raises(InputError, match="two device profiles claim the name") as caught:
        profiles.read_profiles([one, two])
    assert caught.value.where == f"{one} and {two}"


def test_a_file_that_is_not_there_or_not_text_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        profiles.read_profiles([tmp_path / "gone.toml"])
    assert "gone.toml" in str(caught.value.where)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not TOML") as caught:
        profiles.read_profiles([tmp_path / "bytes.toml"])
    assert "bytes.toml" in str(caught.value.where)


# --- entry points -----------------------------------------------------------------------------------------------------

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package `acme_boards` as pip would leave it: a module and its metadata on the path."""

    def install_package(code: str, entry: str = "acme = acme_boards:files") -> None:
        (tmp_path / "acme_boards.py").write_text("from pathlib import Path\nHERE = Path(__file__).parent\n" + code)
        metadata = tmp_path / "acme_boards-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-boards\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[edgekit.profiles]\n{entry}\n")
        monkeypatch.delitem(sys.modules, "acme_boards", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install_package


def test_another_package_adds_a_board_that_extends_one_of_ours(install: Install, write: Write) -> None:
    write("rover.toml", variant("acme-rover", '"orin-nano"', 'aliases = ["rover"]'))
    install("def files(): return [HERE / 'rover.toml']")
    ours, theirs = profiles.get("orin-nano"), profiles.get("rover")
    assert theirs.name == "acme-rover"
    assert (theirs.runtime, theirs.facts, theirs.power_modes) == (ours.runtime, ours.facts, ours.power_modes)
    assert "acme-rover" in [profile.name for profile in profiles.all_profiles()]


def test_another_package_may_not_take_one_of_our_names(install: Install, write: Write) -> None:
    path = write("mine.toml", board("acme", head='aliases = ["snapdragon-cpu"]\n'))
    install("def files(): return [str(HERE / 'mine.toml')]")
    with pytest.raises(InputError, match="claim the name 'snapdragon-cpu'") as caught:
        profiles.get("orin-nano")
    assert "qcs6490.toml" in str(caught.value.where)
    assert str(path) in str(caught.value.where)


def test_our_own_entry_point_does_not_bring_our_boards_twice(install: Install) -> None:
    before = profiles.all_profiles()
    install("", entry="ours-again = edgekit.profiles:builtin_files")
    assert profiles.all_profiles() == before


@pytest.mark.parametrize(
    "code",
    [
        "def files(): raise RuntimeError('no boards today')",
        "def files(): return None",
        "def files(): return 'rover.toml'",
        "def files(): return [7]",
        "def files():\n    yield HERE / 'rover.toml'\n    raise OSError('disk')",
        "def files(): return [HERE / 'gone.toml']",
        "files = 7",
        "other = 7",
        "raise RuntimeError('broken at import')",
        "import a_package_that_nobody_has",
        "def files(: pass",
    ],
)
def test_a_broken_plugin_gives_an_error_of_ours_that_names_it(install: Install, code: str) -> None:
    install(code)
    for ask in (profiles.all_profiles, lambda: profiles.get("orin-nano")):
        with pytest.raises(EdgekitError) as caught:
            ask()
        assert caught.value.exit_code in (2, 4)
        assert "acme" in str(caught.value) or "gone.toml" in str(caught.value)
        assert caught.value.fix


def test_two_packages_with_one_entry_point_name_are_refused(install: Install, tmp_path: Path) -> None:
    install("def files(): return []")
    rival = tmp_path / "rival-1.0.dist-info"
    rival.mkdir()
    (rival / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (rival / "entry_points.txt").write_text("[edgekit.profiles]\nacme = rival:files\n")
    with pytest.raises(UsageError, match="two packages claim 'acme'"):
        profiles.all_profiles()
