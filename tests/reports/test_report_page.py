"""`write_report`: one inert, self-contained, complete page, also where parts are missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_reader import Page
from synthetic_run import HOSTILE, write_synthetic_run

from envecho.errors import DataError
from envecho.reports import write_report, write_token_page
from envecho.reports.run_folder import read_run_folder
from envecho.tokens.view import TokenView, ViewToken, visible_text
from envecho.trajectory import Source

SECTIONS = ["curve", "answers", "figures", "operations", "readouts", "tokens", "made", "definitions"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_synthetic_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report)


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_page_holds_everything_that_it_shows(page: Page):
    """Catches a font, script, picture or link that is fetched from elsewhere."""
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img", "a", "foreignobject")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "poster"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", "".join(page.raw["style"]))
    assert not re.search(r"""=["'][^"']*https?:""", page.source)


def test_the_content_security_policy_names_the_only_style_and_script(page: Page):
    """Catches a page whose own style is blocked, or whose policy would let injected code run."""
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        assert page.count(kind) == 1
        body = "".join(page.raw[kind])
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not [t for t, a in page.tags if any(n == "style" or n.startswith("on") for n in a)]


def test_hostile_tool_output_is_shown_as_text_and_does_nothing(page: Page):
    """Catches markup, comments, escapes or bidi overrides of a tool that reach the browser as such."""
    assert page.comments == []
    assert visible_text(HOSTILE).splitlines()[0] in page.words
    assert "␛[31mred" in page.words
    assert "⟨U+202E⟩gnp.exe⟨U+2066⟩" in page.words
    assert "{{ 7*7 }}" in page.words
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]", page.source)
    assert 'name = "</pre><script>x"' in page.words


def test_every_section_is_there_in_order(page: Page):
    """Catches a part that silently disappears from a complete run's report."""
    assert page.sections == SECTIONS
    assert page.count("h1") == 1
    assert page.count("svg") >= 4
    for words in ("Make it again:", "envecho demo --seed 0 --steps 40", "Time per phase", "[training]"):
        assert words in page.words


def test_the_finding_states_the_figures_of_the_hardest_pool(page: Page, report: Path):
    """Catches a sentence whose numbers are not those of the file, or of an easier pool."""
    results = json.loads((report.parent / "evaluation.json").read_text())["pools"]["new_boxes"]
    cost = {name: f"{result['ce_derivable']['value']:.2f}" for name, result in results.items()}
    swap = results["trained"]["action_swap_gap"]["value"]
    copier = min(cost["ngram"], cost["ppm"])
    assert (
        "On boxes never seen, output that earlier output determines costs the trained model "
        f"{cost['trained']} nats per token, the base model {cost['base']}, the best copier {copier}; "
        f"swapping the command costs the trained model {swap:.2f} more."
    ) in page.words


def test_a_bad_result_is_said_in_the_same_words(tmp_path: Path):
    """Catches a report that praises a model that got worse."""
    run = write_synthetic_run(tmp_path / "run")
    made = json.loads((run / "evaluation.json").read_text())
    trained = made["pools"]["new_boxes"]["trained"]
    trained["ce_derivable"] |= {"value": 1.58, "low": 1.5, "high": 1.7}
    trained["action_swap_gap"] |= {"value": -0.2, "low": -0.3, "high": -0.1}
    (run / "evaluation.json").write_text(json.dumps(made))
    words = Page(write_report(run)).words
    base = made["pools"]["new_boxes"]["base"]["ce_derivable"]["value"]
    assert "costs the trained model 1.58 nats per token" in words
    assert "swapping the command costs the trained model 0.20 less" in words
    assert f"The trained model’s cost is {1.58 / base:.2f} of the base model’s" in words


def test_the_pictures_lie_beside_the_page_as_png(report: Path, tmp_path: Path):
    """Catches a README picture that is missing, or a second page that overwrites the first one's pictures."""
    for name in ("chart.png", "operations.png"):
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")
    other = write_report(report.parent, tmp_path / "other" / "x.html")
    assert sorted(path.name for path in other.parent.iterdir()) == ["x-chart.png", "x-operations.png", "x.html"]


def test_the_same_run_gives_the_same_bytes(report: Path, tmp_path: Path):
    """Catches dates, random ids or orderings that make every report a new file."""
    again = write_report(report.parent, tmp_path / "again.html")
    assert again.read_bytes() == report.read_bytes()
    assert (tmp_path / "again-chart.png").read_bytes() == (report.parent / "chart.png").read_bytes()


