"""Five fields and a command per line; Monday may be a number or a name."""

from pathlib import Path

lines = [" ".join(line.split()) for line in Path("/app/crontab").read_text().splitlines() if line.strip()]
assert lines[0] == "30 3 * * * /app/bin/backup"
assert lines[1].lower() in ("0 8 * * 1 /app/bin/report", "0 8 * * mon /app/bin/report")
assert lines[2] == "15 * * * * /app/bin/clean"
assert len(lines) == 3
