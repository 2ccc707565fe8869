"""Trajectories as views: by segment without a model, by token with one, with their weights and losses.

Not here: how a view is drawn (`envecho.tokens.view`, `envecho.reports`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray

from envecho.collector import paused_collector
from envecho.errors import DataError, TemplateError
from envecho.recipes.progress import working
from envecho.seam import ScoreRequest
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.tokens.selection import Selection
from envecho.tokens.view import TokenView, count_roles, count_sources, joint_texts, segment_view, token_view
from envecho.trajectory import SOURCES, Role, Source, Trajectory
from envecho.trajectory.store import read_trajectories

if TYPE_CHECKING:
    # Looking at text needs no torch, so what does is imported where a model is named.
    from envecho.objective import EchoConfig
    from envecho.recipes.episode_terms import EpisodeLosses, EpisodeTerms
    from envecho.seam import Engine
    from envecho.training.config import RunConfig

PREDICTOR: Final = "model"


@dataclass(frozen=True, kw_only=True)
class ShownView:
    """One view and its heading; `weights` `[token]` by term (`policy`, `env`), None without a model."""

    heading: str
    view: TokenView
    weights: Mapping[str, NDArray[np.float32]] | None = None

    @property
    def trained(self) -> NDArray[np.float32] | None:
        """What each token weighs in any term, `[token]`."""
        return None if self.weights is None else self.weights["policy"] + self.weights["env"]


@dataclass(frozen=True, kw_only=True)
class ShownEpisode:
    """A trajectory's views, one per branch and window; `terms` with a model, `losses` where they were asked for."""

    trajectory: Trajectory
    views: tuple[ShownView, ...]
    terms: EpisodeTerms | None = None
    losses: EpisodeLosses | None = None

    def notes(self) -> list[str]:
        """Return what the losses say, in sentences."""
        if self.terms is None or self.losses is None:
            return []
        from envecho.recipes.episode_terms import explain_losses

        return explain_losses(self.terms, self.losses, reward=self.trajectory.reward)

    def as_json(self, selection: Selection, *, characters: bool) -> dict[str, Any]:
        """Return everything that is known of it, views with their counts included."""
        views = [_view_json(item, selection, characters=characters) for item in self.views]
        if self.terms is None:
            return {"views": views}
        from envecho.recipes.episode_terms import weight_rows

        return {
            "views": views,
            "weights": [vars(row) for row in weight_rows(self.terms)],
            "policy_missing": self.terms.policy_missing,
            "env_excluded": self.terms.env_excluded,
            "advantage": self.terms.advantage,
            "losses": None if self.losses is None else self.losses.as_json(),
            "notes": self.notes(),
        }


def _view_json(item: ShownView, selection: Selection, *, characters: bool) -> dict[str, Any]:
    weights = item.weights or {}
    record = {
        **item.view.model_dump(mode="json"),
        "by_role": count_roles(item.view, characters=characters),
        "by_source": count_sources(item.view, characters=characters),
        **{f"{term}_weights": [float(w) for w in weights[term]] if weights else None for term in ("env", "policy")},
    }
    if selection.is_empty:
        return record
    selected = selection.apply(item.view)
    hits = [{"token": place, "ranges": list(ranges)} for place, ranges in selected.hits.items()]
    return record | {"num_hits": selected.num_hits, "hits": hits}


