"""Two files change; a memory limit that is spelled like the port does not."""

from pathlib import Path

etc = Path("/app/etc")
assert (etc / "app.conf").read_text() == "host=local\nport=9090\nworkers=4\n"
assert (etc / "proxy.yaml").read_text() == "proxy:\n  target: local:9090\n  timeout: 80\n"
assert (etc / "limits.conf").read_text() == "memory=8080\nfiles=256\n"
