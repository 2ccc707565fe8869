"""The three counts must be right, in the order of the levels."""

from pathlib import Path

assert Path("/app/levels.txt").read_text().split("\n") == ["ERROR 2", "INFO 4", "WARN 2", ""]
