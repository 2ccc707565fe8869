"""Small documents of further formats, for the damage that `test_robustness` does to every format."""

from __future__ import annotations

from typing import Any

ASK: dict[str, Any] = {"role": "user", "content": "Do."}
CALL: dict[str, Any] = {"id": "a", "type": "function", "function": {"name": "run", "arguments": "{}"}}
CALLING: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "a", "content": "out"}
ITEM: dict[str, Any] = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "one"}]}

MORE: dict[str, Any] = {
    "tau-bench": {"task_id": 3, "reward": 1.0, "traj": [ASK, CALLING, RESULT]},
    "tau2": {
        "simulations": [
            {
                "task_id": "t",
                "reward_info": {"reward": 0.5},
                "messages": [ASK, CALLING, {"role": "tool", "tool_messages": [RESULT]}],
            }
        ]
    },
    "toolbench": {"answer_generation": {"query": "q", "train_messages": [[ASK, CALLING], [ASK, CALLING, RESULT]]}},
    "agent-data-protocol": {
        "id": "x",
        "content": [
            {"class_": "text_observation", "content": "Q", "source": "user"},
            {"class_": "code_action", "language": "python", "content": "1", "description": "I add."},
            {"class_": "web_observation", "axtree": "button", "source": "environment"},
            {"class_": "api_action", "function": "f", "kwargs": {}},
        ],
    },
    "gemini-cli": {
        "sessionId": "s",
        "messages": [
            {"type": "user", "content": "Read."},
            {
                "type": "gemini",
                "content": "I read.",
                "thoughts": [{"description": "hm"}],
                "toolCalls": [
                    {"name": "read", "args": {}, "result": [{"functionResponse": {"response": {"output": "body"}}}]}
                ],
            },
        ],
    },
    "swe-agent-query": {
        "history": [ASK, {"role": "assistant", "content": "ls"}, {"role": "user", "content": "OBSERVATION:\na"}],
        "trajectory": [{"response": "ls", "observation": "a", "query": [ASK]}],
        "info": {"model_stats": {"api_calls": 1}},
    },
    "swe-agent-attempts": {"attempts": [{"history": [ASK, {"role": "assistant", "content": "ls"}]}]},
    "openhands-row": {
        "instance_id": "i",
        "history": [
            {"action": "message", "content": "Fix it.", "wait_for_response": False},
            {"action": "run", "thought": "Look.", "command": "ls"},
            {"observation": "run", "content": "a.py", "exit_code": 0},
        ],
    },
    "cassette": {
        "interactions": [
            {"request": {"parsed_body": {"input": "Q"}}, "response": {"parsed_body": {"id": "r", "output": [ITEM]}}},
            {
                "request": {"parsed_body": {"input": [ASK], "previous_response_id": "r"}},
                "response": {"parsed_body": {"id": "s", "output": [ITEM]}},
            },
        ]
    },
    "inspect-log": {"eval": {}, "samples": [{"id": 1, "epoch": 1, "messages": [ASK, CALLING, RESULT]}]},
    "atif-in-a-column": {"row": {"schema_version": "ATIF-v1.6", "steps": [{"source": "agent", "message": "hi"}]}},
    "agent-logs": {"terminal_bench_agent_logs": [{"prompt": "p", "response": "r"}], "results": {"is_resolved": True}},
    "log-of-calls": {"messages": [ASK], "response": {"choices": [{"message": {"role": "assistant", "content": "x"}}]}},
}
