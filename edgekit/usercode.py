"""Code that users name as `package.module:name`: found with the working folder in the search, and called.

Whatever it raises becomes an error of that code, with its own line, and never looks like a bug of edgekit's.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, InputError, UsageError


def resolve(text: str) -> Callable[..., Any]:
    """The function that `package.module:name` names.

    Raises:
        UsageError: the module or the name does not exist, or it is no function.
        InputError: importing the module fails.
    """
    module_name, _, attribute = text.partition(":")
    found = None
    with _working_folder():
        try:
            found = (
                getattr(importlib.import_module(module_name), attribute, None) if module_name and attribute else None
            )
        except ModuleNotFoundError as error:
            if error.name != module_name.split(".")[0]:
                raise _failed(f"importing {module_name}", error) from error
        except Exception as error:  # a stranger's module may raise anything
            raise _failed(f"importing {module_name}", error) from error
    if not callable(found):
        raise UsageError(
            f"cannot find {text!r}",
            where="package:function",
            why="there is no such module, or no such function in it",
            fix="run edgekit in the folder of the module",
        )
    function: Callable[..., Any] = found
    return function


def call(function: Callable[..., Any], *arguments: Any, what: str) -> Any:
    """Call a user's function, the working folder still in the search.

    Raises:
        InputError: it raised; the message names its own file and line.
    """
    with _working_folder():
        try:
            return function(*arguments)
        except EdgekitError:
            raise
        except Exception as error:  # a stranger's function may raise anything
            raise _failed(what, error) from error


@contextmanager
def _working_folder() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _failed(what: str, error: Exception) -> InputError:
    frames = traceback.extract_tb(error.__traceback__)
    line = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else what
    reason = str(error).strip().splitlines()
    return InputError(
        f"{what} failed",
        where=line,
        why=f"{type(error).__name__}: {reason[0] if reason else 'no message'}",
        fix="it is code of yours: run it on its own",
    )
