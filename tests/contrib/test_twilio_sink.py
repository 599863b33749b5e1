"""The sink of a telephone on a clock that the test turns: pace, marks, and what was heard."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync.contrib.twilio_sink import TwilioSink

MS = 8  # bytes of µ-law


class Telephone:
    """A sink with a clock of its own; the messages that are due are taken one by one, as the sending thread would."""

    def __init__(self, ahead: float = 0.4) -> None:
        self.now = 100.0
        self.sink = TwilioSink(lambda message: None, 'M"Z', ahead=ahead, clock=lambda: self.now)

    def due(self) -> list[dict[str, Any]]:
        """All messages that are due now."""
        found = []
        while (message := self._next()) is not None:
            found.append(json.loads(message))
            assert found[-1]["streamSid"] == 'M"Z'
        return found

    def _next(self) -> str | None:
        # The sending thread would wait here for time to pass: this clock stands still, so nothing more is due.
        condition, waited = self.sink._changed, []

        def wait(seconds: float | None = None) -> None:
            waited.append(seconds)
            self.sink._stopped = True

        real, condition.wait = condition.wait, wait  # type: ignore[method-assign,assignment]
        try:
            return self.sink._next()
        finally:
            condition.wait = real  # type: ignore[method-assign]
            if waited:
                self.sink._stopped = False

    def played(self, ms: float) -> float:
        """Let so many milliseconds pass, and return what has been heard."""
        self.now += ms / 1000
        return round(self.sink.played_ms, 3)


def sounds(messages: list[dict[str, Any]]) -> list[int]:
    return [len(base64.b64decode(message["media"]["payload"])) for message in messages if message["event"] == "media"]


def marks(messages: list[dict[str, Any]]) -> list[str]:
    return [message["mark"]["name"] for message in messages if message["event"] == "mark"]


def test_sound_is_sent_in_pieces_of_20_ms_a_bounded_time_ahead() -> None:
    """Of two seconds 400 ms are sent at once, the rest as they are played."""
    telephone = Telephone()
    telephone.sink.write(bytes(2000 * MS))
    first = telephone.due()
    assert sounds(first) == [160] * 20
    assert len(marks(first)) == 4
    telephone.played(100)
    assert sounds(telephone.due()) == [160] * 5
    telephone.played(10)
    assert sounds(telephone.due()) == []
    telephone.played(10)
    assert sounds(telephone.due()) == [160]


def test_a_piece_that_may_grow_is_held_back_while_something_plays() -> None:
    """The rest of one delta and the beginning of the next make whole pieces; what nothing follows is sent before it is too late."""
    telephone = Telephone()
    telephone.sink.write(bytes(105 * MS))
    assert sounds(telephone.due()) == [160] * 5
    telephone.sink.write(bytes(20 * MS))
    assert sounds(telephone.due()) == [160]
    telephone.played(70)
    assert sounds(telephone.due()) == []
    telephone.played(12)
    assert sounds(telephone.due()) == [5 * MS]


def test_the_first_sound_waits_for_nothing() -> None:
    """A silent telephone gets what there is at once, be it a millisecond."""
    telephone = Telephone()
    telephone.sink.write(bytes(1 * MS))
    assert [message["event"] for message in telephone.due()] == ["media", "mark"]


def test_heard_is_what_marks_say_and_between_them_the_clock() -> None:
    """The clock is believed up to the next mark that has not come, and from the last one that has."""
    telephone = Telephone()
    telephone.sink.write(bytes(300 * MS))
    one, two, three = marks(telephone.due())
    assert telephone.played(40) == 40
    assert telephone.played(100) == 100  # the first mark has not come: the telephone plays later than we thought
    telephone.sink.marked(one)
    assert telephone.played(0) == 100
    assert telephone.played(60) == 160
    telephone.sink.marked(three)
    assert telephone.played(0) == 300
    telephone.sink.marked(two)  # it is behind us
    assert telephone.played(50) == 300


def test_without_marks_the_clock_is_believed_after_a_second() -> None:
    """A mark that is a second late will not come; one that comes after all is believed again."""
    telephone = Telephone(ahead=3.0)
    telephone.sink.write(bytes(3000 * MS))
    names = marks(telephone.due())
    assert telephone.played(900) == 100
    assert telephone.played(300) == 1200
    assert telephone.played(300) == 1500
    telephone.sink.marked(names[15])  # 1600 ms
    assert telephone.played(50) == 1650
    assert telephone.played(900) == 1700


def test_what_was_heard_never_goes_back() -> None:
    """A mark that comes late after the clock was believed does not take back what was told."""
    telephone = Telephone(ahead=3.0)
    telephone.sink.write(bytes(3000 * MS))
    names = marks(telephone.due())
    assert telephone.played(2000) == 2000
    telephone.sink.marked(names[4])  # 500 ms: the line stood still
    assert telephone.played(0) == 2000
    assert telephone.played(100) == 2000


def test_clear_forgets_all_but_what_was_heard() -> None:
    """Clear goes before everything, marks of what was cleared mean nothing, and what comes then counts from there."""
    telephone = Telephone()
    telephone.sink.write(bytes(1000 * MS))
    old = marks(telephone.due())
    telephone.sink.marked(old[0])
    assert telephone.played(30) == 130
    telephone.sink.clear()
    telephone.sink.write(bytes(100 * MS))
    after = telephone.due()
    assert [message["event"] for message in after] == ["clear"] + ["media"] * 5 + ["mark"]
    for name in old[1:]:
        telephone.sink.marked(name)
    assert telephone.played(50) == 180
    telephone.sink.marked(marks(after)[0])
    assert telephone.played(500) == 230


def test_after_a_silence_the_clock_starts_anew() -> None:
    """An answer that comes later is played from when it is sent."""
    telephone = Telephone()
    telephone.sink.write(bytes(100 * MS))
    telephone.sink.marked(marks(telephone.due())[0])
    assert telephone.played(5000) == 100
    telephone.sink.write(bytes(100 * MS))
    assert sounds(telephone.due()) == [160] * 5
    assert telephone.played(40) == 140


class Sender:
    """A sink whose sending runs in a thread, on the real clock."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        self.sink = TwilioSink(self._send, "MZ")
        self.thread = threading.Thread(target=self.sink.run, name="sink")
        self.thread.start()

    def _send(self, message: str) -> None:
        assert self.hold.wait(10)
        self.sent.append(message)


