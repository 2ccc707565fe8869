"""A real browser for tests of pages: Debian's chromium, without a network and with its console on standard error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
)  # fmt: skip


def run_chromium(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open the page once; each start costs seconds, so a test asks everything of one."""
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [str(CHROMIUM), *FLAGS, profile, *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=170, check=True)


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the pages wrote to the console: errors, and what the content security policy blocked."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security Policy" in line]


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a probe page wrote into its title as JSON."""
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.DOTALL)
    assert found, done.stderr[-3000:]
    return json.loads(unescape(found[1]))
