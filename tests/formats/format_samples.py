"""One small document of each format, of our own making: the shapes are those of the real writers."""

from __future__ import annotations

from typing import Any

MINI_OUTPUT = "<returncode>{code}</returncode>\n<output>\n{body}</output>"


def mini(version: str = "mini-swe-agent-1") -> dict[str, Any]:
    return {
        "trajectory_format": version,
        "info": {"exit_status": "Submitted", "submission": "diff"},
        "messages": [
            {"role": "system", "content": "You type commands."},
            {"role": "user", "content": "Fix it."},
            {"role": "assistant", "content": "```bash\nls\n```"},
            {"role": "user", "content": MINI_OUTPUT.format(code=0, body="a.py\n")},
            {"role": "assistant", "content": "```bash\ncat x\n```"},
            {"role": "user", "content": MINI_OUTPUT.format(code=1, body="")},
            {"role": "assistant", "content": "no block"},
            {"role": "user", "content": "Please always provide EXACTLY ONE action in triple backticks."},
            {"role": "assistant", "content": "```bash\nsubmit\n```"},
            {"role": "user", "content": "diff --git a/a.py b/a.py"},
        ],
    }


MINI_11 = {
    "trajectory_format": "mini-swe-agent-1.1",
    "info": {"exit_status": "Submitted"},
    "messages": [
        {"role": "system", "content": "You type commands."},
        {"role": "user", "content": "Fix it."},
        {
            "role": "assistant",
            "content": "Look.",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}},
                {"id": "2", "type": "function", "function": {"name": "bash", "arguments": '{"command": "cat q"}'}},
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "1",
            "content": '{\n  "returncode": 0,\n  "output": "it\\u0027s\\nhere\\n"\n}',
            "extra": {"raw_output": "it's\nhere\n", "returncode": 0},
        },
        {
            "role": "tool",
            "tool_call_id": "2",
            "content": "<returncode>1</returncode>\n<output>\n<output>\ncat: q: none\n</output>",
            "extra": {"raw_output": "<output>\ncat: q: none\n", "returncode": 1},
        },
        {"role": "user", "content": "Wrong format.", "extra": {"interrupt_type": "FormatError"}},
        {"role": "assistant", "content": "", "tool_calls": []},
        {
            "role": "tool",
            "content": "<returncode>0</returncode>\n<warning>\nLong.\n</warning><output_head>\n1\n2\n</output_head>\n"
            "<elided_chars>\n90 characters elided\n</elided_chars>\n<output_tail>\n8\n9\n\n</output_tail>",
            "extra": {"raw_output": "1\n2\n3\n4\n5\n6\n7\n8\n9\n"},
        },
        {"role": "exit", "content": "", "extra": {"exit_status": "Submitted"}},
    ],
}

SWE_AGENT = {
    "environment": "main",
    "info": {"exit_status": "submitted", "model_stats": {"api_calls": 3}},
    "trajectory": [
        {"action": "ls", "observation": "a.py\nb.py\n", "response": "look\n```\nls\n```"},
        {"action": "submit", "observation": "diff --git", "response": "done\n```\nsubmit\n```"},
    ],
    "history": [
        {"role": "system", "content": "SETTING", "message_type": "system_prompt", "agent": "main"},
        {"role": "user", "content": "demo: OBSERVATION:\nold", "is_demo": True, "agent": "main"},
        {"role": "assistant", "content": "demo answer", "is_demo": True, "agent": "main"},
        {"role": "user", "content": "demo output", "is_demo": True, "agent": "main"},
        {"role": "user", "content": "Fix it.", "message_type": "observation", "agent": "main"},
        {"role": "assistant", "content": "look\n```\nls\n```", "message_type": "action", "agent": "main"},
        {
            "role": "user",
            "content": "OBSERVATION:\na.py\nb.py\n\n(Open file: n/a)\n(Current directory: /r)\nbash-$",
            "message_type": "observation",
            "agent": "main",
        },
        {"role": "assistant", "content": "Exit due to cost limit", "message_type": "action", "agent": "main"},
    ],
}

AWM = {
    "scenario": "shop_1",
    "task": "Buy it.",
    "task_idx": 3,
    "tools": ["search", "verify"],
    "reward": 0.0,
    "steps": [
        {
            "action": {"tool_name": "search", "arguments": {"q": "tea"}},
            "observation": {"done": False, "tool_name": "search", "tool_result": '{"n": 1}'},
        },
        {
            "action": {"tool_name": "search", "arguments": {}},
            "observation": {"done": False, "tool_name": "search", "error": "q is missing"},
        },
        {
            "action": {"tool_name": "verify", "arguments": {}},
            "observation": {"done": True, "verify_result": {"passed": False}},
        },
    ],
}

