"""An agent as people write them: the openai client, one bash tool, results fed back until the model calls nothing.

Arguments: the task; `--stream` reads the answers as a stream of events.
"""

from __future__ import annotations

import json
import subprocess
import sys

from openai import OpenAI

PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
BASH = {"type": "function", "function": {"name": "bash", "description": "Run a command.", "parameters": PARAMETERS}}


def ask(client: OpenAI, messages: list) -> dict:
    asked = {"model": "whatever", "messages": messages, "tools": [BASH], "temperature": 1.0}
    if "--stream" not in sys.argv:
        return client.chat.completions.create(**asked).choices[0].message.model_dump(exclude_none=True)
    content, calls = "", {}
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                call = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += part.id or ""
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
    message: dict = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in calls.values()
        ]
    return message


client = OpenAI(max_retries=0)
messages: list = [{"role": "system", "content": "You use bash."}, {"role": "user", "content": sys.argv[1]}]
while True:
    answer = ask(client, messages)
    messages.append(answer)
    if not answer.get("tool_calls"):
        break
    for call in answer["tool_calls"]:
        command = json.loads(call["function"]["arguments"])["command"]
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": done.stdout})
print("agent says:", answer["content"])
