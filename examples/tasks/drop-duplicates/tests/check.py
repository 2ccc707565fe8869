"""The order is that of the file, not that of the alphabet."""

from pathlib import Path

assert Path("/app/unique.txt").read_text() == "mail\nweb\ndb\ncache\nqueue\n"
