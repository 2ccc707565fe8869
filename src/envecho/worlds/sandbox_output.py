"""What a command printed, bounded: the first and the last bytes of a stream of any length, as text.

Not here: which notices a policy sees about a cut (`envecho.worlds.terminal.session`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StreamText:
    """The text of one stream: all of it in `head`, or its two ends with `num_omitted_bytes` between them.

    `num_replaced` counts the places that were not UTF-8 and became U+FFFD.
    """

    head: str
    tail: str
    num_bytes: int
    num_omitted_bytes: int
    num_replaced: int


class StreamTail:
    """Collects one stream and keeps at most `limit_bytes` of it: half from its start, half from its end."""

    def __init__(self, limit_bytes: int) -> None:
        self._head_bytes = limit_bytes - limit_bytes // 2
        self._tail_bytes = limit_bytes // 2
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._num_tail_bytes = 0
        self.num_bytes = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self.num_bytes += len(data)
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        if len(data) > room:
            self._tail.append(data[room:])
            self._num_tail_bytes += len(data) - room
        while self._tail and self._num_tail_bytes - len(self._tail[0]) >= self._tail_bytes:
            self._num_tail_bytes -= len(self._tail.popleft())

    def text(self) -> StreamText:
        """Return what was kept; a cut never falls inside a character."""
        head, tail = bytes(self._head), b"".join(self._tail)
        tail = tail[max(0, len(tail) - self._tail_bytes) :]
        if len(head) + len(tail) == self.num_bytes:
            text, num_replaced = decode(head + tail)
            return StreamText(
                head=text, tail="", num_bytes=self.num_bytes, num_omitted_bytes=0, num_replaced=num_replaced
            )
        head, tail = _without_partial_end(head), _without_partial_start(tail)
        (head_text, head_replaced), (tail_text, tail_replaced) = decode(head), decode(tail)
        return StreamText(
            head=head_text,
            tail=tail_text,
            num_bytes=self.num_bytes,
            num_omitted_bytes=self.num_bytes - len(head) - len(tail),
            num_replaced=head_replaced + tail_replaced,
        )


def decode(data: bytes) -> tuple[str, int]:
    """Decode UTF-8; what is not becomes U+FFFD. Returns the text and how many places were replaced."""
    text = data.decode("utf-8", errors="replace")
    return text, text.count("\ufffd") - data.count("\ufffd".encode())


def _without_partial_end(data: bytes) -> bytes:
    """Drop the first bytes of a character whose rest was cut off."""
    for length in range(1, min(4, len(data) + 1)):
        byte = data[-length]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-length] if needed > length else data
    return data


def _without_partial_start(data: bytes) -> bytes:
    """Drop the last bytes of a character whose start was cut off."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]
