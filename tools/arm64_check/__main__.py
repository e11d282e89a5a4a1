"""The command: `python -m arm64_check MODEL.onnx|BUNDLE ...`.

Exit codes: 0 all within the bar; 3 a tensor beyond it, or a model that does not run; 4 the emulator or a runtime is
missing, and what was skipped says why; 2 unusable input; 5 a run was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from arm64_check import cache
from arm64_check.places import CORES, Place, emulated, native, run
from arm64_check.report import compare, print_table
from arm64_check.subjects import Subject, open_subjects
from edgekit.errors import EdgekitError, GateError, MissingError


def main(arguments: list[str] | None = None) -> int:
    """Check every model that was named; the exit code."""
    options = _parser().parse_args(arguments)
    if not options.models and not options.prepare:
        _parser().error("name a model or a bundle, or --prepare")
    try:
        places, skipped = _places(options)
        subjects = [each for path in options.models for each in open_subjects(path, options.inputs, options.seed)]
        failed = [subject.name for subject in subjects if not _check(subject, places, options)]
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for reason in skipped:
        print(f"skipped: {reason}")
    if failed:
        return GateError.exit_code
    return MissingError.exit_code if skipped else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("arm64_check", description="Holds int8 models on Arm and x86 against integers.")
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL", help="an ONNX file, or a bundle for ONNX Runtime"
    )
    parser.add_argument("--layers", action="store_true", help="print every layer, not only those beyond the bar")
    parser.add_argument("--openvino", action="store_true", help="run in OpenVINO on this machine as well")
    parser.add_argument("--cpu", default="cortex-a76", help=f"the emulated core: {', '.join(CORES)}")
    parser.add_argument("--steps", type=float, default=1.0, help="the bar, in output steps (default: %(default)g)")
    parser.add_argument("--inputs", type=Path, help="an .npz file with the model's inputs")
    parser.add_argument("--seed", type=int, default=0, help="of inputs that are drawn")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one run (default: %(default)g)")
    parser.add_argument("--cache", type=Path, default=cache.default_folder(), help="of the emulator (%(default)s)")
    parser.add_argument(
        "--offline", action="store_true", help="fetch nothing: skip Arm where the emulator is not there"
    )
    parser.add_argument("--prepare", action="store_true", help="fetch the emulator, with or without a model")
    return parser


def _places(options: argparse.Namespace) -> tuple[list[Place], list[str]]:
    """Where to run, and why not elsewhere."""
    places, skipped = [native("onnxruntime")], []
    try:
        emulator = (cache.find if options.offline else cache.prepare)(options.cache)
        places.append(emulated(emulator, options.cpu))
    except MissingError as error:
        skipped.append(
            "aarch64: " + "; ".join(each for each in (error.what, error.where, error.why, error.fix) if each)
        )
    if options.openvino:
        try:
            places.append(native("openvino"))
        except MissingError as error:
            skipped.append(f"openvino: {error.what}; {error.fix}")
    return places, skipped


def _check(subject: Subject, places: list[Place], options: argparse.Namespace) -> bool:
    """Run, compare and print one model; whether all is within the bar."""
    found, runs = [], True
    plain, traced = subject.model.SerializeToString(), subject.traced()
    for place in places:
        settings = subject.settings if place.runtime == "onnxruntime" else {}
        try:
            both = [run(place, each, subject.samples, settings, options.timeout) for each in (plain, traced)]
        except GateError as error:
            print(f"{subject.name}: FAILED\n{error}")
            runs = False
            continue
        found.append(compare(subject, *both))
    print_table(subject, found, options.steps, options.layers, print)
    return runs and not any(each.beyond(options.steps) for each in found)


if __name__ == "__main__":
    sys.exit(main())
