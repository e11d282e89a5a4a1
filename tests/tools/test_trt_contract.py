"""The contract check: our files keep to the real bindings, and a copy that does not is found out, line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")  # the second road's table is read from edgekit.exporters

from edgekit import profiles
from edgekit.errors import MissingError
from edgekit.exporters.tensorrt_recipe import recipe_json
from edgekit.runtimes.tensorrt_recipe import parse_recipe
from edgekit.spec import ModelSpec, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
TENSORRT = ("10.3.0", "10.16.1.11", "11.4.0.106")
pytestmark = pytest.mark.xdist_group("trt_contract")

# What is misspelled in a copy of our file: (file, as it is, as it is not).
MUTATIONS = {
    "a class": ("runtimes/tensorrt_builder.py", "trt.OnnxParser(network", "trt.OnnxParsr(network"),
    "an attribute": ("runtimes/tensorrt_builder.py", ".builder_optimization_level =", ".builder_optimisation_level ="),
    "a method": ("runtimes/tensorrt_builder.py", ".create_optimization_profile(", ".create_optimization_profil("),
    "an enum member": ("runtimes/tensorrt_builder.py", "trt.MemoryPoolType.WORKSPACE", "trt.MemoryPoolType.WORKSPCE"),
    "one argument too many": ("runtimes/tensorrt_builder.py", ".get_input(index)", ".get_input(index, 0)"),
    "the name of an argument": (
        "runtimes/tensorrt_builder.py",
        "set_timing_cache(cache, ",
        "set_timing_cache(cache, ignore_mismatches=",
    ),
    "a method of the engine": ("runtimes/tensorrt.py", ".get_tensor_mode(", ".get_tensor_mod("),
    "a method of the context": ("runtimes/tensorrt.py", ".execute_async_v3(", ".execute_async_v4("),
    "a function of CUDA": ("runtimes/cuda.py", "runtime.cudaMalloc(", "runtime.cudaMaloc("),
    "an argument of CUDA": ("runtimes/cuda.py", "cudaStreamSynchronize(self.native)", "cudaStreamSynchronize()"),
    "an enum member of CUDA": ("runtimes/cuda.py", ".cudaMemcpyHostToDevice", ".cudaMemcpyHostToDevise"),
    "an option of Torch-TensorRT": (
        "exporters/torch_tensorrt.py",
        "require_full_compilation=",
        "require_full_compilaton=",
    ),
}


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    """The package `trt_contract`, with its modules as attributes."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import trt_contract.__main__
        import trt_contract.cache
        import trt_contract.check
        import trt_contract.signatures
        import trt_contract.sources
        import trt_contract.typecheck
        import trt_contract.versions

        yield trt_contract
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def contract(tool: Any) -> Any:
    """The cache, filled; tests skip, and say why, where there is neither network nor compiler."""
    try:
        return tool.cache.prepare(tool.cache.default_folder())
    except MissingError as error:
        pytest.skip(f"{error.what}: {error.where}: {error.why}")


@pytest.fixture(scope="module")
def libraries(tool: Any, contract: Any) -> list[Any]:
    try:
        return [*contract.libraries(), tool.sources.library(tool.cache.default_folder())]
    except MissingError as error:
        pytest.skip(f"{error.what}: {error.where}: {error.why}")


@pytest.fixture
def problems(tool: Any, libraries: list[Any], tmp_path: Path) -> Callable[[str], list[str]]:
    """What is wrong with a few lines of code, as `line: what`."""

    def check(text: str) -> list[str]:
        file = tmp_path / "ours.py"
        file.write_text("import tensorrt as trt\n" + text)
        found = sorted(tool.check.check([file], libraries).problems)
        assert all(each.place.file == file for each in found)
        return [f"{each.place.line}: {each.what} {each.why}" for each in found]

    return check


def mypy_of(tool: Any) -> Path:
    """Where mypy keeps what it learned."""
    folder: Path = tool.cache.default_folder() / "mypy"
    return folder


def mutated(name: str, folder: Path) -> tuple[Path, Path, int]:
    """Our file, a copy of it with one misspelling, and the line of that."""
    relative, good, bad = MUTATIONS[name]
    text = (ROOT / relative).read_text()
    assert good in text, f"{relative} has no {good!r} any more: choose another misspelling for {name!r}"
    copy = folder / Path(relative).name
    copy.write_text(text.replace(good, bad, 1))
    return ROOT / relative, copy, text[: text.index(good)].count("\n") + 1


# --- our files --------------------------------------------------------------------------------------------------------


