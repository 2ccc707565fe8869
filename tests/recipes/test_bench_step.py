"""`envecho bench step`: equals are compared, in turns, and FLOPs are counted as torch counts them."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from envecho.cli.bench import command as bench_command
from envecho.cli.main import main
from envecho.errors import ConfigError, EngineError
from envecho.recipes import bench_step, bench_step_table
from envecho.recipes.bench_step_cases import (
    ACTION,
    OBSERVATION,
    PROMPT,
    StepCase,
    cases_of,
    lengths_of,
    make_batch,
    make_roles,
    warm_up_part,
)
from envecho.recipes.bench_step_flops import sizes_of
from envecho.recipes.bench_step_subjects import AllLogitsStep, BodyPass, EngineStep
from envecho.recipes.bench_step_trl import TrlStep

RESULTS = Path(__file__).parents[2] / "results" / "bench"
VOCAB_SIZE = 49152
ROWS: dict[str, dict[str, Any]] = {
    "equal rows": {},
    "ragged rows": {"ragged": True},
    "a shared prompt": {"group": 2},
    "checkpointing": {"checkpointing": True},
}


def case_of(**fields: Any) -> StepCase:
    plain: dict[str, Any] = {
        "tokens": 256,
        "length": 64,
        "shares": (30, 10, 60),
        "dtype": "float32",
        "checkpointing": False,
        "micro_batch_tokens": 128,
    }
    return StepCase(**plain | fields)


def script(name: str) -> Any:
    """A script of the results' folder, as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", RESULTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "step", *map(str, args)])
    return int(ended.value.code or 0)


def gradient_of(subject: Any, case: StepCase) -> dict[str, np.ndarray]:
    subject.run_pass(subject.prepare(make_batch(case, VOCAB_SIZE)))
    return dict(subject.gradients())


def difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Norm of the difference over the norm of what was expected."""
    assert set(found) == set(expected)
    squares = [((found[name].astype(float) - value) ** 2).sum() for name, value in expected.items()]
    return math.sqrt(sum(squares) / sum((value.astype(float) ** 2).sum() for value in expected.values()))


@pytest.mark.parametrize("rows", ROWS)
def test_echo_and_all_logits_have_one_gradient(tiny_dir: Path, rows: str):
    """Catches a comparison of unequals: a term, a row or a token that one of the two leaves out."""
    case = case_of(**ROWS[rows])
    echo = gradient_of(EngineStep(str(tiny_dir), case, with_env=True), case)
    assert difference(gradient_of(AllLogitsStep(str(tiny_dir), case), case), echo) < 1e-5
    plain = gradient_of(EngineStep(str(tiny_dir), case, with_env=False), case)
    assert difference(plain, echo) > 0.1


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("rows", ROWS)
def test_plain_grpo_of_ours_and_of_trl_have_one_gradient(tiny_dir: Path, rows: str):
    """Catches a TRL that is handed other tokens, masks, advantages or divisors, or padding that is trained on."""
    pytest.importorskip("trl")
    case = case_of(**ROWS[rows])
    ours = gradient_of(EngineStep(str(tiny_dir), case, with_env=False), case)
    assert difference(gradient_of(TrlStep(str(tiny_dir), case), case), ours) < 1e-5


def test_every_subject_steps_in_bfloat16_with_the_same_norms(tiny_dir: Path):
    """Catches a subject that computes in float32 where the others do not, and a step that leaves its gradient."""
    case = case_of(dtype="bfloat16")
    norms: dict[str, float] = {}
    for name in ("echo", "all-logits", "body"):
        subject = bench_step.SUBJECTS[name](str(tiny_dir), case)
        prepared = subject.prepare(make_batch(case, VOCAB_SIZE))
        subject.run_pass(prepared)
        norm = subject.run_optimizer()
        norms |= {} if norm is None else {name: norm}
        assert not subject.gradients()
    assert set(norms) == {"echo", "all-logits"}
    bench_step.refuse_unequal(case, norms)


def test_the_body_is_forward_and_backward_of_all_its_rows(tiny_dir: Path):
    """Catches a body that leaves rows or layers out, which would make every step look dear beside it."""
    case = case_of()
    body = BodyPass(str(tiny_dir), case)
    prepared = body.prepare(make_batch(case, VOCAB_SIZE))
    body.run_pass(prepared)
    network = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    for micro, part, gradient in prepared:
        rows = part.token_ids.view(-1, case.length)
        assert len(rows) == 2 == len(micro.tokens) // case.length
        hidden = network.base_model(input_ids=rows, use_cache=False).last_hidden_state
        hidden.backward(gradient.view(hidden.shape))
    expected = {name: value.grad.numpy() for name, value in network.named_parameters()}
    assert difference(dict(body.gradients()), expected) < 1e-5


def test_flops_are_those_that_torch_counts(tmp_path: Path):
    """Catches a layer that is not counted, and a head that is counted at tokens that nobody reads."""
    from torch.utils.flop_counter import FlopCounterMode

    config = LlamaConfig(
        vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    network.save_pretrained(tmp_path)
    rows, length, num_read = 3, 16, 7
    with FlopCounterMode(display=False) as counter:
        ids = torch.randint(0, 97, (rows, length))
        hidden = network.base_model(input_ids=ids, use_cache=False).last_hidden_state
        network.lm_head(hidden.flatten(0, 1)[:num_read]).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    attention = counts[torch.ops.aten.bmm]
    sizes = sizes_of(tmp_path)
    linear = sum(counts.values()) - attention - sizes.head_flops(num_read)
    # torch counts every pair of tokens in a row, a causal model needs those of a token with itself and those before.
    causal = attention * (length + 1) / (2 * length)
    assert sizes.body_flops([length] * rows) == pytest.approx(linear + causal, rel=1e-12)
    assert sizes.body_flops([length] * rows) == rows * sizes.body_flops([length])


def test_rows_have_the_stated_shares_in_turns():
    """Catches observations before the first action, one turn where there are many, and shares that drift."""
    (row,) = make_roles(case_of(tokens=1000, length=1000))
    assert [int((row == role).sum()) for role in (PROMPT, ACTION, OBSERVATION)] == [300, 100, 600]
    assert row[299] == PROMPT
    assert row[300] == ACTION
    assert row[-1] == OBSERVATION
    assert int(((row[1:] == ACTION) & (row[:-1] != ACTION)).sum()) == 5


def test_groups_share_their_prompts_and_no_others_do():
    """Catches a shared prefix where none was asked for, which the engine would compute once."""
    for group, shared in ((1, 0), (2, 19)):
        batch = make_batch(case_of(group=group), VOCAB_SIZE)
        rows = batch.token_ids.view(4, 64)
        common = [int((rows[a] == rows[b]).long().cumprod(0).sum()) for a, b in ((0, 1), (2, 3), (1, 2))]
        assert common == [shared, shared, 0]


def test_ragged_rows_have_lengths_between_half_and_whole():
    """Catches lengths that are all equal, and a group whose prompts differ in length."""
    case = case_of(ragged=True, group=2)
    lengths = lengths_of(make_batch(case, VOCAB_SIZE))
    assert len(set(lengths)) > 1
    assert 32 <= min(lengths) <= max(lengths) <= 64
    prompts = [int((row == PROMPT).sum()) for row in make_roles(case)]
    assert prompts[0] == prompts[1]
    assert prompts[2] == prompts[3]


def test_warming_up_takes_one_micro_batch():
    """Catches a warm-up that costs as much as the longest step that is measured."""
    batch = make_batch(case_of(tokens=1024), VOCAB_SIZE)
    assert lengths_of(warm_up_part(batch, 128)) == [64, 64]
    assert lengths_of(warm_up_part(batch, 8)) == [64]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shares": (30, 10, 50)}, "add up"),
        ({"shares": (30, 0, 70)}, "at least 1"),
        ({"tokens": 100}, "whole number of rows"),
        ({"group": 3}, "groups of 3"),
        ({"tokens": 2}, "no room"),
    ],
)
def test_a_step_that_measures_nothing_is_refused(fields: dict[str, Any], message: str):
    """Catches a GRPO step without an action, and tokens that are dropped silently."""
    with pytest.raises(ConfigError, match=message):
        case_of(**fields)


def test_every_combination_is_a_case():
    """Catches options that are read once where they were given twice, and shares that are no numbers."""
    same = {"length": 64, "micro_batch_tokens": 128}
    cases = cases_of(
        tokens=[64, 128], shares=["30/10/60", "60/10/30"], dtypes=["float32", "bfloat16"], checkpointing="both", **same
    )
    assert len({case.title for case in cases}) == len(cases) == 16
    with pytest.raises(ConfigError, match="three whole numbers"):
        cases_of(tokens=[64], shares=["30/70"], dtypes=["float32"], checkpointing="off", **same)


def test_ratios_are_of_pairs():
    """Catches a ratio of medians: a machine that slows down must change both sides of a pair and not the ratio."""
    found = {
        "echo": {"pass_seconds": [1.0, 2.0, 9.0], "step_seconds": [1.0, 2.0, 9.0]},
        "grpo": {"pass_seconds": [0.5, 1.0, 4.5], "step_seconds": [2.0, 2.0, 18.0]},
    }
    ratios = bench_step.paired_ratios(found, {"echo": 150, "grpo": 100})
    passes = ratios["echo/grpo pass"]
    assert (passes["min"], passes["median"], passes["max"]) == (2.0, 2.0, 2.0)
    assert (passes["predicted"], passes["over_predicted"]) == (1.5, pytest.approx(4 / 3))
    assert ratios["echo/grpo step"]["median"] == 0.5
    assert set(ratios) == {"echo/grpo pass", "echo/grpo step"}


def test_the_interval_of_a_median_holds_it_as_often_as_it_says():
    """Catches an interval of few repetitions that claims 95 %, and one of many that is as wide as all of them."""
    assert bench_step.median_interval([3.0]) == {"low": 3.0, "high": 3.0, "coverage": 0.0}
    assert bench_step.median_interval([3.0, 1.0, 2.0]) == {"low": 1.0, "high": 3.0, "coverage": 0.75}
    assert bench_step.median_interval(list(range(6)))["coverage"] == pytest.approx(0.96875)
    nine = bench_step.median_interval(list(range(9)))
    assert (nine["low"], nine["high"]) == (1, 7)
    draws = np.sort(np.random.default_rng(0).exponential(size=(20000, 9)), axis=1)
    held = (draws[:, 1] <= math.log(2)) & (math.log(2) <= draws[:, 7])
    assert nine["coverage"] == pytest.approx(held.mean(), abs=0.005)


def test_unequal_gradients_are_not_compared():
    """Catches a subject that does less work than the one beside it, and is praised for it."""
    bench_step.refuse_unequal(case_of(), {"echo": 1.0, "all-logits": 1.0001, "body": math.nan})
    with pytest.raises(EngineError, match="do not train the same thing"):
        bench_step.refuse_unequal(case_of(), {"grpo": 1.0, "trl": 1.01})


@pytest.fixture(scope="module")
def measured(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The document of a real run of the command, and what it printed."""
    out, printed = tmp_path_factory.mktemp("step") / "step.json", io.StringIO()
    rows = ("--tokens", 256, "--length", 64, "--dtype", "float32", "--repetitions", 2)
    with contextlib.redirect_stdout(printed):
        assert run("--model", tiny_dir, *rows, "--subject", "echo", "--subject", "all-logits", "--out", out) == 0
    return json.loads(out.read_text()), printed.getvalue()


