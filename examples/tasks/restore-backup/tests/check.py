"""One file comes back, the other keeps the text of today."""

from pathlib import Path

assert Path("/app/data/ports.txt").read_text() == "web 80\nstock 7001\n"
assert Path("/app/data/names.txt").read_text() == "web stock\n"