def test_everything_that_our_files_take_from_the_bindings_is_in_every_version(tool: Any, libraries: list[Any]) -> None:
    files = tool.__main__.default_files()
    assert {"tensorrt.py", "tensorrt_builder.py", "cuda.py", "torch_tensorrt.py"} <= {each.name for each in files}
    findings = tool.check.check(files, libraries, ROOT)
    assert not findings.problems, "\n".join(map(str, sorted(findings.problems)))
    names = {name for _, name in findings.names}
    assert {
        "trt.Builder.build_serialized_network",
        "trt.OnnxParser.parse",
        "trt.Runtime.deserialize_cuda_engine",
        "trt.IExecutionContext.execute_async_v3",
        "cuda.bindings.runtime.cudaMemcpyAsync",
        "torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine",
    } <= names  # what could not be followed would be missing here
    assert all(len(guard.versions) > 0 for guard in findings.guards)


def test_each_description_comes_from_the_version_that_it_is_said_to_be_of(libraries: list[Any]) -> None:
    apis = [api for library in libraries for api in library.apis if library.name != "torch_tensorrt.dynamo"]
    assert [api.data["version"] for api in apis] == [api.version for api in apis]
    assert all(len(api.classes) > 100 for api in apis)


@pytest.mark.parametrize(
    ("board", "version"),
    [
        *[(board, "10.3.0") for board in ("orin-nano", "orin-nano-4gb")],
        *[(board, "10.16.1.11") for board in ("orin-nano-jp72", "orin-nano-4gb-jp72")],
    ],
)
def test_flags_in_a_recipe_are_members_of_the_bindings_enumerations(board: str, version: str, contract: Any) -> None:
    spec = ModelSpec("small", "tensor", (TensorSpec("x", "float32", (1, 4)),), (TensorSpec("y", "float32", (1, 4)),))
    recipe = parse_recipe(recipe_json(spec, profiles.get(board), 0))
    assert version.startswith(recipe.tensorrt.min)
    members = contract.api("tensorrt", version).members
    assert set(recipe.network_flags) <= set(members("NetworkDefinitionCreationFlag"))
    assert {*recipe.builder_flags, *recipe.builder_flags_off} <= set(members("BuilderFlag"))
    assert recipe.profiling_verbosity in members("ProfilingVerbosity")


@pytest.mark.parametrize("version", TENSORRT)
def test_our_files_are_strictly_typed_against_the_bindings_of(version: str, tool: Any, contract: Any) -> None:
    generation = next(each for each in tool.versions.GENERATIONS if each.tensorrt == version)
    files = [each for each in tool.__main__.default_files() if each.parent.name == "runtimes"]
    found = tool.typecheck.check_types(files, contract, generation, mypy_of(tool))
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_misspelling_in_a_copy_of_our_file_is_found_in_its_line(
    name: str, tool: Any, libraries: list[Any], tmp_path: Path
) -> None:
    ours, copy, line = mutated(name, tmp_path)
    files = [copy if each == ours else each for each in tool.__main__.default_files()]
    found = {str(each.place) for each in tool.check.check(files, libraries).problems}
    assert f"{copy}:{line}" in {place for place in found if place.startswith(str(copy))}


def test_misspellings_are_found_by_types_as_well(tool: Any, contract: Any, tmp_path: Path) -> None:
    wanted, instead = set(), {}
    for name in ("an attribute", "a method", "an enum member", "one argument too many", "a method of the engine"):
        relative, good, bad = MUTATIONS[name]
        ours, text = ROOT / relative, (ROOT / relative).read_text()
        copy = instead.setdefault(ours, tmp_path / ours.name)
        mutant = copy.read_text() if copy.is_file() else text
        copy.write_text(mutant.replace(good, bad, 1))
        wanted.add((ours, text[: text.index(good)].count("\n") + 1))
    generation = tool.versions.GENERATIONS[-1]
    found = tool.typecheck.check_types(sorted(instead), contract, generation, mypy_of(tool), instead)
    assert wanted <= {(each.file, each.line) for each in found}


# --- what the check understands ---------------------------------------------------------------------------------------


def test_what_a_later_version_removed_is_a_problem_that_names_the_version(problems: Callable[[str], list[str]]) -> None:
    assert problems("flag = trt.BuilderFlag.FP16") == ["2: trt.BuilderFlag.FP16 is not in tensorrt 11.4.0.106"]


