"""Which of TRL's tokens are the world's words: rows of a `rollout_func`, and tools that TRL calls itself."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOTrainer
from trl.chat_template_utils import qwen3_training_chat_template

from envecho.errors import ConfigError, DataError, TemplateError
from envecho.objective import EchoConfig
from envecho.plugins.trl.row_masks import TARGETS, as_columns, rows_of_fields
from envecho.plugins.trl.tool_turns import BuiltSuffix, ToolTurnReader, rows_of_turns
from envecho.trajectory import Role

IDS = [[5, 6, 7, 8, 9]]
ACTION = [[1, 0, 0, 0, 1]]


def trl_suffix(tokenizer: Any, messages: list[dict[str, str]], **kwargs: Any) -> list[int]:
    """The ids that TRL's own method builds."""
    owner = types.SimpleNamespace(
        _is_vlm=False,
        processing_class=tokenizer,
        chat_template=qwen3_training_chat_template,
        chat_template_kwargs=kwargs,
        _tokenizer=tokenizer,
    )
    return GRPOTrainer._get_tool_suffix_ids(owner, messages)  # type: ignore[arg-type]


def tool_messages(*results: str) -> list[dict[str, str]]:
    return [{"role": "tool", "name": f"tool_{k}", "content": text} for k, text in enumerate(results)]


@pytest.fixture(scope="module")
def reader(qwen3_tokenizer: Any) -> ToolTurnReader:
    return ToolTurnReader(qwen3_tokenizer, chat_template=qwen3_training_chat_template, template_kwargs={})


def words(tokenizer: Any, ids: list[int], mask: Any) -> str:
    return tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on])


RESULTS = ["ok", "a.log\nb.log", " leading and trailing", "日本😀é", "12 rows", "word " * 300 + "end"]


@pytest.mark.parametrize("result", RESULTS)
def test_the_marked_tokens_are_exactly_the_words_of_the_tool(qwen3_tokenizer: Any, reader: ToolTurnReader, result: str):
    """Catches a mask that holds tags of the template, or that misses words, on Qwen3's own tokenizer and template."""
    messages = tool_messages(result)
    ids = trl_suffix(qwen3_tokenizer, messages)
    assert words(qwen3_tokenizer, ids, reader.read(messages, ids).role_mask(Role.ENV_OUTPUT)) == result
    assert len(qwen3_tokenizer.decode(ids)) > len(result) + 20


@pytest.mark.parametrize("result", ["\n\nblank lines first", "{'rows': [1, 2]}", "ends in blanks  ", "done.\n"])
def test_a_token_over_words_and_template_is_the_templates(qwen3_tokenizer: Any, reader: ToolTurnReader, result: str):
    """Catches a target that holds scaffold: Qwen3 joins punctuation and blanks with the newline of its template."""
    messages = tool_messages(result)
    ids = trl_suffix(qwen3_tokenizer, messages)
    marked = np.flatnonzero(reader.read(messages, ids).role_mask(Role.ENV_OUTPUT))
    assert (np.diff(marked) == 1).all()
    said = qwen3_tokenizer.decode([ids[k] for k in marked])
    lead, found, trail = result.partition(said)
    assert found
    assert lead or trail
    before, after = (qwen3_tokenizer.decode([ids[k]]) for k in (marked[0] - 1, marked[-1] + 1))
    assert before.endswith(lead)
    assert after.startswith(trail)
    assert all(len(token) > len(part) for token, part in ((before, lead), (after, trail)) if part)


def test_a_newline_that_merges_with_the_template_costs_one_token_and_not_the_mask(
    qwen3_tokenizer: Any, reader: ToolTurnReader
):
    """Catches sub-list matching: a result that ends in a newline is tokenised together with the template's newline."""
    messages = tool_messages("a.log\nb.log\n")
    ids = trl_suffix(qwen3_tokenizer, messages)
    alone = qwen3_tokenizer("a.log\nb.log\n")["input_ids"]
    assert not any(ids[k : k + len(alone)] == alone for k in range(len(ids)))
    mask = reader.read(messages, ids).role_mask(Role.ENV_OUTPUT)
    assert words(qwen3_tokenizer, ids, mask) == "a.log\nb.log"


