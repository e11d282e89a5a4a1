"""The check for dangerous patterns sees each of them, in the disguises that code wears, and our own tree is clean."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "check_patterns.py"


@pytest.fixture(scope="module")
def checker() -> Any:
    spec = importlib.util.spec_from_file_location("check_patterns", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import pickle", "import pickle"),
        ("import pickle as data", "import pickle"),
        ("from pickle import loads", "import pickle"),
        ("def f():\n    import dill", "import dill"),
        ("import marshal, shelve", "import shelve"),
        ("import importlib\nimportlib.import_module('pickle')", "import pickle"),
        ("__import__('marshal')", "import marshal"),
        ("import torch\ntorch.load(p)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load(p, weights_only=False)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load(p, weights_only=safe)", "torch.load without weights_only=True"),
        ("from torch import load as read\nread(p)", "torch.load without weights_only=True"),
        ("import torch\nread = torch.load", "torch.load handed on"),
        ("import torch\ntorch.export.load(p)", "torch.export.load"),
        ("import torch\ntorch.hub.load('a', 'b')", "torch.hub"),
        ("import numpy as np\nnp.load(p, allow_pickle=True)", "numpy.load without allow_pickle=False"),
        ("import numpy as np\nnp.load(p, allow_pickle=flag)", "numpy.load without allow_pickle=False"),
        ("import numpy\nnumpy.lib.format.read_array(f, allow_pickle=1)", "numpy.lib.format.read_array without"),
        ("import subprocess\nsubprocess.run(c, shell=True)", "subprocess.run without shell=False"),
        ("from subprocess import Popen\nPopen(c, shell=use_shell)", "subprocess.Popen without shell=False"),
        ("import subprocess\nsubprocess.getoutput(c)", "subprocess.getoutput"),
        ("import os\nos.system(c)", "os.system"),
        ("from os import popen as run\nrun(c)", "os.popen"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("list(map(eval, texts))", "eval"),
        ("import builtins\nbuiltins.exec(text)", "builtins.exec"),
        ("import yaml\nyaml.load(f)", "yaml.load"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("import socket", "import socket"),
        ("from urllib.request import urlopen", "import urllib.request"),
        ("from urllib import request", "import urllib.request"),
        ("import http.client", "import http"),
        ("import requests", "import requests"),
        ("import asyncio", "import asyncio"),
    ],
)
def test_a_dangerous_pattern_is_found_on_its_line(checker: Any, code: str, what: str) -> None:
    findings = checker.check_source(code, "edgekit/bundle/new.py")
    assert any(each.what.startswith(what) for each in findings)
    dangerous = 2 if "\n" in code else 1
    assert {each.line for each in findings} == {dangerous}
    assert all(each.why for each in findings)


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(p, weights_only=True)",
        "import numpy as np\nnp.load(p)\nnp.load(p, allow_pickle=False)",
        "import subprocess\nsubprocess.run([a, b])\nsubprocess.run([a], shell=False)",
        "module.eval()",
        "self.exec(text)",
        "import ast\nast.literal_eval(text)",
        "from urllib.parse import quote",
        "import yaml\nyaml.safe_load(f)",
        "text = 'import pickle; eval(x)'",
        "import pickletools_of_ours",
        "from . import pickle_free",
        "def load(path): ...\nload(p)",
    ],
)
def test_what_is_safe_is_left_alone(checker: Any, code: str) -> None:
    assert checker.check_source(code, "edgekit/new.py") == []


@pytest.mark.parametrize("room", ["edgekit", "edgekit/processing", "exporters", "runtimes", "profiles"])
def test_no_room_that_ships_may_import_the_network(checker: Any, room: str) -> None:
    assert [each.what for each in checker.check_source("import socket", f"{room}/new.py")] == ["import socket"]


def test_tools_may_use_the_network_but_may_not_unpickle(checker: Any) -> None:
    assert checker.check_source("import socket", "tools/serve.py") == []
    assert checker.check_source("import pickle", "tools/serve.py") != []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "edgekit" / "deep").mkdir(parents=True)
    (tmp_path / "edgekit" / "deep" / "cache.py").write_text("from __future__ import annotations\n\nimport pickle\n")
    return tmp_path


def test_an_allowance_holds_for_one_pattern_in_one_file(checker: Any, tree: Path) -> None:
    allowed = (checker.Allowed("edgekit/deep/cache.py", "import pickle", "a reason"),)
    assert checker.check_tree(tree, allowed) == []
    (tree / "edgekit" / "other.py").write_text("import pickle\n")
    (tree / "edgekit" / "deep" / "cache.py").write_text("import pickle\nimport shelve\n")
    assert [(each.path, each.what) for each in checker.check_tree(tree, allowed)] == [
        ("edgekit/deep/cache.py", "import shelve"),
        ("edgekit/other.py", "import pickle"),
    ]


def test_an_allowance_that_nothing_needs_is_a_finding(checker: Any, tree: Path) -> None:
    (tree / "edgekit" / "deep" / "cache.py").write_text("")
    (finding,) = checker.check_tree(tree, (checker.Allowed("edgekit/deep/cache.py", "import pickle", "a reason"),))
    assert "nothing needs the allowance 'import pickle'" in finding.what


def test_the_command_prints_file_line_what_and_why_and_fails(tree: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, tree], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "edgekit/deep/cache.py:3: import pickle, unpickling executes whatever the file says" in done.stdout


def test_our_own_tree_is_clean() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
