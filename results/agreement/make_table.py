"""Write the table of docs/agreement.md from the files beside this one.

    envecho bench agreement --subject NAME --out results/agreement/NAME.json      where its packages are installed
    python results/agreement/make_table.py

`tests/recipes/test_agreement_results.py` compares the page with what this makes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from envecho.recipes.agreement.compare import Agreement
from envecho.recipes.agreement.run import SUBJECTS, rows_of, summary

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "agreement.md"
_BLOCK = re.compile(r"(<!-- agreement -->\n).*?(<!-- end -->)", re.DOTALL)


def rows() -> list[Agreement]:
    """Return all committed rows, subject by subject."""
    found: list[Agreement] = []
    for subject in SUBJECTS:
        path = HERE / f"{subject}.json"
        if path.is_file():
            found += rows_of(json.loads(path.read_text()), path)
    return found


def block(found: list[Agreement]) -> str:
    """Return what stands in the page: the table, the versions, and every note."""
    versions = {row.subject: ", ".join(f"{k} {v}" for k, v in row.versions.items()) for row in found}
    notes = dict.fromkeys(f"- `{row.subject}`: {row.note}" for row in found if row.note)
    lines = [summary(found), "", *(f"- `{subject}`: {told}" for subject, told in versions.items())]
    return "\n".join([*lines, "", "What is said of single rows:", "", *notes]) if notes else "\n".join(lines)


def page(text: str, found: list[Agreement]) -> str:
    """Return the page with its table made anew."""
    made, count = _BLOCK.subn(lambda match: f"{match[1]}{block(found)}\n{match[2]}", text)
    assert count == 1, "the page has no place for the table"
    return made


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), rows()))
