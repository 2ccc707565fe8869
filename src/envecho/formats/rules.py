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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from envecho.errors import ConfigError, did_you_mean
from envecho.formats.rule_file import read_rule_file
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
        (r"\A<exception>(?s:(?:(?!</exception>).)*?timed out.*?)</exception>\n?", _TIMEOUT),
        (r"\A<exception>(?s:.*?)</exception>\n?", _STATUS),
        (r"(?:\A|(?<=</exception>\n))<returncode>-?\d+</returncode>\n?", _STATUS),
        (r"(?:\A|(?<=</returncode>\n))<warning>(?s:.*?)</warning>\n?", _CUT),
        (r"(?:\A|(?<=</output_head>\n))<elided_chars>(?s:.*?)</elided_chars>\n?", _CUT),
        (r"(?:\A|(?<=</returncode>\n))<output>\n?", _WRAPPER),
        (r"(?:(?<=</warning>)|(?<=</warning>\n))<output_head>\n?|(?<=</elided_chars>\n)<output_tail>\n?", _WRAPPER),
        (r"</output(?:_head|_tail)?>(?=\s*\Z|\n<elided_chars>|\n<output_tail>)\s*", _WRAPPER),
        (r"\APlease always provide EXACTLY ONE action(?s:.*)\Z|\ATool call error:\n\n<error>(?s:.*)\Z", _FORMAT),
        (r"\AYour previous response reached the output token limit(?s:.*)\Z", _FORMAT),
        (
            r"\AThe last command <command>(?s:.*?) timed out and has been killed\.(?:\n[^\n]*:)?(?:\n ?<output>\n?)?",
            _TIMEOUT,
        ),
        (r"\n?</output>\n(?:Please try another command)[^\n]*\s*\Z", _TIMEOUT),
        (r"\A(?:Commands? not executed\.|Interrupted by user|Temporary interruption caught)(?s:.*)\Z", _NOTICE),
    ),
    "swe-agent": _rules(
        (r"\AOBSERVATION:\n|\AObservation: ", _WRAPPER),
        (
            r"\n?\(Open file: [^\n]*\)\n\(Current directory: [^\n]*\)\n"
            r"(?:\(Interactive session: [^\n]*\)\n)?bash-\$\s*\Z",
            _STATUS,
        ),
        (r"^Your (?:last )?command ran successfully and did not produce any output\.\n?", _STATUS),
        (r"<response clipped>(?:<NOTE>(?s:.*?)</NOTE>)?", _CUT),
        (r"\AOld (?:environment )?output: \(\d+ lines omitted\)(?: \(\d+ images omitted\))?\s*\Z", _CUT),
        (
            r"The command '(?s:.*?)' was cancelled because it took more than \d+ seconds[^\n]*"
            r"(?:\nIt may have been waiting for user input[^\n]*)?(?:\nPlease try a different command[^\n]*)?",
            _TIMEOUT,
        ),
        (r"^EXECUTION TIMED OUT\b[^\n]*(?:\nPLEASE REFINE YOUR RUNNING COMMAND[^\n]*)?\n?", _TIMEOUT),
        (r"\AYour output was not formatted correctly(?s:.*)\Z|\AYour command was blocked(?s:.*)\Z", _FORMAT),
        (r"\AYour last output (?:did not use any|included multiple) tool calls!(?s:.*)\Z", _FORMAT),
        (r"\AYour action could not be parsed properly(?s:.*)\Z", _FORMAT),
        (r"\AYour bash command contained syntax errors and was NOT executed\.(?s:.*)\Z", _FORMAT),
        (r"\AOperation '(?s:.*?)' is not supported by this environment\.\s*\Z", _FORMAT),
        (r"\A(?:Environment died unexpectedly\. )?Exited \(autosubmitted\)\s*\Z|\AExit due to [^\n]*\Z", _NOTICE),
    ),
    "openhands": _rules(
        (r"\AEXECUTION RESULT of \[[^\]\n]*\]:\n", _WRAPPER),
        (r"^\[(?:The command completed|Command finished) with exit code -?\d+\.?[^\]\n]*\]\n?", _STATUS),
        (r"^\[Command \S+ finished with exit code -?\d+\]\n?", _STATUS),
        (
            r"^\[(?:Current working directory|Python interpreter|Jupyter current working directory"
            r"|Jupyter Python interpreter): [^\n]*\]\n?",
            _STATUS,
        ),
        (r"\[\.\.\. Observation truncated due to length \.\.\.\]", _CUT),
        (r"^\[The command (?:has no new output after|timed out)[^\n]*\]\n?", _TIMEOUT),
        (r"^\[Below is the output of the previous command\.\]\n?", _TIMEOUT),
        (r"^\[Your command (?s:.*?) is NOT executed\.(?s:.*?)\]\n?", _FORMAT),
        (r"^\[Error occurred in processing last action\]\n?", _FORMAT),
        (r"\A(?:ERROR: )?Cannot execute multiple commands at once(?s:.*)\Z", _FORMAT),
        (r"\APlease continue working on the task\b(?s:.*)\Z", _NOTICE),
        (r"(?:^|(?<=\n))[\w.-]+@[\w.-]+:[~/][^\n#$]*[#$] ?\Z", Source.SHELL_PROMPT),
    ),
    "terminus": _rules(
        (r"\APrevious response had parsing errors:\n(?s:.*)\Z", _FORMAT),
        (r"\APrevious response had warnings:\n(?s:.*?)(?:\n\n|\Z)", _FORMAT),
        (r"^(?:New Terminal Output|Current Terminal Screen):\n\n?|^Current terminal state:\n", _STATUS),
        (r"^Are you sure you want to mark the task as complete\?(?s:.*)\Z", _NOTICE),
        (r"\[\.\.\. output limited to \d+ bytes; \d+ interior bytes omitted \.\.\.\]", _CUT),
        (r"\APrevious command:\n(?s:.*?)\n\nThe previous command timed out after[^\n]*(?s:.*?)terminal:\n\n", _TIMEOUT),
        (r"^The previous command timed out after[^\n]*\n?", _TIMEOUT),
        (r"^ERROR!! NONE of the actions you just requested were performed(?s:.*)\Z", _FORMAT),
        (r"\ATechnical difficulties\. Please continue with the task\.\s*\Z", _NOTICE),
        (r"^[\w.-]+@[\w.-]+:[~/][^\n#$]*[#$] ?$\n?", Source.SHELL_PROMPT),
        (r"^[\w.-]+@[\w.-]+:[~/][^\n#$]*[#$] [^\n]*\n?", Source.COMMAND_ECHO),
    ),
    "echo-rl": _rules(
        (r"\AWARNINGS:\n(?:- [^\n]*\n)+\n?", _NOTICE),
        (r"(?:\A|(?<=\n\n))Command '(?s:.*?)' (?:executed successfully|failed)\. Output: ?", _STATUS),
        (r"(?:\A|(?<=\n\n))Command '(?s:.*?)' timed out after [\d.]+ seconds\.", _TIMEOUT),
        (r"\n?\(exit_code=-?\d+\)\s*\Z", _STATUS),
        (r"\ANo commands provided\b(?s:.*)\Z", _FORMAT),
    ),
    "codeact": _rules(
        (r"\AObservation:\n?", _WRAPPER),
        (r"\n?^You have \d+ steps? left and \d+ chances? to propose solution left\.\s*\Z", _NOTICE),
        (r"^Your answer is (?:wrong|correct)\.\n?", Source.GRADER),
        (r"\AThe output of the OS:\n*", _WRAPPER),
    ),
    "inspect": _rules(
        (r"\A\s*The output of your call to (?s:.*?)<START_TOOL_OUTPUT>\n?", _CUT),
        (r"\n?<END_TOOL_OUTPUT>\s*\Z", _CUT),
        (r"^Command timed out before completing\.", _TIMEOUT),
        (r"\A\s*Please proceed to the next step(?s:.*)\Z", _NOTICE),
        (r"\AError parsing the following tool call arguments(?s:.*)\Z", _FORMAT),
    ),
    "verifiers-rlm": _rules((r"\n?\[Execution time: [\d.]+s\]\s*\Z", _STATUS)),
    "textarena": _rules((r"\n\[GAME\] \[[^\n]*\]\s*\Z", _NOTICE)),
    "hermes": _rules(
        (r"(?:\A|(?<=</tool_response>))\s*<tool_response>\n?", _WRAPPER),
        (r"\n?</tool_response>(?=\s*(?:\Z|<tool_response>))(?:\s*\Z)?", _WRAPPER),
    ),
    "claude-code": _rules(
        (r"\n*<system-reminder>(?s:.*?)</system-reminder>\n*", _NOTICE),
        (r"\A<tool_use_error>|</tool_use_error>\s*\Z", _WRAPPER),
        (r"\A\[Request interrupted by user[^\n]*\]\s*\Z", _NOTICE),
        (r"\AThe user doesn't want to (?:proceed with this tool use|take this action)(?s:.*)\Z", _NOTICE),
        (r"\A\[Old tool result content cleared\]\s*\Z", _CUT),
    ),
    "codex": _rules(
        (r"\A(?:Chunk ID: [^\n]*\n)?(?:Exit code: -?\d+\n)?Wall time: [^\n]*\n(?:[A-Z][^\n]*\n)*?Output:\n", _STATUS),
        (r"\A(?:Exit code: -?\d+\n)(?:[A-Z][^\n]*\n)*?Output:\n", _STATUS),
        (
            r"^\[\.\.\. omitted \d+ of \d+ lines \.\.\.\]\n|^\[?(?:\.\.\.|…)\s?\d+ \w+ truncated\s?(?:\.\.\.|…)\]?$\n?",
            _CUT,
        ),
        (r"\Acommand timed out after \d+ milliseconds\n?", _TIMEOUT),
        (r"\A(?:failed to parse function arguments|unsupported call)(?s:.*)\Z", _FORMAT),
        (r"\A(?:exec command rejected by user|aborted by user)(?s:.*)\Z", _NOTICE),
    ),
}
"""One pack per harness; docs/formats/import.md lists them."""

