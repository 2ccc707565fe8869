"""The file must be read as JSON and say the same four things."""

import json
from pathlib import Path

wanted = {"name": "cart", "port": 8080, "retries": 3, "debug": False}
assert json.loads(Path("/app/settings.json").read_text()) == wanted
