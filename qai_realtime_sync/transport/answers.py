"""Read HTTP/1.1 answers, of a proxy or a refused upgrade: heads and bodies, each with a limit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

__all__ = ["HEAD_LIMIT", "Answer", "AnswerError", "Read", "read_answer", "read_body"]

HEAD_LIMIT: Final = 64 * 1024
BODY_LIMIT: Final = 64 * 1024

_PIECE = 4096
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: (.*))?")
_MOST_INTERIM = 10  # 100 and 103 answers before the real one

Read: TypeAlias = Callable[[memoryview], int]
"""Reads at least one byte into the given memory and says how many; 0 at the end of the stream."""


class AnswerError(Exception):
    """What came is not an HTTP answer, too large a one, or only the beginning of one; the text says which."""


@attrs.define
class Answer:
    """The head of an HTTP answer; header names in lower case, repeated ones joined by commas. ``rest`` came behind the head."""

    status: int
    reason: str
    headers: dict[str, str]
    rest: bytes


def read_answer(read: Read) -> Answer:
    """Read up to the end of the head, at most `HEAD_LIMIT` bytes; interim answers are skipped.

    Raises: `AnswerError`, and what ``read`` raises.
    """
    collected = bytearray()
    used = 0
    for _ in range(_MOST_INTERIM):
        head, collected = _read_head(read, collected, HEAD_LIMIT - used)
        used += len(head)
        answer = _parse_head(head, bytes(collected))
        if answer.status >= 200 or answer.status == 101:
            return answer
    raise AnswerError("it sends interim answers without end")


def _read_head(read: Read, collected: bytearray, limit: int) -> tuple[bytes, bytearray]:
    """A whole head, its empty line included, and what came behind it."""
    room = memoryview(bytearray(_PIECE))
    searched = 0
    while True:
        end = _end_of_head(collected, searched)
        if end > limit or (end < 0 and len(collected) >= limit):
            raise AnswerError(f"the head of its answer is larger than {HEAD_LIMIT // 1024} KiB")
        if end >= 0:
            return bytes(collected[:end]), collected[end:]
        searched = max(0, len(collected) - 3)
        count = read(room)
        if not count:
            what = "in the middle of its answer" if collected else "without an answer"
            raise AnswerError(f"it closed the connection {what}")
        collected += room[:count]
        if not collected.startswith(b"HTTP/"[: len(collected)]):
            raise AnswerError("what it answers is not HTTP")


def _end_of_head(data: bytearray, start: int) -> int:
    """Where the head ends: behind the first empty line, whose line breaks may lack their CR; -1 = not there."""
    ends = [data.find(mark, start) + len(mark) for mark in (b"\n\r\n", b"\n\n") if data.find(mark, start) >= 0]
    return min(ends, default=-1)


def _parse_head(head: bytes, rest: bytes) -> Answer:
    first, *lines = head.replace(b"\r\n", b"\n").rstrip(b"\n").split(b"\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise AnswerError("the first line of its answer is not an HTTP status line")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip() or "\0" in line.decode("latin-1"):
            raise AnswerError("its answer holds a line that is not a header")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    reason = (match[2] or b"").decode("latin-1").strip()
    return Answer(int(match[1]), reason, headers, rest)


def read_body(read: Read, answer: Answer) -> bytes:
    """What can be had of the body, at most `BODY_LIMIT` bytes; a body that is cut short, endless or broken gives what arrived."""
    collected = bytearray(answer.rest)
    chunked = "chunked" in answer.headers.get("transfer-encoding", "").lower()
    length = answer.headers.get("content-length", "")
    wanted = BODY_LIMIT
    if not chunked and length.isascii() and length.isdigit() and len(length) < 12:
        wanted = min(int(length), BODY_LIMIT)
    room = memoryview(bytearray(_PIECE))
    # Whatever goes wrong now (the end, the deadline, a broken connection): the status is known, and that is what counts.
    with contextlib.suppress(OSError, AnswerError):
        while len(collected) < wanted and not (chunked and _unchunk(collected)[1]):
            count = read(room)
            if not count:
                break
            collected += room[:count]
    body = _unchunk(collected)[0] if chunked else bytes(collected)
    return body[:wanted]


def _unchunk(data: bytes | bytearray) -> tuple[bytes, bool]:
    """The payload of the chunks that are there, and whether the last one is among them; a broken chunk counts as the last."""
    body = bytearray()
    position = 0
    while True:
        end = data.find(b"\n", position)
        if end < 0:
            return bytes(body), False
        digits = bytes(data[position:end]).split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", digits) or not int(digits, 16):
            return bytes(body), True
        start, size = end + 1, int(digits, 16)
        body += data[start : start + size]
        position = start + size
        if position >= len(data):
            return bytes(body), False
        if data[position : position + 1] == b"\r":
            position += 1
        if data[position : position + 1] == b"\n":
            position += 1