@pytest.fixture
def doubled(measured: tuple[dict[str, Any], str]) -> dict[str, Any]:
    """That document with a second case: twice the tokens and FLOPs in four times the time."""
    document = copy.deepcopy(measured[0])
    second = copy.deepcopy(document["cases"][0])
    second |= {"title": "8 x 64", "num_tokens": 512}
    second["case"]["tokens"] = 512
    second["flops"] = {name: 2 * count for name, count in second["flops"].items()}
    for subject in second["subjects"].values():
        for name in ("pass_seconds", "step_seconds"):
            subject[name] = {key: 4 * value for key, value in subject[name].items()}
    document["cases"].append(second)
    return document


def test_the_command_measures_in_turns_and_prints_ratios(measured: tuple[dict[str, Any], str]):
    """Catches a subject that is left out, and peaks of memory that are of one process for all."""
    document, printed = measured
    assert document["format"] == "envecho.bench.step"
    (case,) = document["cases"]
    assert list(case["subjects"]) == ["echo", "all-logits"]
    assert (case["num_tokens"], case["read_tokens"]) == (256, {"grpo": 4 * 6, "echo": 4 * 45})
    assert case["ratios"]["echo/all-logits step"]["coverage"] == 0.5
    peaks = [case["subjects"][name]["peak_memory_bytes"] for name in ("echo", "all-logits")]
    assert case["memory_ratios"] == {"echo/all-logits": peaks[0] / peaks[1]}
    assert peaks[0] < peaks[1]
    assert printed == bench_step_table.table(document)
    assert "| 4 x 64, 30/10/60, float32 | **" in printed


