"""Look-alikes of secrets, put together at run time from parts: none is real, and none stands in this file."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"

Lookalike = Callable[[random.Random], tuple[str, str]]
"""Draws (text before the secret that tells it, the secret)."""


def draw(rng: random.Random, length: int, alphabet: str = ALNUM) -> str:
    """Random characters with at least one digit and one letter, as generated secrets have."""
    return "".join((rng.choice("23456789"), rng.choice("abcdef"), *rng.choices(alphabet, k=length - 2)))


def bare(prefix: str, length: int, alphabet: str = ALNUM) -> Lookalike:
    return lambda rng: ("", prefix + draw(rng, length, alphabet))


def told(before: str, length: int, alphabet: str = ALNUM) -> Lookalike:
    return lambda rng: (before, draw(rng, length, alphabet))


def aws(rng: random.Random) -> tuple[str, str]:
    return "", rng.choice(("AK", "AS")) + "IA" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=16))


def jwt(rng: random.Random) -> tuple[str, str]:
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": draw(rng, 12)})
    )
    return "", f"{head}.{body}.{draw(rng, 43, ALNUM + '_-')}"


def key_block(rng: random.Random) -> tuple[str, str]:
    words = rng.choice(("RSA ", "OPENSSH ", "EC ", "")) + "PRIVATE" + " KEY"
    lines = [draw(rng, 64, ALNUM + "+/") for _ in range(rng.randint(2, 5))]
    return "", "\n".join((f"-----BEGIN {words}-----", *lines, draw(rng, 30) + "==", f"-----END {words}-----"))


def telegram(rng: random.Random) -> tuple[str, str]:
    return "", "".join(rng.choices("123456789", k=10)) + ":AA" + draw(rng, 33)


LOOKALIKES: dict[str, tuple[str, Lookalike]] = {
    "openai": ("openai-key", bare("s" + "k-", 48)),
    "openai project": ("openai-key", bare("s" + "k-proj-", 120, ALNUM + "_-")),
    "anthropic": ("anthropic-key", bare("s" + "k-ant-api03-", 90, ALNUM + "_-")),
    "openrouter": ("openrouter-key", bare("s" + "k-or-v1-", 64, HEX)),
    "hugging face": ("huggingface-token", bare("h" + "f_", 34)),
    "github": ("github-token", bare("gh" + "p_", 36)),
    "github fine-grained": ("github-token", bare("github" + "_pat_", 82, ALNUM + "_")),
    "gitlab": ("gitlab-token", bare("gl" + "pat-", 20)),
    "aws": ("aws-access-key", aws),
    "aws secret": ("assigned-secret", told("\naws_secret_access_key = ", 40, ALNUM + "+/")),
    "google": ("google-api-key", bare("AI" + "za", 35, ALNUM + "_-")),
    "slack": ("slack-token", lambda rng: ("", "xo" + f"xb-{rng.randint(10**11, 10**12)}-{draw(rng, 24)}")),
    "stripe": ("stripe-key", bare("sk_" + "live_", 24)),
    "npm": ("npm-token", bare("np" + "m_", 36)),
    "pypi": ("pypi-token", bare("py" + "pi-AgEIcHlwaS5vcmc", 80)),
    "sendgrid": ("sendgrid-key", lambda rng: ("", f"S{'G'}.{draw(rng, 22)}.{draw(rng, 43)}")),
    "telegram": ("telegram-token", telegram),
    "jwt": ("jwt", jwt),
    "key block": ("private-key", key_block),
    "bearer": ("authorization", told("Authorization: Bearer ", 40)),
    "bearer in JSON": ("authorization", told('{"Authorization": "Bearer ', 40)),
    "basic": ("authorization", told("authorization: Basic ", 24)),
    "api key header": ("authorization", told("X-Api-Key: ", 32)),
    "url": ("url-password", told("postgres://app:", 12, ALNUM + "!.-")),
    "url without user": ("url-password", told("redis://:", 12)),
    "env": ("assigned-secret", told("DB_PASSWORD=", 10, ALNUM + "!#%^*-")),
    "exported": ("assigned-secret", told("export SERVICE_TOKEN=", 20)),
    "env in quotes": ("assigned-secret", told('CLIENT_SECRET="', 16)),
    "env of other names": ("assigned-secret", told("STRIPE_API_KEY=", 24, HEX)),
    "JSON": ("assigned-secret", told('"api_key": "', 32, HEX)),
    "YAML": ("assigned-secret", told("\ndb_password: ", 12)),
}
"""Description to (the kind by which it is found, how to draw one)."""

AFTER = {"url": "@db.internal:5432/x", "url without user": "@cache:6379", "env in quotes": '"', "JSON": '"'}
"""What must stand behind the secret."""

ORDINARY = """\
commit 4f8b1c2d9e0a7b6c5d4e3f2a1b0c9d8e7f6a5b4c
Author: A Person <person@example.com>
index 83db48f..bf2a3c1 100644
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  empty.txt
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
d41d8cd98f00b204e9800998ecf8427e *a.bin
3f2504e0-4f89-11d3-9a0c-0305e82c3301
"integrity": "sha512-Kq1t6nC4uNqQ0bqz3bq6lM0p1v4xq8cJ0cWq9q3k1y2z3A4B5C6D7E8F9G0H1I2J3K4L5M6N7O8P9Q0R1S2T3U4V5==",
data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==
drwxr-xr-x  2 root root     4096 Jan  1 10:00 secrets
-rw-------  1 root root      411 Jan  1 10:00 id_ed25519
-rw-r--r--  1 root root       26 Jan  1 10:00 token.txt
Traceback (most recent call last):
  File "/app/auth.py", line 42, in login
    token = self.get_token(user, password=password)
