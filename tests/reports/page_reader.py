"""`Page`: what a browser would make of a page, for tests that look at its structure."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

DATA = "application/json"
"""The type of a script tag that no browser runs."""


class Page(HTMLParser):
    """Tags with attributes, and text, style, script and data apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": [], "data": []}
        self.comments: list[str] = []
        self._inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script" and dict(attrs).get("type") == DATA:
            tag = "data"
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.raw else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.raw[self._inside] if self._inside else self.text).append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def count(self, tag: str) -> int:
        """Scripts that run are `script`, script tags with data `data`."""
        return sum(name == tag for name, _ in self.tags)

    @property
    def words(self) -> str:
        return "".join(self.text)

    @property
    def sections(self) -> list[str]:
        return [a["id"] or "" for tag, a in self.tags if tag == "section" and "id" in a]

    @property
    def views(self) -> list[dict[str, Any]]:
        """The data of the trajectories; the first data tag holds what they have in common."""
        return [json.loads(data) for data in self.raw["data"][1:]]
