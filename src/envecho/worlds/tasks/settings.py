"""`task.toml` as typed settings: both spellings of what Harbor renamed, unknown keys kept by name.

Facts from Harbor 0.24 (`harbor/models/task/config.py`, schema 1.4): `version` became `schema_version`, `memory = "2G"`
became `memory_mb`, `storage` became `storage_mb`, and `allow_internet` became `network_mode`. Not here: the other files
of a task (`folder`), and what can run on this machine (`locally`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from envecho.errors import DataError

_UNITS = {"K": 1 / 1024, "M": 1, "G": 1024}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class EnvironmentSettings(_Section):
    """`[environment]`: the container that the task asks for."""

    build_timeout_sec: float = 600.0
    docker_image: str | None = None
    os: str = "linux"
    cpus: float | None = None
    memory_mb: int | None = None
    storage_mb: int | None = None
    gpus: int | None = None
    gpu_types: list[str] | None = None
    tpu: dict[str, Any] | None = None
    mcp_servers: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    env: dict[str, str] = Field(default_factory=dict)
    skills_dir: str | None = None
    healthcheck: dict[str, Any] | None = None
    workdir: str | None = None
    network_mode: Literal["no-network", "public", "allowlist"] | None = None
    allowed_hosts: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        values: dict[str, Any] = dict(data)  # type: ignore[arg-type]  # the keys of a TOML table are text
        for old in ("memory", "storage"):
            if old in values:
                size = _megabytes(values.pop(old))
                if values.setdefault(f"{old}_mb", size) != size:
                    raise ValueError(f"{old} and {old}_mb say different sizes")
        allowed = values.pop("allow_internet", None)
        if allowed is not None:
            values.setdefault("network_mode", "public" if allowed else "no-network")
        return values


class AgentSettings(_Section):
    """`[agent]`: bounds on whoever solves the task."""

    timeout_sec: float | None = None
    user: str | int | None = None
    network_mode: Literal["no-network", "public", "allowlist"] | None = None
    allowed_hosts: list[str] | None = None


class VerifierSettings(_Section):
    """`[verifier]`: how the task is graded."""

    timeout_sec: float = 600.0
    env: dict[str, str] = Field(default_factory=dict)
    user: str | int | None = None
    environment_mode: Literal["shared", "separate"] | None = None
    environment: dict[str, Any] | None = None
    collect: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    network_mode: Literal["no-network", "public", "allowlist"] | None = None
    allowed_hosts: list[str] | None = None


class SolutionSettings(_Section):
    """`[solution]`: variables of the reference solution."""

    env: dict[str, str] = Field(default_factory=dict)


class TaskSettings(_Section):
    """A whole `task.toml`."""

    schema_version: str = "1.0"
    task: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    environment: EnvironmentSettings = Field(default_factory=EnvironmentSettings)
    agent: AgentSettings = Field(default_factory=AgentSettings)
    verifier: VerifierSettings = Field(default_factory=VerifierSettings)
    solution: SolutionSettings = Field(default_factory=SolutionSettings)
    source: str | None = None
    steps: list[dict[str, Any]] | None = None
    multi_step_reward_strategy: str | None = None
    artifacts: list[Any] = Field(default_factory=list[Any])

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, data: Any) -> Any:
        if isinstance(data, dict) and "version" in data:
            values: dict[str, Any] = dict(data)  # type: ignore[arg-type]  # the keys of a TOML table are text
            version = str(values.pop("version"))
            return {"schema_version": version, **values}
        return data

    @property
    def unknown_keys(self) -> tuple[str, ...]:
        """Keys that this reader does not know, as `section.key`; `metadata` may hold anything."""
        return tuple(sorted(_unknown(self, "")))


def read_settings(file: Path) -> TaskSettings:
    """Read a `task.toml`.

    Raises:
        DataError: it is missing, no TOML, or a known key has a wrong value.
    """
    try:
        return TaskSettings.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"expected a readable task.toml, found: {error.strerror}", file=file) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"expected TOML: {error}", file=file) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{where}: {first['msg']}; see docs/tasks.md for what is read", file=file) from error


def _unknown(section: _Section, prefix: str) -> Iterator[str]:
    yield from (f"{prefix}{key}" for key in section.model_extra or {})
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, _Section):
            yield from _unknown(value, f"{prefix}{name}.")


def _megabytes(size: Any) -> int:
    text = str(size).strip().upper()
    if text[-1:] in _UNITS:
        try:
            return int(float(text[:-1]) * _UNITS[text[-1]])
        except ValueError:
            pass
    raise ValueError(f"size {size!r}, expected a number with K, M or G, such as '2G'")
