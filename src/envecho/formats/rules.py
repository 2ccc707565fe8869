"""Rule packs: which parts of an observation are a harness's own words, one pack per harness.

A rule is a pattern whose matches have one source; what no rule matches is the body that the world said. Patterns are
anchored where the harness writes at a fixed place. Users add rules in TOML:

    [[rules]]
    pattern = '^\\[took \\d+ s\\]$'
    source = "status"

Not here: files that say themselves where the body lies (the formats prefer that to any pattern).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from envecho.errors import ConfigError, did_you_mean
from envecho.trajectory import Segment, Source


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Text that matches `pattern` in an observation has this source."""

    pattern: re.Pattern[str]
    source: Source


def _rules(*pairs: tuple[str, Source]) -> tuple[Rule, ...]:
    return tuple(Rule(pattern=re.compile(pattern, re.MULTILINE), source=source) for pattern, source in pairs)


_STATUS, _WRAPPER, _CUT = Source.STATUS, Source.WRAPPER, Source.TRUNCATION_NOTICE
_TIMEOUT, _FORMAT, _NOTICE = Source.TIMEOUT_NOTICE, Source.FORMAT_WARNING, Source.HARNESS_NOTICE

PACKS: Final[dict[str, tuple[Rule, ...]]] = {
    "mini-swe-agent": _rules(
        (r"\A<exception>(?s:.*?)</exception>\n?", _TIMEOUT),
        (r"(?:\A|(?<=</exception>\n))<returncode>-?\d+</returncode>\n?", _STATUS),
        (r"^<warning>(?s:.*?)</warning>\n?", _CUT),
        (r"^<elided_chars>(?s:.*?)</elided_chars>\n?", _CUT),
        (r"(?:^|(?<=</warning>))<output(?:_head|_tail)?>\n?", _WRAPPER),
        (r"</output(?:_head|_tail)?>(?=\s*\Z|\n<elided_chars>|\n<output_tail>)\s*", _WRAPPER),
        (r"\APlease always provide EXACTLY ONE action(?s:.*)\Z", _FORMAT),
        (r"\AThe last command <command>(?s:.*?)timed out and has been killed\.(?s:.*)\Z", _TIMEOUT),
    ),
    "swe-agent": _rules(
        (r"\AOBSERVATION:\n|\AObservation: ", _WRAPPER),
        (r"\n?\(Open file: [^\n]*\)\n\(Current directory: [^\n]*\)\nbash-\$\s*\Z", _STATUS),
        (r"^Your command ran successfully and did not produce any output\.\n?", _STATUS),
        (r"<response clipped><NOTE>(?s:.*?)</NOTE>", _CUT),
        (r"\AOld (?:environment )?output: \(\d+ lines omitted\)\s*\Z", _CUT),
        (r"The command '(?s:.*?)' was cancelled because it took more than \d+ seconds[^\n]*", _TIMEOUT),
        (r"\AYour output was not formatted correctly(?s:.*)\Z|\AYour command was blocked(?s:.*)\Z", _FORMAT),
    ),
    "openhands": _rules(
        (r"\AEXECUTION RESULT of \[[^\]\n]*\]:\n", _WRAPPER),
        (r"^\[(?:The command completed|Command finished) with exit code -?\d+\.?\]\n?", _STATUS),
        (
            r"^\[(?:Current working directory|Python interpreter|Jupyter current working directory): [^\n]*\]\n?",
            _STATUS,
        ),
        (r"\[\.\.\. Observation truncated due to length \.\.\.\]", _CUT),
        (r"^\[The command (?:has no new output after|timed out)[^\n]*\]\n?", _TIMEOUT),
        (r"^\[Below is the output of the previous command\.\]\n?", _TIMEOUT),
        (r"^\[Error occurred in processing last action\]\n?", _FORMAT),
        (r"\ACannot execute multiple commands at once(?s:.*)\Z", _FORMAT),
    ),
    "terminus": _rules(
        (r"\APrevious response had (?:parsing errors|warnings):\n(?s:.*?)(?:\n\n|\Z)", _FORMAT),
        (r"^(?:New Terminal Output|Current Terminal Screen):\n\n?|^Current terminal state:\n", _STATUS),
        (r"^Are you sure you want to mark the task as complete\?(?s:.*)\Z", _NOTICE),
        (r"\[\.\.\. output limited to \d+ bytes; \d+ interior bytes omitted \.\.\.\]", _CUT),
        (r"^The previous command timed out after[^\n]*\n?", _TIMEOUT),
        (r"^\S+@\S+:[^\n]*[#$] [^\n]*\n?", Source.COMMAND_ECHO),
    ),
    "codeact": _rules(
        (r"\AObservation:\n?", _WRAPPER),
        (r"\n?^You have \d+ steps? left and \d+ chances? to propose solution left\.\s*\Z", _NOTICE),
        (r"^Your answer is (?:wrong|correct)\.\n?", Source.GRADER),
        (r"\AThe output of the OS:\n?", _WRAPPER),
    ),
    "inspect": _rules(
        (r"\AThe output of your call to (?s:.*?)<START_TOOL_OUTPUT>\n?", _CUT),
        (r"\n?<END_TOOL_OUTPUT>\s*\Z", _CUT),
        (r"^Command timed out before completing\.", _TIMEOUT),
        (r"\APlease proceed to the next step(?s:.*)\Z", _NOTICE),
    ),
    "textarena": _rules(
        (r"\n\[GAME\] \[[^\n]*\]\s*\Z", _NOTICE),
    ),
    "hermes": _rules((r"\A\s*<tool_response>\n?", _WRAPPER), (r"\n?</tool_response>\s*\Z", _WRAPPER)),
    "claude-code": _rules(
        (r"\n*<system-reminder>(?s:.*?)</system-reminder>\n*", _NOTICE),
    ),
}
"""One pack per harness; docs/formats/import.md lists them."""

