"""TensorBoard and trackio beside `metrics.jsonl`: the same numbers, sent where a team already looks.

Every number of a row becomes `KIND/NAME`, of a nested table `KIND/NAME/KEY`; what is null is left out. The run's own
log stays the record: a tracker gets what it gets, and a run that continues tells it from which step on. Not here: what
is measured (`health`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from envecho.errors import ConfigError
from envecho.training.config import RunConfig
from envecho.training.loop import OnEvent

PROJECT = "envecho"
"""The trackio project of every run; a run's name is that of its folder."""


class Tracker(Protocol):
    """Takes the events of a run, one after the other."""

    def note(self, event: Mapping[str, Any]) -> None:
        """Take one event: `start` first, then the rows of `metrics.jsonl`."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class _TensorBoard:
    """Event files in OUT/tensorboard: `tensorboard --logdir runs`."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        self._folder, self._config = out / "tensorboard", config
        self._writer: Any = None

    def note(self, event: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if event["kind"] == "start":
            # The rows behind the checkpoint from which a run continues come again.
            purge = event["step"] + 1 if event["step"] else None
            self._writer = SummaryWriter(str(self._folder), purge_step=purge)
            self._writer.add_text("config", f"```toml\n{self._config.to_toml()}\n```", event["step"])
        elif event["kind"] == "alarm":
            self._writer.add_text(f"alarm/{event['name']}", event["reason"], event["step"])
        else:
            for name, value in numbers(event).items():
                self._writer.add_scalar(name, value, event["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Trackio:
    """A run of the local trackio project `envecho`: `trackio show --project envecho`."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        self._name, self._config = out.resolve().name, config
        self._is_open = False

    def note(self, event: Mapping[str, Any]) -> None:
        import trackio

        with contextlib.redirect_stdout(sys.stderr):  # it greets; a command's stdout is its result
            if event["kind"] == "start":
                trackio.init(
                    project=PROJECT,
                    name=self._name,
                    config=self._config.model_dump(mode="json"),
                    resume="allow" if event["step"] else "never",
                    embed=False,
                    auto_log_gpu=False,
                    auto_log_cpu=False,
                )
                self._is_open = True
            elif event["kind"] == "alarm":
                trackio.log({f"alarm/{event['name']}": event["reason"]}, step=event["step"])
            elif found := numbers(event):
                trackio.log(found, step=event["step"])

    def close(self) -> None:
        if self._is_open:
            import trackio

            with contextlib.redirect_stdout(sys.stderr):
                trackio.finish()


TRACKERS: dict[str, type[_TensorBoard] | type[_Trackio]] = {"tensorboard": _TensorBoard, "trackio": _Trackio}


@contextmanager
def open_trackers(names: Sequence[str], out: Path, config: RunConfig) -> Generator[OnEvent]:
    """Give an `on_event` for `train` that sends every row to the trackers of these names; they are closed at the end.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise ConfigError(f"--track {name} needs its package: pip install 'envecho[track]' ({error})") from None
    found = [TRACKERS[name](out, config) for name in dict.fromkeys(names)]

    def on_event(event: Mapping[str, Any]) -> None:
        for tracker in found:
            tracker.note(event)

    try:
        yield on_event
    finally:
        for tracker in found:
            tracker.close()


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row by `KIND/NAME`, those of a nested table by `KIND/NAME/KEY`."""
    found: dict[str, float] = {}
    for name, value in event.items():
        nested = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, number in nested:
            if name != "step" and isinstance(number, int | float):
                found["/".join(part for part in (event["kind"], name, str(key)) if part)] = float(number)
    return found
