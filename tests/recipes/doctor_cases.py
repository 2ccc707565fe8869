"""One healthy episode, and for each finding of the doctor a file that has exactly this ailment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from envecho.objective import EchoConfig
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.training.config import DataConfig, LoopConfig, RunConfig
from envecho.trajectory import (
    ExactBranch,
    Message,
    SampledTokens,
    Segment,
    Source,
    SpanKind,
    TokenSpan,
    ToolCall,
    Trajectory,
)

OUTPUT = "disk full on node a\ndisk full on node b\nfan of node c stopped\nthree errors in the whole log\n"
LONG = "".join(f"line {n} of a file that somebody wrote by hand\n" for n in range(60))
KEY = "ghp_" + "".join(chr(ord("A") + k % 26) + str(k % 10) for k in range(18))
IMPORTED = {"format": "messages", "action_provenance": "proved", "num_parts_dropped": 0}


def segments(*parts: tuple[Source, str]) -> tuple[Segment, ...]:
    return tuple(Segment(source=source, text=text) for source, text in parts)


def user(*parts: tuple[Source, str]) -> Message:
    return Message(role="user", segments=segments(*parts))


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Builds episodes whose answers have exact ids, log-probs and a temperature."""

    tokenizer: ChatTokenizer

    def answer(self, text: str, *, logprobs: bool = True, temperature: float | None = 1.0) -> Message:
        ids = (*self.tokenizer.encode_text(text)[0], self.tokenizer.end_of_turn_id)
        sampled = SampledTokens(
            token_ids=ids,
            logprobs=tuple(-0.5 - k / 100 for k in range(len(ids))) if logprobs else None,
            temperature=temperature,
        )
        return Message(role="assistant", segments=segments((Source.POLICY, text)), sampled=sampled)

    def episode(self, name: str = "sick", *messages: Message, **changes: Any) -> Trajectory:
        """A healthy episode, with other messages behind its task where they are given."""
        opening = (
            Message(role="system", segments=segments((Source.SYSTEM, "You are at a shell."))),
            user((Source.TASK, f"How many errors does {name} have?")),
        )
        observed = user((Source.STDOUT, OUTPUT), (Source.STATUS, "[exit status 0]"))
        rest = messages or (self.answer(f"grep -c ERROR {name}"), observed, self.answer("answer: 3"))
        fields: dict[str, Any] = {"task_id": "count", "group_id": "g", "reward": 1.0}
        return Trajectory(id=name, messages=(*opening, *rest), **(fields | changes))

    def observing(self, *parts: tuple[Source, str], name: str = "sick", **changes: Any) -> Trajectory:
        """An episode in which one command is answered by these segments."""
        return self.episode(name, self.answer(f"cat {name}"), user(*parts), **changes)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file, how it is looked at, and what is found beside the ailment that it is about."""

    trajectories: Callable[[Builder], Sequence[Trajectory]]
    beside: frozenset[str] = frozenset()
    objective: EchoConfig | None = None
    max_tokens: int | None = None
    turn: int | None = None

    def config(self, model: str) -> RunConfig | None:
        if self.objective is None:
            return None
        run, data = LoopConfig(steps=10, trajectories_per_step=2), DataConfig(train=("file.parquet",))
        return RunConfig.from_document(
            {
                "model": {"name": model, "device": "cpu", "compute_dtype": "float32"},
                "data": data.model_dump(exclude_none=True),
                "objective": self.objective.model_dump(exclude_none=True),
                "run": run.model_dump(),
            }
        )


def _one(build: Callable[[Builder], Trajectory], **options: Any) -> Case:
    """The sick episode behind a healthy one."""
    return Case(trajectories=lambda b: [b.episode("healthy"), build(b)], **options)


def _imported(builder: Builder, *parts: tuple[Source, str], name: str = "sick", **facts: Any) -> Trajectory:
    shown = parts or ((Source.STDOUT, OUTPUT), (Source.STATUS, "[exit status 0]"))
    return builder.observing(*shown, name=name, metadata={"import": IMPORTED | facts})


def _two_owners(builder: Builder) -> Trajectory:
    """Two branches that show one observation, and both say that it is theirs."""
    episode = builder.observing((Source.STDOUT, OUTPUT))
    (whole,) = tokenize_trajectory(episode, builder.tokenizer)
    ids = tuple(int(token) for token in whole.token_ids)
    (start,) = [k for k in range(len(ids)) if ids[k : k + len(_sampled(episode))] == _sampled(episode)]
    end = start + len(_sampled(episode))
    spans = (
        TokenSpan(end=start, kind=SpanKind.MIXED, turn=0, num_turns=2),
        TokenSpan(end=end, kind=SpanKind.SAMPLED, turn=2, num_turns=1),
        TokenSpan(end=len(ids), kind=SpanKind.MIXED, turn=3, num_turns=1),
    )
    first = ExactBranch(token_ids=ids, spans=spans)
    second = ExactBranch(token_ids=ids, spans=spans, owned_from=end)
    return Trajectory.model_validate(episode.model_dump() | {"branches": [first.model_dump(), second.model_dump()]})


def _sampled(episode: Trajectory) -> tuple[int, ...]:
    sampled = episode.messages[2].sampled
    assert sampled is not None
    return sampled.token_ids


def _with_call(builder: Builder) -> Trajectory:
    call = Message(role="assistant", segments=(), tool_calls=(ToolCall(name="bash", arguments='{"command": "ls"}'),))
    return builder.episode("sick", call, user((Source.STDOUT, OUTPUT)))


def _unsampled(builder: Builder) -> Trajectory:
    answer = Message(role="assistant", segments=segments((Source.POLICY, "cat sick")))
    return builder.episode("sick", answer, user((Source.STDOUT, OUTPUT)))


def _grown(builder: Builder) -> list[Trajectory]:
    short = builder.episode("healthy")
    longer = short.model_copy(update={"id": "sick", "messages": (*short.messages, user((Source.STDOUT, "bye\n")))})
    return [short, longer]


def _tools(builder: Builder) -> Trajectory:
    parts = (Segment(source=Source.TOOL_RESULT, text=text, tool=text) for text in ("a", "b"))
    both = Message(role="user", segments=tuple(parts))
    return builder.episode("sick", builder.answer("a and b"), both)


def _labelled(builder: Builder) -> Trajectory:
    return builder.observing(
        (Source.STDOUT, "the key\n"), (Source.REDACTED, "[redacted:api-key]"), (Source.STDOUT, "\nok\n")
    )


VERDICT = "The grader's script found nothing wrong."

CASES: dict[str, Case] = {
    "not_renderable": _one(_with_call, beside=frozenset({"no_sampling_logprobs"})),
    "no_target_in_file": Case(
        trajectories=lambda b: [b.episode("sick", b.answer("hello"))], beside=frozenset({"no_observation"})
    ),
    "prompt_selected": _one(
        lambda b: b.episode("sick", user((Source.STDOUT, "early\n")), b.answer("ls"), user((Source.STDOUT, OUTPUT))),
        turn=2,
    ),
    "duplicate_over_branches": _one(_two_owners, turn=3),
    "grader_in_targets": _one(
        lambda b: b.observing((Source.STDOUT, f"{OUTPUT}{VERDICT}\n"), (Source.GRADER, VERDICT)),
        beside=frozenset({"grader_present"}),
        turn=3,
    ),
    "duplicate_ids": Case(
        trajectories=lambda b: [b.episode("sick"), b.observing((Source.STDOUT, "other words\n"), name="sick")]
    ),
    "policy_gradient_refused": _one(
        lambda b: b.episode("sick", reward=None),
        objective=EchoConfig(),
        beside=frozenset({"no_reward_or_group"}),
    ),
    "objective_refused": _one(_tools, objective=EchoConfig(use_rl=False, tool_coeffs={"a": 0.5})),
    "secrets_left": _one(lambda b: b.observing((Source.STDOUT, f"token = {KEY}\n")), turn=3),
    "empty_mask": _one(lambda b: b.observing((Source.STDOUT, "\x04")), turn=3),
    "overlong": _one(lambda b: b.observing((Source.STDOUT, LONG)), max_tokens=256),
    "cut_observations": _one(lambda b: b.observing((Source.STDOUT, ("word " * 200)[:1000])), turn=3),
    "grader_like_text": _one(lambda b: b.observing((Source.STDOUT, '{"done": true, "reward": 0.5}\n')), turn=3),
    "grader_trained": _one(
        lambda b: b.observing((Source.STDOUT, OUTPUT), (Source.GRADER, VERDICT)),
        objective=EchoConfig(use_rl=False, grader_is_target=True),
        beside=frozenset({"grader_present"}),
        turn=3,
    ),
    "repeated_lines": Case(
        trajectories=lambda b: [
            _imported(b, (Source.STDOUT, f"{name} is here\nYou have 5 steps left.\n"), name=name)
            for name in ("one", "two", "three")
        ],
        beside=frozenset({"unattributed_text"}),
    ),
    "duplicate_trajectories": Case(
        trajectories=lambda b: [b.episode("healthy"), b.episode("healthy").model_copy(update={"id": "sick"})]
    ),
    "growing_rows": Case(trajectories=_grown, turn=4),
    "boilerplate": _one(lambda b: b.observing((Source.STDOUT, "ok\n"), (Source.STATUS, "[status] " * 30)), turn=None),
    "volatile_text": _one(
        lambda b: b.observing((Source.STDOUT, "2026-01-02T03:04:05Z pid 4711 at 0x7ffdeadbeef0\n")), turn=3
    ),
    "no_observation": _one(lambda b: b.episode("sick", b.answer("hello"))),
    "straddling_tokens": _one(lambda b: b.observing((Source.STDOUT, "this is an err"), (Source.STATUS, "or")), turn=3),
    "unattributed_text": _one(lambda b: _imported(b, (Source.STDOUT, OUTPUT)), turn=3),
    "truncated_observations": _one(
        lambda b: b.observing((Source.STDOUT, OUTPUT), (Source.TRUNCATION_NOTICE, "[the rest was cut]")), turn=3
    ),
    "grader_present": _one(lambda b: b.observing((Source.STDOUT, OUTPUT), (Source.GRADER, VERDICT)), turn=3),
    "redacted_text": _one(_labelled, turn=3),
    "no_sampling_logprobs": _one(_unsampled, turn=2),
    "temperature_unknown": Case(
        trajectories=lambda b: [b.episode("sick", b.answer("ls", temperature=None), user((Source.STDOUT, OUTPUT)))]
    ),
    "no_reward_or_group": _one(lambda b: b.episode("sick", group_id=None)),
    "action_text_lossy": _one(lambda b: _imported(b, action_text_lossy=True)),
    "actions_not_proved": _one(lambda b: _imported(b, action_provenance="assumed")),
    "environment_simulated": _one(lambda b: _imported(b, environment_simulated=True)),
    "context_incomplete": _one(lambda b: _imported(b, context_incomplete=True)),
    "parts_dropped": _one(lambda b: _imported(b, num_parts_dropped=2)),
}
"""Finding -> a file that has this ailment and, but for what is said to come with it, no other."""
