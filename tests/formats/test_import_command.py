"""`envecho import`: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from format_samples import SAMPLES

from envecho.cli.main import main
from envecho.trajectory.store import read_trajectories


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["import", *map(str, args)])
    return int(ended.value.code or 0)


def traces(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    folder.mkdir()
    for name in ("mini", "swe-agent", "anthropic", "agent-world-model"):
        (folder / f"{name}.json").write_text(json.dumps(SAMPLES[name]))
    (folder / "broken.json").write_text('{"messages": [')
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def test_a_folder_becomes_one_file_and_the_rest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a bad file that costs the good ones, or is passed over in silence."""
    out = tmp_path / "out.parquet"
    assert run(traces(tmp_path), "--out", out) == 0
    said = capsys.readouterr()
    assert "4 trajectories from 6 files" in said.out
    assert "env_output  tool_result" in said.out
    assert said.err.count("not imported: ") == 1
    assert "broken.json: no JSON" in said.err
    found = list(read_trajectories(out))
    assert [t.id for t in found] == ["agent-world-model.json", "anthropic.json", "mini.json", "swe-agent.json"]
    assert all(t.metadata["import"]["token_exact"] is False for t in found)
    assert run(tmp_path / "traces", "--out", out) == 1
    assert "pass --overwrite" in capsys.readouterr().err


def test_shards_are_replaced_only_on_demand_and_not_by_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches old shards among the new ones, and a store that is gone because nothing was found."""
    out = tmp_path / "store"
    assert run(traces(tmp_path), "--out", out, "--workers", 2) == 0
    assert run(tmp_path / "traces", "--out", out) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert run(tmp_path / "traces" / "broken.json", "--out", out, "--overwrite") == 1
    assert len(list(read_trajectories(out))) == 4
    (out / "part-00001.parquet").write_bytes((out / "part-00000.parquet").read_bytes())
    assert run(tmp_path / "traces" / "mini.json", "--out", out, "--overwrite") == 0
    assert [t.id for t in read_trajectories(out)] == ["mini.json"]


def test_json_holds_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a report that only a person can read."""
    assert run(traces(tmp_path), "--out", tmp_path / "out.parquet", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_trajectories"], report["formats"]["mini-swe-agent"]) == (4, 1)
    assert report["problems"][0]["file"] == "broken.json"


def test_an_import_of_nothing_is_an_error_and_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches an empty file that a run would start from."""
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert run(tmp_path / "x.json", "--out", tmp_path / "out.parquet") == 1
    said = capsys.readouterr().err
    assert "found an object with the keys a" in said
    assert "no trajectory was found" in said
    assert not (tmp_path / "out.parquet").exists()
    assert run(tmp_path / "none", "--out", tmp_path / "out.parquet") == 1
    assert "found none" in capsys.readouterr().err


def test_imported_traces_train_verifier_free(tmp_path: Path):
    """Catches an import that no template renders, or whose environment term is empty."""
    from envecho.engines.pretrained import resolve_model
    from envecho.objective import EchoConfig, compile_batch
    from envecho.tokens import ChatTokenizer, tokenize_trajectory

    out = tmp_path / "out.parquet"
    assert run(traces(tmp_path), "--out", out, "--calls-as-text") == 0
    tokenizer = ChatTokenizer.from_pretrained(resolve_model("smollm2-135m"))
    sequences = [s for t in read_trajectories(out) for s in tokenize_trajectory(t, tokenizer)]
    step = compile_batch(sequences, EchoConfig(use_rl=False))
    assert len(sequences) == 4
    trained = {int(index) for index in step.trajectory_index[step.batch.env_weights > 0]}
    assert trained == {0, 1, 2, 3}
