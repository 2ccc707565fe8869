"""Known secrets in a text: where they begin and end, and of which kind they are.

Token formats of single services come from detect-secrets, as far as they have a literal to look for; added here is what
it lacks (keys of model providers, Hugging Face, Google, whole key blocks, whole JSON Web Tokens) and secrets that only
their context tells: headers, URLs, assignments. A text is searched for the literals, and a pattern is tried where one
stands. Repetitions are bounded, so that hostile text costs little more than other text.

Not here: what is done with a secret (`redaction`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

Span = tuple[int, int, str]
"""Start, end and kind of a secret."""

Accepts = Callable[[str, int, int], bool]
"""Whether characters `[start, end)` of a text are a secret."""

_WINDOW: Final = 300


@dataclass(frozen=True, kw_only=True)
class SecretPattern:
    """One kind of secret, tried where one of `literals` stands.

    A match begins `offset` characters before the literal; None: somewhere around it. The secret is the group `secret`
    where there is one, else `group`, 0 for the whole match.
    """

    name: str
    pattern: re.Pattern[str]
    literals: tuple[str, ...] = ()
    offset: int | None = 0
    group: int = 0
    accepts: Accepts | None = None

    def near(self, text: str, place: int) -> Iterator[Span]:
        """Yield the secrets of this kind that a literal at `place` belongs to."""
        if self.offset is None:
            yield from self.spans(self.pattern.finditer(text, max(place - _WINDOW, 0), place + _WINDOW))
        elif place >= self.offset and (match := self.pattern.match(text, place - self.offset)):
            yield from self.spans(iter((match,)))

    def spans(self, matches: Iterator[re.Match[str]]) -> Iterator[Span]:
        """Yield the secrets in these matches."""
        group = "secret" if "secret" in self.pattern.groupindex else self.group
        for match in matches:
            start, end = match.span(group)
            if end > start and (self.accepts is None or self.accepts(match.string, start, end)):
                yield start, end, self.name


Literals = tuple[tuple[str, tuple[SecretPattern, ...]], ...]
"""What is looked for, and the patterns that are tried where it stands."""


def literals_in(text: str) -> Literals:
    """Return what there is to look for in parts of this text: most texts hold few literals, and one search tells."""
    return tuple(entry for entry in _patterns_by_literal() if entry[0] in text)


def find_known(text: str, *, among: Literals | None = None) -> list[Span]:
    """Return the known secrets of a text; they may overlap. `among` are the literals that may stand in it."""
    found: list[Span] = []
    for literal, patterns in _patterns_by_literal() if among is None else among:
        place = text.find(literal)
        while place >= 0:
            for pattern in patterns:
                found.extend(pattern.near(text, place))
            place = text.find(literal, place + 1)
    return found


@cache
def _patterns_by_literal() -> Literals:
    table: dict[str, list[SecretPattern]] = {}
    for pattern in known_patterns():
        for literal in pattern.literals:
            table.setdefault(literal, []).append(pattern)
    return tuple((literal, tuple(patterns)) for literal, patterns in table.items())


_COLOUR_BEFORE = re.compile(r"\x1b\[[0-9;]*[mK]\Z")
_PLACEHOLDER = re.compile(
    r"\$[\w({]|<[A-Za-z_]|\{[{\w]|%[A-Za-z({]|\*{2}|\(|\[[A-Za-z]|@[A-Za-z_/]|\.\.\.|x{3}|your|my[_-]|insert|replace|"
    r"change|example|placeholder|dummy|(?:true|false|none|null|undefined|nil|string|str|token|secret|password|passwd|"
    r"pass|pwd|key|api_?key|yes|no)\Z",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?:~|\.{1,2})?/(?![A-Za-z0-9+/]{39}\Z)")
_CODE = re.compile(r"[A-Za-z_]\w*(?:\(|\[|(?:\.[A-Za-z_]\w*)+[(\[]?)")
_NAME_BEFORE = re.compile(r"[ \t\d:|+>-]*[\w.-]+[ \t]*[:=][ \t]*")
_KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/]{16}")


def _stands_alone(text: str, start: int, end: int) -> bool:
    r"""Whether a token begins here: behind no letter or digit but those of an escape (`\n`) or of a colour."""
    if start == 0 or not text[start - 1].isalnum() or text[max(start - 2, 0) : start] in ("\\n", "\\t", "\\r"):
        return True
    return _COLOUR_BEFORE.search(text[max(start - 16, 0) : start]) is not None


def _is_value(text: str, start: int, end: int) -> bool:
    """Whether the right side of an assignment is a value, and no variable, path, call or placeholder."""
    value = text[start:end]
    if _PLACEHOLDER.match(value) or _PATH.match(value) or (value.isdigit() and len(value) < 6):
        return False
    code = _CODE.match(value)
    return code is None or (code.end() < len(value) and value[code.end() - 1] not in "([")


def _is_mixed(text: str, start: int, end: int) -> bool:
    """Whether it is a value with letters and digits, as generated secrets and passwords have."""
    value = text[start:end]
    has_both = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return has_both and _is_value(text, start, end)


def _is_setting(text: str, start: int, end: int) -> bool:
    """Whether it is such a value, and nothing but a name stands before it in its line."""
    line = text.rfind("\n", max(start - _WINDOW, 0), start) + 1
    return _NAME_BEFORE.fullmatch(text, line, start) is not None and _is_mixed(text, start, end)


def _is_key_block(text: str, start: int, end: int) -> bool:
    """Whether a block holds key material, and not only the words of its header and footer."""
    return _KEY_MATERIAL.search(text, start, end) is not None


def _is_no_placeholder(text: str, start: int, end: int) -> bool:
    return _PLACEHOLDER.match(text, start, end) is None


_QUOTE = r"\\?[\"']?"
_ASSIGNS = rf"{_QUOTE}[ \t]{{0,8}}[:=][ \t]{{0,8}}"
_BARE = r"(?:[^\s\"'`\\]|\\(?![nrtu\"'\\]))"
_HEADER_VALUE = r"(?P<secret>[A-Za-z0-9._~+/=-]{12,4000})"
_KEY_NAME = r"(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_UPPER = (
    r"(?:TOKEN|SECRET(?:_KEY(?:_BASE)?)?|PASSW(?:OR)?D|PASSPHRASE|(?<=_)PASS|APIKEY|CREDENTIALS?|_PWD|_PAT|"
    r"(?:(?<=API)|(?<=SECRET)|(?<=ACCESS)|(?<=PRIVATE)|(?<=SIGNING)|(?<=ENCRYPTION)|(?<=ACCOUNT))_KEY)(?:_?\d{1,2})?"
)
_UPPER_WORDS: Final = ("TOKEN", "SECRET", "PASS", "APIKEY", "CREDENTIAL", "_PWD", "_PAT", "_KEY")
_LOWER = r"(?:[Pp]assw(?:or)?d|[Pp]assphrase|[Ss]ecret(?:_?[Kk]ey)?|[Aa]ccess_?[Kk]ey|[Pp]rivate_?[Kk]ey)"
_LOWER_WORDS: Final = ("assw", "assphrase", "ecret", "ccess_key", "ccessKey", "rivate_key", "rivateKey")
_TOKEN = r"(?:[Tt]oken|[Aa]pi[_-]?[Kk]ey)"
_TOKEN_WORDS: Final = ("oken", "pi_key", "pi-key", "pi-Key", "piKey", "pikey")


def _quoted(least: int) -> str:
    """A value of one line in quotes, which may be escaped as in JSON."""
    return (
        r"(?P<quote>\\?[\"'])(?P<secret>(?:(?!(?P=quote))[^\n\\]|\\(?![nr\"']))" + f"{{{least},400}})" + r"(?P=quote)"
    )


def _alone(least: int) -> str:
    """A value that ends its line."""
    return rf"(?P<secret>[^\s\"'`()\[\]{{}},;<>|]{{{least},400}})[ \t]{{0,8}}(?=\r?\n|\Z)"


def _own(
    name: str, pattern: str, *literals: str, offset: int | None = 0, accepts: Accepts = _stands_alone
) -> SecretPattern:
    return SecretPattern(name=name, pattern=re.compile(pattern), literals=literals, offset=offset, accepts=accepts)


_OWN: Final = (
    _own(
        "private-key",
        rf"-----BEGIN {_KEY_NAME}"
        rf"(?:(?:(?!-----BEGIN)[A-Za-z0-9+/=\s\\,:.|>\"'()-]){{0,20000}}?-----END {_KEY_NAME}"
        r"|(?:(?:[\s\d:|>+\"',-]|\\[nr]){0,40}[A-Za-z0-9+/=]{16,100}(?![A-Za-z0-9+/=_.(-])){1,200})",
        "-----BEGIN ",
        accepts=_is_key_block,
    ),
    _own("anthropic-key", r"sk-ant-[A-Za-z0-9_-]{20,300}", "sk-ant-"),
    _own("openai-key", r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,300}", "sk-"),
    _own("openai-key", r"sk-(?=[A-Za-z]{0,60}\d)[A-Za-z0-9]{20,100}(?![A-Za-z0-9_-])", "sk-"),
    _own("openrouter-key", r"sk-or-v1-[0-9a-f]{32,100}", "sk-or-"),
    _own("huggingface-token", r"(?:hf_|api_org_)[A-Za-z0-9]{30,60}", "hf_", "api_org_"),
    _own("github-token", r"github_pat_[A-Za-z0-9_]{36,255}", "github_pat_"),
    _own("google-api-key", r"AIza[A-Za-z0-9_-]{35}", "AIza"),
    _own("google-oauth", r"ya29\.[A-Za-z0-9_-]{20,1000}|GOCSPX-[A-Za-z0-9_-]{24,40}", "ya29.", "GOCSPX-"),
    _own("slack-token", r"xapp-\d-\w{6,20}-\d{6,20}-[a-f0-9]{32,100}|xoxe[.-][\w.-]{20,300}", "xapp-", "xoxe"),
    _own("npm-token", r"npm_[A-Za-z0-9]{36}", "npm_"),
    _own("jwt", r"eyJ[A-Za-z0-9_-]{8,4000}\.eyJ[A-Za-z0-9_-]{4,8000}\.[A-Za-z0-9_-]{8,2000}", "eyJ"),
    _own(
        "authorization",
        rf"(?:[Aa]uthorization|AUTHORIZATION){_QUOTE}\s{{0,4}}[:=]\s{{0,4}}{_QUOTE}(?:[A-Za-z]{{3,12}}\s{{1,4}})?"
        + _HEADER_VALUE,
        *("uthorization", "UTHORIZATION"),
        offset=1,
        accepts=_is_mixed,
    ),
    _own("authorization", rf"[Bb]earer\s{{1,4}}{_HEADER_VALUE}", "earer", offset=1, accepts=_is_mixed),
    _own(
        "authorization",
        rf"[Xx]-(?:[A-Za-z]{{1,12}}-)?(?:[Aa][Pp][Ii]-[Kk]ey|[Aa]uth|[Tt]oken){_QUOTE}\s{{0,4}}[:=]\s{{0,4}}{_QUOTE}"
        + _HEADER_VALUE,
        *("X-", "x-"),
        accepts=_is_mixed,
    ),
    _own(
        "url-password",
        r"://[^\s/:@\"'<>\\]{0,100}:(?P<secret>[^\s/@\"'<>\\]{2,200})@(?=[A-Za-z0-9\[$_-])",
        "://",
        accepts=_is_no_placeholder,
    ),
    _own(
        "assigned-secret",
        rf"{_UPPER}=(?P<secret>{_BARE}{{3,400}}{_BARE}(?<![,;)\]}}]))",
        *_UPPER_WORDS,
        accepts=_is_value,
    ),
    _own(
        "assigned-secret",
        rf"{_UPPER}=(?P<quote>\\?[\"'])(?P<secret>(?:(?!(?P=quote)).){{4,400}})(?P=quote)",
        *_UPPER_WORDS,
        accepts=_is_value,
    ),
    _own("assigned-secret", rf"{_UPPER}{_ASSIGNS}{_quoted(8)}", *_UPPER_WORDS, accepts=_is_mixed),
    _own("assigned-secret", rf"{_UPPER}{_ASSIGNS}{_alone(8)}", *_UPPER_WORDS, accepts=_is_setting),
    _own("assigned-secret", rf"{_LOWER}{_ASSIGNS}{_quoted(8)}", *_LOWER_WORDS, offset=1, accepts=_is_mixed),
    _own("assigned-secret", rf"{_LOWER}{_ASSIGNS}{_alone(8)}", *_LOWER_WORDS, offset=1, accepts=_is_setting),
    _own("assigned-secret", rf"{_TOKEN}{_ASSIGNS}{_quoted(16)}", *_TOKEN_WORDS, offset=1, accepts=_is_mixed),
    _own("assigned-secret", rf"{_TOKEN}{_ASSIGNS}{_alone(16)}", *_TOKEN_WORDS, offset=1, accepts=_is_setting),
)

_LIBRARY: Final = (
    ("aws-access-key", "aws.AWSKeyDetector", 1, 0, ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "aws", "AWS")),
    ("azure-storage-key", "azure_storage_key.AzureStorageKeyDetector", 0, 0, ("AccountKey=",)),
    ("github-token", "github_token.GitHubTokenDetector", 0, 0, ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    ("gitlab-token", "gitlab_token.GitLabTokenDetector", 0, 0, (
        "glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "GR1348941", "glcbt-", "glimt-", "glptt-", "glagent-", "gloas-",
    )),
    ("openai-key", "openai.OpenAIDetector", 0, None, ("T3BlbkFJ",)),
    ("pypi-token", "pypi_token.PypiTokenDetector", 0, 0, ("pypi-AgE",)),
    ("sendgrid-key", "sendgrid.SendGridDetector", 0, 0, ("SG.",)),
    ("slack-token", "slack.SlackDetector", 0, 0, ("xox", "https://hooks.slack")),
    ("square-secret", "square_oauth.SquareOAuthDetector", 0, 0, ("sq0csp-",)),
    ("stripe-key", "stripe.StripeDetector", 0, 1, ("k_live_",)),
    ("telegram-token", "telegram_token.TelegramBotTokenDetector", 0, None, (":AA",)),
    ("twilio-key", "twilio.TwilioKeyDetector", 0, 0, ("AC", "SK")),
)  # fmt: skip
"""Kind, class of detect-secrets, the group that is the secret, offset and literals of its patterns. Left out are those
that flag ordinary text (high entropy, keywords, IP addresses, Artifactory), that stop short of the secret's end (JSON
Web Tokens, key blocks, npm), or that have no literal to look for."""


@cache
def known_patterns() -> tuple[SecretPattern, ...]:
    """Return every known kind of secret; detect-secrets is loaded on the first call.

    Of it the patterns alone are used: no settings, no files, no verification over the network.
    """
    found: list[SecretPattern] = []
    for name, path, group, offset, literals in _LIBRARY:
        module, _, detector = path.partition(".")
        plugin = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), detector)
        found += [
            SecretPattern(
                name=name,
                pattern=pattern,
                literals=literals,
                offset=offset,
                group=min(group, pattern.groups),
                accepts=_stands_alone,
            )
            for pattern in plugin.denylist
        ]
    return (*found, *_OWN)
