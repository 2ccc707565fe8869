"""Every rule of every pack: a text that it cuts, and a near miss that it must leave alone."""

from __future__ import annotations

import pytest
from samples_rules import CUT, LEFT

from envecho.formats.rules import PACKS, pack_of, split
from envecho.tokens.targets import target_sources
from envecho.trajectory import Source


@pytest.mark.parametrize(("pack", "segments"), CUT, ids=[f"{pack}-{n}" for n, (pack, _) in enumerate(CUT)])
def test_a_harness_text_is_cut_where_the_harness_wrote_it(pack: str, segments: list[tuple[str, str]]):
    """Catches a rule that matches too much or too little of what its harness writes."""
    text = "".join(part for _, part in segments)
    found = [(s.source.value, s.text) for s in split(text, PACKS[pack], body=Source.TOOL_RESULT)]
    assert found == segments


@pytest.mark.parametrize(("pack", "text"), LEFT)
def test_a_near_miss_stays_the_worlds(pack: str, text: str):
    """Catches a rule that takes the world's words for the harness's because they look alike."""
    found = split(text, PACKS[pack], body=Source.TOOL_RESULT)
    assert [(s.source, s.text) for s in found] == [(Source.TOOL_RESULT, text)]


def test_every_rule_is_shown_by_a_text():
    """Catches a rule that nobody has seen match."""
    for name, rules in PACKS.items():
        texts = ["".join(part for _, part in segments) for pack, segments in CUT if pack == name]
        for rule in rules:
            assert any(rule.pattern.search(text) for text in texts), (name, rule.pattern.pattern)


def test_the_reference_target_leaves_out_the_warnings_prefix_alone():
    """Catches a prefix of echo-rl that `reference` trains, or a status line that it does not (FORMATS section 2)."""
    (_, segments) = next((pack, cut) for pack, cut in CUT if pack == "echo-rl")
    trained = [text for source, text in segments if Source(source) in target_sources("reference")]
    assert trained == [text for source, text in segments if source != "harness_notice"]
    only_body = [text for source, text in segments if Source(source) in target_sources("env_only")]
    assert only_body == ["a.py"]


@pytest.mark.parametrize(
    ("pack", "text"),
    [
        ("mini-swe-agent", "<returncode>0</returncode>\n<output>\n</output>"),
        ("swe-agent", "OBSERVATION:\na"),
        ("openhands", "EXECUTION RESULT of [think]:\nok"),
        ("terminus", "New Terminal Output:\n\na"),
        ("codeact", "The output of the OS:\na"),
        ("hermes", "<tool_response>\n1\n</tool_response>"),
        ("echo-rl", "Command 'ls' executed successfully. Output: a"),
        ("verifiers-rlm", "4\n[Execution time: 0.1s]"),
        ("textarena", "[GAME] You guess words."),
        (None, "Thanks! Now the tests, please."),
    ],
)
def test_a_harness_is_known_by_its_mark(pack: str | None, text: str):
    """Catches an observation in a user turn that passes for a person's words, and the reverse."""
    assert pack_of(text) == pack