@pytest.mark.parametrize(
    "guarded",
    [
        "if hasattr(trt.BuilderFlag, 'FP16'):\n    use(trt.BuilderFlag.FP16)",
        "def f():\n    if not hasattr(trt.BuilderFlag, 'FP16'):\n        return None\n    return trt.BuilderFlag.FP16",
        "use(trt.BuilderFlag.FP16 if hasattr(trt.BuilderFlag, 'FP16') else None)",
        "use(hasattr(trt.BuilderFlag, 'FP16') and trt.BuilderFlag.FP16)",
        "use(not hasattr(trt.BuilderFlag, 'FP16') or trt.BuilderFlag.FP16)",
        "use(getattr(trt.BuilderFlag, 'FP16', None))",
        "try:\n    use(trt.BuilderFlag.FP16)\nexcept AttributeError:\n    pass",
    ],
)
def test_a_capability_check_is_understood(guarded: str, problems: Callable[[str], list[str]]) -> None:
    assert problems(guarded) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "if hasattr(trt.BuilderFlag, 'FP16'):\n    pass\nuse(trt.BuilderFlag.FP16)",
        "if hasattr(trt.BuilderFlag, 'TF32'):\n    use(trt.BuilderFlag.FP16)",
        "if not hasattr(trt.BuilderFlag, 'FP16'):\n    use(trt.BuilderFlag.FP16)",
        "use(hasattr(trt.BuilderFlag, 'FP16') or trt.BuilderFlag.FP16)",
        "try:\n    use(trt.BuilderFlag.FP16)\nexcept ValueError:\n    pass",
    ],
)
def test_a_check_that_does_not_cover_it_is_none(wrong: str, problems: Callable[[str], list[str]]) -> None:
    assert any("FP16 is not in tensorrt 11.4.0.106" in each for each in problems(wrong))


@pytest.mark.parametrize("asked", ["hasattr(trt.BuilderFlag, 'FP61')", "getattr(trt.BuilderFlag, 'FP61', None)"])
def test_a_capability_check_for_what_no_version_has_is_a_misspelling(
    asked: str, problems: Callable[[str], list[str]]
) -> None:
    (found,) = problems(f"use({asked})")
    assert found.startswith("2: trt.BuilderFlag.FP61 is not in tensorrt 10.3.0, 10.16.1.11, 11.4.0.106")


@pytest.mark.parametrize(
    "way",
    [
        "def f(builder: trt.Builder):\n    builder.wrong",
        "def f(builder: 'trt.Builder | None'):\n    builder.wrong",
        "def f(builder):\n    builder.wrong\nf(trt.Builder(trt.Logger()))",
        "def make():\n    return trt.Builder(trt.Logger())\nmake().wrong",
        "class A:\n    def __init__(self, b):\n        self.b = b\n    def f(self):\n        self.b.wrong\n"
        "A(trt.Builder(trt.Logger()))",
        "def f(logger: trt.ILogger):\n    a, b = 1, trt.Builder(logger)\n    b.wrong",
        "def f(ps: list[trt.OnnxParser]):\n    return [p.get_error(0).wrong for p in ps]",
        "def f(p: trt.OnnxParser):\n    for i in range(p.num_errors):\n        p.get_error(i).wrong",
        "def f(r: trt.Runtime):\n    with r.deserialize_cuda_engine(0) as e:\n        e.get_tensor_mode('x').wrong",
        "def start(make):\n    return make()\nstart(lambda: trt.Builder(trt.Logger())).wrong",
        "def f(trt):\n    trt.wrong",
        "import importlib\nimportlib.import_module('tensorrt').wrong",
        "class A:\n    x: trt.Builder\n\ndef f(a: A):\n    a.x.wrong",
        "class A:\n    @classmethod\n    def make(cls) -> tuple[int, trt.Builder]: ...\n\n_, b = A.make()\nb.wrong",
    ],
)
def test_a_value_is_followed_to_where_it_is_used(way: str, problems: Callable[[str], list[str]]) -> None:
    assert any(".wrong is not in tensorrt" in each for each in problems(way)), way


def test_arguments_are_held_against_the_signature(problems: Callable[[str], list[str]]) -> None:
    head = "def f(b: trt.Builder, c: trt.IExecutionContext):\n    "
    assert problems(head + "b.create_network(flags=0), b.create_network(), c.set_input_shape('x', (1, 2))") == []
    assert "has no argument 'flag'" in problems(head + "b.create_network(flag=0)")[0]
    assert "takes at most 1 argument(s), 2 are given" in problems(head + "b.create_network(0, 1)")[0]
    assert "needs shape" in problems(head + "c.set_input_shape('x')")[0]
    assert problems(head + "c.set_input_shape(*things)") == []  # how many there are is not known


