"""How results reach the terminal: wide where nobody looks at a screen, and never with a string taken for markup."""

from __future__ import annotations

from typing import Final

from rich.console import Console, RenderableType

PIPED_WIDTH: Final = 200


def print_parts(*parts: RenderableType, soft_wrap: bool = True) -> None:
    """Print on standard output; `soft_wrap` leaves long lines to the terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    for part in parts:
        console.print(part, soft_wrap=soft_wrap)
