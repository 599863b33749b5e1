"""Where a command connects: the gateway with a key, any address, or a local server that it starts itself."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.cli.server_process import ServerProcess
from qai_realtime_sync.errors import ConfigError

__all__ = ["add_address", "client_for", "seconds"]

_LOCAL_KEY = "qai_local"


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where to."""
    parser.add_argument("--url", help="the gateway or another server (default: the environment variable QAI_BASE_URL, else the gateway)")
    parser.add_argument("--key", help="the API key (default: the environment variable QAI_API_KEY, which other users cannot see)")
    parser.add_argument("--local", action="store_true", help="start a local server for this command; needs no key and no network")


def seconds(text: str) -> float:
    """Read a finite number of seconds above 0; for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return value


@contextmanager
def client_for(arguments: argparse.Namespace, config: RealtimeConfig, *, words: bool = False) -> Iterator[RealtimeClient]:
    """Give a client that is not connected yet; a local server, if asked for, ends with the block.

    A local server that recognises no words says so on standard error; with ``words`` it will not do.

    Raises: `ConfigError` if the options contradict each other, or for the words; `RealtimeError` if the local server does not start.
    """
    if not arguments.local:
        yield RealtimeClient(arguments.key, config, base_url=arguments.url, reconnect=False)
        return
    if arguments.url:
        raise ConfigError("--local and --url say two different places")
    with ServerProcess(key=_LOCAL_KEY) as server:
        server.wait_until_ready()
        if server.description.startswith("light:"):
            if words:
                raise ConfigError(f"the local server cannot write down what is said: {server.description}", code="missing_dependency")
            print(server.description, file=sys.stderr)
        yield RealtimeClient(_LOCAL_KEY, config, base_url=server.url, proxy=False, reconnect=False)
