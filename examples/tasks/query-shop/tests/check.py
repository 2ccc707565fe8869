"""One name, with or without a newline."""

from pathlib import Path

assert Path("/app/answer.txt").read_text().strip() == "elena"
