"""``qai-realtime serve``: the local realtime server in the foreground."""

from __future__ import annotations

import argparse
import errno
import socket
from typing import Any

from qai_realtime_sync.cli.terminal import json_line
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline import serve
from qai_realtime_sync.offline.serving import add_options, options

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime serve --port 8765 --light"
_LISTENING = "listening on "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the server's options."""
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="what it says as lines of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; return 0. Raises: `ConfigError`."""
    if not arguments.json:
        return _serve(arguments)
    code = _serve(arguments, say=_tell)
    json_line({"name": "result", "command": "serve", "ok": code == 0, "exit_code": code})
    return code


def _serve(arguments: argparse.Namespace, **more: Any) -> int:
    try:
        return serve(**options(arguments), **more)
    except ConfigError as error:
        why = error.__cause__
        if not isinstance(why, OSError) or not (isinstance(why, socket.gaierror) or why.errno == errno.EADDRNOTAVAIL):
            raise
        told = f"cannot listen on the host {arguments.host!r}: {why.strerror or why}"
        raise ConfigError(f"{told}; --host is an address of this computer, like 127.0.0.1, or 0.0.0.0 for all", code=error.code) from why


def _tell(line: str) -> None:
    if line.startswith(_LISTENING):
        json_line({"name": "listening", "url": line.removeprefix(_LISTENING)})
    else:
        json_line({"name": "note", "text": line})
