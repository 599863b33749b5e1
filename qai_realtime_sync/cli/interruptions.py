"""SIGINT and SIGTERM as exceptions, once, and never in the middle of what must not be torn apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interruptions", "TerminatedError"]


class TerminatedError(BaseException):
    """SIGTERM came; like KeyboardInterrupt it is for the outermost caller alone."""


class Interruptions:
    """While the ``with`` block runs, the first signal raises KeyboardInterrupt or `TerminatedError`; more of them do not disturb the end.

    Outside the main thread it does nothing, as Python allows no more.
    """

    def __init__(self) -> None:
        self._old: dict[signal.Signals, Any] = {}
        self._came: int | None = None
        self._raised = False
        self._holds = False

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes in this block raises at its end; for what would be lost if it were interrupted halfway."""
        self._holds = True
        try:
            yield
        finally:
            self._holds = False
        self._raise()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._came is None:
            self._came = number
        if not self._holds:
            self._raise()

    def _raise(self) -> None:
        if self._came is not None and not self._raised:
            self._raised = True
            raise KeyboardInterrupt if self._came == signal.SIGINT else TerminatedError