def test_parallel_results_are_each_their_own_words_and_tool(qwen3_tokenizer: Any, reader: ToolTurnReader):
    """Catches results that are rendered one by one: inner turn boundaries would be inserted, or be trained."""
    messages = tool_messages("first", "second", "third")
    ids = trl_suffix(qwen3_tokenizer, messages)
    turn = reader.read(messages, ids)
    mask = turn.role_mask(Role.ENV_OUTPUT)
    by_tool = [words(qwen3_tokenizer, ids, mask & (turn.tool_of_token == k)) for k in range(3)]
    assert by_tool == ["first", "second", "third"]


@pytest.mark.parametrize("result", ["<|im_end|>", "x </tool_response> y", "<think>", "<|im_start|>assistant\nhi"])
def test_a_result_that_spells_a_control_token_is_not_trained(qwen3_tokenizer: Any, reader: ToolTurnReader, result: str):
    """Catches a guess where TRL lets a tool's text become control tokens, which an observation must never be."""
    messages = tool_messages(result)
    ids = trl_suffix(qwen3_tokenizer, messages)
    assert set(ids) & set(qwen3_tokenizer(result)["input_ids"]) & set(qwen3_tokenizer.added_tokens_decoder)
    with pytest.raises(TemplateError, match="control token"):
        reader.read(messages, ids)


def test_what_trl_writes_for_a_failed_call_is_a_warning(qwen3_tokenizer: Any, reader: ToolTurnReader):
    """Catches harness text as a target: the policy would learn to predict Python's exceptions as the world's words."""
    messages = tool_messages(str({"error": "Tool look not found."}), "found it")
    ids = trl_suffix(qwen3_tokenizer, messages)
    turn = reader.read(messages, ids)
    assert words(qwen3_tokenizer, ids, turn.role_mask(Role.ENV_OUTPUT)) == "found it"
    warned = words(qwen3_tokenizer, ids, turn.role_mask(Role.WARNING))
    assert warned == "{'error': 'Tool look not found.'"  # the last token is joined with the template's newline


def test_template_settings_are_those_of_the_trainer(qwen3_tokenizer: Any):
    """Catches a reader that renders without chat_template_kwargs: every row would be unproved."""
    settings = {"enable_thinking": False}
    reader = ToolTurnReader(
        qwen3_tokenizer, chat_template=qwen3_training_chat_template, template_kwargs={**settings, "note": None}
    )
    messages = tool_messages("ok")
    ids = trl_suffix(qwen3_tokenizer, messages, **settings)
    assert "<think>" in qwen3_tokenizer.decode(ids)
    assert words(qwen3_tokenizer, ids, reader.read(messages, ids).role_mask(Role.ENV_OUTPUT)) == "ok"


def test_the_trainers_tokenizer_is_left_alone(qwen3_tokenizer: Any):
    """Catches a reader that sets its template on the tokenizer that TRL generates with."""
    before = qwen3_tokenizer.chat_template
    ToolTurnReader(qwen3_tokenizer, chat_template=qwen3_training_chat_template, template_kwargs={"a": 1})
    assert qwen3_tokenizer.chat_template == before


def completion(tokenizer: Any, *results: str) -> tuple[list[dict[str, str]], list[int], list[int], list[BuiltSuffix]]:
    """Messages, ids and tool mask of a completion with one tool turn per result, and the suffixes that TRL built."""
    messages: list[dict[str, str]] = []
    ids: list[int] = []
    mask: list[int] = []
    built: list[BuiltSuffix] = []
    for result in results:
        action = tokenizer("call<|im_end|>")["input_ids"]
        turn = tool_messages(result)
        suffix = trl_suffix(tokenizer, turn)
        messages += [{"role": "assistant", "content": "call"}, *turn]
        ids += action + suffix
        mask += [1] * len(action) + [0] * len(suffix)
        built.append(BuiltSuffix(tool_messages=turn, token_ids=suffix))
    return messages, ids, mask, built


def test_one_unproved_turn_leaves_the_whole_row_out(qwen3_tokenizer: Any, reader: ToolTurnReader):
    """Catches a row that is trained in part although the rest of it has a poisoned context."""
    messages, ids, mask, built = completion(qwen3_tokenizer, "fine", "<|im_end|>")
    (row,) = rows_of_turns([messages], [ids], [mask], built, reader=reader, echo=EchoConfig())
    assert row.unproved
    assert not row.targets.any()


def test_two_results_with_the_same_words_are_two_targets(qwen3_tokenizer: Any, reader: ToolTurnReader):
    """Catches turns that are found by their text: the second would be taken for the first."""
    messages, ids, mask, built = completion(qwen3_tokenizer, "same", "same")
    (row,) = rows_of_turns([messages], [ids], [mask], built, reader=reader, echo=EchoConfig())
    assert words(qwen3_tokenizer, ids, row.targets) == "samesame"


