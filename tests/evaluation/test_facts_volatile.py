"""Which text comes out otherwise in every run, by pattern; and that no text makes the search slow."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envecho.evaluation.facts_volatile import VOLATILE_PATTERNS, volatile_spans

VOLATILE = {
    "Wed Nov 25 22:28:34 UTC 2026": [("Wed Nov 25", "date"), ("22:28:34", "clock")],
    "-rw-r--r-- 1 root root 14832 Nov 25 22:33 a.log": [("Nov 25", "date"), ("22:33", "clock")],
    "drwxr-xr-x 6 root root 4096 Jul 17  2023 .": [("Jul 17", "date")],
    "Date: Wed, 25 Nov 2026 22:28:34 GMT": [("Wed, 25 Nov", "date"), ("22:28:34", "clock")],
    "2026-11-25T22:28:34.123Z INFO": [("2026-11-25", "date"), ("22:28:34.123Z", "clock")],
    "2026/11/25 22:28:34,5 INFO": [("2026/11/25", "date"), ("22:28:34,5", "clock")],
    "backup-20261125-222834.tgz": [("20261125-222834", "date")],
    "09:05 ERROR lost queue": [("09:05", "clock")],
    "at 3:45 PM": [("3:45 PM", "clock")],
    "5 passed in 0.12s": [("0.12s", "duration")],
    "added 5 packages in 3s": [("3s", "duration")],
    "real\t0m1.234s": [("0m1.234s", "duration")],
    "12.3 \u00b5s per loop": [("12.3 \u00b5s", "duration")],
    "ttl=64 time=0.045 ms": [("0.045 ms", "duration")],
    "best of 5: 42.1 nsec per loop": [("42.1 nsec", "duration")],
    "up 3 days, load average: 1.66, 13.80, 10.91": [("1.66, 13.80, 10.91", "load")],
    "Inode: 306617     Links: 1": [("306617", "inode")],
    "1795647765.9383354250 ./f": [("1795647765.9383354250", "epoch")],
    "45.2 MB/s": [("45.2 MB/s", "rate")],
    '{"created": 1764109714.25}': [("1764109714.25", "epoch")],
    "123e4567-e89b-12d3-a456-426614174000": [("123e4567-e89b-12d3-a456-426614174000", "uuid")],
    "index 83db48f..bf3a2c1 100644": [("83db48f", "hash"), ("bf3a2c1", "hash")],
    "<A object at 0x7f1c2d3e4f50>": [("0x7f1c2d3e4f50", "address")],
    "/tmp/tmp.Xa8kLm92Qp": [("tmp.Xa8kLm92Qp", "temporary")],
    "/tmp/tmpab1d_x9q/file": [("tmpab1d_x9q", "temporary")],
    "cc /tmp/ccQx1B2a.o": [("ccQx1B2a", "temporary")],
    "started pid=123": [("123", "process")],
    "PID: 4711": [("4711", "process")],
    "[1] 12345\n": [("12345", "process")],
    "bash: line 1:  1234 Killed                  sleep": [("1234", "process")],
    " 4242 pts/0    00:00:01 ps": [("4242", "process"), ("00:00:01", "clock")],
    "root         1  0.0  0.1   4624 ?": [("1", "process")],
    "Nov  5 22:28:34 host sshd[1234]: ok": [("Nov  5", "date"), ("22:28:34", "clock"), ("1234", "process")],
    "listening on 127.0.0.1:43121": [("43121", "port")],
}
"""Text, and what of it is volatile."""

LASTING = [
    "12345 files, 1048576 bytes, 100.0%",
    "version 20.04.1, v1.2.3, 1.5e10",
    "app.py:12:30: E501 line too long",
    "10.0.0.1:22 and 0.0.0.0:8080",
    "ratio 3:45, score 21:9",
    "timeout after 30 seconds, 500ms at most",
    "born August 10, 1973 in May",
    "deadbeef facade",
    "0xff and 0x1F",
    "/tmp/tmp_results/x and tmp.config",
    "HTTP 200 on port 8080",
    "order 2031 of 20310514",
    "drwxr-xr-x 2 user user 60",
]
"""Counts, sizes, versions, positions and names that somebody chose."""


@pytest.mark.parametrize(("text", "expected"), VOLATILE.items())
def test_what_differs_from_run_to_run_is_found(text: str, expected: list[tuple[str, str]]):
    """Catches a pattern that misses its kind, or takes more or less than what differs."""
    data = text.encode()
    assert [(data[start:end].decode(), kind) for start, end, kind in volatile_spans(data)] == expected


@pytest.mark.parametrize("text", LASTING)
def test_counts_sizes_versions_and_positions_are_not_volatile(text: str):
    """Catches a pattern so wide that it takes plain numbers for noise, which would hide what a model learns of them."""
    assert volatile_spans(text.encode()) == []


def test_every_kind_of_pattern_has_a_case():
    """Catches a pattern that no test ever saw match."""
    assert {kind for found in VOLATILE.values() for _, kind in found} == {kind for kind, _, _ in VOLATILE_PATTERNS}


@given(st.lists(st.sampled_from([*VOLATILE, *LASTING, "", "\n", " ", "é", ":"]), max_size=8))
def test_spans_are_disjoint_in_order_and_within_the_text(parts: list[str]):
    """Catches overlapping matches of two patterns that both stay, which would count a stretch twice."""
    text = " ".join(parts).encode()
    edges = [edge for start, end, _ in volatile_spans(text) for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(start < end <= len(text) for start, end, _ in volatile_spans(text))


def test_the_text_that_a_pattern_needs_is_in_each_of_its_matches():
    """Catches a shortcut that skips a pattern where it would have matched: all cases are found without it, too."""
    for text in VOLATILE:
        data = text.encode()
        for _, needed, pattern in VOLATILE_PATTERNS:
            assert needed.encode() in data or re.search(pattern.encode("latin-1"), data) is None


@pytest.mark.parametrize(
    "unit", ["a1", "12:30:", "1 ", ": 1 ", "2026-11-", "127.0.0.1:", "root 1 1.1 ", "/tmp.1", "Nov 2 "]
)
def test_a_line_of_a_megabyte_takes_time_in_proportion(unit: str):
    """Catches a pattern that goes back over what it has read: such a line would take hours, not a second or two."""
    line = (unit * (1_000_000 // len(unit) + 1))[:1_000_000].encode()
    start = time.process_time()
    volatile_spans(line)
    assert time.process_time() - start < 30