ATIF = {
    "schema_version": "ATIF-v1.5",
    "session_id": "s",
    "agent": {"name": "terminus-2", "version": "2", "model_name": "m"},
    "steps": [
        {"step_id": 1, "source": "user", "message": "Do it.\nCurrent Terminal Screen:\nroot@x:/app#"},
        {"step_id": 2, "source": "agent", "message": "old answer", "is_copied_context": True,
         "observation": {"results": [{"content": "old output"}]}},
        {"step_id": 3, "source": "agent", "message": "bad json",
         "observation": {"results": [{"content": "Previous response had parsing errors:\nERROR: x\n\nPlease fix."}]}},
        {"step_id": 4, "source": "agent", "message": "Analysis: ok", "reasoning_content": "hm",
         "tool_calls": [{"tool_call_id": "c", "function_name": "bash_command", "arguments": {"keystrokes": "ls\n"}}],
         "observation": {"results": [{"content": "New Terminal Output:\n\nroot@x:/app# ls\na.py\n"}]},
         "metrics": {"completion_token_ids": [1, 2]}},
        {"step_id": 5, "source": "agent", "message": "no model", "llm_call_count": 0},
    ],
}  # fmt: skip

MESSAGES = {
    "messages": [
        {"role": "user", "content": "How many?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "count", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "3"},
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "Thanks!"},
    ],
    "tools": '[{"type": "function", "function": {"name": "count"}}]',
}

NEBIUS = {
    "instance_id": "repo-1",
    "target": True,
    "trajectory": [
        {"role": "system", "system_prompt": "SETTING", "text": None, "mask": False},
        {"role": "user", "system_prompt": None, "text": "Fix it.", "mask": False},
        {"role": "ai", "system_prompt": None, "text": "```\nls\n```", "mask": True},
        {"role": "user", "text": "a.py\n(Open file: n/a)\n(Current directory: /r)\nbash-$", "mask": False},
    ],
}

VERIFIERS = {
    "example_id": 7,
    "reward": 0.5,
    "prompt": [{"role": "user", "content": "Play."}],
    "completion": [
        {"role": "assistant", "content": "[crane]", "tool_calls": None},
        {"role": "user", "content": "\nX X G X X\n[GAME] [word]"},
    ],
}

SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
        {"from": "observation", "value": '{"sky": "grey"}'},
        {"from": "gpt", "value": "Grey."},
    ],
    "tools": "[]",
}

ANTHROPIC = {
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "look it up", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "find", "input": {"who": "Ann"}},
                {"type": "tool_use", "id": "t2", "name": "find", "input": {"who": "Bob"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Ann is 3"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no Bob", "is_error": True},
                {"type": "image", "source": {}},
            ],
        },
    ],
}

RESPONSES = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Run."}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "zzz"},
        {"type": "function_call", "call_id": "c1", "name": "run", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "ran"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
    ]
}

INSPECT = {
    "id": "task-1",
    "epoch": 1,
    "target": "x",
    "scores": {"match": {"value": "C"}},
    "attachments": {"h": "long output"},
    "messages": [
        {"role": "user", "content": "Guess.", "source": "input"},
        {"role": "assistant", "content": "try", "source": "generate",
         "tool_calls": [{"id": "1", "function": "bash", "arguments": {"cmd": "ls"}, "type": "function"}]},
        {"role": "tool", "content": "attachment://h", "tool_call_id": "1", "function": "bash"},
        {"role": "assistant", "content": "again", "source": "generate"},
        {"role": "tool", "content": "bad call", "function": "bash", "error": {"type": "parsing", "message": "bad"}},
        {"role": "tool", "content": "not there", "function": "bash", "error": {"type": "file_not_found"}},
    ],
}  # fmt: skip


def _line(kind: str, uuid: str, parent: str | None, content: Any, **keys: Any) -> dict[str, Any]:
    message = {"role": kind, "content": content} | ({"id": keys.pop("mid")} if "mid" in keys else {})
    base = {"type": kind, "uuid": uuid, "parentUuid": parent, "sessionId": "s", "isSidechain": False, "version": "2"}
    return base | {"message": message} | keys


CLAUDE_CODE: list[dict[str, Any]] = [
    _line("user", "1", None, "Read it."),
    _line("assistant", "2", "1", [{"type": "text", "text": "I read."}], mid="m1"),
    _line("assistant", "3", "2", [{"type": "tool_use", "id": "t", "name": "Read", "input": {"p": "x"}}], mid="m1"),
    _line("user", "9", None, "sub task", isSidechain=True),
    _line(
        "user", "4", "3",
        [{"type": "tool_result", "tool_use_id": "t", "content": "body\n<system-reminder>be good</system-reminder>"}],
    ),
    _line("assistant", "10", "9", [{"type": "text", "text": "sub answer"}], mid="m2", isSidechain=True),
    _line("user", "5", "4", "<command-name>/clear</command-name>"),
    _line("user", "6", "5", "Anew."),
    _line("assistant", "7", "6", [{"type": "text", "text": "fresh"}], mid="m3"),
]  # fmt: skip

