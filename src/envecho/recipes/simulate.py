"""`envecho simulate` in batch: models speak in the world's place in stored episodes, and are scored.

Not here: the interactive game (`simulate_live`), and the page (`envecho.reports.simulation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from envecho.errors import DataError
from envecho.evaluation.simulation import ModelAnswers, ModelRole, Observation, Pair, PlanAhead, Simulation
from envecho.recipes.collect_episodes import CollectConfig
from envecho.recipes.progress import progress_bar, working
from envecho.recipes.simulate_choice import choose, plan_ahead_result
from envecho.recipes.simulate_episodes import Answered, Place, answer_places, simulate_episodes
from envecho.recipes.simulate_pairs import FoundPairs, find_pairs, world_of
from envecho.recipes.simulate_prompts import truth_nats
from envecho.recipes.simulate_scores import differences, model_result, score_guess
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """What to simulate: `models` by role, the first `max_answers` answers of an episode, `max_tokens` long at most.

    `max_pairs` bounds the pairs of plan-ahead (None: no plan-ahead); `world` is where other actions are carried out
    (None: the world that the episodes name, in its defaults). `source` and `command` are for people.
    """

    models: Mapping[ModelRole, str]
    source: str
    command: str
    max_tokens: int = 96
    max_answers: int | None = None
    max_pairs: int | None = None
    world: CollectConfig | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Spoken:
    """What one model said: its answers by episode, what the truth costs it, and its choices."""

    answered: Sequence[Sequence[Answered]]
    nats: Sequence[Mapping[int, tuple[float, int]]]
    tokenizer: ChatTokenizer


def simulate(config: SimulateConfig, trajectories: Sequence[Trajectory]) -> Simulation:
    """Let every model speak in the world's place, score it, and return what `simulation.json` holds.

    Raises:
        DataError: the episodes hold no answer of a world.
        EngineError: a model cannot be found or loaded.
        WorldError: plan-ahead needs the world, and its sandbox cannot start.
    """
    places = [answer_places(trajectory, most=config.max_answers) for trajectory in trajectories]
    num_places = sum(map(len, places))
    if not num_places:
        raise DataError(
            f"expected episodes in which a world answers, found none in {len(trajectories)} trajectories of "
            f"{config.source}"
        )
    found = _pairs(config, trajectories, places)
    spoken: dict[ModelRole, _Spoken] = {}
    pairs = [pair for _, pair in found.pairs]
    with progress_bar("simulating", total=len(config.models) * (num_places + len(pairs))) as advance:
        for role, name in config.models.items():
            engine, tokenizer = open_model(name, seed=config.seed)
            spoken[role] = _speak(engine, tokenizer, trajectories, places, config, advance)
            pairs = _chosen(engine, tokenizer, role, found, pairs, config.max_tokens)
            advance(len(pairs))
    observations = _observations(trajectories, places, spoken, config.max_tokens)
    return Simulation(
        models=dict(config.models),
        source=config.source,
        command=config.command,
        max_tokens=config.max_tokens,
        seed=config.seed,
        num_trajectories=len(trajectories),
        num_tasks=len({trajectory.task_id for trajectory in trajectories}),
        num_unknown_phrases=sum(not observation.phrases_known for observation in observations),
        num_failure_unknown=sum(observation.failed is None for observation in observations),
        num_long=sum(_is_long(observation) for observation in observations),
        observations=tuple(observations),
        results={role: model_result(observations, role, seed=config.seed) for role in config.models},
        differences=differences(observations, seed=config.seed) if "base" in config.models else {},
        plan_ahead=None if config.max_pairs is None else _plan_ahead(config, found, pairs),
    )


def open_model(name: str, *, seed: int) -> tuple[Engine, ChatTokenizer]:
    """Open a model for simulation, with its tokenizer."""
    from envecho.engines.distributed import open_local
    from envecho.engines.pretrained import resolve_model

    folder = resolve_model(name)
    return open_local(folder, trains=False, seed=seed), ChatTokenizer.from_pretrained(folder)


def _pairs(config: SimulateConfig, trajectories: Sequence[Trajectory], places: Sequence[Sequence[Place]]) -> FoundPairs:
    if config.max_pairs is None:
        return FoundPairs()
    named = world_of(trajectories)
    default = None if named is None else CollectConfig(world=named, policy="replay", num_episodes=1)
    with working("carrying out other actions"):
        return find_pairs(trajectories, places, world=config.world or default, most=config.max_pairs, seed=config.seed)


def _speak(
    engine: Engine,
    tokenizer: ChatTokenizer,
    trajectories: Sequence[Trajectory],
    places: Sequence[Sequence[Place]],
    config: SimulateConfig,
    advance: Callable[[int], None],
) -> _Spoken:
    answered = simulate_episodes(engine, trajectories, places, tokenizer, max_tokens=config.max_tokens, advance=advance)
    return _Spoken(answered=answered, nats=truth_nats(engine, trajectories, tokenizer), tokenizer=tokenizer)


def _chosen(
    engine: Engine,
    tokenizer: ChatTokenizer,
    role: ModelRole,
    found: FoundPairs,
    pairs: Sequence[Pair],
    max_tokens: int,
) -> list[Pair]:
    """Return the pairs with a model's choices added."""
    choices, left_out = choose(engine, found.pairs, tokenizer, max_tokens=max_tokens)
    for reason, count in left_out.items():
        found.left_out[f"{reason}_{role}"] += count
    return [
        pair if choice is None else pair.model_copy(update={"choices": {**pair.choices, role: choice}})
        for pair, choice in zip(pairs, choices, strict=True)
    ]


def _plan_ahead(config: SimulateConfig, found: FoundPairs, pairs: Sequence[Pair]) -> PlanAhead:
    return PlanAhead(
        pairs=tuple(pairs),
        results={role: plan_ahead_result(pairs, role, seed=config.seed) for role in config.models},
        left_out={reason: count for reason, count in sorted(found.left_out.items()) if count},
    )


def _observations(
    trajectories: Sequence[Trajectory],
    places: Sequence[Sequence[Place]],
    spoken: Mapping[ModelRole, _Spoken],
    max_tokens: int,
) -> list[Observation]:
    observations: list[Observation] = []
    for number, (trajectory, of_trajectory) in enumerate(zip(trajectories, places, strict=True)):
        for k, place in enumerate(of_trajectory):
            truth = place.truth
            answers: dict[ModelRole, ModelAnswers] = {
                role: _answers(said, number, k, place, max_tokens) for role, said in spoken.items()
            }
            observations.append(
                Observation(
                    trajectory_id=trajectory.id,
                    task_id=trajectory.task_id,
                    turn=place.turn,
                    number=place.number,
                    command=place.command,
                    text=truth.text,
                    output=truth.output,
                    harness=truth.harness,
                    phrases_known=truth.phrases_known,
                    failed=truth.failed,
                    answers=answers,
                )
            )
    return observations


def _answers(spoken: _Spoken, number: int, k: int, place: Place, max_tokens: int) -> ModelAnswers:
    answered = spoken.answered[number][k]
    nats, num_tokens = spoken.nats[number].get(place.turn, (0.0, 0))
    guided, free = (
        None if said is None else score_guess(said, place.truth, spoken.tokenizer, max_tokens=max_tokens)
        for said in (answered.guided, answered.free)
    )
    return ModelAnswers(nats=nats, num_tokens=num_tokens, guided=guided, free=free)


def _is_long(observation: Observation) -> bool:
    guesses = [guess for a in observation.answers.values() for guess in (a.guided, a.free) if guess is not None]
    return any(guess.exact is None for guess in guesses)
