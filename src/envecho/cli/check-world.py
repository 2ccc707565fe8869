"""`envecho check-world`: the contract of a world and of its tasks, check by check."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from envecho.worlds.check_named import NamedReport
    from envecho.worlds.openenv.propose import Proposal


@click.command("check-world")
@click.argument("world")
@click.option(
    "--action", "actions", multiple=True, metavar="TEXT",
    help="An action that the world understands; may be given again. Without any its own scripts say some.",
)  # fmt: skip
@click.option("--slow-action", metavar="TEXT", help="An action that takes longer than a second, to check timeouts.")
@click.option(
    "--max-turns", type=click.IntRange(min=1),
    help="Actions of an episode at most; 16, and unchecked for a module:factory, where it is not given.",
)  # fmt: skip
@click.option("--split", help="Which tasks; the world's first split where it is not given.")
@click.option(
    "--num", "num_tasks", type=click.IntRange(min=1), default=1, show_default=True,
    help="How many tasks to check, from the first.",
)  # fmt: skip
@click.option("--sandbox", default="bubblewrap", show_default=True, help="Where the world runs, as in collect.")
@click.option("--world-map", type=click.Path(path_type=Path), help="A TOML map of an OpenEnv environment.")
@click.option("--seed-actions", type=click.Path(path_type=Path), help="A TOML file of actions that explorers may take.")
@click.option("--rubric", metavar="MODULE:CLASS", help="An OpenEnv rubric that grades a server's episodes here.")
@click.option("--image", help="The image that a provider starts; ours without this.")
@click.option(
    "--allow", multiple=True, metavar="HOST", help="A host that a provider's sandbox may reach; none else. *: all."
)
@click.option(
    "--grader-text", "grader_texts", multiple=True, metavar="TEXT",
    help="Words of the world's grader that no answer may hold; may be given again.",
)  # fmt: skip
@click.option("--flood-action", metavar="TEXT", help="An action that writes more than an observation may hold.")
@click.option(
    "--most-characters", type=click.IntRange(min=1), default=1_000_000, show_default=True,
    help="The most characters of an observation.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(world: str, as_json: bool, **chosen: Any) -> None:
    """Check the contract of WORLD and of its tasks: one line for each check.

    WORLD is what --world takes: a name, module:factory, the URL of an OpenEnv server, or a folder or file of tasks. The
    exit status is 1 where a check failed.

    \b
    envecho check-world terminal --slow-action "sleep 30"
    envecho check-world my_package.worlds:make_world --action ls --action "answer: 3"
    envecho check-world http://127.0.0.1:8000
    """
    from envecho.worlds.check_named import CheckPlan, check_named, open_checked, proposed_map
    from envecho.worlds.check_subject import Expectations
    from envecho.worlds.options import HostOptions, SuiteOptions

    promised = {key: chosen.pop(key) for key in ("grader_texts", "flood_action", "most_characters")}
    host = HostOptions(image=chosen.pop("image"), allow=chosen.pop("allow"))
    stated = {key: chosen.pop(key) for key in ("sandbox", "world_map", "seed_actions", "rubric")}
    options = SuiteOptions(**stated, host=host)
    plan = CheckPlan(expectations=Expectations(**promised), **chosen)
    proposal = proposed_map(world, options)
    if proposal is not None and not as_json:
        _print_proposal(world, proposal)
    report = check_named(open_checked(world, plan, options), plan, options)
    if as_json:
        proposed = None if proposal is None else proposal.text
        click.echo(json.dumps({"world": world, **report.as_json(), "proposed_map": proposed}, indent=1))
    else:
        _print_report(report)
    if not report.passed:
        sys.exit(1)


def _print_proposal(world: str, proposal: Proposal) -> None:
    click.echo(f"No map knows the environment at {world}, so that nothing it says is a target. A proposal to edit,")
    click.echo("and to give as --world-map FILE:\n")
    click.echo(proposal.text)
    for problem in proposal.problems:
        click.echo(f"  while looking: {problem}")


def _print_report(report: NamedReport) -> None:
    """Print a heading for each world, a line for each check, and a count."""
    for name, part in {**report.worlds, "the suite of tasks": report.suite}.items():
        click.echo(name)
        for check in part.checks:
            click.echo(f"  {check.status:8}{check.name}")
            if check.message:
                click.echo(f"          {check.message}")
    statuses = [check.status for part in (*report.worlds.values(), report.suite) for check in part.checks]
    counts = [f"{statuses.count(status)} {status}" for status in ("passed", "failed", "skipped") if status in statuses]
    click.echo(", ".join(counts))
