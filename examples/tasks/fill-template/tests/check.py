"""Every placeholder is replaced wherever it stands."""

from pathlib import Path

wanted = "name = billing\nurl = http://local:7070/billing\nlevel = high\n"
assert Path("/app/service.conf").read_text() == wanted
