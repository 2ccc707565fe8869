"""An agent that speaks Anthropic's messages without a client library: one tool, one result, one answer."""

from __future__ import annotations

import os
import subprocess
import sys

import httpx

SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}}
BASH = {"name": "bash", "description": "Run a command.", "input_schema": SCHEMA}


def ask(messages: list) -> list:
    answer = httpx.post(
        f"{os.environ['ANTHROPIC_BASE_URL']}/v1/messages",
        json={"model": "any", "max_tokens": 200, "system": "You use bash.", "messages": messages, "tools": [BASH]},
        headers={"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"},
        timeout=60,
    )
    answer.raise_for_status()
    return answer.json()["content"]


messages: list = [{"role": "user", "content": sys.argv[1]}]
while True:
    blocks = ask(messages)
    messages.append({"role": "assistant", "content": blocks})
    uses = [block for block in blocks if block["type"] == "tool_use"]
    if not uses:
        break
    results = []
    for use in uses:
        done = subprocess.run(["bash", "-c", use["input"]["command"]], capture_output=True, text=True)
        results.append({"type": "tool_result", "tool_use_id": use["id"], "content": done.stdout})
    messages.append({"role": "user", "content": results})
print("agent says:", blocks[-1]["text"])
