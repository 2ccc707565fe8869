"""Rows in the hands of the trainers that they are for; each test skips where its trainer is not installed."""

from __future__ import annotations

import importlib
import json
import typing
import warnings
from collections import Counter
from typing import Any

import pytest
from conversations import message

from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.tokens.trainers import skyrl, tinker, verl
from envecho.trajectory import SampledTokens, Source, Trajectory


@pytest.fixture
def sequence(smol: ChatTokenizer) -> TokenizedTrajectory:
    ids = tuple(smol.hf.encode("ls", add_special_tokens=False))
    sampled = SampledTokens(token_ids=ids, logprobs=(-0.25,) * len(ids), temperature=1.0)
    said = message("assistant", (Source.POLICY, "ls")).model_copy(update={"sampled": sampled})
    messages = (message("user", (Source.TASK, "Look.")), said, message("user", (Source.STDOUT, "a.log\n")))
    (found,) = tokenize_trajectory(Trajectory(id="e", task_id="t", messages=messages, reward=1.0), smol)
    return found


def module(name: str) -> Any:
    """Import it, or skip; trainers fail in many ways where a part of their stack is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception as error:
            pytest.skip(f"{name} cannot be imported here: {type(error).__name__}: {error}")


def test_tinkers_datum_takes_both_terms(sequence: TokenizedTrajectory):
    """Catches tensors whose dtype or shape the service refuses, and fields that its strict model forbids."""
    wire = module("tinker.types._pydantic_types.datum")
    row = json.loads(json.dumps(tinker.row(sequence, Counter())))
    for term, keys in (("env", {"target_tokens", "weights"}), ("policy", {"target_tokens", "logprobs", "mask"})):
        datum = wire.Datum.model_validate(row[term])
        assert set(datum.loss_fn_inputs) == keys
        assert all(tensor.shape == [datum.model_input.length] for tensor in datum.loss_fn_inputs.values())
        assert datum.loss_fn_inputs["target_tokens"].dtype == "int64"


def test_verls_agent_loop_output_takes_the_row(sequence: TokenizedTrajectory):
    """Catches a field that verl does not know, and masks that are not as long as the response."""
    loop = module("verl.experimental.agent_loop.agent_loop")
    row = json.loads(json.dumps(verl.row(sequence, Counter())))
    assert set(row) <= set(loop.AgentLoopOutput.model_fields)
    tensors = loop.AgentLoopOutput(**row).as_dict()
    assert tensors["response_mask"].tolist() == row["response_mask"]
    assert tensors["rollout_log_probs"].shape == tensors["responses"].shape


def test_rows_of_skyrl_become_a_generator_output(sequence: TokenizedTrajectory):
    """Catches a list that SkyRL knows under another name; what ECHO's code adds begins with world_ or trajectory_."""
    base = module("skyrl.train.generators.base")
    rows = [skyrl.row(sequence, Counter()) for _ in range(2)]
    output = {name: [row[name] for row in rows if row] for name in rows[0] or {}}
    known = set(typing.get_type_hints(base.GeneratorOutput))
    assert {"prompt_token_ids", "response_ids", "rewards", "loss_masks", "stop_reasons", "rollout_logprobs"} <= known
    assert {name for name in set(output) - known if not name.startswith("world_")} == {"trajectory_metadata"}