CODEX: list[dict[str, Any]] = [
    {"type": "session_meta", "payload": {"id": "s"}},
    {"type": "response_item", "payload": {"role": "user", "content": [{"type": "input_text", "text": "Run."}]}},
    {"type": "event_msg", "payload": {"type": "user_message", "message": "Run."}},
    {"type": "response_item",
     "payload": {"type": "function_call", "call_id": "c", "name": "shell", "arguments": '{"command": "ls"}'}},
    {"type": "response_item", "payload": {"type": "function_call_output", "call_id": "c", "output": "a.py\n"}},
]  # fmt: skip

CODEX_STREAM: list[dict[str, Any]] = [
    {"type": "thread.started", "thread_id": "t"},
    {"type": "item.started", "item": {"id": "i", "type": "command_execution", "command": "ls"}},
    {"type": "item.completed",
     "item": {"id": "i", "type": "command_execution", "command": "ls", "aggregated_output": "a.py\n", "exit_code": 0}},
    {"type": "item.completed", "item": {"id": "j", "type": "agent_message", "text": "One file."}},
]  # fmt: skip


def _answer(identity: str, text: str) -> dict[str, Any]:
    calls = [{"id": "c1", "type": "function", "function": {"name": "run", "arguments": "{}"}}]
    message = {"role": "assistant", "content": text, "tool_calls": calls}
    return {
        "function_name": "run",
        "tool_call_id": "c1",
        "model_response": {"id": identity, "choices": [{"message": message}]},
    }


OPENHANDS_V0: list[dict[str, Any]] = [
    {"id": 0, "source": "user", "action": "message", "args": {"content": "Fix it."}},
    {"id": 1, "source": "agent", "action": "run", "args": {}, "tool_call_metadata": _answer("r1", "I run.")},
    {"id": 2, "source": "agent", "action": "run", "args": {}, "tool_call_metadata": _answer("r1", "I run.")},
    {
        "id": 3, "source": "agent", "observation": "run", "cause": 1, "tool_call_metadata": _answer("r1", "I run."),
        "content": "a.py\n[Current working directory: /w]\n",
        "extras": {"metadata": {"prefix": "", "suffix": "\n[The command completed with exit code 0.]"}},
    },
    {"id": 4, "source": "agent", "observation": "run", "cause": 99, "content": "orphan", "extras": {}},
]  # fmt: skip

OPENHANDS_V1: list[dict[str, Any]] = [
    {
        "kind": "MessageEvent", "id": "m", "source": "user",
        "llm_message": {"content": [{"type": "text", "text": "Do."}]},
    },
    {
        "kind": "ActionEvent", "id": "a", "source": "agent", "thought": [{"type": "text", "text": "ok"}],
        "tool_call": {"id": "c", "name": "terminal", "arguments": "{}"}, "llm_response_id": "r",
    },
    {"kind": "ConversationStateUpdateEvent", "id": "u", "key": "k", "value": 1},
    {
        "kind": "ObservationEvent", "id": "o", "source": "environment", "action_id": "a", "tool_name": "terminal",
        "tool_call_id": "c", "observation": {"content": [{"type": "text", "text": "KEY=<secret-hidden>"}]},
    },
    {"kind": "AgentErrorEvent", "id": "e", "tool_call_id": "c", "error": "no such tool"},
    {
        "kind": "ObservationEvent", "id": "p", "source": "environment", "action_id": "gone", "tool_name": "terminal",
        "observation": {"content": [{"type": "text", "text": "orphan"}]},
    },
]  # fmt: skip

SAMPLES: dict[str, Any] = {
    "mini": mini(),
    "mini-1.1": MINI_11,
    "swe-agent": SWE_AGENT,
    "agent-world-model": AWM,
    "atif": ATIF,
    "messages": MESSAGES,
    "nebius": NEBIUS,
    "verifiers": VERIFIERS,
    "sharegpt": SHAREGPT,
    "anthropic": ANTHROPIC,
    "responses": RESPONSES,
    "inspect": INSPECT,
    "claude-code": CLAUDE_CODE,
    "codex": CODEX,
    "codex-stream": CODEX_STREAM,
    "openhands-0": OPENHANDS_V0,
    "openhands-1": OPENHANDS_V1,
}
