"""What a real browser does with the search box and the switches of a page of trajectories."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from browser import CHROMIUM, FLAGS

from envecho.reports import PageSearch, write_token_page
from envecho.tokens.selection import Selection
from envecho.tokens.view import TokenView, ViewToken
from envecho.trajectory import Source

PIECES = (
    (Source.TASK, 0, "Find the ERR"), (Source.TASK, 0, "OR.\nNo error"), (Source.POLICY, 1, "grep err"),
    (Source.STDOUT, 2, "an er"), (Source.STDOUT, 2, "r"), (Source.STDOUT, 2, "or & <error>\nerrorerror\n"),
    (Source.REDACTED, 2, "[redacted:key]"), (Source.STATUS, 2, "(exit.error)"),
)  # fmt: skip
VIEW = TokenView(
    pool="", trajectory_id="t", tokens=tuple(ViewToken(text=text, source=s, turn=turn) for s, turn, text in PIECES)
)
PROBE = """<!doctype html><iframe id="page" src="page.html" style="width:390px;height:900px;border:0"></iframe>
<script>
const told = [];
document.getElementById("page").onload = (event) => {
  const page = event.target.contentDocument;
  const field = page.querySelector("input[type=search]");
  const text = () => [...page.querySelectorAll(".run")].map((run) => run.textContent).join("|");
  const before = text();
  const tell = () => {
    const marks = [...page.querySelectorAll("mark.hit")].map((mark) => mark.textContent).join("");
    told.push([page.querySelector(".found").textContent, marks, text() === before].join(";"));
  };
  const press = (key) => field.dispatchEvent(new event.target.contentWindow.KeyboardEvent("keydown", { key }));
  tell();
  press("Enter");
  tell();
  page.querySelector("input[value=task]").click();
  tell();
  told.push([...page.querySelectorAll(".t")].filter((token) => token.hidden).length);
  told.push(page.querySelectorAll(".turn[hidden]").length);
  page.querySelector(".pattern input").click();
  field.value = "^err|\\\\(ex.t";
  page.querySelector(".pattern input").dispatchEvent(new Event("change"));
  tell();
  field.value = "(";
  page.querySelector(".pattern input").dispatchEvent(new Event("change"));
  tell();
  told.push(page.documentElement.scrollWidth);
  document.title = JSON.stringify(told);
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; the CLI's tests cover the same search")
def test_the_page_finds_what_the_command_line_finds(tmp_path: Path):
    """Catches hits that stop at the border of a token, text that marking changes, and switches that hide nothing."""
    write_token_page([VIEW], tmp_path / "page.html", title="t", search=PageSearch(find="error"))
    (tmp_path / "probe.html").write_text(PROBE)
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,1000",
         "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=110, check=True,
    )  # fmt: skip
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    everything = Selection.of("error").apply(VIEW).num_hits
    without_task = Selection.of("error", sources=["policy", "stdout", "redacted", "status"]).apply(VIEW).num_hits
    assert (everything, without_task) == (7, 5)
    hits = "errorerrorerrorerrorerror"
    assert found[1].replace("&quot;", '"').replace("&amp;", "&") == (
        f'["7 hits;ERRORerror{hits};true","1 of 7 hits;ERRORerror{hits};true","5 hits;{hits};true",2,1,'
        '"2 hits;err(exit;true","no regular expression;;true",390]'
    )
    assert "Content Security Policy" not in done.stderr