def test_tables_and_controls_are_labelled(page: Page):
    """Catches a table, picture or switch that a screen reader cannot name."""
    assert page.count("table") == page.count("caption") >= 6
    regions = [a for t, a in page.tags if t == "div" and a.get("role") == "region"]
    assert len(regions) == page.count("table")
    assert all(a.get("aria-label") or a.get("aria-labelledby") for a in regions)
    ids = {a["id"] for _, a in page.tags if a.get("id")}
    assert {a["aria-labelledby"] for _, a in page.tags if a.get("aria-labelledby")} <= ids
    assert all(a.get("aria-label") or a.get("aria-hidden") for t, a in page.tags if t == "svg")
    assert page.count("legend") == page.count("fieldset") > 0
    assert all(a.get("scope") for t, a in page.tags if t == "th")


def test_ids_are_unique(page: Page):
    """Catches two inline pictures that clip each other because they share an id."""
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    repeated = {name for name in ids if ids.count(name) > 1}
    assert repeated == set()


def test_each_token_says_who_wrote_it_and_what_it_cost(page: Page):
    """Catches tokens without a role colour, shade or detail."""
    tokens = [a for t, a in page.tags if t == "span" and (a.get("class") or "").startswith("t ")]
    assert {(a["class"] or "").split()[1] for a in tokens} == {"context", "action", "env_output", "warning"}
    scored = [a for a in tokens if "trained" in (a["title"] or "")]
    assert scored
    assert all(re.search(r"\bp0-\d p1-\d$", a["class"] or "") for a in scored)
    assert re.fullmatch(
        r"stdout · turn 3 · base \S+ nats, p = \S+ % · trained \S+ nats, p = \S+ %", scored[0]["title"] or ""
    )


def test_the_trained_model_shades_first_whatever_the_order_in_the_file(tmp_path: Path):
    """Catches a page that opens on a copier's losses because its name came first."""
    nll: dict[str, float | None] = {"ppm": 1.0, "ngram": 1.0, "trained": 0.1, "base": 2.0}
    view = TokenView(
        pool="new_boxes", trajectory_id="t", tokens=(ViewToken(text="x", source=Source.STDOUT, turn=0, nll=nll),)
    )
    page = Page(write_token_page([view], tmp_path / "t.html", title="t"))
    radios = [a for t, a in page.tags if t == "input" and a.get("type") == "radio"]
    assert [a["class"] for a in radios if "checked" in a] == ["p1"]
    assert "Shade by\nbase" in re.sub(r"\n+", "\n", page.words)
    assert (next(a for t, a in page.tags if t == "span" and "t env_output" in (a.get("class") or ""))["class"]) == (
        "t env_output p0-4 p1-1 p2-3 p3-3"
    )


def test_metrics_alone_give_a_report_that_names_what_is_missing(tmp_path: Path):
    """Catches a crash, or a silent gap, while a run is still going on."""
    run = write_synthetic_run(tmp_path / "run")
    for name in ("evaluation.json", "summary.json", "config.toml"):
        (run / name).unlink()
    page = Page(write_report(run))
    assert f"envecho eval --model {run.as_posix()}/checkpoints/step-000040" in page.words
    assert "Nothing held out has been measured yet" in page.words
    assert [a["id"] for t, a in page.tags if t == "section" and "id" in a] == ["curve", "made", "definitions"]


def test_the_command_that_a_report_names_has_the_pools_of_the_folder(tmp_path: Path):
    """Catches a command with files that are not there, or that judges a model on what chose it."""
    (tmp_path / "config.toml").write_text("[run]\nsteps = 1\n")
    (tmp_path / "trajectories").mkdir()
    for name in ("train", "validation", "held_out", "step-000001"):
        (tmp_path / "trajectories" / f"{name}.parquet").touch()
    command = next(command for part, command in read_run_folder(tmp_path).missing if "evaluation" in part)
    assert command.count("--data") == 1
    assert f"--data {tmp_path.as_posix()}/trajectories/held_out.parquet" in command


def test_an_evaluation_alone_is_a_page_without_the_parts_of_a_run(tmp_path: Path):
    """Catches `envecho eval --out` folders being refused, or told that a run's files are missing."""
    run = write_synthetic_run(tmp_path / "run")
    for name in ("metrics.jsonl", "summary.json", "config.toml"):
        (run / name).unlink()
    page = Page(write_report(run))
    assert "does not have everything yet" not in page.words
    assert "envecho eval --model MODEL --data HELD_OUT.parquet --out NEW_FOLDER" in page.words
    assert page.sections == [name for name in SECTIONS if name != "curve"]


def test_an_evaluation_with_nothing_in_it_gives_a_report(tmp_path: Path):
    """Catches a crash on empty pools, readouts and views."""
    run = write_synthetic_run(tmp_path / "run")
    change(run / "evaluation.json", pools={}, readouts=[], token_views=[])
    (run / "metrics.jsonl").write_text("")
    page = Page(write_report(run))
    assert "This run has no figures yet." in page.words


