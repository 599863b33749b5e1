"""The server as a process of its own: options, the line that says it is ready, and an orderly end on a signal."""

from __future__ import annotations

import argparse
import os
import pathlib
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.server import DIALECTS, RealtimeServer

__all__ = ["add_options", "main", "serve"]

_NAMES = ", ".join(sorted(DIALECTS))
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    key: str | None = None,
    light: bool = False,
    tls: bool | tuple[str | pathlib.Path, str | pathlib.Path] = False,
    dialect: str = "xai",
    script: str | pathlib.Path | None = None,
    *,
    pace: float = 4.0,
    session_cap: float | None = None,
    rate_limit: int | None = None,
    token_life: float = 300.0,
    cut_expired: bool = False,
    balance_ticks: int | None = None,
    ticks_per_minute: int = 500_000_000,
    minute: float = 60.0,
    mint_rate_limit: int | None = None,
    ready_fd: int | None = None,
    say: Callable[[str], Any] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM, and return 0; for the main thread.

    When it is ready it says how it hears and speaks, where clients connect, then ``listening on URL``; the URL also goes to the
    descriptor ``ready_fd``.

    Raises: `ConfigError` for a wrong option, or an address that cannot be had.
    """
    say = say if say is not None else _print
    server = RealtimeServer(
        host=host,
        port=port,
        key=key,
        light=light,
        tls=tls,
        dialect=dialect,
        script=script,
        pace=pace,
        session_cap=session_cap,
        rate_limit=rate_limit,
        token_life=token_life,
        cut_expired=cut_expired,
        balance_ticks=balance_ticks,
        ticks_per_minute=ticks_per_minute,
        minute=minute,
        mint_rate_limit=mint_rate_limit,
    )
    # A signal's number arrives on the pair whatever Python is doing, so that nothing runs inside a handler.
    told, telling = socket.socketpair()
    telling.setblocking(False)
    old_fd = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
    stopping = _Stopping()
    old = {number: signal.signal(number, stopping) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with server:
            if _told_to_stop(told):  # while the voices were loading: nobody is to be told that we listen
                return 0
            say(server.description)
            if host not in _LOOPBACK and key is None:
                say("warning: anybody who reaches this address may connect; use --key")
            say(f"clients of its dialect ({dialect}) connect to {server.ws_url}")
            say(f"listening on {server.url}")
            if ready_fd is not None:
                os.write(ready_fd, (server.url + "\n").encode())
            while not _told_to_stop(told, None):
                continue
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in old.items():
            signal.signal(number, handler)
        told.close()
        telling.close()
    return 0


class _Stopping:
    """What a signal calls: the first is read from the pair, a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self._came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._came and number == signal.SIGINT:
            os._exit(128 + number)
        self._came = True


def _told_to_stop(told: socket.socket, wait: float | None = 0.0) -> bool:
    """Wait for a signal at most so many seconds (``None`` = for ever); tell whether one that ends us came."""
    while select.select([told], [], [], wait)[0]:
        if told.recv(1)[0] in (signal.SIGINT, signal.SIGTERM):
            return True
    return False


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the server's options to a parser; `options` reads them back."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    parser.add_argument("--key", help="the key that clients must show (default: any)")
    parser.add_argument("--light", action="store_true", help="tones instead of speech, no words; very cheap")
    parser.add_argument("--dialect", metavar="NAME", choices=sorted(DIALECTS), default="xai", help=f"its wire: {_NAMES} (%(default)s)")
    parser.add_argument("--script", metavar="FILE", help="a JSON file of patterns and answers")
    parser.add_argument("--pace", type=float, default=4.0, help="how much faster sound is sent than played (default: 4)")
    parser.add_argument("--session-cap", metavar="S", type=float, help="seconds after which every session ends")
    parser.add_argument("--rate-limit", metavar="N", type=int, help="answers per minute")
    parser.add_argument("--token-life", metavar="S", type=float, default=300.0, help="seconds that a minted token lives (default: 300)")
    parser.add_argument("--cut-expired", action="store_true", help="end a call whose token was not refreshed in time")
    parser.add_argument("--balance-ticks", metavar="N", type=int, help="what the account has (default: enough for ever)")
    parser.add_argument("--ticks-per-minute", metavar="N", type=int, default=500_000_000, help="price of a begun minute")
    parser.add_argument("--minute", metavar="S", type=float, default=60.0, help="seconds in a minute of bill and limits (default: 60)")
    parser.add_argument("--mint-rate-limit", metavar="N", type=int, help="sessions that may be minted in a minute")
    parser.add_argument("--tls", action="store_true", help="TLS with a certificate made on the fly (needs trustme)")
    parser.add_argument("--tls-cert", metavar="FILE", help="TLS with this certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its key (PEM)")


def options(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `serve`. Raises: `ConfigError` if only one of certificate and key is given."""
    if bool(parsed.tls_cert) != bool(parsed.tls_key):
        raise ConfigError("--tls-cert and --tls-key belong together", code="invalid_tls")
    names: tuple[str, ...] = ("host", "port", "key", "light", "dialect", "script", "pace", "session_cap", "rate_limit")
    names += ("token_life", "cut_expired", "balance_ticks", "ticks_per_minute", "minute", "mint_rate_limit")
    tls = (parsed.tls_cert, parsed.tls_key) if parsed.tls_cert else parsed.tls
    return {**{name: getattr(parsed, name) for name in names}, "tls": tls}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server with command-line arguments; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qai_realtime_sync.offline", description="A local realtime voice server.")
    add_options(parser)
    try:
        return serve(**options(parser.parse_args(arguments)))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
