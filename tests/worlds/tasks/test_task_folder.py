"""Reading a task folder: both spellings, what is unknown, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.errors import DataError
from envecho.worlds.tasks import find_tasks, read_task

OLD = """
version = "1.0"
[metadata]
author_name = "anna"
[environment]
memory = "2G"
storage = "512M"
allow_internet = true
"""
NEW = """
schema_version = "1.4"
[task]
name = "org/small"
[environment]
memory_mb = 2048
storage_mb = 512
network_mode = "public"
"""


@pytest.mark.parametrize("text", [OLD, NEW])
def test_both_spellings_of_a_renamed_key_mean_the_same(write_task, text: str):
    """Catches a reader of one schema version, which takes the sizes and the network of the other for unset."""
    settings = read_task(write_task({"task.toml": text})).settings
    assert (settings.environment.memory_mb, settings.environment.storage_mb) == (2048, 512)
    assert settings.environment.network_mode == "public"
    assert settings.unknown_keys == ()


def test_keys_that_nothing_reads_are_named_and_not_fatal(write_task):
    """Catches a reader that refuses files which others write, or that drops a key without a word."""
    text = 'version = "1.0"\ncolour = "blue"\n[environment]\nshape = 3\n[metadata]\nanything = 1\n'
    task = read_task(write_task({"task.toml": text}))
    assert task.unknown_keys == ("colour", "environment.shape")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"task.toml": "version = "}, "task.toml: expected TOML"),
        ({"task.toml": "[verifier]\ntimeout_sec = 'soon'\n"}, r"task.toml: verifier.timeout_sec: Input should be"),
        (
            {"task.toml": "[environment]\nmemory = 'much'\n"},
            r"size 'much', expected a number",
        ),
        ({"task.toml": "[environment]\nmemory = '1G'\nmemory_mb = 5\n"}, "say different sizes"),
        ({"instruction.md": None}, "instruction.md: missing: write what the policy is asked"),
        ({"tests/test.sh": None}, r"tests/test.sh: missing: write a script that puts a number"),
    ],
)
def test_a_broken_task_names_the_file_and_what_to_do(write_task, parts: dict[str, str | None], message: str):
    """Catches a traceback, or a message that leaves the user to search through the folder."""
    with pytest.raises(DataError, match=message):
        read_task(write_task(parts))


def test_the_marks_for_crawlers_are_not_part_of_the_instruction(write_task):
    """Catches a policy that is shown the canary lines of a benchmark."""
    text = "<!-- a canary GUID 12 -->\n# CANARY line\n\n# A heading\nDo it.\n"
    assert read_task(write_task({"instruction.md": text})).instruction == "# A heading\nDo it."


def test_bytes_modes_and_inner_links_are_kept_and_outer_links_refused(write_task):
    """Catches a reader of text alone, and a link that brings a file of the host into a sandbox."""
    folder = write_task()
    (folder / "environment" / "raw.bin").write_bytes(b"\xff\x00")
    (folder / "environment" / "raw.bin").chmod(0o755)
    (folder / "environment" / "again").symlink_to("raw.bin")
    files = read_task(folder).environment
    assert (files["raw.bin"].content, files["raw.bin"].mode, files["again"].link) == (b"\xff\x00", 0o755, "raw.bin")
    (folder / "tests" / "shadow").symlink_to("/etc/shadow")
    with pytest.raises(DataError, match="tests/shadow: a link to /etc/shadow, outside its folder"):
        read_task(folder)


def test_tasks_are_found_in_groups_and_by_themselves(write_task, tmp_path: Path):
    """Catches an order that depends on the file system, and links or hidden folders taken for tasks."""
    for name in ("b/two", "a/one", ".hidden"):
        write_task(name=name)
    (tmp_path / "tasks" / "link").symlink_to(tmp_path / "tasks" / "a" / "one")
    found = find_tasks(tmp_path / "tasks")
    assert [path.name for path in found] == ["one", "two"]
    assert find_tasks(found[0]) == [found[0]]
    (tmp_path / "empty").mkdir()
    for name, message in {"nowhere": "there is none", "empty": "no folder with a task.toml"}.items():
        with pytest.raises(DataError, match=message):
            find_tasks(tmp_path / name)
