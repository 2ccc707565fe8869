"""Folders, variables and files of a sandbox as data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from envecho.errors import WorldError
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_files import BoxFile
from envecho.worlds.sandbox_layout import Layout, rooted_layout
from envecho.worlds.terminal import TerminalSession

FILES = {
    "app/raw.bin": BoxFile(content=b"\xff\x00", mode=0o600),
    "app/run": BoxFile(content=b"#!/bin/sh\necho ran\n", mode=0o755),
    "app/link": BoxFile(link="run"),
    "app/empty": BoxFile(),
    "data/deep/text": "words\n",
}


def test_files_of_every_kind_lie_where_their_paths_say():
    """Catches a mode, a link, an empty folder or a byte that is lost on the way in, and a time that is not pinned."""
    layout = rooted_layout("/app", writable=("/app", "/data"), environment={"COLOUR": "a b"})
    with TerminalSession(SimpleNamespace(seed=1, files=FILES), layout=layout) as session:
        assert session.run("pwd; echo $COLOUR; ./link; od -An -tx1 raw.bin; ls -d empty").stdout == (
            "/app\na b\nran\n ff 00\nempty\n"
        )
        assert session.run("stat -c '%a %Y' raw.bin run empty /data/deep/text").stdout == (
            "600 1735689600\n755 1735689600\n755 1735689600\n644 1735689600\n"
        )
        assert session.run("touch /data/x /app/y && echo fine; ls /srv").stderr.startswith("ls: cannot access '/srv'")


def test_every_writable_folder_counts_its_files():
    """Catches a folder of a layout whose files no limit sees."""
    layout = rooted_layout("/app", writable=("/app", "/data"), environment={})
    box = SimpleNamespace(seed=1, files={"app/x": "x"})
    with TerminalSession(box, layout=layout, limits=Limits(num_files=200)) as session:
        assert "more than 200 files" in (session.run("touch /data/{1..300}; sleep 2").sandbox_stopped or "")


@pytest.mark.parametrize("folder", ["/usr/local", "/etc", "/proc/1", "/", "app", "/app/../usr", "/run/session"])
def test_a_layout_cannot_cover_the_sandbox_itself(folder: str):
    """Catches a task that mounts an empty folder over programs or over the control files."""
    with pytest.raises(ValueError, match="expected an absolute path of a folder of its own"):
        rooted_layout("/app", writable=("/app", folder), environment={})


def test_a_variable_has_a_name_that_bash_takes():
    """Catches an environment entry that bubblewrap reads as something else."""
    with pytest.raises(ValueError, match="variable 'A=B'"):
        Layout(environment={"A=B": "x"})


@pytest.mark.filterwarnings("ignore:sandbox 'unsafe-host'")
def test_the_host_has_no_other_layout():
    """Catches a task's files unpacked into folders of the machine itself."""
    layout = rooted_layout("/app", writable=("/app",), environment={})
    with pytest.raises(WorldError, match="'unsafe-host' has no folders of its own"):
        TerminalSession(SimpleNamespace(seed=1, files={}), sandbox="unsafe-host", layout=layout)


def test_an_entry_is_a_file_or_a_link():
    """Catches an entry whose content is dropped because it is a link, too."""
    with pytest.raises(ValueError, match="content and a link"):
        BoxFile(content=b"x", link="y")