KeyError: 'api_key'
MAX_TOKENS=4096 NUM_TOKENS=10
OLDPWD=/root PWD=/home/user/project
PASSWORD=$PASSWORD TOKEN=${TOKEN:-} SECRET=<your secret here> API_KEY=YOUR_API_KEY PASSWORD_FILE=/run/secrets/db
API_KEY=os.environ["API_KEY"] SECRET_KEY=settings.SECRET_KEY AUTH_TOKEN=/run/secrets/token
password = getpass.getpass("Password: ")
    password: str = Field(default="")
secret = hmac.new(key, msg, hashlib.sha256).hexdigest()
eos_token: <|im_end|>
pad_token: "[PAD]"
"token": "Ġhello", "tokenizer": "gpt2", "max_tokens": 1024,
if token == "sk-": pass
.sk-fading-circle .sk-circle12 { color: red; } task-management-2000-items-in-the-queue-today
https://user@example.com/path http://localhost:8080/@scope/package https://example.com:443/a@b
git@github.com:owner/repo.git ssh://git@host:22/repo
Authorization: Bearer $TOKEN
curl -H "Authorization: Bearer <token>" https://api.example.com
The bearer of this letter; Authorization is required. A secret: nobody knows. Password: required
-----BEGIN CERTIFICATE-----
MIIBszCCAVmgAwIBAgIUQ1p0c2hhMjU2AAAAAAAAAAAAAAAAAAAwCgYIKoZIzj0E
-----END CERTIFICATE-----
if "-----BEGIN PRIVATE KEY-----" in text and "-----END PRIVATE KEY-----" in text:
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7t0f0n8m1l2k3j4h5g6f7d8s9a0q1w2e3r4t5y6u7i person@host
The next page token: CAUQAA2k3j4h5g6f7d8s
ASIAN_COUNTRIES = ["JP"]; hf_hub_download(repo_id="a/b"); npm_config_cache=/tmp; xox = 1; eyJ = 2
1700000000:INFO:root:started  12345678:9abcdef0123456789abcdef0123456789abcdef0
"""
"""Outputs of the sort that every trace holds: hashes, keys that are public, pictures, listings, code about secrets."""
