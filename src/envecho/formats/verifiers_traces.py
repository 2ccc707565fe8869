"""Traces of verifiers v1 and prime-rl: one episode per line, `{"traces": [{"nodes": [...], "rewards": ...}]}`.

A node is a message with the ids that it adds, which of them were sampled (`mask`) and which are its body
(`is_content`): the best source there is, nothing is guessed. Leaves are branches. On a later branch a history that was
rendered anew holds old answers as nodes that were not sampled: all up to the last of them is a copy, hence context.
Not here: results of verifiers' older environments (`messages`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.exact import with_ids
from envecho.formats.reading import Document
from envecho.formats.token_fields import is_number, known_logprobs
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import ExactBranch, SampledTokens, SpanKind, StopReason, TokenSpan, Trajectory

NAME = "verifiers-v1"
LOGPROB_DECIMALS = 4
"""Files hold log-probs rounded to this many decimals since verifiers 0.4.0."""


def recognises(data: Any) -> bool:
    """Whether a document is an episode with traces of nodes, or one such trace."""
    if not isinstance(data, Mapping):
        return False
    traces = data.get("traces")
    if isinstance(traces, list):
        return bool(traces) and all(isinstance(t, Mapping) and isinstance(t.get("nodes"), list) for t in traces)
    nodes = data.get("nodes")
    return isinstance(nodes, list) and bool(nodes) and all(isinstance(n, Mapping) and "message" in n for n in nodes)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the trace of each agent of the episode.

    Raises:
        DataError: a node's lists have different lengths, or its parent is not before it.
    """
    data = document.data
    traces = data.get("traces") or [data]
    for place, trace in enumerate(traces):
        only = len(traces) == 1
        where = number if only else (number or 0) * 1000 + place
        yield _trace(document, data, trace, options, where)


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A node whose lists were checked: `sampled` are its ids `[start, end)` that the model wrote."""

    parent: int | None
    turn: Turn
    token_ids: tuple[int, ...]
    is_content: tuple[bool, ...]
    sampled: tuple[int, int] | None
    logprobs: tuple[float, ...] | None


@dataclass(kw_only=True)
class _Graph:
    """Turns and branches of a trace, as its leaves are walked."""

    nodes: list[_Node]
    turns: list[Turn] = field(default_factory=list[Turn])
    turn_of_node: dict[int, int] = field(default_factory=dict[int, int])
    sampled: dict[int, SampledTokens] = field(default_factory=dict[int, SampledTokens])
    branches: list[ExactBranch] = field(default_factory=list[ExactBranch])

    def walk(self, temperature: float | None) -> None:
        parents = {node.parent for node in self.nodes}
        for leaf in range(len(self.nodes)):
            if leaf not in parents:
                self._leaf(self._path(leaf), temperature)

    def _path(self, leaf: int) -> list[int]:
        path: list[int] = []
        at: int | None = leaf
        while at is not None:
            path.append(at)
            at = self.nodes[at].parent
        return path[::-1]

    def _leaf(self, path: list[int], temperature: float | None) -> None:
        is_first = not self.turns
        new = [node for node in path if node not in self.turn_of_node]
        answers = [k for k, node in enumerate(new) if self._is_copied_answer(node)]
        copied = set() if is_first else set(new[: answers[-1] + 1] if answers else ())
        ids: list[int] = []
        spans: list[TokenSpan] = []
        owned_from: int | None = None
        for node in path:
            if node in new and owned_from is None:
                owned_from = len(ids)
            if node in new and node not in copied:
                self.turn_of_node[node] = len(self.turns)
                self.turns.append(self.nodes[node].turn)
            turn = self.turn_of_node.get(node, -1)
            spans += self._spans(self.nodes[node], turn, start=len(ids), temperature=temperature)
            ids += self.nodes[node].token_ids
        if ids:
            owned = owned_from if owned_from is not None else len(ids)
            self.branches.append(ExactBranch(token_ids=tuple(ids), spans=tuple(spans), owned_from=owned))

    def _is_copied_answer(self, node: int) -> bool:
        return self.nodes[node].turn.kind == "assistant" and self.nodes[node].sampled is None

    def _spans(self, node: _Node, turn: int, *, start: int, temperature: float | None) -> list[TokenSpan]:
        """The spans of a node's ids: what was sampled, what is its body, and scaffold."""
        num = len(node.token_ids)
        if not num:
            return []
        if turn < 0:
            return [TokenSpan(end=start + num, kind=SpanKind.SCAFFOLD)]
        if node.sampled is None and not node.is_content:
            return [TokenSpan(end=start + num, kind=SpanKind.MIXED, turn=turn, num_turns=1)]
        first, last = node.sampled or _body(node.is_content)
        spans: list[TokenSpan] = []
        if first > 0:
            spans.append(TokenSpan(end=start + first, kind=SpanKind.SCAFFOLD, turn=turn))
        if last > first and node.sampled is not None:
            spans.append(TokenSpan(end=start + last, kind=SpanKind.SAMPLED, turn=turn, num_turns=1))
            token_ids = node.token_ids[first:last]
            self.sampled[turn] = SampledTokens(token_ids=token_ids, logprobs=node.logprobs, temperature=temperature)
        elif last > first:
            whole = all(node.is_content[first:last])
            kind = SpanKind.CONTENT if whole else SpanKind.MIXED
            spans.append(TokenSpan(end=start + last, kind=kind, turn=turn, num_turns=1))
        if last < num:
            spans.append(TokenSpan(end=start + num, kind=SpanKind.SCAFFOLD, turn=turn))
        return spans


