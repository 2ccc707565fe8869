"""The accounting of an Agent World Model episode: counts made by hand, and those that OpenEnv's example prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from envecho.errors import DataError
from envecho.recipes.awm_accounting import PREAMBLE_CHARACTERS, accounting, main, read_episode, render
from envecho.tokens.segments import RoleSegment, SegmentTrajectory, tokenize_segments

ROOT = Path(__file__).parents[2]
EPISODE = ROOT.parent / "shared" / "samples" / "awm" / "awm_ecommerce_episode.json"

OWN: dict[str, Any] = {
    "scenario": "shop",
    "task": "Buy.",
    "task_idx": 0,
    "tools": ["a", "b"],
    "steps": [
        {"action": {"tool_name": "a", "arguments": {"z": 1, "k": 2}}, "observation": {"tool_result": "12345"}},
        {"action": {"tool_name": "b"}, "observation": {"warning": "slow", "tool_result": {"y": 1, "x": 2}}},
        {"action": {"tool_name": "b", "arguments": {}}, "observation": {"error": "no", "reward_type": "bad"}},
        {"action": {"tool_name": "verify", "arguments": {}}, "observation": {"verify_result": {}, "reward_type": "r"}},
        {"action": {"tool_name": "done", "arguments": {}}, "observation": {}},
    ],
}


def test_an_episode_is_counted_as_it_can_be_counted_by_hand():
    """Catches a key order, a tag or a verdict that is counted for the wrong party."""
    texts = [(piece.part, piece.text) for piece in render(OWN)]
    calls = ['{"arguments": {"k": 2, "z": 1}, "name": "a"}', '{"arguments": {}, "name": "b"}']
    tag, end = ("wrapper", "<tool_response>\n"), ("wrapper", "\n</tool_response>\n")

    def call(text: str) -> tuple[str, str]:
        return ("action", f"<tool_call>\n{text}\n</tool_call>\n")

    assert texts[0] == ("context", " " * PREAMBLE_CHARACTERS + "\n\nTask: Buy.\nAvailable tools: a, b\n")
    assert texts[1:] == [
        *(call(calls[0]), tag, ("body", "12345"), end),
        *(call(calls[1]), ("warning", "<warning>slow</warning>\n"), tag, ("body", '{"x": 2, "y": 1}'), end),
        *(
            call(calls[1]),
            tag,
            ("wrapper", '{"error": '),
            ("body", '"no"'),
            ("wrapper", ', "reward_type": "bad"}'),
            end,
        ),
        *(call('{"arguments": {}, "name": "verify"}'), tag),
        *(("grader", '{"reward_type": "r", "verify_result": {}}'), end),
        call('{"arguments": {}, "name": "done"}'),
    ]
    found = accounting(OWN)
    context = PREAMBLE_CHARACTERS + len("\n\nTask: Buy.\nAvailable tools: a, b\n") - 1
    assert found["targets"] == {"context": context, "action": 302, "env_output": 235, "warning": 24}
    assert found["env_output"] == {"body": 25, "wrapper": 169, "grader": 41}
    assert found["env_targets"] == {"example": 235, "default": 25, "default_with_grader": 66}
    assert found["characters"] == 1 + sum(found["targets"].values())


def test_the_counts_are_those_of_rfc_010s_own_masks():
    """Catches an accounting that drifts from the masks which a trainer gets from `tokenize_segments`."""
    pytest.importorskip("torch")
    roles = {"body": "env_output", "wrapper": "env_output", "grader": "env_output"}
    segments = [RoleSegment(roles.get(piece.part, piece.part), piece.text) for piece in render(OWN)]  # type: ignore[arg-type]

    def characters(text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    masks = tokenize_segments(characters, SegmentTrajectory(segments=segments))
    found = accounting(OWN)["targets"]
    assert int(masks.action_mask[1:].sum()) == found["action"]
    assert int(masks.obs_mask[1:].sum()) == found["env_output"]
    assert int(masks.warning_mask[1:].sum()) == found["warning"]
    assert len(masks.input_ids) - 1 == sum(found.values())


@pytest.mark.skipif(not EPISODE.is_file(), reason="the recorded episode lies beside the project and is not here")
def test_the_recorded_episode_has_the_counts_that_its_example_prints():
    """Catches a rendering that is no longer the example's, and a committed table that nobody remade."""
    found = accounting(read_episode(EPISODE))
    assert found["targets"] == {"context": 1304, "action": 588, "env_output": 4659, "warning": 0}
    assert found["env_output"] == {"body": 4324, "wrapper": 204, "grader": 131}
    assert found == json.loads((ROOT / "results" / "awm" / "accounting.json").read_text())


def test_the_command_prints_the_counts_and_refuses_what_is_no_episode(tmp_path: Path):
    """Catches a command that prints nothing useful, or a traceback for a file of another kind."""
    (tmp_path / "own.json").write_text(json.dumps(OWN))
    (tmp_path / "other.json").write_text('{"messages": []}')
    (tmp_path / "cut.json").write_text('{"scenario": ')
    run = CliRunner().invoke
    assert json.loads(run(main, [str(tmp_path / "own.json"), "--json"]).output) == accounting(OWN)
    assert "body 25, wrapper 169, grader 41" in run(main, [str(tmp_path / "own.json")]).output
    for name, message in (("other.json", "expected one episode"), ("cut.json", "may be cut short")):
        result = run(main, [str(tmp_path / name)])
        assert (result.exit_code, message in result.output) == (1, True)
    with pytest.raises(DataError, match="turn 0"):
        list(render({"steps": [{"action": None}]}))
