"""One tool call, one result and one answer, in the dialect that is named: `responses`, `gemini` or `title`.

`title` speaks chat completions and asks for a title beside its work, without tools. `stateful` sends a Responses
request that continues an answer by its id, and prints what comes back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx

DIALECT, TASK = sys.argv[1], sys.argv[2]
SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}}
OPENAI, GEMINI = os.environ["OPENAI_BASE_URL"], os.environ["GOOGLE_GEMINI_BASE_URL"]


def post(url: str, body: dict) -> dict:
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    if url.startswith(GEMINI + "/v1beta"):
        headers = {"x-goog-api-key": os.environ["GEMINI_API_KEY"]}
    answer = httpx.post(url, json=body, headers=headers, timeout=60)
    answer.raise_for_status()
    return answer.json()


def run(command: str) -> str:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout


def responses() -> None:
    tool = {"type": "function", "name": "bash", "parameters": SCHEMA}
    items: list = [{"role": "user", "content": TASK}]
    for _ in range(2):
        body = {"model": "any", "instructions": "You use bash.", "input": items, "tools": [tool], "temperature": 1.0}
        output = post(f"{OPENAI}/responses", body)["output"]
        items += output
        for item in output:
            if item["type"] == "function_call":
                said = run(json.loads(item["arguments"])["command"])
                items.append({"type": "function_call_output", "call_id": item["call_id"], "output": said})


def gemini() -> None:
    declared = [{"functionDeclarations": [{"name": "bash", "description": "Run.", "parameters": SCHEMA}]}]
    contents: list = [{"role": "user", "parts": [{"text": TASK}]}]
    for _ in range(2):
        url = f"{GEMINI}/v1beta/models/gemini-any:generateContent"
        body = {"contents": contents, "tools": declared, "generationConfig": {"temperature": 1.0}}
        said = post(url, body)["candidates"][0]["content"]
        contents.append(said)
        for part in said["parts"]:
            if "functionCall" in part:
                result = {"output": run(part["functionCall"]["args"]["command"])}
                answer = {"functionResponse": {"name": "bash", "response": result}}
                contents.append({"role": "user", "parts": [answer]})


def title() -> None:
    tool = {"type": "function", "function": {"name": "bash", "parameters": SCHEMA}}
    url, work = f"{OPENAI}/chat/completions", [{"role": "user", "content": TASK}]
    post(url, {"model": "any", "messages": work, "tools": [tool], "temperature": 1.0})
    asked = [{"role": "user", "content": "A title for this, please."}]
    post(url, {"model": "any", "messages": asked, "temperature": 0.2})


def stateful() -> None:
    body = {"model": "any", "input": TASK, "previous_response_id": "resp_1"}
    answer = httpx.post(f"{OPENAI}/responses", json=body, headers={"Authorization": "Bearer x"})
    print(answer.status_code, answer.json()["error"]["message"])


{"responses": responses, "gemini": gemini, "title": title, "stateful": stateful}[DIALECT]()
