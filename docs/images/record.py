"""Record a command in a real terminal and write it as one animated SVG, without script and without network.

    python docs/images/record.py docs/images/demo.svg -- envecho demo --out runs/demo --overwrite
    python docs/images/record.py docs/images/show.svg --still -- envecho show FILE --index 2          the end alone

The command runs in a pseudo-terminal; `pyte` plays what it writes on a screen, and every state of the screen that
lasted becomes a frame. Waiting is cut to `MAX_GAP`, and the whole to about `LENGTH` seconds; a clock in the corner says
what time it really was. Viewers who asked for no motion see the last frame.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import pty
import select
import shlex
import struct
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import pyte

CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, MARGIN = 8.0, 18, 13.3, 16
MIN_SECONDS, MAX_GAP, LAST_SECONDS, LENGTH = 0.25, 0.6, 8.0, 40.0
COLOURS = {
    "default": "#d5d9e0", "black": "#5c6370", "red": "#e06c75", "green": "#98c379", "brown": "#e5c07b",
    "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#d5d9e0",
}  # fmt: skip
BACKGROUND = "#1b1f27"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A state of the screen: its lines as SVG text, and when it began, in seconds of the recording."""

    lines: tuple[str, ...]
    start: float


def record(command: list[str], shown: str, columns: int, rows: int) -> tuple[list[Frame], int]:
    """Run the command in a pseudo-terminal, under the line `shown`; return the frames and its exit status."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    stream.feed(f"\x1b[1;32m$\x1b[0m {shown}\r\n".encode())
    frames = [Frame(lines=drawn(screen), start=0.0)]
    started = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(rows))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    while True:
        ready, _, _ = select.select([terminal], [], [], MIN_SECONDS)
        try:
            data = os.read(terminal, 65536) if ready else None
        except OSError:
            break
        if data == b"":
            break
        if data:
            stream.feed(data)
        now = time.monotonic() - started
        if now - frames[-1].start >= MIN_SECONDS and (lines := drawn(screen)) != frames[-1].lines:
            frames.append(Frame(lines=lines, start=now))
    frames.append(Frame(lines=drawn(screen), start=time.monotonic() - started))
    return frames, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def drawn(screen: pyte.Screen) -> tuple[str, ...]:
    """Return each line of the screen as SVG text spans."""
    lines: list[str] = []
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        spans: list[str] = []
        column = 0
        for style, run in itertools.groupby(cells, key=lambda c: (c.fg, c.bold or c.reverse, c.underscore)):
            text = "".join(cell.data for cell in run)
            if text.strip():
                spans.append(span(column, text, *style))
            column += len(text)
        lines.append("".join(spans))
    return tuple(lines)


def span(column: int, text: str, colour: str, bold: bool, underlined: bool) -> str:
    """Return one run of cells of one style; leading blanks become its place."""
    lead = len(text) - len(text.lstrip())
    text = text.strip()
    fill = COLOURS.get(colour.removeprefix("bright"), f"#{colour}" if len(colour) == 6 else COLOURS["default"])
    weight = ' font-weight="bold"' if bold else ""
    weight += ' text-decoration="underline"' if underlined else ""
    width = len(text) * CELL_WIDTH
    place = f'x="{(column + lead) * CELL_WIDTH:g}" textLength="{width:g}" lengthAdjust="spacingAndGlyphs"'
    return f'<tspan {place} fill="{fill}"{weight}>{escape(text)}</tspan>'


def timeline(frames: list[Frame]) -> tuple[list[Frame], list[float]]:
    """Cut waiting and thin the frames out; return those that stay and the seconds at which each begins."""
    gaps = [min(later.start - frame.start, MAX_GAP) for frame, later in itertools.pairwise(frames)]
    step = max(1, round(sum(gaps) / LENGTH))
    kept = [*frames[:-1:step], frames[-1]]
    starts = [0.0]
    for frame, later in itertools.pairwise(kept):
        starts.append(starts[-1] + min(max(later.start - frame.start, 0.1), MAX_GAP))
    return kept, starts


def svg(frames: list[Frame], *, title: str, columns: int, num_lines: int) -> str:
    """Return the frames as a film strip that a CSS animation moves behind a window."""
    kept, starts = timeline(frames)
    total = starts[-1] + LAST_SECONDS
    used = min(max(row for frame in kept for row, line in enumerate(frame.lines) if line) + 1, num_lines)
    width, height = columns * CELL_WIDTH + 2 * MARGIN, (used + 1) * CELL_HEIGHT + 2 * MARGIN + 24
    numbers: dict[str, int] = {}
    strips: list[str] = []
    for place, frame in enumerate(kept):
        uses: list[str] = []
        for row, line in enumerate(frame.lines[:used]):
            if line:
                number = numbers.setdefault(line, len(numbers))
                uses.append(f'<use href="#l{number}" y="{(row + 1) * CELL_HEIGHT}"/>')
        if len(kept) > 1:
            clock = f"{int(frame.start) // 60}:{int(frame.start) % 60:02d}"
            at = f'x="{columns * CELL_WIDTH:g}" y="{(used + 1) * CELL_HEIGHT + 6}"'
            uses.append(f'<text {at} text-anchor="end" fill="#7f8794">{clock}</text>')
        strips.append(f'<g transform="translate({place * width:g})">{"".join(uses)}</g>')
    moves = [f"{100 * s / total:.3f}%{{transform:translateX({-p * width:g}px)}}" for p, s in enumerate(starts)]
    last = -(len(kept) - 1) * width
    style = (
        f"text{{font:{FONT_SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"white-space:pre}}.film{{animation:play {total:.2f}s steps(1,end) infinite}}"
        f"@keyframes play{{{''.join(moves)}100%{{transform:translateX({last:g}px)}}}}"
        f"@media (prefers-reduced-motion:reduce){{.film{{animation:none;transform:translateX({last:g}px)}}}}"
    )
    lines = "".join(f'<text id="l{number}">{line}</text>' for line, number in numbers.items())
    dots = "".join(f'<circle cx="{MARGIN + 6 + 18 * n}" cy="14" r="5" fill="#454c59"/>' for n in range(3))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n<defs>{lines}</defs>\n"
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>{dots}\n'
        f'<svg x="{MARGIN}" y="{MARGIN + 12}" width="{columns * CELL_WIDTH:g}" height="{height - MARGIN - 12:g}">'
        f'<g class="film">\n' + "\n".join(strips) + "\n</g></svg>\n</svg>\n"
    )


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--rows", type=int, default=46)
    parser.add_argument("--shown-as", help="the command that the recording shows, where it differs")
    parser.add_argument("--lines", type=int, default=200, help="how many lines of the screen are shown, from its top")
    parser.add_argument("--still", action="store_true", help="the last state of the screen, without motion")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    title = arguments.shown_as or shlex.join(arguments.command)
    frames, status = record(arguments.command, title, arguments.columns, arguments.rows)
    if status:
        sys.exit(f"the command ended with {status}; nothing is written")
    frames = frames[-1:] if arguments.still else frames
    drawing = svg(frames, title=title, columns=arguments.columns, num_lines=arguments.lines)
    arguments.out.write_text(drawing, encoding="utf-8")
    print(f"{arguments.out}: {len(frames)} frames, {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
