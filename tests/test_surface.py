"""The surface: public names, what `import envecho` costs, and that names and examples in the docs are true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import envecho

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "pydantic",
    "pyarrow",
    "scipy",
    "matplotlib",
    "openenv",
    "importlib.metadata",
}
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->\s*$")


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def fences(page: Path) -> list[tuple[int, str]]:
    """Return line number and code of the page's ```python fences that are to be run."""
    found: list[tuple[int, str]] = []
    lines = page.read_text().splitlines()
    for start, line in enumerate(lines):
        if line.strip() != "```python":
            continue
        before = "\n".join(lines[:start]).rstrip()
        if not NOT_RUN.search(before):
            end = lines.index("```", start)
            found.append((start + 1, "\n".join(lines[start + 1 : end])))
    return found


def all_fences() -> list[object]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [pytest.param(code, id=f"{page.relative_to(ROOT)}:{line}") for page in pages for line, code in fences(page)]


def test_importing_envecho_loads_nothing_else(tmp_path: Path):
    """Catches an import at the top of the package, which every use of the command line would pay for."""
    done = python("import sys; old = set(sys.modules); import envecho; print(*(set(sys.modules) - old))", tmp_path)
    loaded = set(done.stdout.split())
    assert "envecho" in loaded
    assert not loaded & HEAVY, f"loaded by import envecho: {sorted(loaded & HEAVY)}"
    assert {name for name in loaded if name.startswith("envecho.")} == set()


def test_importing_envecho_takes_milliseconds(tmp_path: Path):
    """Catches work at import; processor time of the best of five, as the machine may be busy."""
    code = "import time; start = time.process_time(); import envecho; print(time.process_time() - start)"
    assert min(float(python(code, tmp_path).stdout) for _ in range(5)) < 0.05


@pytest.mark.parametrize(
    "module", ["envecho.trajectory", "envecho.trajectory.store", "envecho.reports", "envecho.cli.main"]
)
def test_light_rooms_load_no_torch(module: str, tmp_path: Path):
    """Catches seconds of torch in front of `envecho --help`, of reading a file and of writing a report."""
    done = python(f"import sys, {module}; sys.exit('torch' in sys.modules)", tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_answers_in_under_a_third_of_a_second(tmp_path: Path):
    """Catches a verb that is imported to list it; processor time of the best of three, interpreter included."""
    code = "import atexit, time; atexit.register(lambda: print(time.process_time())); "
    code += "from envecho.cli.main import main; main(['--help'])"
    outputs = [python(code, tmp_path).stdout for _ in range(3)]
    assert all("Commands" in output for output in outputs), outputs[0]
    assert min(float(output.split()[-1]) for output in outputs) < 0.3


def test_public_names_are_sorted_and_every_one_exists():
    """Catches a name that is promised and cannot be imported, and a list in which nobody finds anything."""
    assert list(envecho.__all__) == sorted(envecho.__all__)
    missing: list[str] = []
    for name in envecho.__all__:
        try:
            getattr(envecho, name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert not missing, "\n".join(missing)


def test_names_for_the_type_checker_are_the_names_at_run_time():
    """Catches a name that pyright knows and Python does not, or the other way round."""
    tree = ast.parse(Path(envecho.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    homes: dict[str, list[str]] = vars(envecho)["_HOMES"]
    at_run_time = {name: home for home, names in homes.items() for name in names}
    assert typed == at_run_time
    assert {*typed, "__version__"} == set(envecho.__all__)


def test_an_unknown_name_is_an_attribute_error():
    """Catches a lazy module that answers None, on which `hasattr` and `from envecho import x` rely."""
    with pytest.raises(AttributeError, match="no attribute 'Mesage'"):
        envecho.Mesage  # type: ignore[attr-defined]  # noqa: B018


def test_every_public_name_stands_in_the_docs():
    """Catches a public name that was added without a word for its users, and a documented one that is gone."""
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert documented == set(envecho.__all__)


@pytest.mark.parametrize("code", all_fences())
def test_documented_code_runs(code: str, tmp_path: Path):
    """Catches an example that no longer works; `<!-- not run: reason -->` above a fence excuses it."""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_fence_is_excused_only_by_a_reason(tmp_path: Path):
    """Catches a collector that skips fences by itself: each of these but the excused one must be found."""
    page = tmp_path / "page.md"
    page.write_text("```python\na\n```\n\n<!-- not run: takes an hour -->\n```python\nb\n```\n\n```python\nc\n```\n")
    assert [code for _, code in fences(page)] == ["a", "c"]
