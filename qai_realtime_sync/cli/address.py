"""Where a command connects: the gateway with a key, any address, or a local server that it starts itself."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.cli.server_process import ServerProcess
from qai_realtime_sync.errors import ConfigError

__all__ = ["CLOSE_TIMEOUT", "add_address", "check_address", "client_for", "seconds", "uses_local_server"]

CLOSE_TIMEOUT = 1.5
"""Seconds for an orderly end: with that of a local server it stays below three."""

_LOCAL_KEY = "qai_local"
_LOCAL_DIALECTS = ("xai", "openai", "elevenlabs", "gemini")


def add_address(parser: argparse.ArgumentParser, *, local: bool = True) -> None:
    """Add the options that say where to; ``local=False`` leaves out the local server."""
    parser.add_argument("--url", help="address (default: QAI_BASE_URL, else the gateway)")
    parser.add_argument("--key", help="API key (default: QAI_API_KEY, unseen by others)")
    parser.add_argument("--provider", metavar="NAME", help="xai, openai, elevenlabs or gemini")
    if local:
        parser.add_argument("--local", action="store_true", help="at a local server; so too with no key and no --url")


def seconds(text: str) -> float:
    """Read a finite number of seconds above 0; for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return value


def check_address(url: str | None) -> None:
    """Raise `ConfigError` for what cannot be taken apart as an address."""
    try:
        urlsplit(url or "")
    except ValueError as error:
        raise ConfigError(f"the address {url!r} is not one: {error}", code="invalid_url") from error


def uses_local_server(arguments: argparse.Namespace) -> bool:
    """True if the command has its own server: it was asked for, or there is neither address nor key.

    Raises: `ConfigError` if the options contradict each other.
    """
    if arguments.local and arguments.url:
        raise ConfigError("--local and --url say two different places")
    named = arguments.url or arguments.key or os.environ.get("QAI_API_KEY") or os.environ.get("QAI_BASE_URL")
    return bool(arguments.local or not named)


@contextmanager
def client_for(
    arguments: argparse.Namespace, config: RealtimeConfig, *, words: bool = False, reconnect: bool = False
) -> Iterator[RealtimeClient]:
    """Give a client that is not connected yet; a local server, if asked for, ends with the block.

    An address that begins with ``wss://`` is a service's own: there the key of the environment, which is the gateway's, is not sent.
    A local server that recognises no words says so on standard error; with ``words`` it will not do.

    Raises: `ConfigError` if the options contradict each other, or for the words; `RealtimeError` if the local server does not start.
    """
    if not uses_local_server(arguments):
        yield _remote(arguments, config, reconnect)
        return
    if not arguments.local:
        print("no key is set: a local server answers (for the gateway set QAI_API_KEY, or give --key)", file=sys.stderr)
    dialect = (arguments.provider or "xai").lower()
    if dialect not in _LOCAL_DIALECTS:
        raise ConfigError(f"a local server has no provider {arguments.provider!r}; it has: {', '.join(_LOCAL_DIALECTS)}")
    with ServerProcess(key=_LOCAL_KEY, dialect=dialect) as server:
        server.wait_until_ready()
        if server.description.startswith("light:"):
            if words:
                raise ConfigError(f"the local server cannot write down what is said: {server.description}", code="missing_dependency")
            print(server.description, file=sys.stderr)
        if dialect == "xai":  # stands in for the gateway
            yield RealtimeClient(
                _LOCAL_KEY, config, base_url=server.url, proxy=False, reconnect=False, close_timeout=CLOSE_TIMEOUT
            )
        else:
            yield RealtimeClient.direct(
                server.ws_url, _LOCAL_KEY, config, dialect=dialect, proxy=False, reconnect=False, close_timeout=CLOSE_TIMEOUT
            )


def _remote(arguments: argparse.Namespace, config: RealtimeConfig, reconnect: bool) -> RealtimeClient:
    provider = arguments.provider or ""
    check_address(os.environ.get("QAI_BASE_URL") if arguments.url is None else arguments.url)
    if urlsplit(arguments.url or "").scheme in ("ws", "wss"):
        return RealtimeClient.direct(
            arguments.url, arguments.key or "", config, provider=provider, reconnect=reconnect, close_timeout=CLOSE_TIMEOUT
        )
    return RealtimeClient(
        arguments.key, config, base_url=arguments.url, provider=provider, reconnect=reconnect, close_timeout=CLOSE_TIMEOUT
    )
