"""Budgets: what a reader can hold in the head. One that hurts is a hint that a concept is missing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters of a function; `self` and `cls` are free."""
    arguments = function.args
    named = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return len(named) + len(starred) - (named[:1] in (["self"], ["cls"]))


def file_violations(file: Path) -> Iterator[str]:
    """Yield what a file has too much of."""
    text = file.read_text()
    if file.name == "utils.py":
        yield "no utils.py: name the file after its concept"
    if (lines := len(text.splitlines())) > MAX_FILE_LINES:
        yield f"{lines} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Helper")):
            yield f"class {node.name}: name it after what it is"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"
            if (parameters := num_parameters(node)) > MAX_PARAMETERS:
                yield f"{node.name} has {parameters} parameters, at most {MAX_PARAMETERS}"


def budget_violations(*folders: Path) -> list[str]:
    """Return one line for each thing that is over budget in the Python files below the folders."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return [f"{file.name}: {violation}" for file in files for violation in file_violations(file)]


def test_every_file_and_function_keeps_its_budget():
    """Catches files and functions that grow a line at a time until nobody reads them."""
    assert budget_violations(ROOT / "src", ROOT / "tests") == []


@pytest.mark.parametrize(
    ("name", "code", "violation"),
    [
        ("a.py", "x = 1\n" * 401, "401 lines, at most 400"),
        ("a.py", "class A:\n    async def f(self):\n" + "        x = 1\n" * 60, "f has 61 lines"),
        ("a.py", "def f(a, b, /, c, d, *e, g, h, i, **j): ...\n", "f has 9 parameters"),
        ("a.py", "class RunManager: ...\n", "class RunManager"),
        ("a.py", "def f():\n    class BoxHelper: ...\n", "class BoxHelper"),
        ("utils.py", "", "no utils.py"),
    ],
)
def test_a_violation_is_caught(tmp_path: Path, name: str, code: str, violation: str):
    """Catches a checker that overlooks methods, coroutines, starred parameters or nested classes."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / name).write_text(code)
    (found,) = budget_violations(tmp_path)
    assert found.startswith(f"{name}: ")
    assert violation in found


def test_what_is_just_within_budget_passes(tmp_path: Path):
    """Catches limits that are off by one."""
    body = "    x = 1\n" * 59
    code = f"def f(a, b, c, d, e, g, h, i):\n{body}class A:\n    def f(self, a, b, c, d, e, g, h, i): ...\n"
    (tmp_path / "a.py").write_text(code + "x = 1\n" * (400 - len(code.splitlines())))
    assert budget_violations(tmp_path) == []
