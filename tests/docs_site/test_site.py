"""The documentation site: it builds without a warning, holds every page, fetches nothing, its diagrams are current."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FETCHED = {
    "img": ("src", "srcset"),
    "script": ("src",),
    "link": ("href",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "object": ("data",),
    "embed": ("src",),
    "use": ("href", "xlink:href"),
}
"""What a browser fetches by itself when it shows a page."""

SCHEMED = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as `make check` does. Not with `--quiet`, under which `--strict` counts no warning."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture
def small_site(tmp_path: Path) -> Path:
    """A copy of the configuration with two pages, to break."""
    root = tmp_path / "repository"
    shutil.copytree(DOCS / "hooks", root / "docs" / "hooks", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("diagrams", "stylesheets"):
        shutil.copytree(DOCS / folder, root / "docs" / folder)
    settings = (ROOT / "mkdocs.yml").read_text()
    (root / "mkdocs.yml").write_text(settings[: settings.index("\nnav:")] + "\nnav: [index.md, a.md]\n")
    (root / "docs" / "index.md").write_text("# Home\n\n[a](a.md#one)\n")
    (root / "docs" / "a.md").write_text("# A\n\n## One\n")
    return root


class Page(HTMLParser):
    """What a page fetches, links to and names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.fetched += [values[name] for name in FETCHED.get(tag, ()) if name in values]
        self.links += [values["href"]] if tag == "a" and "href" in values else []
        self.names |= {values["id"]} if "id" in values else set()
        self.classes |= set(values.get("class", "").split())


def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_the_site_builds_without_a_warning_and_holds_every_page_of_the_docs(site: Path):
    """Catches a broken link or anchor, a page that no menu names, and a page that the build leaves out."""
    expected = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    missing = sorted(str(path) for path in expected if not (site / path).is_file())
    assert not missing


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("# Home\n\n[gone](gone.md)\n", "gone.md"),
        ("# Home\n\n[a](a.md#two)\n", "#two"),
        ("# Home\n\n[a file](../results/gone.json)\n", "gone.json"),
    ],
)
def test_a_broken_link_anchor_or_file_stops_the_build(small_site: Path, page: str, words: str):
    """Catches validation that was turned off: the build would pass whatever the pages say."""
    (small_site / "docs" / "index.md").write_text(page)
    done = build(small_site / "mkdocs.yml", small_site / "out")
    assert done.returncode == 1
    assert words in done.stdout + done.stderr


def test_a_page_in_no_menu_stops_the_build(small_site: Path):
    """Catches pages that are written and never found."""
    (small_site / "docs" / "lost.md").write_text("# Lost\n")
    done = build(small_site / "mkdocs.yml", small_site / "out")
    assert done.returncode == 1
    assert "lost.md" in done.stdout + done.stderr


def test_what_pages_link_to_outside_of_the_docs_is_in_the_site(small_site: Path):
    """Catches links that work in an editor and nowhere else: data, texts, folders, and links of linked texts."""
    (small_site / "results").mkdir()
    (small_site / "results" / "figures.json").write_text('{"a": 1}')
    (small_site / "results" / "make.py").write_text("print('[a](gone.md)')\n")
    (small_site / "NOTES.md").write_text("# Notes\n\n[a](docs/a.md#one), [figures](results/figures.json)\n")
    (small_site / "docs" / "index.md").write_text(
        "# Home\n\n[![picture](diagrams/logo.svg)](../results/figures.json) [all](../results) [it](../NOTES.md#notes)"
        "\n\n~~~text\n[code](../results/none.json)\n~~~\n"
    )
    done = build(small_site / "mkdocs.yml", small_site / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    out = small_site / "out"
    assert (out / "repository" / "results" / "figures.json").read_text() == '{"a": 1}'
    assert "gone.md" in (out / "repository" / "results" / "make.py.html").read_text()
    notes, listed = (Page((out / "repository" / name).read_text()) for name in ("NOTES.html", "results/index.html"))
    assert {"../a.html#one", "results/figures.json"} <= set(notes.links)
    assert {"figures.json", "make.py.html"} <= set(listed.links)
    links = set(Page((out / "index.html").read_text()).links)
    assert {"repository/results/figures.json", "repository/results/index.html", "repository/NOTES.html#notes"} <= links
    assert "../results/none.json" in (out / "index.html").read_text()


def test_no_page_shows_markup_as_text(site: Path):
    """Catches a table whose header has fewer columns than its rows, and a link or list that is not read as one: other
    readers of Markdown forgive what this one prints as it stands."""
    for path in sorted(site.rglob("*.html")):
        article = re.search(r"<article.*?</article>", path.read_text(), re.DOTALL)
        text = re.sub(r"<(pre|code)\b.*?</\1>|<[^>]+>", "", article[0] if article else "", flags=re.DOTALL)
        found = re.search(r".*(?:\]\(|\*\*|^\| |^- |`).*", text, re.MULTILINE)
        assert not found, f"{path.relative_to(site)} shows {found[0]!r}"


def test_no_page_fetches_anything_from_another_host(site: Path):
    """Catches web fonts, scripts, badges and emoji that a theme or a page brings in: a reader without a network, or
    with a wish to be left alone, would wait for them."""
    for name, page in pages(site).items():
        foreign = [address for address in page.fetched if SCHEMED.match(address)]
        assert not foreign, f"{name} fetches {foreign}"
        assert "mermaid" not in page.classes, f"{name} has a mermaid diagram, whose script the theme fetches"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text()), f"{sheet} fetches"


