"""The command: `python -m trt_contract [FILE ...]`.

Exit codes: 0 everything is there; 3 something is not, or mypy says no; 4 a wheel, the network or a compiler is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit.errors import EdgekitError, GateError, MissingError
from trt_contract import cache, sources, versions
from trt_contract.check import Findings, check
from trt_contract.typecheck import ROOT, check_types

# The files that may touch these libraries; the walls of the house keep every other file from it.
FILES = ("runtimes/tensorrt*.py", "runtimes/cuda.py", "exporters/torch_tensorrt.py")


def default_files() -> list[Path]:
    """Those of `FILES` that are there."""
    return [each for pattern in FILES for each in sorted(ROOT.glob(pattern))]


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] = print) -> int:
    """Run both nets over every file; the exit code."""
    options = _parser().parse_args(arguments)
    files = [each.resolve() for each in options.files] or default_files()
    try:
        contract = cache.prepare(options.cache, options.offline)
        libraries = [*contract.libraries(), sources.library(options.cache, options.offline)]
        missing = [each for each in files if not each.is_file()]
        if missing:
            raise MissingError("a file is not there", where=str(missing[0]), fix="name files of this repository")
        for library in libraries:
            show(f"{library.name}: {', '.join(library.versions)}")
        findings = check(files, libraries, ROOT)
        problems = [str(each) for each in sorted(findings.problems)]
        _tell(findings, options.verbose, show)
        if not options.no_types:
            for generation in versions.GENERATIONS:
                found = check_types(files, contract, generation, options.cache / "mypy")
                show(f"mypy --strict, tensorrt {generation.tensorrt}, cuda {generation.cuda}: {len(found)} error(s)")
                problems += map(str, found)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for each in problems:
        show(each)
    show(f"{len(files)} file(s): {len(problems)} problem(s)")
    return GateError.exit_code if problems else 0


def _tell(findings: Findings, verbose: bool, show: Callable[[str], None]) -> None:
    show(f"{len(findings.names)} names and {len(findings.calls)} calls were looked up in every version")
    for guard in sorted(findings.guards):
        show(f"guarded by {guard.by}: {guard.place}: {guard.what}, in {', '.join(guard.versions) or 'no version'}")
    for place, what in sorted(findings.by_name):
        show(f"by a name that is data: {place}: {what}")
    if verbose:
        for _, name in sorted(findings.names):
            show(f"  {name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "trt_contract", description="Holds our TensorRT and CUDA code against the real bindings, without a GPU."
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help=f"default: {', '.join(FILES)}")
    parser.add_argument("--no-types", action="store_true", help="leave out mypy")
    parser.add_argument("--verbose", action="store_true", help="print every name that was looked up")
    parser.add_argument("--offline", action="store_true", help="fetch nothing")
    parser.add_argument("--cache", type=Path, default=cache.default_folder(), help="of wheels (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