@pytest.fixture
def sender() -> Iterator[Sender]:
    running = Sender()
    yield running
    running.hold.set()
    running.sink.stop()
    running.thread.join(10)
    assert not running.thread.is_alive()


def test_finish_waits_until_all_was_heard(sender: Sender) -> None:
    """The thread ends when the last mark is back; without it when it is overdue."""
    sender.sink.write(bytes(60 * MS))
    sender.sink.finish()
    assert not sender.sink.over.wait(0.2)
    sender.sink.marked("qai-1")
    assert sender.sink.over.wait(10)
    assert sender.sink.played_ms == 60


def test_finish_does_not_wait_for_marks_for_ever(sender: Sender) -> None:
    """A telephone that returns no marks is given a second more than the sound takes."""
    sender.sink.write(bytes(60 * MS))
    sender.sink.finish()
    assert sender.sink.over.wait(10)


def test_finish_with_nothing_to_say_is_over_at_once(sender: Sender) -> None:
    """A call in which nothing was said does not wait."""
    sender.sink.finish()
    assert sender.sink.over.wait(10)
    assert sender.sent == []


def test_a_send_that_blocks_is_seen_and_blocks_nobody(sender: Sender) -> None:
    """Writing, clearing and asking go on while the line takes nothing."""
    assert sender.sink.blocked_for == 0.0
    sender.hold.clear()
    sender.sink.write(bytes(60 * MS))
    done = threading.Event()
    while not sender.sink.blocked_for:
        assert not done.wait(0.01)
    sender.sink.write(bytes(60 * MS))
    sender.sink.clear()
    assert sender.sink.played_ms >= 0
    sender.hold.set()
    sender.sink.stop()
    assert sender.sink.over.wait(10)
    assert sender.sink.blocked_for == 0.0
