"""Run inside a bare interpreter: import a module and print what it offers, as JSON.

python -S -m trt_contract.dump tensorrt_bindings
python -S -m trt_contract.dump cuda.bindings.runtime
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import json
import sys
import types
from enum import Enum
from typing import Any

from trt_contract import signatures


def describe(module: types.ModuleType) -> dict[str, Any]:
    """Functions, values and classes of `module`; classes by their qualified name."""
    found: dict[str, Any] = {"version": _version(module), "functions": {}, "values": {}, "classes": {}}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") and name != "__version__":
            continue
        if isinstance(value, type):
            if not _is_foreign(value):
                _add_class(found, value)
                found["values"][name] = f"type[{value.__qualname__}]"
        elif isinstance(value, types.ModuleType | dict) or getattr(value, "__module__", None) == "typing":
            continue
        elif callable(value):
            found["functions"][name] = [each.as_json() for each in _overloads(name, value)]
        else:
            found["values"][name] = type(value).__qualname__
    return found


def _version(module: types.ModuleType) -> str:
    """What the module, or a package that it is in, says of itself."""
    parts = module.__name__.split(".")
    owners = [sys.modules[".".join(parts[:end])] for end in range(len(parts), 0, -1)]
    return next((str(each.__version__) for each in owners if hasattr(each, "__version__")), "")


def _is_foreign(cls: type) -> bool:
    return cls.__module__ in ("builtins", "enum", "typing", "ctypes", "pybind11_builtins")


def _add_class(found: dict[str, Any], cls: type) -> None:
    if cls.__qualname__ in found["classes"]:
        return
    bases = [each for each in cls.__mro__[1:] if not _is_foreign(each)]
    entry: dict[str, Any] = {
        "bases": [each.__qualname__ for each in bases],
        "integer": issubclass(cls, int),
        "python_enum": issubclass(cls, Enum) or (issubclass(cls, int) and bool(_members(cls))),
        "buffer": _has_buffer(cls),
        "members": _members(cls),
        "methods": {},
        "static": [],
        "properties": {},
        "values": {},
    }
    found["classes"][cls.__qualname__] = entry
    for base in bases:
        _add_class(found, base)
    for name, value in sorted(vars(cls).items()):
        private = name.startswith("_") and not name.endswith("__")
        if name not in entry["members"] and not private and not name.startswith(("__pybind11", "__entries")):
            _add_attribute(found, entry, name, value)


def _has_buffer(cls: type) -> bool:
    """Whether `bytes(x)` reads the memory of an instance; before Python 3.12 only the type object in C tells.

    Source: CPython, Include/cpython/object.h, PyTypeObject: `tp_as_buffer` stands right before `tp_flags`.
    """
    field = ctypes.sizeof(ctypes.c_void_p)
    flags = 21 * field
    if ctypes.c_ulong.from_address(id(cls) + flags).value != cls.__flags__:
        raise RuntimeError("this Python lays its type objects out differently")
    table = ctypes.c_void_p.from_address(id(cls) + flags - field).value
    return table is not None and ctypes.c_void_p.from_address(table).value is not None


def _members(cls: type) -> list[str]:
    return list(cls.__members__) if hasattr(cls, "__members__") else []


def _add_attribute(found: dict[str, Any], entry: dict[str, Any], name: str, value: Any) -> None:
    kind = type(value).__name__
    if isinstance(value, property):  # pybind11_static_property is one too
        entry["properties"][name] = {
            "type": signatures.returned(value.fget.__doc__) if value.fget else None,
            "set": signatures.assigned(value.fset.__doc__) if value.fset else None,
            "static": kind != "property",
        }
    elif kind in ("getset_descriptor", "member_descriptor"):
        entry["properties"][name] = {"type": "Any", "set": "Any", "static": False}
    elif isinstance(value, type):
        _add_class(found, value)
        entry["values"][name] = f"type[{value.__qualname__}]"
    elif callable(value) or isinstance(value, staticmethod):
        static = isinstance(value, staticmethod) or kind == "builtin_function_or_method"
        entry["methods"][name] = [each.as_json() for each in _overloads(name, value, method=not static)]
        if static:
            entry["static"].append(name)
    elif not name.startswith("__"):
        entry["values"][name] = type(value).__qualname__


def _overloads(name: str, value: Any, method: bool = False) -> list[signatures.Signature]:
    function = getattr(value, "__func__", value)
    if isinstance(function, types.FunctionType):
        return [_of_python(function, method)]
    stated = signatures.of_pybind(function.__doc__, method)
    if stated:
        return stated
    cython = signatures.of_cython(name, function.__doc__)
    return [cython] if cython else []


def _of_python(function: types.FunctionType, method: bool) -> signatures.Signature:
    rows = list(inspect.signature(function).parameters.values())[1 if method else 0 :]
    return signatures.Signature(
        tuple(signatures.Parameter(each.name, "Any", each.default is not each.empty) for each in rows), "Any"
    )


def main(name: str) -> None:
    """Print the description of module `name`."""
    module = importlib.import_module(name)
    json.dump(describe(module), sys.stdout, indent=0, sort_keys=True)


if __name__ == "__main__":
    main(sys.argv[1])
