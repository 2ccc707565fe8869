"""One picture of a page: drawn wide and narrow as inline SVG, and as PNG for a file beside the page.

Not here: what is drawn (`charts`, `dot_charts`, `policy_chart`, `comparison_charts`), and SVG itself (`svg`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from envecho.reports.charts import chart_style, png_bytes
from envecho.reports.svg import inline_svg


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The markup of a picture for wide and narrow pages, the CSS rules that both need, and the wide one as PNG."""

    wide: Markup
    narrow: Markup
    css: str
    png: bytes


def draw(name: str, chart: Callable[[bool], Figure], *, title: str, description: str) -> Picture:
    """Draw `chart(narrow)` both ways; ids and classes in the page begin with the picture's name."""
    with chart_style(name):
        figures = [chart(False), chart(True)]
        wide, narrow = (
            inline_svg(figure, prefix=f"{name}-{size}", title=title, description=description)
            for figure, size in zip(figures, "wn", strict=True)
        )
        return Picture(
            wide=Markup(wide.markup), narrow=Markup(narrow.markup), css=wide.css + narrow.css, png=png_bytes(figures[0])
        )


def write_pngs(pictures: Mapping[str, Picture], page: Path) -> None:
    """Write each picture beside its page, under its name; for a page of another name than `report.html` behind that."""
    stem = "" if page.stem == "report" else f"{page.stem}-"
    for name, picture in pictures.items():
        page.with_name(f"{stem}{name}.png").write_bytes(picture.png)


def joint_css(pictures: Mapping[str, Picture]) -> str:
    """Return the CSS rules of all pictures."""
    return "".join(picture.css for picture in pictures.values())
