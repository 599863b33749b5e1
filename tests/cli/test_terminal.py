"""What people look at: plain text that is always the same, and rich in a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from qai_realtime_sync.cli.terminal import LivePanel, bar, cleaned, is_rich, json_line, say, table


class FakeTerminal(io.TextIOWrapper):
    """Text that believes it goes to a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        """Yes."""
        return True

    @property
    def text(self) -> str:
        """What was written."""
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


@pytest.fixture
def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTerminal]:
    """Give a function that puts a terminal in place of standard output; in the test itself, since pytest does the same before it."""
    pytest.importorskip("rich", reason="what is seen in a terminal needs rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def put(encoding: str = "utf-8") -> FakeTerminal:
        screen = FakeTerminal(encoding)
        monkeypatch.setattr(sys, "stdout", screen)
        return screen

    return put


def test_plain_text_is_stable(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a table is columns and spaces, a line is a line, and a panel shows nothing."""
    say("hello", "bad")
    table(["name", "ms"], [["first", ("12", "good")], ["a", "1234"]], title="Latency", right=["ms"])
    with LivePanel("talk") as panel:
        assert not panel.is_live
        panel.show(["seen in a terminal only"])
        panel.line("a line", "quiet")
    assert capsys.readouterr().out == "hello\nLatency\nname     ms\nfirst    12\na      1234\na line\n"


def test_a_terminal_has_colours_and_a_panel(in_terminal: Callable[..., FakeTerminal]) -> None:
    """In a terminal styles are colours, the panel is drawn below the lines, and it is gone at the end."""
    screen = in_terminal()
    say("hello", "bad")
    with LivePanel("talk") as panel:
        assert panel.is_live
        panel.show(["level", ("a " + "very " * 50 + "long line", "caller")])
        panel.line("a line", "good")
    table(["name"], [["first"]])
    assert "\x1b[1;31mhello\x1b[0m" in screen.text
    assert "talk" in screen.text
    assert "…" in screen.text, "a long line of the panel is not cut"
    assert screen.text.rindex("\x1b[?25h") > screen.text.rindex("\x1b[?25l")


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("TERM", "")])
def test_a_terminal_that_can_do_nothing_gets_plain_text(
    in_terminal: Callable[..., FakeTerminal], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """With TERM=dumb, or none, there are no escape sequences."""
    screen = in_terminal()
    monkeypatch.setenv(name, value)
    assert not is_rich()
    say("hello", "bad")
    assert screen.text == "hello\n"


def test_no_color_keeps_the_layout(in_terminal: Callable[..., FakeTerminal], monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves out colours, not tables."""
    screen = in_terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    say("hello", "good")
    assert "\x1b[32m" not in screen.text
    assert "hello" in screen.text


def test_without_rich_a_terminal_gets_plain_text(in_terminal: Callable[..., FakeTerminal], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rich is not installed everything is printed plainly."""
    screen = in_terminal()
    monkeypatch.setitem(sys.modules, "rich", None)
    say("hello", "bad")
    assert screen.text == "hello\n"


@pytest.mark.parametrize("text", ["\x1b[31mred", "bell\x07", "\x9b5n", "a\x00b"])
def test_a_service_cannot_write_to_the_terminal(in_terminal: Callable[..., FakeTerminal], text: str) -> None:
    """Control characters in a text become visible signs, in a terminal and out of it; tabs and line ends become spaces."""
    screen = in_terminal()
    say(text)
    assert "\N{REPLACEMENT CHARACTER}" in screen.text
    assert not set(screen.text) & set("\x07\x9b\x00")
    assert "\x1b[31mred" not in screen.text
    assert cleaned("a\tb\r\nc") == "a b c"


def test_what_an_encoding_lacks_is_escaped(in_terminal: Callable[..., FakeTerminal], monkeypatch: pytest.MonkeyPatch) -> None:
    """An ASCII terminal gets escapes in place of letters that it lacks, and meters of signs that it has."""
    ascii_only = in_terminal("ascii")
    monkeypatch.setenv("TERM", "dumb")
    say("Grüße")
    assert ascii_only.text == "Gr\\xfc\\xdfe\n"
    assert bar(1.0, 4) == "####"


def test_the_meter_is_in_decibels() -> None:
    """Silence is empty, full scale is full, and a tenth of it (-20 dB of 60) is two thirds."""
    assert bar(0.0, 12) == "░" * 12
    assert bar(1.0, 12) == bar(7.0, 12) == "█" * 12
    assert bar(0.1, 12) == "█" * 8 + "░" * 4
    assert bar(1e-9, 12) == "░" * 12


def test_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A value is one line of JSON, whatever is in it."""
    json_line({"text": "a\nb ü", "error": ValueError("x")})
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert json.loads(told) == {"text": "a\nb ü", "error": "x"}
