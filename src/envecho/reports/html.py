"""Fills the templates: one file, no address outside it, a content security policy that names its own style and script.

Every string that a template prints has passed `visible_text` and HTML escaping; only the style sheet, the script and
inline SVG made here are trusted. Not here: what is printed (`blocks`, `finding`).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from envecho.reports.palette import colour_variables
from envecho.tokens.view import visible_text

_SHEETS: Final = ("style.css", "tokens.css")
_SCRIPTS: Final = ("page.js", "tables.js", "tokens.js", "search.js")


def render(template: str, context: Mapping[str, Any], *, chart_css: str = "") -> str:
    """Return the whole page; `context` values are plain data, `Markup` only where this room made it."""
    sheet = "".join(map(_asset, _SHEETS)).replace("/*light*/", colour_variables(dark=False))
    style = sheet.replace("/*dark*/", colour_variables(dark=True)) + chart_css
    script = "".join(map(_asset, _SCRIPTS))
    policy = (
        f"default-src 'none'; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _environment().get_template(template)
    return page.render(style=Markup(style), script=Markup(script), policy=Markup(policy), **context)


def write_page(path: Path, page: str) -> Path:
    """Write the page; it appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
    return path


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("envecho.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )


def _visible(value: Any) -> Any:
    return visible_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return (files("envecho.reports") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
