"""The kept digests of large files: never that of another content."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from envecho.engines import digests
from envecho.engines.digests import file_digest


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as old."""
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", -1)


@pytest.mark.usefixtures("settled")
def test_a_kept_digest_is_used_until_the_file_changes_in_any_way(tmp_path: Path):
    """Catches hashing gigabytes at every start, and a model replaced under its old size and time that counts as old."""
    file, store = tmp_path / "a.gguf", tmp_path / "digests.json"
    file.write_bytes(b"weights")
    old = file_digest(file, store)
    store.write_text(store.read_text().replace(old, "kept"))
    assert file_digest(file, store) == "kept"
    before = file.stat()
    time.sleep(0.05)  # longer than a tick of the file system's clock, which `_SETTLED_SECONDS` is for
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_digest(file, store) == sha256(file) != old
    other = tmp_path / "b.gguf"
    other.write_bytes(b"another")
    other.replace(file)
    assert file_digest(file, store) == sha256(file)


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path):
    """Catches a second change within one tick of the clock, which no time shows."""
    file, store = tmp_path / "a.gguf", tmp_path / "digests.json"
    file.write_bytes(b"weights")
    file_digest(file, store)
    assert not store.exists()
    later = time.time() + 3600
    os.utime(file, (later, later))
    file_digest(file, store)
    assert not store.exists()


@pytest.mark.usefixtures("settled")
def test_a_store_that_is_damaged_or_cannot_be_written_costs_time_alone(tmp_path: Path):
    """Catches a start that fails over a cache file, or over a cache in a read-only image."""
    file, store = tmp_path / "a.gguf", tmp_path / "digests.json"
    file.write_bytes(b"weights")
    store.write_text('{"format": "envecho.digests", "files": ')
    assert file_digest(file, store) == sha256(file)
    (tmp_path / "blocked").write_text("a file where the folder should be")
    assert file_digest(file, tmp_path / "blocked" / "digests.json") == sha256(file)
