"""Three new names, with the content that each had before."""

import os
from pathlib import Path

wanted = {"rome-12.txt": "bridge\n", "oslo-27.txt": "harbour\n", "paris-31.txt": "tower\n"}
assert sorted(os.listdir("/app/photos")) == sorted(wanted)
assert all(Path("/app/photos", name).read_text() == text for name, text in wanted.items())
