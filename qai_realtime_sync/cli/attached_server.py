"""The local server as a child of a command: it tells where it is in one line of JSON, and ends when its standard input does.

So it never outlives its parent, whatever becomes of that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from qai_realtime_sync.errors import ConfigError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve on a free port of this computer until standard input ends; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qai_realtime_sync.cli.attached_server")
    parser.add_argument("--key")
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--dialect", default="xai")
    parsed = parser.parse_args(arguments)
    try:
        from qai_realtime_sync.offline import RealtimeServer

        with RealtimeServer(key=parsed.key, light=parsed.light, tls=parsed.tls, dialect=parsed.dialect) as server:
            ready = {"url": server.url, "ws_url": server.ws_url, "description": server.description, "certificate": server.certificate}
            print(json.dumps(ready), flush=True)
            sys.stdin.buffer.read()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
