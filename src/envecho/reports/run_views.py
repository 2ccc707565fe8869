"""Which trajectories a run's page shows: those that an evaluation scored, then the run's own rollouts.

Not here: how they are drawn (`token_views`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from envecho.reports.run_folder import RunFolder
from envecho.reports.token_views import MAX_VIEWS, PageView, ViewSection, view_section
from envecho.tokens.view import segment_view
from envecho.trajectory import Trajectory
from envecho.trajectory.store import count_trajectories, read_trajectories

MAX_FILES: Final = 50
"""Files of rollouts that a page reads: the first, the last, and others evenly between them."""


def run_views(run: RunFolder) -> ViewSection | None:
    """Return the trajectories of a run's page; None where the folder holds none.

    Rollouts (`trajectories/step-NNNNNN.parquet`) are shown by segment, as nobody scored their tokens.
    """
    scored = [PageView(view=view) for view in (run.evaluation.token_views if run.evaluation else ())]
    files = sorted((run.path / "trajectories").glob("step-*.parquet"))
    rollouts = _rollouts(files, MAX_VIEWS - len(scored))
    num_rollouts = count_trajectories(files) if files else 0
    return view_section([*scored, *rollouts], num_left_out=num_rollouts - len(rollouts))


def _rollouts(files: Sequence[Path], room: int) -> list[PageView]:
    if room <= 0 or not files:
        return []
    num_files = min(len(files), MAX_FILES, room)
    places = sorted({round(k * (len(files) - 1) / max(num_files - 1, 1)) for k in range(num_files)})
    per_file = room // len(places)
    views: list[PageView] = []
    for place in places:
        for number, trajectory in enumerate(read_trajectories([files[place]])):
            if number == per_file:
                break
            views.append(_rollout(files[place].stem, trajectory))
    return views


def _rollout(step: str, trajectory: Trajectory) -> PageView:
    reward = "not graded" if trajectory.reward is None else f"reward {trajectory.reward:g}"
    label = f"step {int(step.removeprefix('step-'))}, {trajectory.id}, {reward}"
    return PageView(view=segment_view(trajectory).model_copy(update={"trajectory_id": label}), unit="characters")
