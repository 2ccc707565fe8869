"""`envecho record`: any agent's model calls, captured on their way, become one Parquet file of trajectories."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from envecho.formats import ImportOptions
    from envecho.formats.assemble import UserTurns
    from envecho.recipes.record import RecordReport


@click.command("record", context_settings={"allow_interspersed_args": False})
@click.argument("argv", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The .parquet file to write."
)
@click.option(
    "--upstream", "url", metavar="URL", default="http://127.0.0.1:8000", show_default=True,
    help="The server that answers, with chat completions as OpenAI's.",
)  # fmt: skip
@click.option("--upstream-model", "model", metavar="NAME", help="The model to ask there, whatever the agent asks for.")
@click.option("--api-key-env", metavar="NAME", help="The environment variable that holds the upstream's key.")
@click.option(
    "--provider", type=click.Choice(["openai", "anthropic"]), default="openai", show_default=True,
    help="anthropic: the upstream speaks Anthropic's messages; text alone.",
)  # fmt: skip
@click.option(
    "--level", type=click.Choice(["auto", "tokens", "text"]), default="auto", show_default=True,
    help="What to capture; auto asks the upstream for a few tokens first.",
)  # fmt: skip
@click.option(
    "--temperature", type=click.FloatRange(min=0, min_open=True),
    help="Sample every call at this temperature from the whole distribution.",
)  # fmt: skip
@click.option("--max-calls", type=click.IntRange(min=1), help="Answer calls beyond this many with a stop.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Seconds for the command.")
@click.option("--task-id", metavar="NAME", help="The task's name; without it a hash of the opening.")
@click.option("--group-id", metavar="NAME", help="The group of rollouts whose rewards are compared.")
@click.option(
    "--reward-file", type=click.Path(path_type=Path, dir_okay=False),
    help="A file with one number, which the command writes.",
)  # fmt: skip
@click.option(
    "--rules", type=click.Path(path_type=Path),
    help="TOML with your own rules for harness text, and patterns of secrets.",
)  # fmt: skip
@click.option(
    "--user-turns", type=click.Choice(["auto", "world", "person"]), default="auto", show_default=True,
    help="Whose words user turns after an answer are.",
)  # fmt: skip
@click.option("--no-redact", is_flag=True, help="Leave secrets in; without it they are taken out and counted.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object, behind what CMD printed.")
def command(argv: tuple[str, ...], out: Path, as_json: bool, max_calls: int | None, **options: Any) -> None:
    """Run a command and record its model calls.

    The exit status is the command's own: 124 after --timeout, and 1 where nothing was recorded.

    \b
    envecho record --out run.parquet -- python my_agent.py "fix the tests"
    envecho record --out run.parquet --temperature 1 -- qwen -p "fix the tests" --yolo
    """
    from envecho.recipes.record import RecordConfig, record
    from envecho.recipes.record_proxy import Upstream

    upstream = Upstream(
        url=options.pop("url"),
        model=options.pop("model"),
        api_key=_key(options.pop("api_key_env")),
        provider=options.pop("provider"),
    )
    how = _how(options.pop("rules"), options.pop("no_redact"), options.pop("user_turns"))
    config = RecordConfig(out=out, upstream=upstream, options=how, max_calls=max_calls or 0, **options)
    report = record(config, argv, lambda line: click.echo(f"envecho: {line}", err=True))
    sys.stdout.flush()
    _print(report, config.out, config.aside)
    if as_json:
        click.echo("\n" + json.dumps(report.as_json()))  # the command may have left its last line open
    sys.exit(report.status)


def _how(rules: Path | None, no_redact: bool, user_turns: UserTurns) -> ImportOptions:
    from envecho.formats import ImportOptions, Redactor, load_patterns, load_rules

    redactor = None if no_redact else Redactor(patterns=load_patterns(rules) if rules else ())
    return ImportOptions(rules=load_rules(rules) if rules else (), user_turns=user_turns, redactor=redactor)


def _key(variable: str | None) -> str | None:
    from envecho.errors import ConfigError

    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"--api-key-env {variable}: expected the upstream's key in it, and it is not set")
    return key


def _print(report: RecordReport, out: Path, aside: Path) -> None:
    """Say on standard error what was recorded: standard output is the command's."""
    from envecho.trajectory import Source

    def say(line: str) -> None:
        click.echo(f"envecho: {line}", err=True)

    ended = report.ended
    how = {"ended": "ended", "timeout": "was ended by --timeout", "interrupted": "was interrupted"}[ended.how]
    say(f"the command {how} after {ended.seconds:.1f} s with status {ended.status}")
    for note in report.notes:
        say(note)
    if not report.num_calls:
        say(
            "no model call was captured. The agent has to read OPENAI_BASE_URL (or OPENAI_API_BASE) and "
            "OPENAI_API_KEY, ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY, or GOOGLE_GEMINI_BASE_URL and GEMINI_API_KEY"
        )
        return
    if report.num_trajectories:
        tokens = f" ({report.num_sampled_tokens:,} sampled tokens)" if report.num_sampled_tokens else ""
        say(f"model calls: {report.num_calls}{tokens}, trajectories: {report.num_trajectories} -> {out}")
    for source in Source:
        if count := report.found.characters[source.value]:
            say(f"  {source.role.value:<12}{source.value:<19}{count:>12,} characters")
    if report.found.num_turns_of_a_person:
        words = "user turns after an answer are taken for a person's words (--user-turns world: for the world's)"
        say(f"  {report.found.num_turns_of_a_person} {words}")
    if report.found.redacted:
        kinds = ", ".join(f"{count} {name}" for name, count in report.found.redacted.most_common())
        say(f"  redacted: {kinds}; in texts with exact ids they stay as they are, and are never trained")
    if report.num_aside:
        say(f"calls that were not the agent's work: {report.num_aside} trajectories -> {aside}")
