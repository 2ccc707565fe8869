"""Draw the diagrams of the documentation, each in a light and a dark scheme.

    python docs/diagrams/make_diagrams.py

writes the SVG files beside this script. They hold plain text and shapes: no script, no font, nothing that is fetched.
Not here: how pages show them (`docs/hooks/repository_links.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

WIDTH = 640
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """The colours of one scheme; a role is (fill, stroke, text)."""

    name: str
    paper: str
    ink: str
    faint: str
    line: str
    panel: str
    context: tuple[str, str, str]
    action: tuple[str, str, str]
    env_output: tuple[str, str, str]
    warning: tuple[str, str, str]


LIGHT = Scheme(
    name="",
    paper="#ffffff",
    ink="#1b2523",
    faint="#56635f",
    line="#9aa6a2",
    panel="#f4f7f6",
    context=("#e9ecec", "#b4bcba", "#4b5653"),
    action=("#d8e6fb", "#3f74c4", "#1c4484"),
    env_output=("#d3f0df", "#259163", "#0d5a3a"),
    warning=("#fbe8c6", "#c38b1f", "#74500a"),
)
DARK = Scheme(
    name="-dark",
    paper="#1a2322",
    ink="#e8eeec",
    faint="#a6b3af",
    line="#6d7a76",
    panel="#222d2b",
    context=("#313b39", "#5c6965", "#bcc7c3"),
    action=("#1f3a63", "#6ca2f2", "#d0e2ff"),
    env_output=("#174a35", "#4cc791", "#c4f5dd"),
    warning=("#4d3a14", "#dfae4b", "#ffe6b5"),
)


@dataclass(kw_only=True)
class Canvas:
    """SVG elements in drawing order, in one scheme."""

    scheme: Scheme
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 17,
        color: str = "",
        weight: int = 400,
        mono: bool = False,
    ) -> None:
        """Write one line whose left end is at x."""
        self._text(x, y, words, f'font-size="{size}" font-weight="{weight}"', color, mono)

    def middle(self, x: float, y: float, words: str, *, size: float = 17, color: str = "", mono: bool = False) -> None:
        """Write one line around x."""
        self._text(x, y, words, f'font-size="{size}" text-anchor="middle"', color, mono)

    def box(self, x: float, y: float, width: float, height: float, colors: tuple[str, str], radius: float = 6) -> None:
        """Draw a rounded rectangle of (fill, stroke)."""
        fill, stroke = colors
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}"'
            f' stroke="{stroke}" stroke-width="1.5"/>'
        )

    def line(self, points: list[tuple[float, float]], color: str) -> None:
        """Draw a line through the points."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')

    def arrow(self, points: list[tuple[float, float]], color: str = "") -> None:
        """Draw a line through the points with a head at its end, which must come down or up or from the left."""
        color = color or self.scheme.line
        self.line(points, color)
        (x0, y0), (x, y) = points[-2], points[-1]
        if x0 == x:
            back = -9 if y > y0 else 9
            head = f"{x - 5:g},{y + back:g} {x + 5:g},{y + back:g} {x:g},{y:g}"
        else:
            head = f"{x - 9:g},{y - 5:g} {x - 9:g},{y + 5:g} {x:g},{y:g}"
        self.parts.append(f'<polygon points="{head}" fill="{color}"/>')

    def write(self, path: Path) -> None:
        """Write the file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}"'
            f' height="{self.height}" role="img"><title>{escape(self.title)}</title>'
        )
        paper = f'<rect width="{WIDTH}" height="{self.height}" rx="8" fill="{self.scheme.paper}"/>'
        path.write_text("\n".join([head, paper, *self.parts, "</svg>"]) + "\n")

    def _text(self, x: float, y: float, words: str, attributes: str, color: str, mono: bool) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-family="{MONO if mono else SANS}" {attributes}'
            f' fill="{color or self.scheme.ink}" xml:space="preserve">{escape(words)}</text>'
        )


# The tokens are those of SmolLM2's tokenizer; runs of context are joined, as nothing distinguishes them here.
EPISODE: list[tuple[str, list[tuple[str, str]]]] = [
    ("context", [("system", "<|im_start|>system ⏎ You are in a bash shell. <|im_end|>")]),
    ("context", [("task", "<|im_start|>user ⏎ How many errors are there? <|im_end|>")]),
    ("action", [("", token) for token in ("g", "rep", " -", "c", " ER", "R", "OR", " app", ".", "log")]),
    ("env_output", [("", "3"), ("", "⏎"), *[("warning", t) for t in ("[", "exit", " status", " ", "0", "]")]]),
    ("action", [("", token) for token in ("head", " -", "1", " app", ".", "log")]),
    (
        "env_output",
        [("", t) for t in ("0", "9", ":", "1", "2", " ER", "R", "OR", " disk", " full", "⏎")]
        + [("warning", t) for t in ("[", "…", "]")],
    ),
]
SPEAKERS = ("system", "task", "the policy", "the world", "the policy", "the world")


def draw_episode(scheme: Scheme) -> Canvas:
    """One episode as a strip of tokens coloured by role, and the two losses pointing at theirs."""
    canvas = Canvas(scheme=scheme, height=556, title="One episode, token by token, and the two losses")
    _legend(canvas, 18)
    losses = {"action": (612.0, 528.0), "env_output": (588.0, 320.0)}  # x of the channel, x of the box that it ends in
    y = 58.0
    for speaker, (role, tokens) in zip(SPEAKERS, EPISODE, strict=True):
        canvas.text(16, y + 22, speaker, size=16, color=scheme.faint)
        x = 106.0
        for special, token in tokens:
            fill, stroke, ink = getattr(scheme, "warning" if special == "warning" else role)
            width = 9.2 * len(token) + 11 if role != "context" else 516
            canvas.box(x, y, width, 33, (fill, stroke), radius=4)
            canvas.text(x + 5.5, y + 22, token, size=15 if role != "context" else 14, color=ink, mono=True)
            if role in losses and special != "warning":
                canvas.box(x, y + 36.5, width, 3, (stroke, stroke), radius=0)
            x += width + 2.5
        if role in losses:
            color = getattr(scheme, role)[1]
            canvas.line([(106, y + 38), (losses[role][0], y + 38)], color)
        y += 48
    for role, (channel, box) in losses.items():
        first = next(k for k, (of_row, _) in enumerate(EPISODE) if of_row == role)
        turn = y + (14 if role == "action" else 4)
        points = [(channel, 58.0 + 48 * first + 38), (channel, turn), (box, turn), (box, y + 30)]
        canvas.arrow(points, getattr(scheme, role)[1])
    y += 32
    _loss(canvas, (16, y), "warning", ("nothing", "weight 0", "harness phrases:", "logged, not trained"))
    _loss(canvas, (224, y), "env_output", ("cross-entropy", "− λ · log p", "how surprised was", "it by the answer?"))
    _loss(canvas, (432, y), "action", ("GRPO", "− A · log p", "A: better than the", "rest of its group?"))
    canvas.text(16, y + 158, "Plain RL has the blue box alone: it masks the answers out.", size=17)
    return canvas


def _legend(canvas: Canvas, y: float) -> None:
    x = 16.0
    for role in ("context", "action", "env_output", "warning"):
        fill, stroke, _ = getattr(canvas.scheme, role)
        canvas.box(x, y, 17, 17, (fill, stroke), radius=3)
        canvas.text(x + 25, y + 14, role, size=16, mono=True)
        x += 9.8 * len(role) + 74


def _loss(canvas: Canvas, corner: tuple[float, float], role: str, words: tuple[str, str, str, str]) -> None:
    x, y = corner
    fill, stroke, ink = getattr(canvas.scheme, role)
    canvas.box(x, y, 192, 124, (fill, stroke), radius=8)
    canvas.text(x + 14, y + 29, words[0], size=18, weight=700, color=ink)
    canvas.text(x + 14, y + 58, words[1], size=18, color=ink, mono=True)
    canvas.text(x + 14, y + 87, words[2], size=15.5, color=ink)
    canvas.text(x + 14, y + 108, words[3], size=15.5, color=ink)


def draw_flow(scheme: Scheme) -> Canvas:
    """Roles, weights and engines: what each stage adds, from an episode to a gradient."""
    canvas = Canvas(scheme=scheme, height=676, title="Roles are facts, weights are choices, engines only sum")
    stages = (
        ("Roles are facts.", "Who wrote it? Recorded once, never guessed.", "Trajectory → TokenizedTrajectory"),
        ("Weights are choices.", "What is each token worth in this step?", "EchoConfig → WeightedBatch"),
        ("Engines only sum.", "Σ weight × loss. They divide by nothing.", "forward_backward, optim_step"),
    )
    tokens = (
        ("grep", "action"),
        ("app.log", "action"),
        ("3", "env_output"),
        ("⏎", "env_output"),
        ("[exit…]", "warning"),
    )
    for k, (title, line, names) in enumerate(stages):
        y = 16 + 224 * k
        canvas.box(16, y, 608, 196, (scheme.panel, scheme.line), radius=10)
        canvas.text(34, y + 34, title, size=20, weight=700)
        canvas.text(34, y + 62, line, size=17, color=scheme.faint)
        canvas.text(34, y + 180, names, size=15.5, color=scheme.faint, mono=True)
        if k < 2:
            canvas.arrow([(320, y + 198), (320, y + 222)])
    for k, (token, role) in enumerate(tokens):
        fill, stroke, ink = getattr(scheme, role)
        x = 34 + 118 * k
        canvas.box(x, 92, 108, 34, (fill, stroke), radius=5)
        canvas.middle(x + 54, 115, token, size=17, color=ink, mono=True)
        canvas.middle(x + 54, 149, role, size=16, color=ink, mono=True)
        policy, env = ("0.5", "0") if role == "action" else ("0", "0.025" if role == "env_output" else "0")
        canvas.box(x, 316, 108, 56, (fill, stroke), radius=5)
        canvas.middle(x + 54, 339, f"RL {policy}", size=16, color=ink, mono=True)
        canvas.middle(x + 54, 361, f"CE {env}", size=16, color=ink, mono=True)
    for k, engine in enumerate(("local", "torchrun", "TRL", "verl", "SkyRL", "Tinker")):
        x = 34 + 97 * k
        canvas.box(x, 542, 89, 44, (scheme.paper, scheme.line), radius=6)
        canvas.middle(x + 44.5, 570, engine, size=17)
    canvas.middle(320, 612, "the same batch, the same gradient", size=16.5, color=scheme.ink)
    return canvas


CONTROLS = (
    ("phrases of the harness", "warning tokens scored apart", "warning"),
    ("words already on the screen", "copiers, on the same tokens", "context"),
    ("lines of training, by heart", "boxes that nothing touched", "context"),
    ("how answers look in general", "another action in its place", "context"),
    ("chance: clocks, pids, hashes", "the same command, run twice", "context"),
    ("what this action does here", "what is left, with an interval", "env_output"),
)


def draw_controls(scheme: Scheme) -> Canvas:
    """A falling cross-entropy taken apart: what may be behind it, and what measures that part."""
    canvas = Canvas(scheme=scheme, height=480, title="What may be behind a falling cross-entropy, and what tells it")
    canvas.text(16, 34, "The cross-entropy fell. What does the model know?", size=19, weight=700)
    canvas.text(16, 66, "what may be behind it", size=16, color=scheme.faint)
    canvas.text(338, 66, "what tells it", size=16, color=scheme.faint)
    for k, (cause, control, role) in enumerate(CONTROLS):
        y = 80 + 65 * k
        fill, stroke, ink = getattr(scheme, role)
        canvas.box(16, y, 286, 50, (fill, stroke), radius=7)
        canvas.text(28, y + 31, cause, size=16.5, color=ink, weight=700 if role == "env_output" else 400)
        canvas.arrow([(306, y + 25), (332, y + 25)])
        canvas.box(338, y, 286, 50, (scheme.panel, scheme.line), radius=7)
        canvas.text(350, y + 31, control, size=16)
    return canvas


def write_logo(path: Path) -> None:
    """A word, and its echo."""
    arcs = "".join(
        f'<path d="M{x} {32 - r} A{r} {r} 0 0 1 {x} {32 + r}" stroke="#7fe0bb" stroke-width="6" opacity="{o}"/>'
        for x, r, o in ((27, 10, 1), (31, 17, 0.75), (35, 24, 0.5))
    )
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><title>envecho</title>'
        '<rect width="64" height="64" rx="14" fill="#14423a"/>'
        f'<circle cx="17" cy="32" r="7.5" fill="#9cc3ff"/><g fill="none" stroke-linecap="round">{arcs}</g></svg>\n'
    )


def main() -> None:
    """Write all diagrams."""
    folder = Path(__file__).parent
    for name, draw in (("episode", draw_episode), ("flow", draw_flow), ("controls", draw_controls)):
        for scheme in (LIGHT, DARK):
            draw(scheme).write(folder / f"{name}{scheme.name}.svg")
    write_logo(folder / "logo.svg")


if __name__ == "__main__":
    main()