class Silent(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback; the address ends without a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def requested(address: str, page: str, folder: Path) -> tuple[set[str], list[str]]:
    """What a page asks for in a browser that resolves no name, and what it writes to the console."""
    log = folder / "net.json"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={folder}/profile", f"--log-net-log={log}", "--virtual-time-budget=5000"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"{address}/{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    kept = json.loads(log.read_text())
    kind = kept["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    events = (event.get("params", {}) for event in kept["events"] if event["type"] == kind)
    asked = [params for params in events if "url" in params]
    # What the browser asks for on its own account has no page as its initiator.
    urls = {one["url"] for one in asked if address in (one.get("initiator", ""), one["url"][: len(address)])}
    return urls, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_asks_no_other_host_and_its_console_is_clean(site: Path, tmp_path: Path):
    """Catches what a script of the theme fetches once it runs; the search's index must be among what is asked."""
    with served(site) as address:
        urls, console = requested(address, "guides/own-grpo-loop.html", tmp_path)
    assert not console
    assert f"{address}/search/search_index.json" in urls
    assert all(url.startswith(address) for url in urls), urls


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_page_that_asks_another_host_is_found(tmp_path: Path):
    """Catches a reading of the browser's log that overlooks what it is for."""
    (tmp_path / "page.html").write_text("<script>fetch('http://other.invalid/font.woff')</script>")
    with served(tmp_path) as address:
        urls, _ = requested(address, "page.html", tmp_path)
    assert "http://other.invalid/font.woff" in urls


def test_every_link_within_the_site_leads_somewhere(site: Path):
    """Catches links that the build does not look at: in raw HTML, in pages that the hook makes, to other files."""
    found = pages(site)
    for name, page in found.items():
        for link in page.links:
            address, _, anchor = link.partition("#")
            if SCHEMED.match(link) or link.startswith(("mailto:", "javascript:")) or name == "404.html":
                continue
            target = (site / name).parent / address if address else site / name
            assert target.is_file(), f"{name} links to {link}"
            if anchor and target.suffix == ".html":
                names = found[os.path.relpath(target, site)].names
                assert anchor in names, f"{name} links to {link}"


def test_diagrams_are_what_their_script_draws_in_both_schemes(site: Path, tmp_path: Path):
    """Catches a picture that was edited by hand, one without a dark twin, one that is not shown in both schemes."""
    script = tmp_path / "make_diagrams.py"
    shutil.copy(DOCS / "diagrams" / "make_diagrams.py", script)
    subprocess.run([sys.executable, str(script)], check=True, cwd=tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    committed = {path.name: path.read_text() for path in (DOCS / "diagrams").glob("*.svg")}
    assert drawn == committed
    shown = {os.path.basename(address) for page in pages(site).values() for address in page.fetched}
    for name in drawn:
        if name != "logo.svg" and not name.endswith("-dark.svg"):
            assert {f"{name}#only-light", f"{Path(name).stem}-dark.svg#only-dark"} <= shown


def test_no_diagram_holds_a_script_or_an_address():
    """Catches a picture that a browser would run, or that fetches a font."""
    for path in (DOCS / "diagrams").glob("*.svg"):
        text = path.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"<script|\bon\w+=|href|https?://|@import|url\(", text), path.name


def test_the_tests_that_a_page_names_exist():
    """Catches a clause of RFC 010 whose proof was renamed or removed."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "rfc010-clauses.md").read_text())
    assert len(named) > 20
    for file, name in named:
        assert re.search(rf"^def {name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
