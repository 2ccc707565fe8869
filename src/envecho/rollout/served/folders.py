"""The folder through which weights reach a server: what is in it, and how the server calls it. Not here: who writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from envecho.errors import ConfigError, EngineError
from envecho.rollout.served.dialect import Weights

_ADAPTER_FILE: Final = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class SharedFolder:
    """A folder that trainer and server both reach: `here` as this machine calls it, `there` as the server does."""

    here: Path
    there: PurePath | None = None

    def weights(self, folder: Path, *, name: str) -> Weights:
        """Look at a folder of weights and return what the server is told.

        Raises:
            EngineError: it holds no weights; a server that is told to load it may end.
            ConfigError: it does not lie below `here`.
        """
        if not folder.is_dir() or not any(folder.glob("*.safetensors")):
            raise EngineError(f"{folder} holds no .safetensors; push a folder that `save_model` of an engine wrote")
        return Weights(
            folder=self._as_the_server_calls(folder.absolute()),
            is_adapter=(folder / _ADAPTER_FILE).is_file(),
            name=name,
        )

    def _as_the_server_calls(self, folder: Path) -> str:
        if self.there is None:
            return str(folder)
        try:
            return str(self.there / folder.relative_to(self.here.absolute()))
        except ValueError:
            raise ConfigError(f"{folder} does not lie in {self.here}, the folder that the server sees") from None
