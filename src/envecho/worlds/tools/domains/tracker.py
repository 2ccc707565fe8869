"""An issue tracker: projects, users, issues and comments.

Not here: what is asked of it (`tracker_tasks`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from envecho.worlds.tools.api import (
    ApiError,
    Filter,
    Tool,
    changed,
    choice,
    created,
    get_tool,
    list_tool,
    need,
    ref,
    text,
)
from envecho.worlds.tools.domain import by_name, numbered
from envecho.worlds.tools.names import people
from envecho.worlds.tools.rows import Row, Rows, Table, equals

STATUSES = ("open", "in_progress", "done", "closed")
PRIORITIES = ("low", "medium", "high")
NEXT_STATUS: Mapping[str, tuple[str, ...]] = {
    "open": ("in_progress", "closed"),
    "in_progress": ("open", "done"),
    "done": ("closed", "open"),
    "closed": ("open",),
}
WHERE = ("login", "search", "export", "upload", "print", "menu", "report", "chart", "mail", "cart", "map", "clock")
WHAT = ("page is slow", "button is missing", "form crashes", "text is wrong", "view is empty", "test fails")
REMARKS = ("Seen again today.", "I can look at it.", "Needs a test.", "Works for me.", "Fixed on main.", "Please wait.")
PROJECTS = ("Apollo", "Comet", "Delta", "Orbit", "Pluto", "Titan")

SCHEMA = """
CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL
    CHECK (role IN ('developer', 'reporter', 'admin')));
CREATE TABLE projects (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, lead_id INTEGER NOT NULL
    REFERENCES users (id));
CREATE TABLE issues (id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL REFERENCES projects (id),
    title TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('open', 'in_progress', 'done', 'closed')),
    priority TEXT NOT NULL CHECK (priority IN ('low', 'medium', 'high')),
    assignee_id INTEGER REFERENCES users (id));
CREATE TABLE comments (id INTEGER PRIMARY KEY AUTOINCREMENT, issue_id INTEGER NOT NULL REFERENCES issues (id),
    author_id INTEGER NOT NULL REFERENCES users (id), text TEXT NOT NULL CHECK (length(text) > 0));
