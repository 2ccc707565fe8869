"""What runs inside the sandbox: it imports a scenario's generated code and speaks JSON lines with us.

    {"op": "build", "schema": {...}, "sample": {...}}            -> {"database": BASE64, "failed": [...]}
    {"op": "start", "code": PYTHON, "database": BASE64}          -> {"tools": [{name, description, parameters}]}
    {"op": "call", "name": "list_items", "arguments": {...}}     -> {"text": "...", "is_error": false}
    {"op": "database"}                                           -> {"database": BASE64}
    {"op": "verify", "code": PYTHON, "initial": ..., "final": ..., "answer": TEXT} -> {"verdict": {...}}

Any failure is answered with {"error": TEXT}. The sandbox's own Python runs this file, so it imports nothing of envecho.
Tools are listed and called over MCP, in process: the generated FastAPI application behind fastapi-mcp's server, as `awm
env start` (github.com/Snowflake-Labs/agent-world-model) mounts it. Not here: limits, and who may reach what
(`process`).
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import re
import resource
import sqlite3
import sys
from pathlib import Path
from typing import IO, Any

FOLDER = Path.cwd()
DATABASE = FOLDER / "final.db"
NEEDED = ("fastapi", "fastapi_mcp", "mcp", "sqlalchemy")


class Failure(Exception):
    """What went wrong, in words for the person who runs the scenario."""


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Make the database from AWM's schema and sample data; statements that SQLite refuses are skipped and counted."""
    DATABASE.unlink(missing_ok=True)
    connection = sqlite3.connect(DATABASE)
    failed: list[str] = []
    statements: list[str] = []
    for table in request["schema"].get("tables", []):
        statements += [table["ddl"], *table.get("indexes", [])]
    statements.append("PRAGMA foreign_keys = ON")
    for table in request["sample"].get("tables", []):
        statements += table.get("insert_statements", [])
    for statement in statements:
        try:
            connection.execute(statement)
        except sqlite3.Error as error:
            failed.append(f"{error}: {str(statement)[:200]}")
    connection.commit()
    connection.close()
    return {"database": encoded(DATABASE), "failed": failed}


def encoded(path: Path) -> str:
    """Return a file in base64."""
    return base64.b64encode(path.read_bytes()).decode()


def write(path: Path, content: str) -> None:
    """Write a file from base64."""
    path.write_bytes(base64.b64decode(content))


def application(code: str) -> Any:
    """Run the generated code and return its `app`; every engine that it makes opens our database."""
    missing = [name for name in NEEDED if not importable(name)]
    if missing:
        raise Failure(
            f"a scenario needs {', '.join(missing)}, and the sandbox's Python has no such package: "
            "pip install 'envecho[awm]'"
        )
    import sqlalchemy

    original = sqlalchemy.create_engine

    def create_engine(*_: Any, **__: Any) -> Any:
        return original(f"sqlite:///{DATABASE}", connect_args={"check_same_thread": False})

    sqlalchemy.create_engine = create_engine
    os.environ["DATABASE_PATH"] = f"sqlite:///{DATABASE}"
    os.chdir(FOLDER)
    namespace: dict[str, Any] = {"__name__": "awm_scenario", "__file__": str(FOLDER / "scenario.py")}
    sys.modules["awm_scenario"] = type(sys)("awm_scenario")
    sys.modules["awm_scenario"].__dict__.update(namespace)
    module = sys.modules["awm_scenario"].__dict__
    exec(compile(code, "scenario.py", "exec"), module)
    if "app" not in module:
        raise Failure("the scenario's code defines no `app`")
    return module["app"]


def importable(name: str) -> bool:
    """Say whether a package can be imported."""
    from importlib.util import find_spec

    return find_spec(name) is not None


async def serve(code: str, lines: IO[str], answers: IO[str]) -> None:
    """List the tools, then answer calls until the input ends."""
    from fastapi_mcp import FastApiMCP
    from mcp.shared.memory import create_connected_server_and_client_session

    server = FastApiMCP(application(code)).server
    async with create_connected_server_and_client_session(server) as session:
        listed = await session.list_tools()
        tools = [
            {"name": tool.name, "description": tool.description or "", "parameters": tool.inputSchema}
            for tool in listed.tools
        ]
        say(answers, {"tools": tools})
        for line in lines:
            request = json.loads(line)
            try:
                if request["op"] == "call":
                    found = await session.call_tool(request["name"], request["arguments"])
                    text = "\n".join(part.text for part in found.content if part.type == "text")
                    say(answers, {"text": text, "is_error": bool(found.isError)})
                elif request["op"] == "database":
                    say(answers, {"database": encoded(DATABASE)})
                else:
                    raise Failure(f"no operation {request['op']!r} while a scenario runs")
            except Exception as error:
                say(answers, {"error": f"{type(error).__name__}: {error}"})


def verify(request: dict[str, Any]) -> dict[str, Any]:
    """Run AWM's generated verifier on both databases, with the arguments that its signature names."""
    initial = FOLDER / "initial.db"
    write(initial, request["initial"])
    write(DATABASE, request["final"])
    namespace: dict[str, Any] = {"sqlite3": sqlite3, "json": json, "os": os, "re": re}
    exec(compile(request["code"], "verifier.py", "exec"), namespace)
    functions = [value for name, value in namespace.items() if name.startswith("verify_") and inspect.isfunction(value)]
    if not functions:
        raise Failure("the verifier's code defines no function verify_...")
    known = {"initial_db_path": str(initial), "final_db_path": str(DATABASE), "final_answer": request["answer"] or ""}
    wanted = inspect.signature(functions[0]).parameters
    verdict = functions[0](**{name: value for name, value in known.items() if name in wanted})
    return {"verdict": json.loads(json.dumps(verdict, default=str))}


def say(answers: IO[str], answer: dict[str, Any]) -> None:
    """Write one answer."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main() -> None:
    """Answer one request; after `start`, answer calls until the input ends. What the code prints goes to stderr."""
    if sys.argv[1:]:
        resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[1]), int(sys.argv[1])))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(2, 1)
    lines = sys.stdin
    request = json.loads(lines.readline())
    try:
        if request["op"] == "build":
            say(answers, build(request))
        elif request["op"] == "verify":
            say(answers, verify(request))
        else:
            write(DATABASE, request["database"])
            asyncio.run(serve(request["code"], lines, answers))
    except Exception as error:
        said = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
        say(answers, {"error": said[:2000]})


if __name__ == "__main__":
    main()
