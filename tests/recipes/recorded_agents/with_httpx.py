"""An agent without a client library: bash blocks in the answer's text, their output as the next user turn.

Arguments: a kind of behaviour, then the task. `plain`; `retry` asks the first prompt twice and goes on with the second
answer; `rewrite` replaces its history by a summary behind the first result; `subagents` asks two more conversations at
once; `crash` and `hang` after the first call; `keys` prints its environment as the first result; `stranger` sends
another key; `embed` asks for embeddings and gives up; `patient` asks again while it is refused.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import httpx

KIND, TASK = sys.argv[1], sys.argv[2]
BASE = os.environ["OPENAI_BASE_URL"]
KEY = os.environ["OPENAI_API_KEY"] if KIND != "stranger" else "sk-somebody-else"


def ask(messages: list) -> dict:
    for _ in range(4 if KIND == "patient" else 1):
        answer = httpx.post(
            f"{BASE}/chat/completions",
            json={"model": "any", "messages": messages, "temperature": 1.0},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60,
        )
        if answer.is_success:
            break
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]


def run(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def loop(messages: list) -> list:
    for step in range(8):
        if KIND == "retry" and step == 0:
            ask(messages)
        answer = ask(messages)
        messages = [*messages, {"role": "assistant", "content": answer["content"]}]
        if KIND == "crash":
            sys.exit(3)
        if KIND == "hang":
            print("hanging", flush=True)
            time.sleep(600)
        found = re.search(r"```bash\n(.*?)\n```", answer["content"] or "", re.DOTALL)
        if not found:
            return messages
        command = "printenv | grep -E '_API_KEY|_BASE_URL'" if KIND == "keys" and step == 0 else found.group(1)
        messages = [*messages, {"role": "user", "content": run(command)}]
        if KIND == "rewrite" and step == 0:
            messages = [{"role": "user", "content": f"{TASK} So far: you listed the files."}]
    return messages


if KIND == "embed":
    answer = httpx.post(f"{BASE}/embeddings", json={"input": "x"}, headers={"Authorization": f"Bearer {KEY}"})
    print(answer.status_code, answer.json()["error"]["message"])
    sys.exit(0)
if KIND == "subagents":
    tasks = [[{"role": "user", "content": f"{TASK} part {number}"}] for number in range(2)]
    threads = [threading.Thread(target=loop, args=(messages,)) for messages in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("agent says:", loop([{"role": "user", "content": TASK}])[-1]["content"])
