"""Write the table of docs/agreement.md, and the README's sentence, from the files beside this one.

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
README = HERE.parents[1] / "README.md"
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


def sentence(found: list[Agreement]) -> str:
    """Return what the README says: the largest difference of a gradient by subject, over all cuts and settings."""
    worst: dict[str, float] = {}
    for row in found:
        if row.gradient_difference is not None:
            worst[row.subject] = max(worst.get(row.subject, 0.0), row.gradient_difference)
    told = ", ".join(f"`{subject}` {value:.1e}" for subject, value in worst.items())
    return f"Largest relative difference of a gradient, float32, over all settings and cuts: {told}."


def page(text: str, made: str) -> str:
    """Return the page with its block made anew."""
    made, count = _BLOCK.subn(lambda match: f"{match[1]}{made}\n{match[2]}", text)
    assert count == 1, "the page has no place for the table"
    return made


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), block(rows())))
    README.write_text(page(README.read_text(), sentence(rows())))