def _body(is_content: Sequence[bool]) -> tuple[int, int]:
    places = [k for k, body in enumerate(is_content) if body]
    return (places[0], places[-1] + 1) if places else (0, 0)


def _node(place: int, node: Any, *, is_policy: bool) -> _Node:
    if not isinstance(node, Mapping):
        raise DataError(f"expected a node with a message, found {type(node).__name__}", turn=place)
    parent = node.get("parent")
    if parent is not None and (not isinstance(parent, int) or isinstance(parent, bool) or not 0 <= parent < place):
        raise DataError(f"expected a parent before node {place}, found {parent!r:.40}", turn=place)
    turns = turns_of([node.get("message")])
    if len(turns) != 1:
        raise DataError(f"expected one message in a node, found {len(turns)}", turn=place)
    ids = _list(node, "token_ids", int, place)
    if ids and min(ids) < 0:
        raise DataError(f"token_ids: expected ids from 0 on, found {min(ids)}", turn=place)
    mask, is_content = _list(node, "mask", bool, place), _list(node, "is_content", bool, place)
    for name, values in (("mask", mask), ("is_content", is_content)):
        if values and len(values) != len(ids):
            raise DataError(f"{name}: expected one entry for each of {len(ids)} ids, found {len(values)}", turn=place)
    runs = [(key, len(list(run))) for key, run in groupby(mask)]
    sampled: tuple[int, int] | None = None
    if any(mask) and is_policy:
        first = mask.index(True)
        if sum(key for key, _ in runs) > 1:
            raise DataError("mask: expected one run of sampled ids in a node, found several", turn=place)
        sampled = (first, first + sum(mask))
    # A record says of every node whether a model wrote it; relays without ids have that word alone.
    was_sampled = is_policy and (sampled is not None or (not ids and node.get("sampled") is True))
    logprobs = _list(node, "logprobs", float, place)
    return _Node(
        parent=parent,
        turn=replace(turns[0], sampled=was_sampled),
        token_ids=tuple(ids),
        is_content=tuple(is_content),
        sampled=sampled,
        logprobs=known_logprobs(logprobs, sum(mask)) if sampled else None,
    )


def _list(node: Mapping[str, Any], name: str, kind: type, place: int) -> list[Any]:
    values = node.get(name)
    if values is None:
        return []
    allowed = (int, float) if kind is float else kind
    fits = isinstance(values, list) and all(
        isinstance(v, allowed) and (kind is bool or not isinstance(v, bool)) for v in values
    )
    if not fits:
        raise DataError(f"{name}: expected a list of {kind.__name__}, found {values!r:.60}", turn=place)
    return list(values)


