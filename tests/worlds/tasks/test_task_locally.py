"""Which tasks run in the sandbox of this machine, and what a Dockerfile comes to there."""

from __future__ import annotations

import pytest

from envecho.worlds.tasks import LocalPlan, Refused, plan_locally, read_task

HEAD = "FROM debian:bookworm-slim\nWORKDIR /app\n"


def plan(write_task, dockerfile: str, **parts: str) -> LocalPlan | Refused:
    return plan_locally(read_task(write_task({"environment/Dockerfile": dockerfile, **parts})))


@pytest.mark.parametrize(
    ("dockerfile", "reason"),
    [
        ("FROM nginx:1.27\nWORKDIR /app\n", "needs image nginx:1.27"),
        ("FROM debian AS a\nFROM debian\nWORKDIR /app\n", "more than one stage"),
        ("FROM debian\n", "no WORKDIR"),
        (HEAD + "RUN apt-get update && apt-get install -y bash ffmpeg\n", "apt-get install ffmpeg needs network"),
        (HEAD + "RUN pip install numpy\n", "pip install needs network"),
        (HEAD + "RUN curl -O https://example.org/x\n", "curl -O needs network"),
        (HEAD + "RUN git clone https://example.org/x\n", "git clone needs network"),
        (HEAD + "RUN useradd anna\n", "useradd needs root"),
        (HEAD + "RUN cmake .\n", "cmake is not among the programs"),
        (HEAD + "RUN echo $(date)\n", r"has '\$\(', which is not looked into"),
        (HEAD + "RUN apt-get update && echo x >y\n", "packages and other commands in one RUN"),
        (HEAD + "RUN echo x >z && mkdir -p /etc/thing\n", "speaks of /etc, which is read-only"),
        (HEAD + "COPY --from=builder /x /y\n", "copies from another image"),
        (HEAD + "COPY nothing.txt /app/\n", "environment/nothing.txt does not exist"),
        (HEAD + "ADD https://example.org/x /app/\n", "ADD of a URL"),
        (HEAD + "USER anna\n", "commands run as one user here"),
        (HEAD + 'ENTRYPOINT ["/bin/serve"]\n', "ENTRYPOINT.*is not carried out here"),
        (HEAD + "HEALTHCHECK CMD true\n", "HEALTHCHECK.*is not carried out here"),
        ("WORKDIR\n", "line 1: expected an instruction"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_its_line(write_task, dockerfile: str, reason: str):
    """Catches a start state that differs from the task's without a word."""
    found = plan(write_task, dockerfile)
    assert isinstance(found, Refused)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(str(found))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("[environment]\nallow_internet = true\n", "asks for the network (public)"),
        ("[verifier]\nnetwork_mode = 'allowlist'\nallowed_hosts = ['a.org']\n", "asks for the network (allowlist)"),
        ("[environment]\ngpus = 2\n", "needs 2 GPUs"),
        ("[environment]\nos = 'Windows'\n", "needs Windows"),
        ("[[environment.mcp_servers]]\nname = 'x'\n", "needs MCP servers"),
        ("[environment.healthcheck]\ncommand = 'true'\n", "needs a health check"),
        ("[environment.env]\nKEY = '${KEY}'\n", "takes variables from the host"),
        ("[verifier]\nenvironment_mode = 'separate'\n", "is graded in a container of its own"),
        ("[agent]\nuser = 'anna'\n", "runs as user anna"),
        ("[[steps]]\nname = 'one'\n", "has several steps"),
    ],
)
def test_what_the_settings_ask_for_and_a_sandbox_has_not_is_a_reason(write_task, settings: str, reason: str):
    """Catches a task that runs here without the thing that it is about."""
    found = plan(write_task, HEAD, **{"task.toml": settings})
    assert isinstance(found, Refused)
    assert found.reasons == (reason,)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("apt-get update\napt-get install -y curl\n", "apt-get, which needs network"),
        ("curl -LsSf https://example.org/install.sh | sh\n", "curl, which needs network"),
        ("if true; then uvx pytest /tests/x.py; fi\n", "uvx, which needs network"),
        ("python3 -m pip install pytest\n", "pip, which needs network"),
        ("pytest /tests/x.py\n", "pytest, which this sandbox does not have"),
    ],
)
def test_a_verifier_that_installs_its_tools_is_a_reason(write_task, script: str, word: str):
    """Catches a verifier that can only fail here, so that every policy has reward 0."""
    found = plan(write_task, HEAD, **{"tests/test.sh": f"#!/bin/bash\n# curl\n{script}"})
    assert isinstance(found, Refused)
    assert f"tests/test.sh runs {word}" in found.reasons


