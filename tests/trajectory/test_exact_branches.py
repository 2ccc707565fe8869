"""Exact ids of an episode: what a branch may hold, and that the store gives every one back."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from envecho.trajectory import (
    ExactBranch,
    Message,
    SampledTokens,
    Segment,
    Source,
    SpanKind,
    TokenSpan,
    Trajectory,
)
from envecho.trajectory.schema import SCHEMA, VERSION_KEY
from envecho.trajectory.store import read_trajectories, write_trajectories

ACTION = SampledTokens(token_ids=(5, 6), logprobs=(-0.5, -0.25))
MESSAGES = (
    Message(role="user", segments=(Segment(source=Source.TASK, text="go"),)),
    Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls"),), sampled=ACTION),
    Message(role="tool", segments=(Segment(source=Source.STDOUT, text="a.log"),)),
)


def branch(*spans: TokenSpan, ids: tuple[int, ...] = (1, 2, 5, 6, 8, 9), owned_from: int = 0) -> ExactBranch:
    return ExactBranch(token_ids=ids, spans=spans, owned_from=owned_from)


SPANS = (
    TokenSpan(end=2, kind=SpanKind.MIXED, turn=0, num_turns=1),
    TokenSpan(end=4, kind=SpanKind.SAMPLED, turn=1, num_turns=1),
    TokenSpan(end=6, kind=SpanKind.MIXED, turn=2, num_turns=1),
)


def test_spans_must_tile_the_ids():
    """Catches ids that nobody owns, and spans that overlap."""
    with pytest.raises(ValidationError, match="rising ends up to 6"):
        branch(*SPANS[:2])
    with pytest.raises(ValidationError, match="rising ends"):
        branch(SPANS[1], SPANS[0], SPANS[2])
    with pytest.raises(ValidationError, match="owned_from is 7"):
        branch(*SPANS, owned_from=7)
    with pytest.raises(ValidationError, match="is of one message"):
        TokenSpan(end=1, kind=SpanKind.SAMPLED, turn=1, num_turns=2)


def test_sampled_ids_must_be_those_of_their_message():
    """Catches an action that is trained with ids that nobody sampled."""
    Trajectory(id="a", task_id="t", messages=MESSAGES, branches=(branch(*SPANS),))
    with pytest.raises(ValidationError, match="the ids of turn 1 are not those of its message"):
        Trajectory(id="a", task_id="t", messages=MESSAGES, branches=(branch(*SPANS, ids=(1, 2, 5, 7, 8, 9)),))
    with pytest.raises(ValidationError, match="the trajectory has 2"):
        Trajectory(id="a", task_id="t", messages=MESSAGES[:2], branches=(branch(*SPANS),))


def test_other_messages_lose_the_ids_of_the_old_ones():
    """Catches a swapped command whose episode is still scored with the ids of the true one."""
    whole = Trajectory(id="a", task_id="t", messages=MESSAGES, branches=(branch(*SPANS),))
    assert whole.with_messages(MESSAGES[:2]).branches == ()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=4), st.data())
def test_any_branches_come_back_equal(tmp_path_factory, runs: list[list[int]], data: st.DataObject):
    """Catches an id, a span or an owner that the store loses."""
    kinds = st.sampled_from([SpanKind.SCAFFOLD, SpanKind.MIXED])
    ends = [sum(map(len, runs[: k + 1])) for k in range(len(runs))]
    spans = [TokenSpan(end=end, kind=data.draw(kinds), turn=0, num_turns=data.draw(st.integers(0, 3))) for end in ends]
    ids = tuple(token for run in runs for token in run)
    held = branch(*spans, ids=ids, owned_from=data.draw(st.integers(0, len(ids))))
    written = Trajectory(id="a", task_id="t", messages=MESSAGES, branches=(held, held))
    path = tmp_path_factory.mktemp("store") / "t.parquet"
    write_trajectories(path, [written])
    assert list(read_trajectories(path)) == [written]


def test_a_file_of_an_older_version_has_no_branches(tmp_path: Path):
    """Catches an upgrade that refuses the files that people have."""
    path = tmp_path / "t.parquet"
    write_trajectories(path, [Trajectory(id="a", task_id="t", messages=MESSAGES)])
    table = pq.read_table(path).drop_columns(["branches"])
    old = table.replace_schema_metadata({**(SCHEMA.metadata or {}), VERSION_KEY: b"2"})
    pq.write_table(old, path)
    (found,) = read_trajectories(path)
    assert found.messages == MESSAGES
    assert found.branches == ()
