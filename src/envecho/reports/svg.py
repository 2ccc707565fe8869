"""Turns a matplotlib figure into SVG inside a page: its styles in the page's sheet, its colours as CSS variables.

A strict content security policy forbids style attributes, and dark mode needs colours that change: so every style
attribute becomes a class, and every colour of `palette` becomes `var(--name)`. Not here: drawing (`charts`).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Final

from matplotlib.figure import Figure

from envecho.reports.palette import COLOURS

_VARIABLES: Final = {colour.light: f"var(--{name})" for name, colour in COLOURS.items()} | {"#ffffff": "var(--page)"}
_NO_METADATA: Final = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_REFERENCE: Final = re.compile(r"url\(#([^)]+)\)")


@dataclass(frozen=True, kw_only=True)
class InlineSvg:
    """SVG markup without scripts, styles or links, and the CSS rules that its classes need."""

    markup: str
    css: str


def inline_svg(figure: Figure, *, prefix: str, title: str, description: str) -> InlineSvg:
    """Return the figure for a page; `prefix` keeps its ids and classes apart from those of other pictures.

    Call it under `charts.chart_style`. `title` and `description` are what a screen reader says.
    """
    out = StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
    # Namespaces mean nothing inside HTML, and without them no address of another host is in the file.
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", out.getvalue()[out.getvalue().index("<svg") :])
    root = ET.fromstring(text.replace("xlink:href", "href"))
    _drop_unused(root)
    classes: dict[str, str] = {}
    for element in root.iter():
        _rewrite(element, prefix, classes)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": box, "role": "img", "class": f"chart {prefix}", "aria-label": f"{title}. {description}"}
    )
    css = "\n".join(f".{name}{{{style}}}" for style, name in classes.items())
    return InlineSvg(markup=ET.tostring(root, encoding="unicode"), css=css)


def _drop_unused(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style") or (child.tag == "defs" and all(c.tag == "style" for c in child)):
                parent.remove(child)


def _rewrite(element: ET.Element, prefix: str, classes: dict[str, str]) -> None:
    attributes = element.attrib
    if element.tag == "g":
        attributes.pop("id", None)
    elif "id" in attributes:
        attributes["id"] = f"{prefix}-{attributes['id']}"
    if attributes.get("href", "").startswith("#"):
        attributes["href"] = f"#{prefix}-{attributes['href'][1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = _REFERENCE.sub(rf"url(#{prefix}-\1)", attributes["clip-path"])
    style = attributes.pop("style", None)
    if style:
        attributes["class"] = classes.setdefault(_style(style), f"{prefix}{len(classes)}")


def _style(style: str) -> str:
    """Return the style with the palette's colours as variables and the page's own font."""
    style = re.sub(r"#[0-9a-f]{6}", lambda match: _VARIABLES.get(match[0], match[0]), style)
    style = re.sub(r"font-family:[^;]*", "font-family: inherit", style)
    return escape(style, quote=False)
