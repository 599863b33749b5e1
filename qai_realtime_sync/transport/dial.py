"""Open a TCP connection under a deadline: DNS in a thread of its own, addresses tried staggered, options for a voice call."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import threading
import time
from collections import deque
from typing import Any, Final, TypeAlias

from qai_realtime_sync.errors import ConnectError
from qai_realtime_sync.transport.attempt import Attempt
from qai_realtime_sync.transport.readiness import WRITE

__all__ = ["open_tcp", "resolve"]

_STAGGER: Final = 0.25  # seconds one address has for itself before the next is tried as well (source: RFC 8305, 5)

Resolved: TypeAlias = tuple[int, int, int, str, Any]  # as socket.getaddrinfo returns them


def open_tcp(host: str, port: int, attempt: Attempt, what: str = "host") -> socket.socket:
    """Connect to ``host``; the first address that answers wins. The socket comes non-blocking. ``what`` names it in messages.

    Raises: `ConnectError` (code ``dns``, ``refused``, ``unreachable``, ``cancelled``), `RealtimeTimeoutError`.
    """
    attempt.stage = f"looking up the address of the {what} {host}"
    addresses = resolve(host, port, attempt, what)
    attempt.stage = f"connecting to the {what} {host} (port {port})"
    sock = _race(addresses, attempt, f"{what} {host} (port {port})")
    _set_options(sock)
    return sock


# -- DNS ---------------------------------------------------------------------------------------------------------------------


def resolve(host: str, port: int, attempt: Attempt, what: str = "host") -> list[Resolved]:
    """The addresses of ``host``, IPv6 and IPv4 in turn. Raises: like `open_tcp`.

    A resolver that hangs cannot be stopped: its thread, a daemon, is left behind and ends when the system gives up.
    """
    try:
        return list(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST))
    except (socket.gaierror, UnicodeError):
        pass  # a name, not a number
    attempt.left()
    found: list[Resolved] = []
    failure: list[Exception] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failure.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=look_up, name="qai-resolver", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the interpreter is ending, or the system has no more threads
        raise ConnectError(f"the {what} {host} cannot be looked up: no thread can be started", code="dns") from error
    attempt.wait_event(done)
    thread.join()  # it has set the event: nothing is left for it to do
    if failure:
        reason = getattr(failure[0], "strerror", None) or "not a valid host name"
        message = f"the {what} {host} has no address: DNS says {reason!r}. Check the spelling and the network."
        raise ConnectError(message, code="dns") from failure[0]
    return _interleaved(found)


def _interleaved(addresses: list[Resolved]) -> list[Resolved]:
    """Families in turn, beginning with the one the resolver prefers: a broken IPv6 costs one stagger, not one per address."""
    families: dict[int, list[Resolved]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    rows = itertools.zip_longest(*families.values())
    return [address for row in rows for address in row if address is not None]


# -- TCP ---------------------------------------------------------------------------------------------------------------------


def _race(addresses: list[Resolved], attempt: Attempt, target: str) -> socket.socket:
    waiting = deque(addresses)
    running: list[socket.socket] = []
    failures: list[OSError] = []
    next_start = 0.0
    try:
        while True:
            if waiting and (not running or time.monotonic() >= next_start):
                _start(waiting.popleft(), running, failures)
                next_start = time.monotonic() + _STAGGER
            if not running:
                if waiting:
                    continue
                raise _connect_failure(target, failures)
            at_most = max(0.0, next_start - time.monotonic()) if waiting else None
            for sock in attempt.wait_any([(sock, WRITE) for sock in running], at_most):
                running.remove(sock)
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not number:
                    return sock
                failures.append(OSError(number, os.strerror(number)))
                sock.close()
    finally:
        for sock in running:
            sock.close()


def _start(address: Resolved, running: list[socket.socket], failures: list[OSError]) -> None:
    family, kind, protocol, _, where = address
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:  # a family the system does not speak, or no descriptor left
        failures.append(error)
        return
    sock.setblocking(False)
    try:
        number = sock.connect_ex(where)
    except OSError as error:
        number = error.errno or errno.EINVAL
    if number in (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY):
        running.append(sock)
        return
    sock.close()
    failures.append(OSError(number, os.strerror(number)))


def _connect_failure(target: str, failures: list[OSError]) -> ConnectError:
    last = failures[-1] if failures else OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    reasons = ", ".join(dict.fromkeys(failure.strerror or "unknown error" for failure in failures))
    if any(failure.errno == errno.ECONNREFUSED for failure in failures):
        message, code = f"the {target} refused the connection: nothing listens there. Check address and port.", "refused"
    elif last.errno in (errno.EMFILE, errno.ENFILE):
        message, code = f"no socket for the {target}: {reasons}. This process has too many files open.", "unreachable"
    else:
        message, code = f"the {target} cannot be reached: {reasons or last.strerror}. Check the network.", "unreachable"
    failure = ConnectError(message, code=code)
    failure.__cause__ = last
    return failure


# A half-open link is noticed after 10 s: idle by keepalive, sending by the user timeout (the system's own settings: minutes).
_OPTIONS: tuple[tuple[int, str, int], ...] = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPALIVE", 5),  # what macOS calls TCP_KEEPIDLE
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 2),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 10_000),
)


def _set_options(sock: socket.socket) -> None:
    for level, name, value in _OPTIONS:
        number = getattr(socket, name, None)
        if number is not None:
            with contextlib.suppress(OSError):  # known to Python, not to this kernel
                sock.setsockopt(level, number, value)
