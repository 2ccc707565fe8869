"""What an extra of envecho needs, and whether it is installed in a version that its tests ran on.

    require_extra("trl")     nothing, or a ConfigError that says what was found, what was expected and what to type

The ranges stand in one place, `[project.optional-dependencies]` of pyproject.toml, and are read from the metadata of
the installed distribution. Nothing is imported: asking costs no start-up time. Importable by every level.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from envecho.errors import ConfigError

_DISTRIBUTION = "envecho"


def extra_requirements(extra: str) -> tuple[Requirement, ...]:
    """Return what `pip install 'envecho[EXTRA]'` asks for beyond envecho's own dependencies.

    Raises:
        ConfigError: envecho has no such extra, or is not installed as a distribution.
    """
    try:
        declared = [Requirement(line) for line in requires(_DISTRIBUTION) or ()]
    except PackageNotFoundError:
        raise ConfigError("envecho is not installed as a package; `pip install -e .` in its folder does that") from None
    found = tuple(r for r in declared if r.marker and r.marker.evaluate({"extra": extra}) and not _is_own(r))
    if not found:
        raise ConfigError(f"envecho has no extra {extra!r}")
    return found


def require_extra(extra: str) -> None:
    """Check that every package of an extra is installed in its range.

    Raises:
        ConfigError: one is absent, or of a version that envecho was never tested with.
    """
    problems: list[str] = []
    for requirement in extra_requirements(extra):
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{requirement.name} is {found}, expected {requirement.specifier}")
    if problems:
        raise ConfigError(f"{'; '.join(problems)}. Type: pip install 'envecho[{extra}]'")


def _is_own(requirement: Requirement) -> bool:
    """Whether it is asked for without any extra, too."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
