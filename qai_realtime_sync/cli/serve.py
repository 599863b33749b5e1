"""``qai-realtime serve``: the local realtime server in the foreground."""

from __future__ import annotations

import argparse

from qai_realtime_sync.cli.terminal import json_line
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
        return serve(**options(arguments))
    code = serve(**options(arguments), say=_tell)
    json_line({"name": "result", "command": "serve", "ok": code == 0, "exit_code": code})
    return code


def _tell(line: str) -> None:
    if line.startswith(_LISTENING):
        json_line({"name": "listening", "url": line.removeprefix(_LISTENING)})
    else:
        json_line({"name": "note", "text": line})
