"""`edgekit`: registers the verbs and turns errors into sentences and exit codes."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import typer

from edgekit.errors import EdgekitError

COMMANDS = (
    *("init", "export", "validate", "inspect", "verify", "build", "prove", "attest", "profile", "compare", "run"),
    *("targets", "models", "keygen", "sign", "doctor", "wheelhouse"),
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compress a model, export it for a board, prove it there, and run it without torch.",
)
for _name in COMMANDS:
    app.command(_name)(import_module(f"edgekit.cli.{_name}").command)


def main() -> None:
    """Run the command; the exit code is 0, or that of the error's kind."""
    try:
        app(standalone_mode=True)
    except EdgekitError as error:
        _print_error(error)
        sys.exit(error.exit_code)


def _print_error(error: EdgekitError) -> None:
    if "--json" in sys.argv:
        print(json.dumps(error.as_json(), indent=1))
    else:
        print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
