"""Two scripts run, the notes do not, and the secret is private."""

import os

modes = {name: os.stat(f"/app/{name}").st_mode & 0o777 for name in ("bin/start.sh", "bin/stop.sh", "bin/notes.txt")}
assert modes["bin/start.sh"] & 0o100
assert modes["bin/stop.sh"] & 0o100
assert not modes["bin/notes.txt"] & 0o111
assert os.stat("/app/secret.env").st_mode & 0o777 == 0o600
