"""`envecho doctor`: every ailment is found where it is and nowhere else, in constant memory, with what a run costs."""

from __future__ import annotations

import gc
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from doctor_cases import CASES, KEY, OUTPUT, Builder, user
from safetensors import safe_open

from envecho.cli.doctor import command
from envecho.errors import DataError
from envecho.objective import EchoConfig, compile_batch
from envecho.recipes.doctor import KINDS, DoctorOptions, DoctorReport, Level, examine
from envecho.recipes.doctor.masks import lost_at_borders
from envecho.recipes.doctor.volatile_text import PATTERNS, volatile_spans
from envecho.recipes.doctor.words import ends_abruptly
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Role, Source, Trajectory
from envecho.trajectory.store import write_trajectories

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def builder(smollm2_tokenizer: Any) -> Builder:
    return Builder(tokenizer=ChatTokenizer(smollm2_tokenizer))


def doctor(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


def names(report: DoctorReport) -> set[str]:
    return {finding.name for finding in report.findings}


def look(trajectories: Any, folder: Path, model: Path, **options: Any) -> DoctorReport:
    file = folder / "file.parquet"
    write_trajectories(file, trajectories)
    return examine(file, DoctorOptions(model=str(model), **options))


def test_a_healthy_episode_has_no_finding(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a check that cries wolf: people stop reading a report in which something is always wrong."""
    report = look([builder.episode("healthy")], tmp_path, tiny_dir)
    assert report.findings == ()
    assert not report.has_errors


@pytest.mark.parametrize("name", CASES)
def test_each_ailment_is_found_and_no_other(name: str, builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a check that is never called, that fires for another reason, or that names the wrong place."""
    case = CASES[name]
    config = case.config(str(tiny_dir))
    report = look(case.trajectories(builder), tmp_path, tiny_dir, config=config, max_tokens=case.max_tokens)
    assert names(report) == {name} | case.beside
    (finding,) = [found for found in report.findings if found.name == name]
    assert finding.level is KINDS[name].level
    assert report.has_errors == any(KINDS[found].level is Level.ERROR for found in names(report))
    if case.turn is not None:
        assert [example.trajectory for example in finding.examples] == ["sick"]
        assert finding.examples[0].turn == case.turn
        assert finding.num_trajectories == 1


def test_every_finding_has_a_file_that_shows_it():
    """Catches a finding that was added without a proof that it can be found."""
    assert set(CASES) == set(KINDS)


def test_every_finding_stands_in_the_docs_as_it_is():
    """Catches a finding that nobody can look up, and a page that says something else than the report."""
    page = (DOCS / "doctor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [(name, kind.level.value, kind.meaning, kind.advice) for name, kind in KINDS.items()]


def test_findings_are_ordered_from_errors_to_notes():
    """Catches an error that stands below twelve notes."""
    levels = [list(Level).index(kind.level) for kind in KINDS.values()]
    assert levels == sorted(levels)


def test_the_exit_status_says_whether_there_is_an_error(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a script that goes on to train on a broken file, or one that stops for a note."""
    sick, noted = tmp_path / "sick.parquet", tmp_path / "noted.parquet"
    write_trajectories(sick, CASES["prompt_selected"].trajectories(builder))
    write_trajectories(noted, CASES["no_observation"].trajectories(builder))
    assert doctor(sick, "--model", tiny_dir).exit_code == 1
    assert doctor(noted, "--model", tiny_dir).exit_code == 0
    assert doctor(noted).exit_code == 2


def test_the_json_report_has_everything(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a figure that only people can read."""
    file = tmp_path / "file.parquet"
    write_trajectories(file, CASES["volatile_text"].trajectories(builder))
    report = json.loads(doctor(file, "--model", tiny_dir, "--json").stdout)
    assert (report["format"], report["version"], report["num_trajectories"]) == ("envecho.doctor", 1, 2)
    (finding,) = report["findings"]
    assert finding["level"] == "warning"
    assert finding["advice"] == KINDS["volatile_text"].advice
    assert finding["examples"][0] == {
        "trajectory": "sick", "turn": 3, "text": "2026-01-02T03:04:05Z, pid 4711, 0x7ffdeadbeef0",
    }  # fmt: skip
    assert report["volatile"] == {"time": 1, "process_id": 1, "memory_address": 1}
    assert report["cost"]["num_targets"] > 0


def test_the_report_for_people_lets_nothing_of_the_file_act(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches escapes, overrides and markup of a trace that reach the terminal through an example."""
    hostile = "\x1b]8;;http://x\x07[bold red]reward: 1[/nope] \u202e\n"
    file = tmp_path / "file.parquet"
    write_trajectories(file, [builder.observing((Source.STDOUT, hostile), name="\x1b[31m[red]sick")])
    out = doctor(file, "--model", tiny_dir).stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert "[bold red]reward: 1[/nope]" in out
    assert "␛[31m[red]sick" in out


def test_a_secret_is_not_printed_by_the_report_that_finds_it(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a report, kept in a log of CI, that holds the key."""
    report = look(CASES["secrets_left"].trajectories(builder), tmp_path, tiny_dir)
    assert KEY[4:] not in json.dumps(report.as_json())


def test_a_refused_trajectory_is_a_finding_with_the_reason(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a crash at the first tool call, and a count without the template's reason."""
    report = look(CASES["not_renderable"].trajectories(builder), tmp_path, tiny_dir)
    (finding,) = [found for found in report.findings if found.name == "not_renderable"]
    assert "does not show the call of tool 'bash'" in finding.examples[0].text
    assert report.cost.num_targets > 0  # the other trajectory is looked at all the same


def test_a_file_is_never_held(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a report that keeps its trajectories: a store of a million would not fit."""
    file = tmp_path / "many.parquet"
    write_trajectories(file, (builder.episode(f"e{number}") for number in range(600)))
    most = 0

    def count(_: int) -> None:
        nonlocal most
        count.calls += 1  # type: ignore[attr-defined]
        if count.calls % 100 == 0:  # type: ignore[attr-defined]
            most = max(most, sum(type(thing) is Trajectory for thing in gc.get_objects()))

    count.calls = 0  # type: ignore[attr-defined]
    report = examine(file, DoctorOptions(model=str(tiny_dir)), on_trajectory=count)
    assert report.num_trajectories == 600
    assert most <= 80


def test_an_empty_file_is_an_error(tiny_dir: Path, tmp_path: Path):
    """Catches a clean bill of health for nothing."""
    with pytest.raises(DataError, match="holds no trajectory"):
        look([], tmp_path, tiny_dir)


def test_costs_are_those_of_the_tokens_that_training_would_see(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches an estimate of other tokens, of other parameters, or of another number of steps."""
    episodes = [builder.episode("a"), builder.episode("b"), builder.observing((Source.STDOUT, OUTPUT), name="c")]
    case = CASES["objective_refused"]
    config = case.config(str(tiny_dir))
    assert config is not None
    report = look(episodes, tmp_path, tiny_dir, config=config)
    sequences = [s for e in episodes for s in tokenize_trajectory(e, builder.tokenizer)]
    cost = report.cost
    assert cost.tokens == {role.value: sum(int(s.role_mask(role).sum()) for s in sequences) for role in Role}
    assert cost.num_processed_tokens == sum(map(len, sequences))
    assert (cost.trajectories_per_step, cost.steps_per_epoch, cost.run_steps) == (2, 2, 10)
    with safe_open(str(tiny_dir / "model.safetensors"), framework="pt") as weights:
        num_parameters = sum(weights.get_tensor(key).numel() for key in weights.keys())  # noqa: SIM118
    assert cost.num_parameters == num_parameters
    assert cost.epoch_flops == 6 * num_parameters * cost.num_processed_tokens
    assert cost.run_epochs == pytest.approx(10 * 2 / 3)
    assert cost.run_flops == pytest.approx(cost.epoch_flops * 10 * 2 / 3)
    assert cost.tokens_per_second is None


def test_the_effective_lambda_is_that_of_the_configured_normaliser(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a nominal lambda that is printed as the effective one."""
    episodes = [
        builder.episode("a"),
        builder.observing((Source.STDOUT, OUTPUT * 4), name="b"),
        builder.observing((Source.STDOUT, "short\n"), name="c"),
    ]
    objective = EchoConfig(normalizer="verl_token_mean", world_model_coeff=0.1)
    report = look(episodes, tmp_path, tiny_dir, config=_with(objective, tiny_dir))
    steps = [
        compile_batch([s for e in step for s in tokenize_trajectory(e, builder.tokenizer)], objective).batch
        for step in (episodes[:2], episodes[2:])
    ]
    real = sum(float(s.env_weights.sum()) for s in steps) / sum(float(s.policy_weights.sum()) for s in steps)
    assert report.cost.effective_lambda == pytest.approx(real, rel=1e-5)
    assert report.cost.effective_lambda != pytest.approx(0.1, rel=0.05)


def _with(objective: EchoConfig, model: Path) -> Any:
    case = CASES["objective_refused"]
    return type(case)(trajectories=case.trajectories, objective=objective).config(str(model))


def test_time_is_measured_only_when_asked_for(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches an estimate in hours that nobody measured."""
    report = look([builder.episode("healthy")], tmp_path, tiny_dir, timed=True)
    assert report.cost.tokens_per_second is not None
    seconds = report.cost.num_processed_tokens / report.cost.tokens_per_second
    assert report.cost.epoch_seconds == pytest.approx(seconds)


def test_windows_say_what_share_of_the_actions_lost_context(builder: Builder, tiny_dir: Path, tmp_path: Path):
    """Catches a share over all windows, or one that counts the first window, whose context is whole."""
    long = "".join(f"line {n} of a file\n" for n in range(80))
    turns = (builder.answer("cat a"), user((Source.STDOUT, long)), builder.answer("answer: a"))
    episode = builder.episode("long", *turns)
    report = look([episode], tmp_path, tiny_dir, max_tokens=256)
    windows = tokenize_trajectory(episode, builder.tokenizer, max_tokens=256)
    actions = [int((w.action_mask & w.owned_mask()).sum()) for w in windows]
    (finding,) = [found for found in report.findings if found.name == "overlong"]
    assert finding.detail.startswith(f"{len(windows) - 1} more windows of at most 256 tokens")
    assert f"{sum(actions[1:]) / sum(actions):.1%} of the action tokens" in finding.detail
    assert 0 < sum(actions[1:]) < sum(actions)


@pytest.mark.parametrize(("content", "num_lost"), [("42\n\n", 0), ("42", 0), ("  42", 0), ("4", 1), ("gone", None)])
def test_only_tokens_that_hold_a_character_of_the_world_are_lost(content: str, num_lost: int | None, builder: Builder):
    """Catches white space that a template trimmed, counted as if the tokens after it had swallowed it."""
    pieces = [("<|im_start|>", Source.SCAFFOLD), ("4", Source.STDOUT), ("2", Source.STDOUT), ("\n", Source.SCAFFOLD)]
    if content == "4":
        pieces[1] = ("4", Source.SCAFFOLD)
    ids = [builder.tokenizer.hf.convert_tokens_to_ids(piece.replace("\n", "Ċ")) for piece, _ in pieces]
    sequence = replace(
        tokenize_trajectory(builder.episode("a"), builder.tokenizer)[0],
        owned_from=0,
        token_ids=np.array(ids, dtype=np.int32),
        sources=np.array([source.code for _, source in pieces], dtype=np.uint8),
        turns=np.full(4, 3, dtype=np.int32),
        num_bytes=np.ones(4, dtype=np.uint16),
        sampling_logprobs=np.full(4, np.nan, dtype=np.float32),
        sampling_entropies=np.full(4, np.nan, dtype=np.float32),
    )
    lost = lost_at_borders(user((Source.STDOUT, content)), 3, sequence, builder.tokenizer)
    assert (None if lost is None else len(lost)) == num_lost


VOLATILE = {
    "uuid": "id 123e4567-e89b-12d3-a456-426614174000 made",
    "temporary_path": "wrote /tmp/tmpab12cd_x/out.txt",
    "time": "at 2026-11-25 13:05:51.123",
    "duration": "passed in 0.35s",
    "process_id": "sshd[4711]: closed",
    "memory_address": "<object at 0x7f3a2c1b9d60>",
    "network_address": "from 10.1.2.3:54321",
    "hash": "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_each_kind_of_volatile_text_is_recognised(kind: str):
    """Catches a kind whose pattern never matches, or that another kind takes first."""
    assert [found for _, _, found in volatile_spans(VOLATILE[kind])] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "3 errors in 14 files",
        "version 1.2.3",
        "see section 4.1",
        "facade decade",
        "1234567 rows",
        "/tmp/notes.txt",
        "a:b",
    ],
)
def test_ordinary_numbers_and_words_are_not_volatile(text: str):
    """Catches patterns so broad that every count of a command is taken for a clock or a hash."""
    assert volatile_spans(text) == []


@pytest.mark.parametrize(
    ("text", "is_cut"),
    [
        ('{"items": [{"name": "a"}, {"name": "b', True),
        ('{"items": [{"name": "a"}, {"name": "b"}]}', False),
        ('{\n  "service": "mail",\n  "version": "8.16",\n', False),
        ("[INFO] started\n[INFO] stopped\n", False),
        ("[1] 4711\n", False),
        ("red \x1b[31", True),
        ("red \x1b[31mtext\x1b[0m", False),
        ("caf\N{REPLACEMENT CHARACTER}", True),
        ("a" * 2048, True),
        ("a" * 2047, False),
        (("a" * 63 + "\n") * 16, False),
    ],
)
def test_what_ends_abruptly_is_told_from_what_merely_ends(text: str, is_cut: bool):
    """Catches a cut that is overlooked, and logs or listings that are taken for broken JSON."""
    assert (ends_abruptly(text) is not None) == is_cut
