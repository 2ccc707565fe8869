"""Three people have a team."""

from pathlib import Path

assert Path("/app/roster.csv").read_text() == "karen,blue\nlouis,red\noscar,red\n"