def test_what_cannot_be_assigned_is_not(problems: Callable[[str], list[str]]) -> None:
    assert problems("def f(b: trt.Builder):\n    b.max_threads = 2") == []
    assert "cannot be assigned" in problems("def f(b: trt.Builder):\n    b.num_DLA_cores = 2")[0]


def test_what_tensorrt_calls_back_has_its_name_and_its_arguments(problems: Callable[[str], list[str]]) -> None:
    assert problems("class L(trt.ILogger):\n    def log(self, severity, msg): ...\n    def _note(self): ...") == []
    misspelled = problems("class L(trt.ILogger):\n    def lok(self, severity, msg): ...")
    assert any("is called by nothing in tensorrt 10.3.0; log?" in each for each in misspelled)
    short = problems("class L(trt.ILogger):\n    def log(self, msg): ...")
    assert any("is called with other arguments" in each for each in short)


def test_names_in_strings_of_cuda_exist(problems: Callable[[str], list[str]]) -> None:
    assert problems("names = ('cudaErrorNoDevice', 'cudaMalloc')") == []
    assert "'cudaErrorNoDevise' names nothing" in problems("name = 'cudaErrorNoDevise'")[0]


# --- signatures -------------------------------------------------------------------------------------------------------


def test_pybind_signatures_are_read_with_overloads_defaults_and_cpp_names(tool: Any) -> None:
    doc = (
        "f(*args, **kwargs)\nOverloaded function.\n\n"
        "1. f(self: tensorrt.tensorrt.X, in: List[int], flag: nvinfer1::Flag = <Flag.A: 0>) -> nvinfer1::IBuilder\n\n"
        "2. f(self: tensorrt.tensorrt.X, arg0: str, path: str = None) -> None\n"
    )
    one, two = tool.signatures.of_pybind(doc, method=True)
    assert [(p.name, p.type, p.optional) for p in one.parameters] == [
        ("in", "List[int]", False),
        ("flag", "Flag", True),
    ]
    assert (one.returns, two.returns) == ("IBuilder", "None")
    assert [(p.name, p.type, p.keyword) for p in two.parameters] == [
        ("arg0", "str", False),
        ("path", "str | None", True),
    ]
    assert two.refuses(0, ("arg0",)) == "has no argument 'arg0' left"
    assert two.refuses(1, ("path",)) is None


@pytest.mark.parametrize("indent", ["", "    "])
def test_cython_signatures_are_read_with_their_results(indent: str, tool: Any) -> None:
    rows = [
        "Returns",
        "-------",
        "cudaError_t",
        "    :py:obj:`~.cudaSuccess`",
        "p : :py:obj:`~.cudaGraph_t`",
        "    it",
        "n : Any",
    ]
    doc = "f(dst, size_t count, kind: cudaMemcpyKind)\n\n" + "".join(f"{indent}{row}\n" for row in rows)
    doc += f"\n{indent}See Also\n{indent}--------\n{indent}g : what\n"
    found = tool.signatures.of_cython("f", doc)
    assert [(p.name, p.type) for p in found.parameters] == [
        ("dst", "Any"),
        ("count", "int"),
        ("kind", "cudaMemcpyKind"),
    ]
    assert found.returns == "tuple[cudaError_t, cudaGraph_t, Any]"


# --- the second road --------------------------------------------------------------------------------------------------


def test_the_table_of_pairs_says_what_the_wheels_say(tool: Any, libraries: list[Any]) -> None:
    for pair in tool.sources.pairs():
        if pair.refused is not None:
            continue  # its wheel is not among those that are fetched
        folder = tool.sources.unpacked(tool.cache.default_folder(), pair.wheel)
        assert tool.sources.required(folder, "torch") == [bounds(pair.torch)]
        (stated,) = tool.sources.required(folder, "tensorrt-cu13-bindings")
        assert stated.replace("!=10.14.1.48,", "") == bounds(pair.tensorrt)


def bounds(wanted: tuple[str, ...]) -> str:
    """As wheels write it: `<10.17.0,>=10.16.1`."""
    low, below = (".".join([*each.split("."), "0"][:3]) for each in wanted)
    return f"<{below},>={low}"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_fails_where_a_file_misspells(tool: Any, libraries: list[Any], tmp_path: Path) -> None:
    _, copy, line = mutated("a method", tmp_path)
    said: list[str] = []
    assert tool.__main__.main([str(copy), "--no-types"], said.append) == 3
    assert any(each.startswith(f"{copy}:{line}: trt.Builder.create_optimization_profil ") for each in said)


def test_the_command_says_what_is_missing(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.__main__.main(["--offline", f"--cache={tmp_path}"]) == 4
    assert "it is not in the cache, and nothing may be fetched" in capsys.readouterr().err
