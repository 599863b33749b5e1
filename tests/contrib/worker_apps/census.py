"""What a worker process holds: threads of ours, sockets, connections of Django."""

from __future__ import annotations

import os
import threading
from typing import Any

__all__ = ["census"]


def census() -> dict[str, Any]:
    """Count them in this process; the web server's own sockets are among them."""
    open_files = list(_descriptors())
    return {
        "pid": os.getpid(),
        "threads": sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("qai-")),
        "sockets": sum(target.startswith("socket:") for target in open_files),
        "databases": sum(target.endswith(".sqlite3") for target in open_files),  # each is a connection of Django that somebody holds
    }


def _descriptors() -> list[str]:
    """What the open descriptors stand for (Linux)."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue  # the descriptor of the listing itself
    return found