def test_figures_that_do_not_exist_are_shown_as_a_dash(tmp_path: Path):
    """Catches a crash on a pool without derivable output, or a nought in place of an unknown."""
    run = write_synthetic_run(tmp_path / "run")
    made = json.loads((run / "evaluation.json").read_text())
    for result in made["pools"]["new_boxes"].values():
        result |= {"ce_derivable": None, "action_swap_gap": None, "by_operation": {}, "by_source": {}}
        result["ce_per_token"] |= {"low": None, "high": None}
    made["pools"]["new_commands"] = {"base": made["pools"]["new_commands"]["base"]}
    (run / "evaluation.json").write_text(json.dumps(made))
    page = Page(write_report(run))
    assert "On boxes never seen, what the world answers costs the trained model" in page.words
    assert "–" in page.words


def test_hostile_names_do_not_break_the_pictures(tmp_path: Path):
    """Catches an operation or pool named like markup or mathematics that stops the report or enters the SVG."""
    run = write_synthetic_run(tmp_path / "run")
    made = json.loads((run / "evaluation.json").read_text())
    name = "$\\frac{</text><script>\x00\ufffe\u202e☃"
    result = made["pools"]["new_boxes"]["base"]
    result["by_operation"][name] = result["by_operation"]["sort"]
    result["by_source"][name] = result["by_source"]["stdout"]
    made["pools"][name] = made["pools"]["new_boxes"]
    (run / "evaluation.json").write_text(json.dumps(made))
    page = Page(write_report(run))
    assert page.count("script") == 1
    assert "\x00" not in page.source


@pytest.mark.parametrize("name", ["evaluation.json", "summary.json"])
def test_an_unknown_version_is_refused(name: str, tmp_path: Path):
    """Catches a newer file that is drawn with wrong meanings."""
    run = write_synthetic_run(tmp_path / "run")
    change(run / name, version=99)
    with pytest.raises(DataError, match=r"version 1.*, found .*99"):
        write_report(run)


@pytest.mark.parametrize("name", ["evaluation.json", "summary.json"])
def test_an_unknown_key_is_refused_by_name(name: str, tmp_path: Path):
    """Catches a typing error in a writer that silently drops a figure."""
    run = write_synthetic_run(tmp_path / "run")
    change(run / name, polls={})
    with pytest.raises(DataError, match="polls"):
        write_report(run)


def test_a_summary_that_is_no_json_is_refused_with_its_name(tmp_path: Path):
    """Catches a traceback in place of the file's name."""
    run = write_synthetic_run(tmp_path / "run")
    (run / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json: expected JSON"):
        write_report(run)


def test_a_last_line_cut_by_a_kill_is_counted_and_another_is_an_error(tmp_path: Path):
    """Catches a killed run that cannot be reported, or a damaged log that passes as whole."""
    run = write_synthetic_run(tmp_path / "run")
    rows = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(rows + '{"kind":"train","st')
    assert "lines of metrics.jsonl not read1" in Page(write_report(run)).words
    (run / "metrics.jsonl").write_text('{"kind":"train","st\n' + rows)
    with pytest.raises(DataError, match="line 1"):
        write_report(run)


def test_a_diverged_run_is_drawn_up_to_where_it_has_numbers(tmp_path: Path):
    """Catches a crash on NaN in the training log, exactly when one wants to see the curve."""
    run = write_synthetic_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind":"train","step":40,"env_ce":NaN}\n{"kind":"train","step":41,"env_ce":null}\n')
    assert write_report(run).is_file()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    """Catches an empty report of a mistyped folder."""
    with pytest.raises(DataError, match="expected a run folder"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="expected a run folder"):
        write_report(tmp_path / "absent")


def test_a_page_of_tokens_alone_is_as_inert_as_a_report(tmp_path: Path):
    """Catches `envecho show --html` having its own, weaker way to write tool output."""
    token = ViewToken(text=HOSTILE, source=Source.STDOUT, turn=0, nll={"model": 0.3})
    view = TokenView(pool="", trajectory_id="<b>", tokens=(token,))
    page = Page(write_token_page([view], tmp_path / "t.html", title="</title><script>"))
    assert page.count("script") == 1
    assert page.comments == []
    assert page.count("b") == len(re.findall("<b>", page.source))
    assert "</title><script>" in page.words


def test_a_page_draws_no_more_tokens_than_a_reader_can_use(tmp_path: Path):
    """Catches a page of a hundred thousand spans, or tokens that vanish without a word."""
    token = ViewToken(text="x", source=Source.STDOUT, turn=0)
    view = TokenView(pool="", trajectory_id="t", tokens=(token,) * 5000)
    page = Page(write_token_page([view], tmp_path / "t.html", title="t"))
    assert "1,000 more tokens are not drawn here." in page.words


def test_reports_and_their_commands_load_no_torch():
    """Catches a report that takes seconds to start, or needs torch where there is none."""
    code = "import sys, envecho.reports, envecho.cli.show, envecho.cli.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