def test_an_image_without_a_dockerfile_is_named(write_task):
    """Catches a task whose whole start state is in an image, taken for an empty folder."""
    folder = write_task({"environment/Dockerfile": None, "task.toml": "[environment]\ndocker_image = 'a/b:1'\n"})
    found = plan_locally(read_task(folder))
    assert isinstance(found, Refused)
    assert found.reasons == ("needs image a/b:1",)


def test_all_reasons_are_said_at_once(write_task):
    """Catches a user who fixes one reason after the other."""
    found = plan(write_task, HEAD + "RUN pip install x\nUSER anna\n", **{"task.toml": "[environment]\ngpus = 1\n"})
    assert isinstance(found, Refused)
    assert len(found.reasons) == 3


def test_copies_land_where_a_container_has_them(write_task):
    """Catches a file copied onto a folder's name, a folder copied as a folder into its target, and a lost mode."""
    dockerfile = HEAD + (
        "COPY data /app/data\nCOPY data/a.txt b.txt ./\nCOPY b.txt /opt/tool\nCOPY --chmod=700 b.txt bin/\n"
        'RUN mkdir -p /srv/in\nCOPY b.txt /srv/in\nCOPY *.md docs/\nCOPY ["b.txt", "/app/with space"]\nCOPY . /all\n'
    )
    files = {"environment/data/a.txt": "a\n", "environment/data/deep/c.txt": "c\n", "environment/b.txt": "b\n"}
    found = plan(write_task, dockerfile, **files, **{"environment/x.md": "x\n", "environment/y.md": "y\n"})
    assert isinstance(found, LocalPlan)
    content = {name: entry.content for name, entry in found.files.items() if entry.content is not None}
    own = {name for name in content if not name.startswith("all/")}
    assert own == {
        *("app/data/a.txt", "app/data/deep/c.txt", "app/a.txt", "app/b.txt", "opt/tool", "app/bin/b.txt"),
        *("srv/in/b.txt", "app/docs/x.md", "app/docs/y.md", "app/with space"),
    }
    assert {name for name in content if name.startswith("all/")} == {
        *("all/data/a.txt", "all/data/deep/c.txt", "all/b.txt", "all/x.md", "all/y.md", "all/Dockerfile"),
    }
    assert found.files["app/bin/b.txt"].mode == 0o700
    assert {"/app", "/opt", "/srv", "/all", "/logs", "/tests", "/solution"} < set(found.layout.writable)


def test_variables_are_expanded_as_docker_does(write_task):
    """Catches a literal $NAME in a path or a value, and ARG taken for a variable of the running container."""
    dockerfile = (
        'ARG BASE=debian\nFROM ${BASE}:bookworm-slim\nENV ROOT=/data MODE="two words"\nENV OLD form here\n'
        "ENV PATH=$ROOT/bin:/usr/bin:/bin\nWORKDIR $ROOT/in\nCOPY b.txt ${MISSING:-kept}.txt\n"
    )
    found = plan(write_task, dockerfile, **{"environment/b.txt": "b\n"})
    assert isinstance(found, LocalPlan)
    assert found.layout.folder == "/data/in"
    assert dict(found.layout.environment) == {
        "ROOT": "/data",
        "MODE": "two words",
        "OLD": "form here",
        "PATH": "/data/bin:/usr/bin:/bin",
    }
    assert "data/in/kept.txt" in found.files


def test_packages_that_are_here_need_no_network(write_task):
    """Catches a task that is refused for a program which the machine has."""
    dockerfile = (
        HEAD
        + "RUN apt-get update && apt-get install -y python3 \\\n  # a comment\n  sed && rm -rf /var/lib/apt/lists/*\n"
    )
    found = plan(write_task, dockerfile)
    assert isinstance(found, LocalPlan)
    assert found.steps == ()


def test_folders_that_the_instruction_speaks_of_can_be_written(write_task):
    """Catches a task that asks for a result in a folder which only its container has."""
    found = plan(write_task, HEAD, **{"instruction.md": "Put it into /results/out.txt, and/or see /usr/bin/env."})
    assert isinstance(found, LocalPlan)
    assert "/results" in found.layout.writable
    assert "/usr" not in found.layout.writable
    refused = plan(write_task, HEAD, **{"instruction.md": "Edit /etc/hosts."})
    assert isinstance(refused, Refused)
