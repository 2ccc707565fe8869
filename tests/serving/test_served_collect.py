"""`envecho collect --server`: exact episodes of a token server, text of a chat server, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback import LoopbackServer

from envecho.cli.main import main
from envecho.trajectory.store import read_trajectories


def collect(out: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as done:
        main(["collect", "--world", "depot", "--num", "2", "--max-turns", "2", "--out", str(out), "--json", *options])
    return int(done.value.code or 0)


def test_a_token_server_gives_exact_turns_and_a_chat_server_text(small_dir: Path, tmp_path: Path, capsys) -> None:
    """Catches a server that is not asked, ids that are lost on the way to the file, and text posing as exact."""
    out = tmp_path / "exact.parquet"
    with LoopbackServer(small_dir, "vllm", max_context=900) as server:
        code = collect(out, "--policy", str(small_dir), "--server", server.url, "--max-tokens-per-turn", "6")
        assert server.paths["/v1/completions"] > 75
    assert code == 0
    assert json.loads(capsys.readouterr().out)["num_episodes"] == 2
    for record in read_trajectories(out):
        said = [message.sampled for message in record.messages if message.role == "assistant"]
        assert said
        assert all(turn is not None and turn.logprobs is not None and turn.temperature == 1.0 for turn in said)
    out = tmp_path / "text.parquet"
    with LoopbackServer(small_dir, "openai", says=lambda messages: "go red") as server:
        collect(out, "--policy", "policy", "--server", server.url, "--server-kind", "chat")
    for record in read_trajectories(out):
        said = [message for message in record.messages if message.role == "assistant"]
        assert {message.content for message in said} == {"go red"}
        assert all(message.sampled is None for message in said)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ("--policy", "oracle", "--server", "http://127.0.0.1:1"),
            "samples the turns of a model, and --policy is oracle",
        ),
        (
            ("--policy", "MODEL", "--server", "http://127.0.0.1:1", "--api-key-env", "NO_KEY"),
            "NO_KEY, which is not set",
        ),
    ],
)
def test_options_that_cannot_be_followed_are_refused(
    options, reason: str, small_dir: Path, tmp_path: Path, capsys
) -> None:
    """Catches a server option that is silently ignored, and a key that is silently empty."""
    options = [str(small_dir) if option == "MODEL" else option for option in options]
    assert collect(tmp_path / "out.parquet", "--server", "http://127.0.0.1:1", *options) == 1
    assert reason in capsys.readouterr().err
