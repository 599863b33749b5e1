"""What people look at: lines, tables and a live panel, with rich in a terminal, and plain text that stays the same anywhere else.

Plain is: rich is not installed, standard output is no terminal, or the terminal can do nothing (``TERM=dumb``). ``NO_COLOR`` keeps the
layout and drops the colours. Texts may come from a service: control characters in them never reach a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

__all__ = ["LivePanel", "Styled", "bar", "cleaned", "is_rich", "json_line", "painted", "say", "table"]

Styled: TypeAlias = "str | tuple[str, str]"
"""A text, or a text and its style: one of ``good bad warning quiet strong caller assistant``."""

_STYLES: Final = {
    "": "",
    "good": "green",
    "bad": "bold red",
    "warning": "yellow",
    "quiet": "dim",
    "strong": "bold",
    "caller": "cyan",
    "assistant": "magenta",
}
_CONTROL: Final = {
    **dict.fromkeys((*range(0x20), 0x7F, *range(0x80, 0xA0)), "\N{REPLACEMENT CHARACTER}"),
    ord("\t"): " ",
    ord("\n"): " ",
    ord("\r"): "",
}


def is_rich() -> bool:
    """True if standard output is a terminal that shows more than plain text, and rich is there to use it."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        return False
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True


def cleaned(text: str) -> str:
    """Return a text as one line without control characters, which could move a terminal's cursor or change its settings."""
    return text.translate(_CONTROL)


def say(text: str = "", style: str = "") -> None:
    """Print one line; ``style`` is seen in a terminal only. Raises: `BrokenPipeError` when nobody reads any more."""
    if is_rich():
        _console().print(_text((text, style)), soft_wrap=True)
        sys.stdout.flush()
    else:
        _plain(cleaned(text) + "\n")


def painted(text: str, style: str = "") -> str:
    """Return a text with the codes of its style, for who prints parts of lines; as it is where no style is seen."""
    if not style or not is_rich():
        return text
    console = _console()
    with console.capture() as captured:
        console.print(_text((text, style)), end="", soft_wrap=True)
    return str(captured.get())


def json_line(value: Any) -> None:
    """Print a value as one line of JSON, for ``--json``; what JSON does not know becomes text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    _plain((text if _can_print(text) else json.dumps(value, default=str)) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Styled]], *, title: str = "", right: Sequence[str] = ()) -> None:
    """Print rows under their columns; the columns named in ``right`` are aligned right. Plain: two spaces between, no rules."""
    cells = [[_pair(cell) for cell in row] for row in rows]
    if is_rich():
        _rich_table(columns, cells, title, right)
        return
    texts = [list(columns), *([cleaned(text) for text, _ in row] for row in cells)]
    widths = [max(len(row[at]) for row in texts) for at in range(len(columns))]
    lines = [title] if title else []
    for row in texts:
        padded = [f"{text:>{width}}" if name in right else f"{text:<{width}}" for text, width, name in zip(row, widths, columns)]
        lines.append("  ".join(padded).rstrip())
    _plain("\n".join(lines) + "\n")


def bar(value: float, width: int = 20) -> str:
    """Draw a level from 0 (silence) to 1 (full scale) as a meter of so many characters; every step is 3 dB, from -60 dB for 20."""
    from math import log10

    loud = 0.0 if value <= 0 else max(0.0, 1 + log10(min(value, 1.0)) / 3)
    filled = round(loud * width)
    full, empty = ("█", "░") if _can_print("█░") else ("#", ".")
    return full * filled + empty * (width - filled)


class LivePanel:
    """A few lines at the bottom of a terminal that change while others scroll by above them; from any thread.

    ``with LivePanel("talk") as panel``: `show` replaces the panel's lines, `line` prints one above it that stays. Where there is no
    terminal `show` does nothing, and `line` prints. After the block the panel is gone, and what scrolled by is still there.
    """

    def __init__(self, title: str = "") -> None:
        self._title = title
        self._live: Any = None
        self._lock = threading.Lock()  # guards _live, and the order of what is printed

    @property
    def is_live(self) -> bool:
        """True if the panel is seen."""
        return self._live is not None

    def __enter__(self) -> LivePanel:
        if is_rich():
            from rich.live import Live

            with self._lock:
                self._live = Live(console=_console(), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=True)
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            live, self._live = self._live, None
            if live is not None:
                live.stop()

    def show(self, lines: Sequence[Styled]) -> None:
        """Replace what the panel shows."""
        with self._lock:
            if self._live is not None:
                self._live.update(_panel(self._title, [_pair(line) for line in lines]), refresh=True)

    def line(self, text: str, style: str = "") -> None:
        """Print a line above the panel. Raises: `BrokenPipeError` when nobody reads any more."""
        with self._lock:
            if self._live is not None:
                self._live.console.print(_text((text, style)), soft_wrap=True)
                self._live.refresh()
            else:
                say(text, style)


# -- plain -------------------------------------------------------------------------------------------------------------------


def _plain(text: str) -> None:
    """Write text; what standard output's encoding does not have is written as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _pair(cell: Styled) -> tuple[str, str]:
    return (cell, "") if isinstance(cell, str) else cell


# -- rich --------------------------------------------------------------------------------------------------------------------


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def _text(part: tuple[str, str]) -> Any:
    from rich.text import Text

    text, style = part
    return Text(cleaned(text), style=_STYLES[style])


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], title: str, right: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        made.add_row(*map(_text, row))
    _console().print(made)
    sys.stdout.flush()


def _panel(title: str, lines: Sequence[tuple[str, str]]) -> Any:
    from rich.console import Group
    from rich.panel import Panel

    texts = [_text(line) for line in lines]
    for text in texts:
        text.no_wrap, text.overflow = True, "ellipsis"
    return Panel(Group(*texts), title=title or None, title_align="left", border_style="dim")
