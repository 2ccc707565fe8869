"""What is asked of the issue tracker. Not here: its rows and tools (`tracker`)."""

from __future__ import annotations

import random

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.domain import Domain, Draft, Statement, Template, call
from envecho.worlds.tools.domains import tracker
from envecho.worlds.tools.picking import last_name, other, pick
from envecho.worlds.tools.rows import Condition, Row, SqlRows, equals


def _find_issue(issue: Row) -> CallText:
    return call("list_issues", query=issue["title"])


def _find_user(user: Row) -> CallText:
    return call("list_users", query=last_name(user["name"]))


def _set(issue: Row, column: str, value: object) -> Statement:
    return f"UPDATE issues SET {column} = ? WHERE id = ?", (value, issue["id"])


def _step(rng: random.Random, rows: SqlRows) -> Draft | None:
    issue = rng.choice(rows.find("issues"))
    status = rng.choice(tracker.NEXT_STATUS[issue["status"]])
    return Draft(
        instruction=f'Set the status of the issue "{issue["title"]}" to {status}.',
        calls=(_find_issue(issue), call("move_issue", issue_id=issue["id"], status=status)),
        changes=(_set(issue, "status", status),),
    )


def _finish(rng: random.Random, rows: SqlRows) -> Draft | None:
    issue = pick(rng, rows.find("issues", equals(status="in_progress")))
    if issue is None:
        return None
    return Draft(
        instruction=f'The issue "{issue["title"]}" is fixed and checked: bring it to closed, by way of done.',
        calls=(
            _find_issue(issue),
            call("move_issue", issue_id=issue["id"], status="done"),
            call("move_issue", issue_id=issue["id"], status="closed"),
        ),
        changes=(_set(issue, "status", "closed"),),
    )


def _assign(rng: random.Random, rows: SqlRows) -> Draft | None:
    issue = pick(rng, rows.find("issues", (Condition("status", "!=", "closed"),)))
    if issue is None:
        return None
    user = pick(rng, [row for row in rows.find("users", equals(role="developer")) if row["id"] != issue["assignee_id"]])
    if user is None:
        return None
    return Draft(
        instruction=f'Assign the issue "{issue["title"]}" to {user["name"]}.',
        calls=(_find_issue(issue), _find_user(user), call("assign_issue", issue_id=issue["id"], user_id=user["id"])),
        changes=(_set(issue, "assignee_id", user["id"]),),
    )


def _priority(rng: random.Random, rows: SqlRows) -> Draft | None:
    issue = rng.choice(rows.find("issues"))
    priority = other(rng, tracker.PRIORITIES, issue["priority"])
    return Draft(
        instruction=f'Give the issue "{issue["title"]}" the priority {priority}.',
        calls=(_find_issue(issue), call("set_priority", issue_id=issue["id"], priority=priority)),
        changes=(_set(issue, "priority", priority),),
    )


def _raise_all(rng: random.Random, rows: SqlRows) -> Draft | None:
    project = rng.choice(rows.find("projects"))
    low = rows.find("issues", equals(project_id=project["id"], priority="low"))
    if not 1 < len(low) <= 4:
        return None
    return Draft(
        instruction=f"Give every issue of the project {project['name']} with priority low the priority medium.",
        calls=(
            call("list_projects"),
            call("list_issues", project_id=project["id"], priority="low"),
            *(call("set_priority", issue_id=issue["id"], priority="medium") for issue in low),
        ),
        changes=tuple(_set(issue, "priority", "medium") for issue in low),
    )


def _open(rng: random.Random, rows: SqlRows) -> Draft | None:
    project, priority = rng.choice(rows.find("projects")), rng.choice(tracker.PRIORITIES)
    title = f"{rng.choice(('logo', 'banner', 'footer', 'avatar'))} {rng.choice(tracker.WHAT[3:5])}"
    return Draft(
        instruction=f'Open an issue in the project {project["name"]}, title "{title}", priority {priority}.',
        calls=(
            call("list_projects"),
            call("open_issue", project_id=project["id"], title=title, priority=priority),
        ),
        changes=(
            (
                "INSERT INTO issues (project_id, title, status, priority, assignee_id) VALUES (?, ?, 'open', ?, NULL)",
                (project["id"], title, priority),
            ),
        ),
    )


def _comment(rng: random.Random, rows: SqlRows) -> Draft | None:
    issue, user = rng.choice(rows.find("issues")), rng.choice(rows.find("users"))
    return Draft(
        instruction=f'Comment on the issue "{issue["title"]}" as {user["name"]}: thank the reporter, in your words.',
        calls=(
            _find_issue(issue),
            _find_user(user),
            call("add_comment", issue_id=issue["id"], author_id=user["id"], text="Thank you for the report."),
        ),
        changes=(("INSERT INTO comments (issue_id, author_id, text) VALUES (?, ?, '-')", (issue["id"], user["id"])),),
        unread=("comments.text",),
    )


def _uncomment(rng: random.Random, rows: SqlRows) -> Draft | None:
    comment = rng.choice(rows.find("comments"))
    issue, author = rows.get("issues", comment["issue_id"]), rows.get("users", comment["author_id"])
    same = rows.find("comments", equals(issue_id=comment["issue_id"], author_id=comment["author_id"]))
    if issue is None or author is None or len(same) > 1:
        return None
    return Draft(
        instruction=f'{author["name"]} wants the own comment on the issue "{issue["title"]}" deleted. Do it.',
        calls=(
            _find_issue(issue),
            _find_user(author),
            call("get_issue", issue_id=issue["id"]),
            call("delete_comment", comment_id=comment["id"], user_id=author["id"]),
        ),
        changes=(("DELETE FROM comments WHERE id = ?", (comment["id"],)),),
    )


def _lead(rng: random.Random, rows: SqlRows) -> Draft | None:
    project = rng.choice(rows.find("projects"))
    user = rows.get("users", project["lead_id"])
    if user is None:
        return None
    return Draft(
        instruction=f"Who leads the project {project['name']}? Answer with the name.",
        calls=(call("list_projects"), call("get_user", user_id=user["id"])),
        answer=str(user["name"]),
    )


def _num_open(rng: random.Random, rows: SqlRows) -> Draft | None:
    project, status = rng.choice(rows.find("projects")), rng.choice(tracker.STATUSES)
    found = rows.find("issues", equals(project_id=project["id"], status=status))
    return Draft(
        instruction=f"How many issues of the project {project['name']} have the status {status}? "
        "Answer with the number.",
        calls=(call("list_projects"), call("count_issues", project_id=project["id"])),
        answer=str(len(found)),
        answer_kind="number",
    )


DOMAIN = Domain(
    name="tracker",
    title="an issue tracker",
    schema=tracker.SCHEMA,
    tables=tracker.TABLES,
    populate=tracker.populate,
    tools=tracker.TOOLS,
    templates=(
        Template(name="step", draw=_step),
        Template(name="finish", draw=_finish),
        Template(name="assign", draw=_assign),
        Template(name="priority", draw=_priority),
        Template(name="raise-all", draw=_raise_all),
        Template(name="open", draw=_open),
        Template(name="comment", draw=_comment),
        Template(name="uncomment", draw=_uncomment),
        Template(name="lead", draw=_lead),
        Template(name="num-status", draw=_num_open),
    ),
)
