"""The second failure is a trap."""

from pathlib import Path

assert Path("/app/route.txt").read_text().strip() == "/login"