_SIGNS: Final[dict[str, re.Pattern[str]]] = {
    "mini-swe-agent": re.compile(r"\A(?:<exception>(?s:.*?)</exception>\n)?<returncode>"),
    "swe-agent": re.compile(r"\A(?:OBSERVATION:\n|Observation: )|\(Current directory: [^\n]*\)\nbash-\$\s*\Z"),
    "openhands": re.compile(r"\AEXECUTION RESULT of \[|\APlease continue working on the task on whatever approach"),
    "terminus": re.compile(
        r"\APrevious response had (?:parsing errors|warnings):\n|^(?:New Terminal Output|Current Terminal Screen):$",
        re.MULTILINE,
    ),
    "codeact": re.compile(
        r"\AObservation:\n|You have \d+ steps? left and \d+ chances? to propose|\AThe output of the OS:"
    ),
    "hermes": re.compile(r"\A\s*<tool_response>"),
    "inspect": re.compile(r"\A\s*Please proceed to the next step using your best judgement|<START_TOOL_OUTPUT>"),
    "echo-rl": re.compile(
        r"\AWARNINGS:\n- |(?:\A|(?<=\n\n))Command '(?s:.*?)' "
        r"(?:executed successfully|failed|timed out after [\d.]+ seconds)\."
    ),
    "verifiers-rlm": re.compile(r"\n\[Execution time: [\d.]+s\]\s*\Z"),
    "textarena": re.compile(r"\A\[GAME\]|\n\[GAME\] \[[^\n]*\]\s*\Z"),
}
"""What only this harness writes: by it a user turn is known for an observation, and its pack chosen."""


def pack_of(text: str) -> str | None:
    """Return the pack whose harness wrote around this text, or None."""
    return next((name for name, sign in _SIGNS.items() if sign.search(text)), None)


def split(text: str, rules: Sequence[Rule], *, body: Source, tool: str | None = None) -> tuple[Segment, ...]:
    """Cut an observation into harness text and body; the segments joined are the text, character for character.

    A place that two rules match belongs to the one that begins first, then to the earlier rule; the other keeps its
    rest.
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
        if end <= done:
            continue
        start = max(start, done)
        if start > done:
            segments.append(Segment(source=body, text=text[done:start], tool=tool))
        segments.append(Segment(source=source, text=text[start:end], tool=tool))
        done = end
    if done < len(text):
        segments.append(Segment(source=body, text=text[done:], tool=tool))
    return tuple(segments)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read a user's rules; a file with `[[redact]]` alone has none.

    Raises:
        ConfigError: the file is no such TOML, a pattern does not compile, or a source is unknown.
    """
    rules: list[Rule] = []
    for number, entry in enumerate(read_rule_file(path)["rules"], 1):
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
    return tuple(rules)