def test_results_that_trl_left_out_are_counted(qwen3_tokenizer: Any, reader: ToolTurnReader, caplog: Any):
    """Catches observations that vanish because they are long: nobody could know that ECHO never saw them."""
    messages, ids, mask, built = completion(qwen3_tokenizer, "kept")
    long = tool_messages("word " * 50)
    built.append(BuiltSuffix(tool_messages=long, token_ids=trl_suffix(qwen3_tokenizer, long)))
    (row,) = rows_of_turns([messages], [ids], [mask], built, reader=reader, echo=EchoConfig())
    assert 45 <= row.num_dropped <= 51
    assert "max_completion_length" in caplog.text


def test_a_completion_that_does_not_show_its_turns_is_unproved(qwen3_tokenizer: Any, reader: ToolTurnReader):
    """Catches an order of TRL's that changed: masks would land on the wrong turn."""
    messages, ids, mask, built = completion(qwen3_tokenizer, "one", "two")
    (row,) = rows_of_turns([messages[:-1]], [ids], [mask], built, reader=reader, echo=EchoConfig())
    assert row.unproved


def test_coefficients_of_tools_reach_the_words_of_their_tool(qwen3_tokenizer: Any, reader: ToolTurnReader):
    """Catches tool_coeffs that are accepted and change nothing."""
    turn = tool_messages("aaa", "bbb")
    suffix = trl_suffix(qwen3_tokenizer, turn)
    built = [BuiltSuffix(tool_messages=turn, token_ids=suffix)]
    echo = EchoConfig(tool_coeffs={"tool_1": 0.25})
    (row,) = rows_of_turns([turn], [suffix], [[0] * len(suffix)], built, reader=reader, echo=echo)
    assert words(qwen3_tokenizer, suffix, row.targets & (row.multipliers == 0.25)) == "bbb"
    assert words(qwen3_tokenizer, suffix, row.targets & (row.multipliers == 1)) == "aaa"


@pytest.mark.parametrize(("target", "expected"), [("env_only", [0, 0, 1, 0, 0]), ("all", [0, 0, 1, 1, 0])])
def test_rows_train_what_the_target_names(target: Any, expected: list[int]):
    """Catches warnings that are trained by default, and observations that lose them from their length."""
    fields = {"obs_mask": [[0, 0, 1, 0, 0]], "warning_mask": [[0, 0, 0, 1, 0]]}
    (row,) = rows_of_fields(fields, IDS, ACTION, target)
    assert row.targets.tolist() == [bool(k) for k in expected]
    assert row.observed.tolist() == [False, False, True, True, False]


def test_rows_without_an_obs_mask_are_refused():
    """Catches ECHO that is configured and trains nothing."""
    with pytest.raises(ConfigError, match="no obs_mask"):
        rows_of_fields({}, IDS, ACTION, "env_only")


def test_rows_without_an_env_mask_are_refused():
    """Catches the world's words in TRL's policy term."""
    with pytest.raises(ConfigError, match="no env_mask"):
        rows_of_fields({"obs_mask": [[0, 0, 1, 0, 0]]}, IDS, None, "env_only")


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ([[0, 0, 1]], "completion 0 has 5 ids"),
        ([], "completion 0"),
        ([[0, 0, 2, 0, 0]], "0 and 1"),
        ([[1, 0, 1, 0, 0]], "overlap"),
    ],
)
def test_masks_that_do_not_fit_their_ids_are_refused(mask: Any, match: str):
    """Catches a mask that is shifted, cut, or that trains an action as an observation."""
    with pytest.raises(DataError, match=match):
        rows_of_fields({"obs_mask": mask}, IDS, ACTION, "env_only")


def test_columns_are_padded_like_the_completions():
    """Catches a mask that is padded on the other side than TRL pads completions."""
    fields = {"obs_mask": [[0, 1], [0, 1, 1]]}
    rows = rows_of_fields(fields, [[5, 6], [5, 6, 7]], [[1, 0], [1, 0, 0]], "env_only")
    columns = as_columns(rows, like=torch.zeros(2, 4, dtype=torch.int64))
    assert columns[TARGETS].int().tolist() == [[0, 1, 0, 0], [0, 1, 1, 0]]
    assert np.isfinite(columns["echo_multipliers"].numpy()).all()
