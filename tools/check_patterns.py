"""Refuses dangerous patterns in what ships and in our tools: code hidden in data, shells, and the network.

`python tools/check_patterns.py [ROOT]` prints `file:line: what, why` for each finding and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHIPPED = ("edgekit", "exporters", "runtimes", "profiles")
ROOMS = (*SHIPPED, "tools")  # tests build hostile input on purpose

UNPICKLES = "unpickling executes whatever the file says"
EXECUTES = "it executes text as code"
SHELL = "a shell interprets what stands in a file name; hand subprocess a list"
NETWORK = "edgekit opens no connection, on a device least of all"
RACE = "another process can take the name first; use NamedTemporaryFile or TemporaryDirectory"

# Importing any of these, or anything below them, is refused.
MODULES = ("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib")
# The same, in the rooms that ship.
NETWORK_MODULES = (
    *("aiohttp", "asyncio", "ftplib", "http", "httpx", "imaplib", "paramiko", "poplib", "requests", "smtplib"),
    *("socket", "socketserver", "ssl", "telnetlib", "urllib.request", "urllib3", "websockets", "xmlrpc"),
)
# Using any of these names is refused, called or handed on.
NAMES = {
    "builtins.eval": EXECUTES,
    "builtins.exec": EXECUTES,
    "eval": EXECUTES,
    "exec": EXECUTES,
    "os.popen": SHELL,
    "os.system": SHELL,
    "subprocess.getoutput": SHELL,
    "subprocess.getstatusoutput": SHELL,
    "tempfile.mktemp": RACE,
    "torch.export.load": UNPICKLES,
    "torch.hub": NETWORK,
    "yaml.full_load": "it builds arbitrary objects; use yaml.safe_load",
    "yaml.load": "it builds arbitrary objects; use yaml.safe_load",
    "yaml.unsafe_load": "it builds arbitrary objects; use yaml.safe_load",
}


@dataclass(frozen=True)
class Keyword:
    """A keyword argument that decides whether a call is safe: it has to be the literal `safe`, or may be left away."""

    name: str
    safe: bool
    required: bool
    why: str


# Calls of these (or of anything below them) are refused unless the keyword has its safe value.
CALLS = {
    "torch.load": Keyword("weights_only", safe=True, required=True, why=UNPICKLES),
    "numpy.load": Keyword("allow_pickle", safe=False, required=False, why=UNPICKLES),
    "numpy.lib.format.read_array": Keyword("allow_pickle", safe=False, required=False, why=UNPICKLES),
    "subprocess": Keyword("shell", safe=False, required=False, why=SHELL),
}


@dataclass(frozen=True)
class Allowed:
    """A pattern that one file may use, and why that does no harm."""

    path: str
    what: str
    reason: str


ALLOWED = (
    Allowed("edgekit/models/upstream.py", "import pickle", "only to catch pickle.UnpicklingError"),
    Allowed("edgekit/sources.py", "import pickle", "only to catch pickle.UnpicklingError"),
    Allowed("edgekit/sources.py", "torch.export.load", "reached only with --trust-code, and the refusal says why"),
)


@dataclass(frozen=True)
class Finding:
    """One dangerous pattern and where it stands."""

    path: str
    line: int
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}, {self.why}"


def check_tree(root: Path, allowed: tuple[Allowed, ...] = ALLOWED) -> list[Finding]:
    """The findings in all rooms under `root`, those that are allowed left out, allowances without use added."""
    paths = sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))
    found = [
        each for path in paths for each in check_source(path.read_text("utf-8"), path.relative_to(root).as_posix())
    ]
    granted = {(each.path, each.what) for each in allowed}
    used = {(each.path, each.what) for each in found}
    idle = [each for each in allowed if (each.path, each.what) not in used]
    return [
        *(each for each in found if (each.path, each.what) not in granted),
        *(Finding(each.path, 1, f"nothing needs the allowance {each.what!r}", "remove it") for each in idle),
    ]


def check_source(text: str, path: str) -> list[Finding]:
    """The findings in one file; `path` is relative to the root and decides which rules hold."""
    tree = ast.parse(text, path)
    ships = path.split("/")[0] in SHIPPED
    aliases = dict(_aliases(tree))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        for what, why in [*_imports(node, aliases, ships), *_uses(node, aliases, called)]:
            found.append(Finding(path, getattr(node, "lineno", 1), what, why))
    return sorted(set(found), key=lambda each: (each.line, each.what))


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What the imports of a file, wherever they stand, make each name mean: `np` is `numpy`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield (each.asname, each.name) if each.asname else (each.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for each in node.names:
                yield each.asname or each.name, f"{node.module}.{each.name}"


def _imports(node: ast.AST, aliases: dict[str, str], ships: bool) -> Iterator[tuple[str, str]]:
    """Refused modules that `node` imports, be it by a statement or by `import_module("name")`."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [each.name for each in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [f"{node.module}.{each.name}" for each in node.names]
    elif isinstance(node, ast.Call) and _dotted(node.func, aliases) in ("importlib.import_module", "__import__"):
        names = [each.value for each in node.args[:1] if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    refused = {**dict.fromkeys(MODULES, UNPICKLES), **(dict.fromkeys(NETWORK_MODULES, NETWORK) if ships else {})}
    for name in names:
        for module, why in refused.items():
            if _below(name, module):
                yield f"import {module}", why


def _uses(node: ast.AST, aliases: dict[str, str], called: set[int]) -> Iterator[tuple[str, str]]:
    """Refused names, and calls without their safe keyword; a function that is handed on cannot be checked."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = _dotted(node, aliases)
        for refused, why in NAMES.items():
            if _below(name, refused):
                yield refused, why
        if name in CALLS and name != "subprocess" and id(node) not in called:
            yield f"{name} handed on", f"nobody sees whether {CALLS[name].name} is set where it is called"
    elif isinstance(node, ast.Call):
        name = _dotted(node.func, aliases)
        for function, keyword in CALLS.items():
            if _below(name, function) and not _is_safe(node, keyword):
                yield f"{name} without {keyword.name}={keyword.safe}", keyword.why


def _is_safe(call: ast.Call, keyword: Keyword) -> bool:
    given = [each.value for each in call.keywords if each.arg == keyword.name]
    if not given:
        return not keyword.required
    return isinstance(given[0], ast.Constant) and given[0].value is keyword.safe


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    """`np.lib.format` as `numpy.lib.format`; empty for what is no plain name."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value, aliases)
        return f"{head}.{node.attr}" if head else ""
    return ""


def _below(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def main(arguments: list[str]) -> int:
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    findings = check_tree(root)
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
