"""The `envecho` command: finds the verb's file, loads it, and turns errors into one line and an exit status.

Exit status: 0 ok, 1 the work failed, 2 the command was typed wrongly. Not here: any verb.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from typing import Any

import click

VERBS: dict[str, str] = {
    "demo": "Train a real model on what a real shell answers, and report what it learnt.",
    "collect": "Run episodes in a world and write their trajectories.",
    "record": "Run any agent and record its model calls, token for token.",
    "check-world": "Check the contract of a world, one line for each check.",
    "serve": "Serve a world of ours as an OpenEnv server.",
    "import": "Read traces that others wrote into trajectories.",
    "filter": "Copy the trajectories of a store that pass some conditions.",
    "split": "Split trajectories into files between which nothing leaks.",
    "show": "Look at trajectories: who wrote what, token by token.",
    "doctor": "Say what is wrong with a file of trajectories, before anything is trained on it.",
    "lambda": "Say what a lambda really is in each stack, and carry it from one to another.",
    "train": "Train a model on trajectories as a TOML file says.",
    "eval": "Measure on held-out trajectories what a model knows of the world.",
    "simulate": "Let a model play the world, beside the real one.",
    "export": "Hand trajectories to other projects: chat messages, ATIF, OpenEnv, trainers' rows.",
    "report": "Turn a run folder into one self-contained HTML file.",
    "study": "Compare arms over seeds, paired, and report with intervals.",
    "bench": "Measure rates, peak memory, and how far each engine's gradient is from the definition.",
}


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are called, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of `VERBS`."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's file and return its command."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"envecho.cli.{cmd_name}")
        return module.command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with a guess at the verb that was meant."""
        from envecho.errors import did_you_mean

        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from `VERBS`, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="envecho", prog_name="envecho")
def envecho() -> None:
    """Train language-model agents to predict the world that they act in."""


def main(args: list[str] | None = None) -> Any:
    """Run the command line; this is the `envecho` console script.

    Under torchrun rank 0 runs it, and the other ranks do what its engines ask of them.
    """
    from envecho.engines.torchrun import world_size
    from envecho.errors import EnvechoError

    # At its end Python looks for cycles among two million objects of torch, for half a second, and then they all go.
    atexit.register(gc.freeze)
    try:
        if world_size() > 1:
            from envecho.engines.distributed import rank_zero

            with rank_zero() as is_rank_zero:
                if is_rank_zero:
                    envecho.main(args=args, prog_name="envecho", standalone_mode=True)
        else:
            envecho.main(args=args, prog_name="envecho", standalone_mode=True)
    except EnvechoError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
