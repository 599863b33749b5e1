"""Wait until one of several sockets can be read or written; the only place of this room where a thread waits with a deadline."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from typing import Final, TypeAlias

__all__ = ["READ", "WRITE", "Interest", "seconds_until", "wait_ready"]

_LONGEST = 86_400.0  # poll takes milliseconds in 32 bits; whoever waits longer than a day asks again

READ: Final = 1
WRITE: Final = 2

Interest: TypeAlias = tuple[socket.socket, int]


def wait_ready(interests: Iterable[Interest], timeout: float | None) -> list[socket.socket]:
    """The sockets that can be read or written as wanted, or are broken; empty if ``timeout`` seconds passed (``None`` = never).

    A socket that another thread shut down counts as ready, and so does one that is closed already.
    """
    wanted = list(interests)
    gone = [sock for sock, _ in wanted if sock.fileno() < 0]
    if gone:
        return gone
    timeout = None if timeout is None else max(timeout, 0.0)
    if hasattr(select, "poll"):
        return _poll(wanted, timeout)
    return _select(wanted, timeout)


def _poll(wanted: list[Interest], timeout: float | None) -> list[socket.socket]:
    poll = select.poll()
    by_descriptor = {}
    for sock, events in wanted:
        descriptor = sock.fileno()
        by_descriptor[descriptor] = sock
        poll.register(descriptor, (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0))
    # poll counts whole milliseconds: rounded up, or the last fraction of one would be spent spinning
    ready = poll.poll(None if timeout is None else int(min(timeout, _LONGEST) * 1000 + 0.999))
    return [by_descriptor[descriptor] for descriptor, _ in ready]


def _select(wanted: list[Interest], timeout: float | None) -> list[socket.socket]:
    """For systems without poll: Windows, where a failed connect shows up in the third list only."""
    reading = [sock for sock, events in wanted if events & READ]
    writing = [sock for sock, events in wanted if events & WRITE]
    ready = select.select(reading, writing, writing, timeout)
    return list({sock: None for group in ready for sock in group})


def seconds_until(deadline: float | None) -> float | None:
    """What is left until ``deadline`` on the monotonic clock, never below 0; ``None`` for no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
