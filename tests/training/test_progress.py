"""What a run shows while it goes on, in a terminal and in a log."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from envecho.training.live_view import HealthView, sparkline
from envecho.training.progress import show_progress


def row(step: int, **keys: Any) -> dict[str, Any]:
    base = {"kind": "train", "step": step, "loss": 0.5, "env_ce": 2.0, "tokens_per_second": 100.0}
    return base | {"solve_rate": step / 10, "env_ce_by_source": {"stdout": 2.0}} | keys


EVENTS = (
    {"kind": "start", "step": 0, "num_steps": 3},
    {
        "kind": "evaluation", "step": 0, "solve_rate": 0.25, "num_episodes": 8, "split": "validation", "env_ce": 3.0,
    },
    row(1),
    row(2, env_ce=None, solve_rate=None),
    {"kind": "alarm", "step": 2, "name": "collapse", "reason": "the env CE fell to 20 % of [its] first value"},
    row(3),
    {"kind": "checkpoint", "step": 3, "path": "x"},
)  # fmt: skip


def shown(*, terminal: bool) -> str:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False, color_system=None)
    with show_progress(console) as on_event:
        for event in EVENTS:
            on_event(event)
    return out.getvalue()


def test_a_log_has_evaluations_and_alarms_in_words():
    """Catches an alarm that is written to a file and told to nobody."""
    text = shown(terminal=False)
    assert "step 0: solved 25.0% of 8 validation episodes, held-out env CE 3.000 nats per token\n" in text
    assert "step 2: ALARM collapse: the env CE fell to 20 % of [its] first value\n" in text
    assert "step 3/3  solved 30%  loss 0.5000  env CE 2.000  100 tok/s" in text
    assert "checkpoint" not in text


def test_a_terminal_shows_the_health_of_the_last_step():
    """Catches a live view without its figures, and an alarm that the next redraw wipes away."""
    text = shown(terminal=True)
    assert "ALARM collapse" in text
    for words in ("distinct commands", "effective lambda", "env CE by source"):
        assert words in text


def test_a_sparkline_is_scaled_to_its_own_range():
    """Catches a flat line that divides by zero, and a value that does not exist drawn as the lowest."""
    assert sparkline([0.0, None, 0.5, 1.0]) == "▁ ▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None]) == ""


def test_a_run_on_stored_trajectories_has_no_table():
    """Catches a table of dashes where nothing is rolled out."""
    view = HealthView()
    view.add({"kind": "train", "step": 1, "env_ce": 1.0})
    assert view.__rich__() == ""