"""

_USER, _PROJECT = ("id", "name", "role"), ("id", "name", "lead_id")
_COMMENT = ("id", "issue_id", "author_id", "text")
USERS = Table(name="users", noun="user", columns=_USER, brief=_USER)
PROJECTS_TABLE = Table(name="projects", noun="project", columns=_PROJECT, brief=_PROJECT)
ISSUES = Table(
    name="issues",
    noun="issue",
    columns=("id", "project_id", "title", "status", "priority", "assignee_id"),
    brief=("id", "title", "status", "priority"),
)
COMMENTS = Table(name="comments", noun="comment", columns=_COMMENT, brief=("id", "author_id", "text"))
TABLES = (USERS, PROJECTS_TABLE, ISSUES, COMMENTS)


def populate(rng: random.Random) -> Mapping[str, list[Row]]:
    """Draw the rows of a tracker; titles are unique, and only developers are assigned."""
    roles = ("developer", "developer", "developer", "reporter", "reporter", "admin")
    users = numbered(rng, [{"name": name, "role": role} for name, role in zip(people(rng, 6), roles, strict=True)])
    projects = numbered(rng, [{"name": name, "lead_id": rng.choice(users)["id"]} for name in rng.sample(PROJECTS, 3)])
    developers = [user["id"] for user in users if user["role"] == "developer"]
    titles = rng.sample([f"{where} {what}" for where in WHERE for what in WHAT], 14)
    issues = numbered(
        rng,
        [
            {
                "project_id": rng.choice(projects)["id"],
                "title": title,
                "status": STATUSES[place % 4] if place < 8 else rng.choice(STATUSES),
                "priority": rng.choice(PRIORITIES),
                "assignee_id": rng.choice((None, *developers)),
            }
            for place, title in enumerate(titles)
        ],
    )
    comments = numbered(
        rng,
        [
            {"issue_id": rng.choice(issues)["id"], "author_id": rng.choice(users)["id"], "text": rng.choice(REMARKS)}
            for _ in range(12)
        ],
    )
    return {"users": users, "projects": projects, "issues": issues, "comments": comments}


def _open_issue(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    need(rows, PROJECTS_TABLE, arguments["project_id"])
    return created(rows, ISSUES, **{"priority": "medium", **arguments}, status="open", assignee_id=None)


def _assign(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    issue, user = need(rows, ISSUES, arguments["issue_id"]), need(rows, USERS, arguments["user_id"])
    if user["role"] != "developer":
        raise ApiError(403, f"user {user['id']} is {user['role']}, expected developer")
    if issue["status"] == "closed":
        raise ApiError(409, f"issue {issue['id']} is closed")
    return changed(rows, ISSUES, issue["id"], assignee_id=user["id"])


def _move(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    issue, status = need(rows, ISSUES, arguments["issue_id"]), arguments["status"]
    following = NEXT_STATUS[issue["status"]]
    if status not in following:
        raise ApiError(409, f"an issue that is {issue['status']} can become {' or '.join(following)}")
    return changed(rows, ISSUES, issue["id"], status=status)


def _set_priority(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    issue = need(rows, ISSUES, arguments["issue_id"])
    return changed(rows, ISSUES, issue["id"], priority=arguments["priority"])


def _rename(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    issue = need(rows, ISSUES, arguments["issue_id"])
    return changed(rows, ISSUES, issue["id"], title=arguments["title"])


def _comment(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    need(rows, ISSUES, arguments["issue_id"])
    need(rows, USERS, arguments["author_id"])
    return created(rows, COMMENTS, **arguments)


def _delete_comment(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    comment, user = need(rows, COMMENTS, arguments["comment_id"]), need(rows, USERS, arguments["user_id"])
    if user["role"] != "admin" and user["id"] != comment["author_id"]:
        raise ApiError(403, "only the author or an admin may delete a comment")
    rows.remove("comments", comment["id"])
    return {"deleted": comment["id"]}


def _count(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    project = need(rows, PROJECTS_TABLE, arguments["project_id"])
    counts = {status: len(rows.find("issues", equals(project_id=project["id"], status=status))) for status in STATUSES}
    return {"project_id": project["id"], **counts}


def _issue_tool(name: str, description: str, run: Any, **more: Any) -> Tool:
    return Tool(
        name=name,
        description=description,
        parameters={"issue_id": ref("issues"), **more},
        run=run,
        shows="issues",
        writes=("issues",),
    )


_TITLE = text("logo is blurred", "save button does nothing", "page shows old data", longest=60)

TOOLS = by_name(
    list_tool(
        USERS,
        "list_users",
        "List users.",
        filters={
            "query": Filter(text(column="users.name"), "name", "contains"),
            "role": Filter(choice("developer", "reporter", "admin"), "role"),
        },
    ),
    get_tool(USERS),
    list_tool(PROJECTS_TABLE, "list_projects", "List projects.", filters={}),
    list_tool(
        ISSUES,
        "list_issues",
        "List issues.",
        filters={
            "project_id": Filter(ref("projects"), "project_id"),
            "status": Filter(choice(*STATUSES), "status"),
            "priority": Filter(choice(*PRIORITIES), "priority"),
            "assignee_id": Filter(ref("users"), "assignee_id"),
            "query": Filter(text(column="issues.title"), "title", "contains"),
        },
        sorts=("title",),
    ),
    get_tool(ISSUES, inside={"comments": (COMMENTS, "issue_id")}),
    Tool(
        name="count_issues",
        description="Count the issues of a project by status.",
        parameters={"project_id": ref("projects")},
        run=_count,
    ),
    Tool(
        name="open_issue",
        description="Open an issue in a project.",
        parameters={
            "project_id": ref("projects"),
            "title": _TITLE,
            "priority": choice(*PRIORITIES).optional,
        },
        run=_open_issue,
        shows="issues",
        writes=("issues",),
        creates=True,
    ),
    _issue_tool("assign_issue", "Assign an issue to a developer.", _assign, user_id=ref("users")),
    _issue_tool("move_issue", "Set the status of an issue.", _move, status=choice(*STATUSES)),
    _issue_tool("set_priority", "Set the priority of an issue.", _set_priority, priority=choice(*PRIORITIES)),
    _issue_tool("rename_issue", "Set the title of an issue.", _rename, title=_TITLE),
    Tool(
        name="add_comment",
        description="Comment on an issue.",
        parameters={
            "issue_id": ref("issues"),
            "author_id": ref("users"),
            "text": text(*REMARKS, longest=120),
        },
        run=_comment,
        shows="comments",
        writes=("comments",),
        creates=True,
    ),
    Tool(
        name="delete_comment",
        description="Delete a comment, as its author or an admin.",
        parameters={"comment_id": ref("comments"), "user_id": ref("users")},
        run=_delete_comment,
        writes=("comments",),
    ),
)