def test_a_rate_is_over_the_first_case_of_the_same_kind(doubled: dict[str, Any]):
    """Catches a step that is called linear because its tokens, and not its FLOPs, are set against its time."""
    first, second = doubled["cases"]
    assert bench_step_table.flop_rate(doubled["cases"], second, "echo") == pytest.approx(0.5)
    assert bench_step_table.flop_rate(doubled["cases"], first, "echo") == 1
    assert bench_step_table.flop_rate(doubled["cases"], second, "body") is None
    assert "| 8 x 64 | **0.500** |" in bench_step_table.table(doubled)
    # Another precision is another kind, and where every case is the first of its own nothing is compared.
    second["case"]["dtype"] = "bfloat16"
    assert bench_step_table.flop_rate(doubled["cases"], second, "echo") == 1
    assert "of the same kind" not in bench_step_table.table(doubled)


def test_the_plots_show_what_the_documents_hold(doubled: dict[str, Any], tmp_path: Path):
    """Catches a plot of other figures than the table's, and a file that changes where the figures do not."""
    plots = script("make_plots")
    plots.draw_ratios(doubled, tmp_path / "ratios.svg")
    drawn = (tmp_path / "ratios.svg").read_text()
    subjects = doubled["cases"][0]["subjects"]
    ratio = subjects["echo"]["step_seconds"]["median"] / subjects["all-logits"]["step_seconds"]["median"]
    assert f">{ratio:.2f}<" in drawn
    assert {">1.00<", ">8 x 64<"} <= set(re.findall(">[^<>]+<", drawn))
    plots.draw_ratios(doubled, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn
    plots.draw_scaling({"many": doubled, "one": doubled}, tmp_path / "scaling.svg")
    assert {">ECHO, many<", ">ECHO, one<"} <= set(re.findall(">[^<>]+<", (tmp_path / "scaling.svg").read_text()))


def test_the_commands_of_the_tables_can_run():
    """Catches a script that ends after half an hour at an option that is gone, or at a case that is refused."""
    text = (RESULTS / "step.sh").read_text().replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("step ")]
    assert tuple(name for _, name, *_ in lines) == script("make_table").STEP_NAMES
    for _, _, *arguments in lines:
        given = bench_command.commands["step"].make_context("step", arguments).params
        fields = {name: given[name] for name in ("length", "micro_batch_tokens", "group", "ragged", "seed")}
        several = {name: given[name] for name in ("shares", "dtypes", "checkpointing")}
        assert cases_of(tokens=[int(num) for num in given["tokens"].split(",")], **several, **fields)


def test_a_subject_that_fails_is_an_error_that_names_it(tiny_dir: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a table without the subject that ran out of memory, and a command that waits for it for ever."""
    too_long = ("--model", tiny_dir, "--tokens", 4096, "--length", 4096, "--dtype", "float32", "--subject", "echo")
    assert run(*too_long) == 1
    assert "echo ended with status 1" in capsys.readouterr().err


def test_trl_is_left_out_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Catches a default command that fails without an extra, and one that says nothing of what it left out."""

    def absent(extra: str) -> None:
        raise ConfigError(f"{extra} is not installed")

    monkeypatch.setattr(bench_step, "require_extra", absent)
    assert bench_step.subjects_here(["body", "trl", "echo"]) == ["echo", "body"]
    assert "trl is left out: trl is not installed" in capsys.readouterr().err