@final
class Viewer:
    """Turns trajectories into views.

    Args:
        model: whose tokens; None shows segments.
        config: whose objective weighs the tokens, and whose `[model]` is taken where `model` is None.
        shaded: score every token.
        losses: compute the losses of one forward pass; needs memory for gradients.
    """

    @paused_collector()
    def __init__(
        self, model: str | None, *, config: RunConfig | None = None, shaded: bool = False, losses: bool = False
    ) -> None:
        self.tokenizer: ChatTokenizer | None = None
        self._engine: Engine | None = None
        self._objective: EchoConfig | None = None
        self._losses = losses
        name = model if model is not None or config is None else config.model.name
        if name is None:
            return
        from envecho.engines.pretrained import resolve_model
        from envecho.objective import EchoConfig
        from envecho.recipes.model_facts import model_facts

        self._objective = config.objective if config is not None else EchoConfig(use_rl=losses)
        with working(f"loading {name}"):
            folder = resolve_model(name)
            self.tokenizer = ChatTokenizer.from_pretrained(folder)
            context = model_facts(folder).max_context_tokens
            self._max_tokens = min(context, (config.data.max_tokens if config else None) or context)
            if shaded or losses:
                from envecho.engines.local import LocalEngine

                self._engine = LocalEngine(folder, trains=losses, **_engine_options(config))

    @property
    def unit(self) -> str:
        """What a view's counts count."""
        return "characters" if self.tokenizer is None else "tokens"

    @property
    def needs_group(self) -> bool:
        """Whether the other rollouts of a group are asked for."""
        return self._objective is not None and self._objective.samples_matter

    def show(self, trajectory: Trajectory, mates: Sequence[Trajectory] = ()) -> ShownEpisode:
        """Return one view without a tokenizer, else one per branch and window.

        Raises:
            TemplateError: the model's chat template cannot render it.
        """
        if self.tokenizer is None or self._objective is None:
            view = ShownView(heading=trajectory.id, view=segment_view(trajectory))
            return ShownEpisode(trajectory=trajectory, views=(view,))
        from envecho.recipes.episode_terms import compile_episode, episode_losses

        terms = compile_episode(trajectory, mates, self.tokenizer, self._objective, max_tokens=self._max_tokens)
        losses = None
        if self._losses and self._engine is not None:
            with working(f"losses of {sum(map(len, terms.sequences)):,} tokens"):
                losses = episode_losses(terms, self._engine)
        views = tuple(self._views(trajectory, terms))
        return ShownEpisode(trajectory=trajectory, views=views, terms=terms, losses=losses)

    def _views(self, trajectory: Trajectory, terms: EpisodeTerms) -> Iterator[ShownView]:
        assert self.tokenizer is not None
        sequences = terms.sequences
        parts = zip(sequences, self._score(sequences), terms.weights("policy"), terms.weights("env"), strict=True)
        for sequence, nll, policy, env in parts:
            heading = trajectory.id
            if len(sequences) > 1:
                heading += f" · branch {sequence.branch}, window {sequence.window}"
            texts = joint_texts(self.tokenizer, sequence.token_ids)
            view = token_view(sequence, texts, nll=nll)
            yield ShownView(heading=heading, view=view, weights={"policy": policy, "env": env})

    def _score(self, sequences: Sequence[TokenizedTrajectory]) -> list[dict[str, NDArray[np.float32]]]:
        if self._engine is None:
            return [{} for _ in sequences]
        requests = [ScoreRequest(token_ids=s.token_ids, read=np.arange(len(s)) > 0) for s in sequences]
        with working(f"scoring {sum(len(s) for s in sequences):,} tokens"):
            return [{PREDICTOR: -scores.logprobs} for scores in self._engine.logprobs(requests)]

    def count(self, trajectory: Trajectory) -> Counter[Source]:
        """Return how many tokens (or characters) each source wrote, each counted where it is owned.

        Raises:
            TemplateError: the model's chat template cannot render it.
            DataError: its ids are not this model's.
        """
        if self.tokenizer is None:
            return Counter(count_sources(segment_view(trajectory), characters=True))
        owned = [s.sources[s.owned_from :] for s in tokenize_trajectory(trajectory, self.tokenizer)]
        codes, counts = np.unique(np.concatenate(owned), return_counts=True)
        return Counter({SOURCES[int(code)]: int(count) for code, count in zip(codes, counts, strict=True)})