def _trace(
    document: Document, episode: Mapping[str, Any], trace: Mapping[str, Any], options: ImportOptions, number: int | None
) -> Trajectory:
    agent = trace["agent"] if isinstance(trace.get("agent"), Mapping) else {}
    is_policy = agent.get("trainable") is not False
    graph = _Graph(nodes=[_node(k, node, is_policy=is_policy) for k, node in enumerate(trace["nodes"])])
    graph.walk(_temperature(agent))
    rewrites = trace.get("response_rewrites")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=_task(episode, trace),
        reward=_reward(trace.get("rewards")),
        world_speaks_as_user=True,
        action_provenance="proved" if is_policy else "not_sampled",
        action_text_lossy=bool(rewrites),
        tools=tuple(dict(tool) for tool in trace.get("tools") or () if isinstance(tool, Mapping)),
        facts={
            "format_version": str(trace.get("version", 1)),
            "trace_id": trace.get("id"),
            "agent": agent.get("name"),
            "stop_condition": trace.get("stop_condition"),
            "logprob_decimals": LOGPROB_DECIMALS if any(t.logprobs for t in graph.sampled.values()) else None,
            "num_nodes_without_body": sum(
                bool(n.token_ids) and not n.is_content and n.sampled is None for n in graph.nodes
            ),
            "num_response_rewrites": len(rewrites) if isinstance(rewrites, list) else 0,
        },
    )
    record = with_ids(assemble(graph.turns, origin, options), graph.branches, graph.sampled, options)
    group = episode.get("group")
    group_id = group.get("id") if isinstance(group, Mapping) else group
    return record.model_copy(
        update={"group_id": None if group_id is None else str(group_id), "stop_reason": _stop_reason(trace)}
    )


def _temperature(agent: Mapping[str, Any]) -> float | None:
    config = agent.get("config")
    sampling = config.get("sampling") if isinstance(config, Mapping) else None
    value: Any = sampling.get("temperature") if isinstance(sampling, Mapping) else None
    return float(value) if is_number(value) else None


def _task(episode: Mapping[str, Any], trace: Mapping[str, Any]) -> str | None:
    """The task's own id, name or number behind the environment's name."""
    task = trace.get("task") or episode.get("task")
    data = task.get("data") if isinstance(task, Mapping) else None
    env = episode.get("env")
    name = env.get("id") if isinstance(env, Mapping) else None
    known = next((data[k] for k in ("id", "name", "idx") if data.get(k) is not None), None) if data else None
    return None if known is None else f"{name}/{known}" if name else str(known)


def _reward(rewards: Any) -> float | None:
    """The weighted sum of the rewards that were given; None where scoring did not run."""
    if not isinstance(rewards, Mapping) or not rewards:
        return None
    total = 0.0
    for name, reward in rewards.items():
        score = reward.get("score") if isinstance(reward, Mapping) else reward
        weight = reward.get("weight", 1.0) if isinstance(reward, Mapping) else 1.0
        if score is None:
            return None
        if not isinstance(score, int | float) or not isinstance(weight, int | float):
            raise DataError(f"rewards.{name}: expected a score and a weight, found {reward!r:.60}")
        total += float(score) * float(weight)
    return total


def _stop_reason(trace: Mapping[str, Any]) -> StopReason:
    condition = str(trace.get("stop_condition") or "")
    if trace.get("is_timeout"):
        return StopReason.TIMEOUT
    if trace.get("errors") and not trace.get("ok"):
        return StopReason.WORLD_ERROR
    if "turns" in condition:
        return StopReason.MAX_TURNS
    if "token" in condition or "length" in condition or "context" in condition:
        return StopReason.MAX_TOKENS
    return StopReason.COMPLETED if trace.get("is_completed") else StopReason.UNKNOWN
