"""A third for each right line; the reward is an object, as some verifiers write it."""

import json
from pathlib import Path

try:
    lines = Path("/app/answers.txt").read_text().split()
except OSError:
    lines = []
right = sum(given == wanted for given, wanted in zip(lines, ("2", "/pay", "11:03"), strict=False))
Path("/logs/verifier/reward.json").write_text(json.dumps({"reward": right / 3}))
