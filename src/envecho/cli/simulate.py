"""`envecho simulate`: a model plays the shell or the tool server, beside the real one."""

from __future__ import annotations

import json
import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from envecho.evaluation.simulation import ModelRole
    from envecho.recipes.collect_episodes import CollectConfig
    from envecho.recipes.simulate_live import Game, Table
    from envecho.trajectory import Trajectory


@click.command("simulate")
@click.option("--model", required=True, help="The model that plays the world: smollm2-135m, a hub name or a folder.")
@click.option("--base", help="Batch: the model that it was trained from, beside it.")
@click.option("--world", help="The world, as envecho collect names it: terminal without this and without --data.")
@click.option("--sandbox", default="bubblewrap", show_default=True, help="Where the world runs, as of collect.")
@click.option("--split", help="Which tasks: the first split to play, held_out or the last one in a batch, without.")
@click.option("--task", type=click.IntRange(min=0), default=0, show_default=True, help="The number of the first task.")
@click.option("--no-world", is_flag=True, help="The model plays alone; nothing is carried out.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="FILE",
    help="Batch: stored episodes. With --no-world: their openings, to play on from.",
)  # fmt: skip
@click.option(
    "--policy", type=click.Choice(["oracle", "explore"]), default="explore", show_default=True,
    help="Whose episodes are collected; in the terminal, explore also means a box without a task.",
)  # fmt: skip
@click.option("--num", type=click.IntRange(min=1), help="Batch: episodes (24 of a world, all of --data, without this).")
@click.option("--answers", type=click.IntRange(min=1), help="Batch: the first answers of each episode; all without.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=96, show_default=True, help="Tokens of one answer at most."
)
@click.option(
    "--tool-protocol", type=click.Choice(["text", "template"]), default="text", show_default=True,
    help="How a world's tools and calls stand in the messages, as of collect.",
)  # fmt: skip
@click.option("--plan-ahead", is_flag=True, help="Batch: does its prediction tell which of two actions succeeds?")
@click.option(
    "--max-pairs", type=click.IntRange(min=1), default=100, show_default=True, help="Pairs of --plan-ahead at most."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the explorer, pairs and intervals.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False),
    help="Batch: the folder for simulation.json and simulation.html.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace what is in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the simulation, or one line for each turn.")
@click.pass_context
def command(context: click.Context, out: Path | None, **options: Any) -> None:
    """Let a model play the world, beside the real one.

    Without --out you type the actions; with --out a batch of episodes is simulated, scored, and written as a page.

    \b
    envecho simulate --model smollm2-135m
    envecho simulate --model smollm2-135m --world tools --task 3
    envecho simulate --model runs/demo/checkpoints/step-000040 --base smollm2-135m --data new_boxes.parquet --out sim
    envecho simulate --model smollm2-135m --world terminal --num 6 --plan-ahead --out sim
    """
    if out is None:
        _refuse_batch_options(options)
        _play(**options)
    else:
        if options["no_world"]:
            raise click.UsageError("--no-world is for playing; a batch compares with what the world said: leave it out")
        _batch(_typed(context), out, **options)


def _refuse_batch_options(options: dict[str, Any]) -> None:
    batch = ("base", "num", "answers", "plan_ahead", "overwrite")
    given = [name for name in batch if options[name]]
    if options["data"] and not options["no_world"]:
        given.append("data")
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for a batch: pass --out DIR too")


def _typed(context: click.Context) -> str:
    """Return the command line that means the same, without what stands at its default."""
    words = ["envecho", "simulate"]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value is None or value is False or parameter.name in ("overwrite", "as_json"):
            continue
        if value is True:
            words.append(parameter.opts[0])
        elif value != parameter.default or parameter.required:
            words += [parameter.opts[0], str(value)]
    return shlex.join(words)


def _config(options: dict[str, Any], *, num: int) -> CollectConfig:
    from envecho.recipes.collect_episodes import CollectConfig

    return CollectConfig(
        world=options["world"] or "terminal",
        sandbox=options["sandbox"],
        policy=options["policy"],
        split=options["split"],
        first_task=options["task"],
        num_episodes=num,
        seed=options["seed"],
        tool_protocol=options["tool_protocol"],
    )


# --- batch ----------------------------------------------------------------------------------------------------------


def _batch(typed: str, out: Path, *, overwrite: bool, as_json: bool, **options: Any) -> None:
    from envecho.cli.simulate_print import print_simulation
    from envecho.errors import ConfigError
    from envecho.evaluation.simulation import write_simulation
    from envecho.recipes.simulate import SimulateConfig, simulate
    from envecho.reports.simulation import write_simulation_page

    target = out / "simulation.json"
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists; pass --overwrite to replace it, or another --out")
    source, trajectories = _episodes(out, overwrite=overwrite, **options)
    base: dict[ModelRole, str] = {"base": options["base"]} if options["base"] else {}
    config = SimulateConfig(
        models={**base, "model": options["model"]},
        source=source,
        command=typed,
        max_tokens=options["max_tokens"],
        max_answers=options["answers"],
        max_pairs=options["max_pairs"] if options["plan_ahead"] else None,
        world=_config(options, num=1) if options["world"] else None,
        seed=options["seed"],
    )
    simulation = simulate(config, trajectories)
    write_simulation(target, simulation)
    page = write_simulation_page(simulation, out / "simulation.html")
    if as_json:
        click.echo(simulation.model_dump_json(indent=1))
        return
    print_simulation(simulation)
    click.echo(f"written to {target} and {page}")


