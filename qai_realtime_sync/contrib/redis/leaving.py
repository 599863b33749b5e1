"""The end of the process: what is shared is closed, and its last events are published."""

from __future__ import annotations

import atexit
import time
import weakref
from typing import Protocol

from qai_realtime_sync.client.closing import close_all

__all__ = ["end_with_process"]

_AT_EXIT = 1.0


class _Leaving(Protocol):
    @property
    def is_ours(self) -> bool: ...
    def join(self, timeout: float) -> None: ...


_owners: weakref.WeakValueDictionary[int, _Leaving] = weakref.WeakValueDictionary()
_registered = False


def end_with_process(owner: _Leaving) -> None:
    """Publish the rest when the interpreter exits, for a second at most."""
    global _registered
    _owners[id(owner)] = owner
    if not _registered:
        _registered = True
        atexit.register(_at_exit)


def _at_exit() -> None:
    left = [owner for reference in _owners.valuerefs() if (owner := reference()) is not None and owner.is_ours]
    if not left:
        return
    close_all()  # first the conversations, whichever of the two was registered first: their last events are to be published
    deadline = time.monotonic() + _AT_EXIT
    for owner in left:
        owner.join(max(0.0, deadline - time.monotonic()))
