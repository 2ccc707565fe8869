"""The list is worked out here from the three files, which must be untouched."""

import hashlib
from pathlib import Path

TEXTS = {"data/a.txt": "north 12\nsouth 7\n", "data/b.txt": "east 31\n", "data/c.txt": "west 8\nwest 9\n"}
assert all(Path("/app", name).read_text() == text for name, text in TEXTS.items())
assert Path("/app/bad.txt").read_text().strip() == "data/b.txt"
wanted = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in TEXTS.items())
assert Path("/app/SHA256SUMS.new").read_text() == wanted