def _episodes(out: Path, *, overwrite: bool, **options: Any) -> tuple[str, list[Trajectory]]:
    """Return where the episodes are from, and the episodes; those of a world are collected first."""
    from envecho.errors import ConfigError, DataError
    from envecho.recipes.collect import collect_to_file, open_collect_suite
    from envecho.trajectory.store import read_trajectories

    data: Path | None = options["data"]
    if data is None:
        config = _config(options, num=options["num"] or 24)
        if config.split is None:
            splits = open_collect_suite(config).splits
            config = config.model_copy(update={"split": "held_out" if "held_out" in splits else splits[-1]})
        source = f"{config.world}, {config.policy}, {config.split}"
        data = out / "trajectories.parquet"
        if data.exists() and not overwrite:
            raise ConfigError(f"{data} exists; pass --overwrite to collect it anew, or simulate it with --data")
        collect_to_file(config, data)
    else:
        source = data.name
    trajectories = list(islice(read_trajectories(data), options["num"]))
    if not trajectories:
        raise DataError("expected at least one episode, found none", file=data)
    return source, trajectories


# --- interactive ----------------------------------------------------------------------------------------------------


def _play(*, as_json: bool, **options: Any) -> None:
    from envecho.recipes.simulate import open_model
    from envecho.recipes.simulate_live import Table
    from envecho.trajectory.store import read_trajectories

    engine, tokenizer = open_model(options["model"], seed=options["seed"])
    table = Table(
        engine=engine,
        tokenizer=tokenizer,
        config=_config(options, num=1),
        max_tokens=options["max_tokens"],
        with_world=not options["no_world"],
        stored=tuple(read_trajectories(options["data"])) if options["data"] else (),
    )
    _Player(table, as_json=as_json).play(options["task"])


class _Player:
    """Reads lines, and prints turns; one game at a time."""

    def __init__(self, table: Table, *, as_json: bool) -> None:
        self._table, self._as_json = table, as_json

    def play(self, number: int) -> None:
        """Play from this task on, until `:quit` or the end of the input."""
        game = self._deal(number)
        try:
            while (line := self._read(game)) is not None:
                if line.startswith(":task") and line.removeprefix(":task").strip().isdecimal():
                    game.close()
                    free, game = game.free, self._deal(int(line.removeprefix(":task")))
                    game.free = free
                elif line.startswith(":"):
                    if not self._follow(line[1:].strip(), game):
                        return
                elif line:
                    self._act(line, game)
        finally:
            game.close()

    def _deal(self, number: int) -> Game:
        game = self._table.deal(number)
        self._state(game)
        return game

    def _read(self, game: Game) -> str | None:
        """Return the next line, typed or piped in (then it is echoed, so that a log can be read); None at the end."""
        prompt = f"{'free' if game.free else 'guided'}> "
        if sys.stdin.isatty():
            import readline  # pyright: ignore[reportUnusedImport]  # noqa: F401  # arrow keys and history for input()

            try:
                return input(prompt).strip()
            except EOFError:
                return None
        line = sys.stdin.readline()
        if line and not self._as_json:
            click.echo(f"{prompt}{line.strip()}")
        return line.strip() if line else None

    def _act(self, line: str, game: Game) -> None:
        from envecho.cli.simulate_print import print_turn, turn_row
        from envecho.errors import ConfigError, TemplateError

        try:
            turn = game.act(line)
        except (ConfigError, TemplateError) as error:
            click.echo(f"error: {error}", err=True)
            return
        if self._as_json:
            click.echo(json.dumps(turn_row(turn)))
        else:
            print_turn(turn)

    def _follow(self, order: str, game: Game) -> bool:
        """Follow an order; False ends the play."""
        from envecho.cli.simulate_print import HELP
        from envecho.errors import did_you_mean

        match order:
            case "quit":
                return False
            case "help":
                click.echo(HELP, err=self._as_json)
            case "task":
                self._state(game)
            case "free":
                game.free = not game.free or not self._table.with_world
                click.echo(_MODES[game.free], err=self._as_json)
            case _:
                known = ("free", "help", "quit", "task")
                guess = did_you_mean(order, known)
                click.echo(f"error: no order {order!r}; there are :{', :'.join(known)}.{guess}", err=True)
        return True

    def _state(self, game: Game) -> None:
        from envecho.tokens.view import visible_text

        for message in game.opening.messages:
            click.echo(visible_text(message.content), err=self._as_json)


_MODES = {
    True: "free: the model reads its own words in place of all answers so far",
    False: "guided: the model reads what the world really said",
}
