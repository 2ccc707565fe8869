"""A hook of the documentation site: links that leave `docs/` work, and diagrams follow the light or dark scheme.

A page links to what lies beside it in the repository (`../results/x.json`, `../examples/verl`) by its relative path, so
that the link works in an editor. No address of a repository is known, so the site carries what is linked, under
`repository/`: a text as a page, a folder as a page that lists it, anything else as it is.

A picture `NAME.svg` with a twin `NAME-dark.svg` is shown in the scheme that it was drawn for. Not here: the text of
any page.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

SITE_FOLDER = "repository"
LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "sh", ".yaml": "yaml", ".yml": "yaml", ".txt": "text"}
"""Texts that become pages, by suffix; Markdown is one as it is."""

UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
LINK = re.compile(r"\]\((?P<target>[^()\s#]+)(?P<anchor>#[^()\s]*)?\)")
DIAGRAM = re.compile(r"!\[(?P<alt>[^\[\]]*)\]\((?P<target>[^()\s#]+)\.svg\)")
FENCE = re.compile(r"\s*(?P<marks>`{3,}|~{3,})")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of `docs/`, and what those pages link to in turn."""
    root = Path(config.docs_dir).parent
    waiting = [("docs/" + file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        source, text = waiting.pop()
        for path in _linked(text, source, root):
            place = _place(path, root)
            if files.get_file_from_path(place) is not None:
                continue
            content = _content(path, root)
            level = InclusionLevel.NOT_IN_NAV
            if content is None:
                files.append(File.generated(config, place, abs_src_path=str(root / path), inclusion=level))
            else:
                files.append(File.generated(config, place, content=content, inclusion=level))
                waiting.append((path + "/." if (root / path).is_dir() else path, content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at what `on_files` added, and show each diagram in both schemes."""
    root, uri = Path(config.docs_dir).parent, page.file.src_uri
    source = _source(uri, root)
    folder = posixpath.dirname(uri)

    def point(match: re.Match[str]) -> str:
        path = _resolve(match["target"], source, root)
        if path is None:
            return match[0]
        place = posixpath.relpath(_place(path, root), folder or ".")
        return f"]({place}{match['anchor'] or ''})"

    def show(match: re.Match[str]) -> str:
        twin = posixpath.normpath(posixpath.join(folder, f"{match['target']}-dark.svg"))
        if files.get_file_from_path(twin) is None:
            return match[0]
        light, dark = (
            f"![{match['alt']}]({match['target']}{name}" for name in (".svg#only-light)", "-dark.svg#only-dark)")
        )
        return f"{light} {dark}"

    return "".join(text if code else DIAGRAM.sub(show, LINK.sub(point, text)) for text, code in _lines(markdown))


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Each line with its end, and whether it belongs to a fence."""
    closing: str | None = None
    for line in text.splitlines(keepends=True):
        fence = FENCE.match(line)
        yield line, closing is not None or fence is not None
        if closing is None:
            closing = fence["marks"] if fence else None
        elif fence and fence["marks"] == closing:
            closing = None


def _linked(text: str, source: str, root: Path) -> list[str]:
    """What a text links to outside of `docs/`."""
    targets = (match["target"] for line, code in _lines(text) if not code for match in LINK.finditer(line))
    paths = {path for target in targets if (path := _resolve(target, source, root)) is not None}
    return sorted(path for path in paths if not path.startswith("docs/"))


def _resolve(target: str, source: str, root: Path) -> str | None:
    """The path in the repository that a link of `source` names; None for an address, or where there is nothing."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return path if ":" not in target and not path.startswith(("..", "/")) and (root / path).exists() else None


def _place(path: str, root: Path) -> str:
    """Where the site keeps a path of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (root / path).is_dir():
        return f"{SITE_FOLDER}/{path}/index.md"
    return f"{SITE_FOLDER}/{path}" + ".md" * (Path(path).suffix in LANGUAGES)


def _source(uri: str, root: Path) -> str:
    """The path in the repository of what a page shows; a folder ends in `/.`."""
    if not uri.startswith(SITE_FOLDER + "/"):
        return "docs/" + uri
    path = uri.removeprefix(SITE_FOLDER + "/")
    if (root / path).is_file():
        return path
    folder = path.removesuffix("/index.md")
    return folder + "/." if folder != path else path.removesuffix(".md")


def _content(path: str, root: Path) -> str | None:
    """The page that shows a path; None where the file itself is the answer."""
    place = root / path
    if place.is_dir():
        names = sorted(entry.name for entry in place.iterdir() if not entry.name.startswith(("__", ".")))
        return f"{UNSEARCHED}# {path}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    if place.suffix == ".md":
        return place.read_text()
    if place.suffix in LANGUAGES:
        return f"{UNSEARCHED}# {path}\n\n~~~~~~{LANGUAGES[place.suffix]}\n{place.read_text()}\n~~~~~~\n"
    return None