_SIGNS: Final[dict[str, re.Pattern[str]]] = {
    "mini-swe-agent": re.compile(r"\A(?:<exception>(?s:.*?)</exception>\n)?<returncode>"),
    "swe-agent": re.compile(r"\A(?:OBSERVATION:\n|Observation: )|\(Current directory: [^\n]*\)\nbash-\$\s*\Z"),
    "openhands": re.compile(r"\AEXECUTION RESULT of \["),
    "terminus": re.compile(
        r"\APrevious response had (?:parsing errors|warnings):\n|^(?:New Terminal Output|Current Terminal Screen):$",
        re.MULTILINE,
    ),
    "codeact": re.compile(
        r"\AObservation:\n|You have \d+ steps? left and \d+ chances? to propose|\AThe output of the OS:"
    ),
    "hermes": re.compile(r"\A\s*<tool_response>"),
    "textarena": re.compile(r"\A\[GAME\]|\n\[GAME\] \[[^\n]*\]\s*\Z"),
}
"""What only this harness writes: by it a user turn is known for an observation, and its pack chosen."""


def pack_of(text: str) -> str | None:
    """Return the pack whose harness wrote around this text, or None."""
    return next((name for name, sign in _SIGNS.items() if sign.search(text)), None)


def split(text: str, rules: Sequence[Rule], *, body: Source, tool: str | None = None) -> tuple[Segment, ...]:
    """Cut an observation into harness text and body; the segments joined are the text, character for character.

    A place that two rules match belongs to the one that begins first, then to the earlier rule.
    """
    found = sorted(
        (match.start(), number, match.end(), rule.source)
        for number, rule in enumerate(rules)
        for match in rule.pattern.finditer(text)
        if match.end() > match.start()
    )
    segments: list[Segment] = []
    done = 0
    for start, _, end, source in found:
        if start < done:
            continue
        if start > done:
            segments.append(Segment(source=body, text=text[done:start], tool=tool))
        segments.append(Segment(source=source, text=text[start:end], tool=tool))
        done = end
    if done < len(text):
        segments.append(Segment(source=body, text=text[done:], tool=tool))
    return tuple(segments)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read a user's rules.

    Raises:
        ConfigError: the file is no such TOML, a pattern does not compile, or a source is unknown.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML with [[rules]], {error}") from error
    rules: list[Rule] = []
    for number, entry in enumerate(document.get("rules", []), 1):
        if not isinstance(entry, dict) or set(entry) != {"pattern", "source"}:
            raise ConfigError(f"{path}: rule {number} needs pattern and source, and nothing else; found {entry!r}")
        try:
            rules.append(Rule(pattern=re.compile(entry["pattern"], re.MULTILINE), source=Source(entry["source"])))
        except (re.error, TypeError) as error:
            raise ConfigError(f"{path}: rule {number}: the pattern does not compile: {error}") from None
        except ValueError:
            known = [source.value for source in Source]
            raise ConfigError(
                f"{path}: rule {number} has the unknown source {entry['source']!r}; known: {', '.join(known)}."
                f"{did_you_mean(str(entry['source']), known)}"
            ) from None
    if not rules:
        raise ConfigError(f"{path} has no [[rules]]")
    return tuple(rules)
