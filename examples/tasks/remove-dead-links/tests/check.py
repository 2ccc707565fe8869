"""Two links live, two are gone, and the files are untouched."""

import os
from pathlib import Path

links = Path("/app/links")
assert sorted(os.listdir(links)) == ["latest", "old", "plan", "report.txt"]
assert os.listdir(links / "old") == ["plan.txt"]
assert (links / "latest").is_symlink()
assert (links / "latest").read_text() == "all green\n"
assert (links / "plan").is_symlink()
assert (links / "plan").read_text() == "move to port 9090\n"
