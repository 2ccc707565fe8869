"""Imports only point down: DESIGN's table of rooms, proved from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "envecho"

LEVEL_OF_ROOM = {
    "trajectory": 0,
    "losses": 0,
    "formats": 1,
    "tokens": 1,
    "worlds": 1,
    "objective": 2,
    "rollout": 3,
    "engines": 3,
    "evaluation": 4,
    "plugins": 4,
    "training": 5,
    "reports": 5,
    "recipes": 6,
    "cli": 7,
}
FOR_EVERY_LEVEL = {"collector", "errors", "seam", "extras"}
ENTRY = "__main__"
WITHOUT_TORCH = {"trajectory", "reports", "errors"}


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a file imports, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def forbidden(room: str, module: str) -> str | None:
    """Say why a file of `room` (or the top-level file of that name) may not import `module`, or None where it may."""
    if module.startswith("."):
        return "a relative import; name the room in full"
    first, *rest = module.split(".")
    if first == "torch" and room in WITHOUT_TORCH:
        return f"{room} holds no torch"
    if first != "envecho":
        return None
    target = rest[0] if rest else ""
    if target == room:
        return None
    if room == "errors":
        return "errors imports nothing of ours"
    if target in FOR_EVERY_LEVEL:
        return None
    if target not in LEVEL_OF_ROOM:
        return "no room of DESIGN's table; inside the package a name comes from its room"
    highest = 0 if room == "seam" else max(LEVEL_OF_ROOM.values()) if room == ENTRY else LEVEL_OF_ROOM[room] - 1
    if LEVEL_OF_ROOM[target] > highest:
        return f"{target} is of level {LEVEL_OF_ROOM[target]}; {room} may import up to level {highest}"
    return None


def layer_violations(package: Path) -> list[str]:
    """Return one line for each import that does not point down, and for each file that stands in no room."""
    found: list[str] = []
    for file in sorted(package.rglob("*.py")):
        inside = file.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        known = FOR_EVERY_LEVEL | {ENTRY} if len(inside.parts) == 1 else set(LEVEL_OF_ROOM)
        if room not in known:
            found.append(f"{inside}: no room of DESIGN's table")
            continue
        for line, module in imported_modules(ast.parse(file.read_text())):
            reason = forbidden(room, module)
            found += [f"{inside}:{line}: imports {module}: {reason}"] if reason else []
    return found


def test_imports_only_point_down():
    """Catches a room that reaches up or sideways, after which none of the two can be read or changed alone."""
    assert layer_violations(PACKAGE) == []


def test_the_package_is_where_this_test_looks():
    """Catches a check that passes because it found no file."""
    rooms = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and any(folder.glob("*.py"))}
    assert {"trajectory", "losses", "tokens", "objective", "engines", "cli"} <= rooms


@pytest.mark.parametrize(
    ("file", "code", "reason"),
    [
        ("tokens/a.py", "from envecho.objective import EchoConfig", "tokens may import up to level 0"),
        ("tokens/a.py", "from envecho import worlds", "worlds is of level 1"),
        ("trajectory/a.py", "import envecho.losses.batch", "losses is of level 0"),
        ("losses/a.py", "def f():\n    from envecho.trajectory import Role", "trajectory is of level 0"),
        ("engines/a.py", "if TYPE_CHECKING:\n    from envecho.rollout import x", "rollout is of level 3"),
        ("worlds/terminal/a.py", "import importlib\nimportlib.import_module('envecho.cli.main')", "cli is of level 7"),
        ("training/a.py", "from envecho import Trajectory", "a name comes from its room"),
        ("training/a.py", "from ..cli import main", "relative import"),
        ("reports/a.py", "import torch.nn", "reports holds no torch"),
        ("errors.py", "from envecho.seam import World", "errors imports nothing of ours"),
        ("seam.py", "from envecho.tokens import ChatTokenizer", "seam may import up to level 0"),
        ("helpers/a.py", "", "no room of DESIGN's table"),
        ("extra.py", "", "no room of DESIGN's table"),
    ],
)
def test_a_violation_is_caught(tmp_path: Path, file: str, code: str, reason: str):
    """Catches a checker that overlooks a kind of import: inside functions, for types only, by name, of the front."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(code)
    (violation,) = layer_violations(tmp_path)
    assert violation.startswith(file)
    assert reason in violation


def test_what_design_allows_passes(tmp_path: Path):
    """Catches a checker so strict that people switch it off."""
    allowed = {
        "__init__.py": "from envecho.cli import main",
        "seam.py": "if TYPE_CHECKING:\n    from envecho.losses.batch import WeightedBatch",
        "losses/a.py": "import torch\nfrom envecho.losses.b import x\nfrom envecho.errors import EnvechoError",
        "worlds/a.py": "from envecho.seam import World\nfrom envecho.trajectory import Segment",
        "cli/a.py": "from envecho.recipes.demo import run\nfrom envecho.training import train",
    }
    for name, code in allowed.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    assert layer_violations(tmp_path) == []
