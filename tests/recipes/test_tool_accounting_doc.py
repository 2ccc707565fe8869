"""The table of docs/tools-world.md is what results/tools/accounting.json holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_in_the_docs_is_the_file_of_results() -> None:
    """Would catch counts that were made again and a table that was not."""
    found = json.loads((ROOT / "results" / "tools" / "accounting.json").read_text())
    table = re.findall(r"^\| .* \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) % \|$",
                       (ROOT / "docs" / "tools-world.md").read_text(), re.MULTILINE)  # fmt: skip
    rows = {tuple(int(number.replace(",", "")) for number in row[:3]): float(row[3]) for row in table}
    expected = {
        (counts["episodes"], counts["by_role"]["action"], counts["by_role"]["env_output"]): counts["observation_share"]
        for counts in found.values()
    }
    assert set(rows) == set(expected)
    assert all(abs(100 * expected[key] - shown) < 0.051 for key, shown in rows.items())
