"""SIGINT and SIGTERM as exceptions, once, and never in the middle of what must not be torn apart; a second one ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interruptions", "TerminatedError", "holding"]

_AT_ONCE = b"\nstopped at once\n"


class TerminatedError(BaseException):
    """SIGTERM came; like KeyboardInterrupt it is for the outermost caller alone."""


class Interruptions:
    """While the ``with`` block runs, the first signal raises KeyboardInterrupt or `TerminatedError`, so that everything ends in order.

    A second Ctrl-C ends the process at once, whatever it does; a local server of ours ends with its standard input. Further SIGTERM do not
    disturb the end. Outside the main thread it does nothing, as Python allows no more.
    """

    def __init__(self) -> None:
        self._old: dict[signal.Signals, Any] = {}
        self._came: int | None = None
        self._raised = False
        self._holds = 0

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            _active.append(self)
            self._old = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self in _active:
            _active.remove(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes in this block raises at its end; for what would be lost if it were interrupted halfway."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if not self._holds:
            self._raise()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._came is not None and number == signal.SIGINT:
            os.write(2, _AT_ONCE)
            os._exit(128 + number)
        if self._came is None:
            self._came = number
        if not self._holds:
            self._raise()

    def _raise(self) -> None:
        if self._came is not None and not self._raised:
            self._raised = True
            raise KeyboardInterrupt if self._came == signal.SIGINT else TerminatedError


_active: list[Interruptions] = []  # the innermost last; of the main thread alone


@contextmanager
def holding() -> Iterator[None]:
    """Like `Interruptions.held` of the innermost block that runs, if one does and this is the main thread."""
    if not _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _active[-1].held():
        yield
