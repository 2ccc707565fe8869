"""What a real browser says of the page: no sideways scrolling on a phone, nothing blocked, nothing injected runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_run import write_synthetic_run

from envecho.reports import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
PROBE = """<!doctype html><iframe id="page" src="run/report.html" style="width:390px;height:2000px;border:0"></iframe>
<script>
document.getElementById("page").onload = (event) => {
  const page = event.target.contentDocument;
  const token = page.querySelector(".t");
  token.click();
  document.title = [
    "width", page.documentElement.scrollWidth,
    "styled", getComputedStyle(page.body).margin,
    "detail", page.querySelector(".detail").children.length,
    "scripts", [...page.scripts].filter((script) => script.type !== "application/json").length,
  ].join(" ");
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; test_report_page checks the structure")
def test_a_browser_lays_the_page_out_on_a_phone_and_blocks_nothing(tmp_path: Path):
    """Catches a table that widens the page, a style that the policy blocks, and a detail line that stays empty."""
    write_report(write_synthetic_run(tmp_path / "run"))
    (tmp_path / "probe.html").write_text(PROBE)
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,2100",
         "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=110, check=True,
    )  # fmt: skip
    found = re.search(r"<title>width (\d+) styled (\S+) detail (\d+) scripts (\d+)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    assert int(found[1]) <= 390
    assert found[2] == "0px"
    assert int(found[3]) >= 2
    assert int(found[4]) == 1
    assert "Content Security Policy" not in done.stderr
