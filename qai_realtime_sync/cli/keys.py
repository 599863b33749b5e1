"""Single keys from the terminal while other things happen, without Enter."""

from __future__ import annotations

import os
import re
import select
import sys
import threading
from typing import Any

__all__ = ["Keys"]

_SEQUENCE = re.compile(r"\x1b(?:[\[O][0-?]*[ -/]*[@-~])?")  # an arrow, a function key, or Escape itself


class Keys:
    """``with Keys() as keys``: `read` waits for a key at most so long. Without a terminal on standard input no key ever comes."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._settings: list[Any] = []
        self._no_key = threading.Event()
        self._pressed = ""  # and not yet asked for
        self.works = False
        """True if keys can come."""

    def __enter__(self) -> Keys:
        if sys.stdin is None or not sys.stdin.isatty():
            return self
        if sys.platform == "win32":  # its console needs no preparation
            self.works = True
            return self
        import termios
        import tty

        self._descriptor = sys.stdin.fileno()
        if os.tcgetpgrp(self._descriptor) != os.getpgrp():
            return self  # in the background: setting the terminal would stop us
        self._settings = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)  # Ctrl-C stays a signal
        self.works = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._settings and sys.platform != "win32":
            import termios

            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._settings)

    def read(self, timeout: float, over: threading.Event | None = None) -> str:
        """Return the next key, or ``""`` after ``timeout`` seconds, or once ``over`` is set where keys cannot come."""
        if not self.works:
            (over or self._no_key).wait(timeout)
            return ""
        if sys.platform == "win32":
            return self._windows(timeout)
        if not self._pressed and select.select([self._descriptor], [], [], timeout)[0]:
            came = os.read(self._descriptor, 64)
            self.works = bool(came)  # else the terminal has gone
            self._pressed = _SEQUENCE.sub("", came.decode("ascii", "ignore"))
        key, self._pressed = self._pressed[:1], self._pressed[1:]
        return key

    def _windows(self, timeout: float) -> str:
        import msvcrt

        console: Any = msvcrt
        if not console.kbhit():
            self._no_key.wait(timeout)
        return str(console.getwch()) if console.kbhit() else ""