def _engine_options(config: RunConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    model = config.model
    return {
        "device": model.device,
        "compute_dtype": model.compute_dtype,
        "tokens_per_micro_batch": model.tokens_per_micro_batch,
        "trainable": model.trainable,
    }


@dataclass(kw_only=True)
class Totals:
    """What a whole list comes to. `num_refused` are trajectories that the model's chat template cannot render."""

    num_in_file: int = 0
    num_trajectories: int = 0
    num_turns: int = 0
    num_hits: int = 0
    num_refused: int = 0
    by_source: Counter[Source] = field(default_factory=Counter[Source])

    def as_json(self, unit: str) -> dict[str, Any]:
        """Return plain values; roles and sources are counted in `unit`."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return numbers | {"unit": unit, "by_role": by_role(self.by_source), "by_source": in_order(self.by_source)}


def by_role(counts: Mapping[Source, int]) -> dict[str, int]:
    """Add up sources by RFC 010 role; every role is present."""
    return {role.value: sum(n for source, n in counts.items() if source.role is role) for role in Role}


def in_order(counts: Mapping[Source, int]) -> dict[str, int]:
    """Return counts by name, in the order of `Source`, without zeros."""
    return {source.value: counts[source] for source in SOURCES if counts.get(source)}


def list_rows(
    trajectories: Iterator[Trajectory], viewer: Viewer, selection: Selection, totals: Totals
) -> Iterator[dict[str, Any]]:
    """Yield one row per trajectory that holds what is selected; `totals` fills while they are read.

    A trajectory that the model cannot take has `refused`, the reason, in place of its counts.
    """
    for index, trajectory in enumerate(trajectories):
        totals.num_in_file += 1
        num_hits = None
        if not selection.is_empty:
            num_hits = selection.apply(segment_view(trajectory)).num_hits
            if not num_hits:
                continue
        totals.num_trajectories += 1
        totals.num_turns += len(trajectory.messages)
        totals.num_hits += num_hits or 0
        row: dict[str, Any] = {
            "index": index,
            "id": trajectory.id,
            "task_id": trajectory.task_id,
            "turns": len(trajectory.messages),
            "reward": trajectory.reward,
            "stop_reason": trajectory.stop_reason.value,
        }
        if num_hits is not None:
            row["hits"] = num_hits
        try:
            counts = viewer.count(trajectory)
        except (TemplateError, DataError) as error:
            totals.num_refused += 1
            yield row | {viewer.unit: None, "by_source": None, "refused": str(error)}
            continue
        totals.by_source.update(counts)
        yield row | {viewer.unit: by_role(counts), "by_source": in_order(counts)}


def find_episode(file: Path, index: int, *, with_group: bool) -> tuple[Trajectory, list[Trajectory]]:
    """Return the trajectory at a place, and the other rollouts of its group (none where they are not asked for).

    Raises:
        DataError: the file has no such place.
    """
    count = 0
    found: Trajectory | None = None
    for trajectory in read_trajectories(file):
        if count == index:
            found = trajectory
            break
        count += 1
    if found is None:
        raise DataError(f"expected a trajectory at index {index}, found {count} in all; the first is 0", file=file)
    if not with_group or found.group_id is None:
        return found, []
    others = enumerate(read_trajectories(file))
    return found, [other for place, other in others if place != index and other.group_id == found.group_id]


@dataclass(frozen=True, kw_only=True)
class OnPage:
    """What a page shows; `is_cut` says that there are more, `refused` why the model cannot take some of them."""

    episodes: tuple[ShownEpisode, ...]
    is_cut: bool = False
    refused: tuple[str, ...] = ()


def episodes_on_page(viewer: Viewer, file: Path, index: int | None, selection: Selection, *, most: int) -> OnPage:
    """Return the trajectory at a place, else the first `most` that hold what is selected.

    Raises:
        DataError: nothing in the file holds what is selected, or it has no such place.
        TemplateError: the model's chat template cannot render the one that was asked for, or any of the others.
    """
    if index is not None:
        return OnPage(episodes=(viewer.show(*find_episode(file, index, with_group=viewer.needs_group)),))
    chosen: list[Trajectory] = []
    for trajectory in read_trajectories(file):
        if selection.is_empty or selection.apply(segment_view(trajectory)).num_hits:
            chosen.append(trajectory)
        if len(chosen) > most:
            break
    if not chosen:
        raise DataError("no trajectory holds what --find and --source ask for", file=file)
    episodes: list[ShownEpisode] = []
    refused: list[str] = []
    for trajectory in chosen[:most]:
        try:
            episodes.append(viewer.show(trajectory))
        except (TemplateError, DataError) as error:
            refused.append(f"{trajectory.id}: {error}")
    if not episodes:
        raise TemplateError(f"the model can take none of them; the first is {refused[0]}")
    return OnPage(episodes=tuple(episodes), is_cut=len(chosen) > most, refused=tuple(refused))
