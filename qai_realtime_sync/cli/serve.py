"""``qai-realtime serve``: the local realtime server in the foreground."""

from __future__ import annotations

import argparse

from qai_realtime_sync.offline import serve
from qai_realtime_sync.offline.serving import add_options, options

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the server's options."""
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; return 0. Raises: `ConfigError`."""
    return serve(**options(arguments))
