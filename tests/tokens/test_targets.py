"""Target selection: which sources each `world_loss_target` trains."""

from __future__ import annotations

import pytest
from conversations import message, opening, policy, tokenize_one

from envecho.errors import ConfigError
from envecho.tokens import env_target_mask, target_sources, token_texts
from envecho.trajectory import SOURCES, Role, Source

PARTS = (
    (Source.COMMAND_ECHO, "$ make\n"),
    (Source.HARNESS_NOTICE, "WARNINGS: none\n"),
    (Source.STDOUT, "built\n"),
    (Source.STDERR, "note: slow\n"),
    (Source.GRADER, "score 1\n"),
    (Source.STATUS, "[exit status 0]"),
)


@pytest.mark.parametrize(
    ("target", "grader", "expected"),
    [
        ("env_only", False, "built\nnote: slow\n"),
        ("all", False, "$ make\nWARNINGS: none\nbuilt\nnote: slow\n[exit status 0]"),
        ("reference", False, "$ make\nbuilt\nnote: slow\n[exit status 0]"),
        ("stdout", False, "built\n"),
        ("env_only", True, "built\nnote: slow\nscore 1\n"),
    ],
)
def test_each_target_selects_exactly_its_text(smol, target, grader, expected):
    """Catches a target that trains more or less than its name says."""
    tokenized = tokenize_one(smol, *opening(), policy("make"), message("user", *PARTS))
    mask = env_target_mask(tokenized, world_loss_target=target, grader_is_target=grader)
    assert "".join(token_texts(smol, tokenized.token_ids[mask])) == expected


def test_no_target_ever_selects_context_or_actions():
    """Catches a new source that slips into a target through the wrong role."""
    for target in ("env_only", "all", "reference", "stdout"):
        assert all(source.role in (Role.ENV_OUTPUT, Role.WARNING) for source in target_sources(target))
    assert {s for s in SOURCES if s.role is Role.ENV_OUTPUT} == target_sources("env_only")


def test_an_unknown_target_is_refused_with_the_nearest_name(smol):
    """Catches a misspelt target that selects nothing."""
    tokenized = tokenize_one(smol, *opening())
    with pytest.raises(ConfigError, match="Did you mean 'env_only'"):
        env_target_mask(tokenized, world_loss_target="env-only")  # type: ignore[arg-type]
