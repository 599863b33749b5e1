"""Waiting for events: what was fast is not missed, threads do not see each other's marks, the end wakes everybody."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qai_realtime_sync.client.waiting import EventStream, Waiting, check_timeout, in_slices
from qai_realtime_sync.errors import ConfigError, ConnectionClosedError, NotConnectedError, RealtimeTimeoutError
from qai_realtime_sync.events import AudioDelta, Closed, Event, Ping, ResponseDone, SpeechStarted


def number(n: int) -> Ping:
    return Ping(ping_id=n)


def wait(waiting: Waiting, cls: type[Event] = Ping, timeout: float | None = 2.0, where: Any = None) -> Event:
    return waiting.wait_for(cls, timeout, where, lambda: "the conversation is open")


class Other:
    """Another thread that does one thing, and what came of it."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.result: Any = None
        self._action = action
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._action()
        except BaseException as error:
            self.result = error

    def end(self) -> Any:
        self._thread.join(20.0)
        assert not self._thread.is_alive()
        return self.result


@pytest.mark.parametrize("timeout", [-0.1, float("inf"), float("nan"), 10**400, "3", True, [1]], ids=lambda value: repr(value)[:20])
def test_what_is_no_time_to_wait_is_refused(timeout: Any) -> None:
    """Also an integer that no float holds; the message says what None does."""
    with pytest.raises(ConfigError, match="timeout must be a number of seconds, 0 or more, not .*; None sets no limit$"):
        check_timeout(timeout)


def test_none_is_refused_where_it_means_nothing() -> None:
    """Elsewhere it is no limit, or what the caller says; zero is one look, or none at all."""
    check_timeout(None)
    check_timeout(0)
    check_timeout(1e300)
    with pytest.raises(ConfigError, match="timeout must be a number of seconds above 0, not None$"):
        check_timeout(None, zero=False, none="")
    with pytest.raises(ConfigError, match="above 0, not 0; None takes the usual one$"):
        check_timeout(0, zero=False, none="takes the usual one")


def test_what_came_since_the_mark_is_found_and_what_came_before_is_not() -> None:
    """The answer may be faster than the wait, but an older event is not the answer."""
    waiting = Waiting()
    waiting.offer(number(1))
    waiting.mark()
    with pytest.raises(RealtimeTimeoutError, match=r"ping did not come within 0 s; the conversation is open"):
        wait(waiting, timeout=0)
    waiting.offer(number(2))
    waiting.offer(number(3))
    assert wait(waiting) == number(2)
    assert wait(waiting) == number(3)


def test_a_thread_that_never_marked_sees_all_that_is_kept() -> None:
    """A thread that only waits hears from the beginning, as far back as is kept."""
    waiting = Waiting()
    for n in range(200):
        waiting.offer(number(n))
    assert wait(waiting) == number(72)


def test_sound_does_not_push_other_events_out() -> None:
    """Of sound the last 8 pieces are kept, of the rest the last 128."""
    waiting = Waiting()
    waiting.offer(number(1))
    for n in range(500):
        waiting.offer(AudioDelta(audio=bytes([n % 256])))
    assert wait(waiting) == number(1)
    other = Other(lambda: wait(waiting, AudioDelta))
    assert other.end() == AudioDelta(audio=bytes([492 % 256]))


def test_all_events_are_looked_at_in_their_order() -> None:
    """Sound and the rest are kept apart, and come back as they came."""
    waiting = Waiting()
    told: list[Event] = [number(1), AudioDelta(audio=b"a"), number(2)]
    for event in told:
        waiting.offer(event)
    assert [wait(waiting, Event) for _ in told] == told


def test_each_thread_has_its_own_mark() -> None:
    """What one thread has seen, another one still sees."""
    waiting = Waiting()
    waiting.offer(number(1))
    assert wait(waiting) == number(1)
    assert Other(lambda: wait(waiting)).end() == number(1)


def test_a_condition_chooses_among_the_events_of_the_class() -> None:
    """The others are passed by for good."""
    waiting = Waiting()
    for n in range(5):
        waiting.offer(number(n))
    assert wait(waiting, where=lambda event: event.ping_id == 3) == number(3)
    assert wait(waiting) == number(4)


def test_a_condition_that_fails_is_the_callers_own_exception() -> None:
    """And the waiting thread is forgotten."""
    waiting = Waiting()
    waiting.offer(number(1))
    with pytest.raises(ZeroDivisionError):
        wait(waiting, where=lambda event: 1 / 0)
    assert waiting._waiters == []


def test_an_event_wakes_every_thread_that_waits_for_it() -> None:
    """Also without a time limit, and no other event does."""
    waiting = Waiting()
    others = [Other(lambda: wait(waiting, timeout=None)) for _ in range(4)]
    while len(waiting._waiters) < 4:
        threading.Event().wait(0.001)
    waiting.offer(SpeechStarted())
    waiting.offer(number(7))
    assert [other.end() for other in others] == [number(7)] * 4


THE_END = Closed(code=1008, reason="insufficient balance", clean=True, by="service", meaning="quota", error=OSError("x"))


def test_the_end_raises_in_whoever_waits() -> None:
    """The error tells code, reason and meaning, and what it was waiting for."""
    waiting = Waiting()
    other = Other(lambda: wait(waiting, ResponseDone, None))
    while not waiting._waiters:
        threading.Event().wait(0.001)
    waiting.offer(THE_END)
    error = other.end()
    assert isinstance(error, ConnectionClosedError)
    assert (error.code, error.reason, error.clean) == (1008, "insufficient balance", True)
    assert str(error) == "the conversation ended (quota, code 1008: insufficient balance) before response_done came"
    assert isinstance(error.__cause__, OSError)


def test_after_the_end_waiting_raises_at_once() -> None:
    """What came before the end is still found first."""
    waiting = Waiting()
    waiting.offer(number(1))
    waiting.offer(THE_END)
    assert wait(waiting) == number(1)
    with pytest.raises(ConnectionClosedError, match="before ping came"):
        wait(waiting, timeout=None)


def test_the_end_itself_can_be_waited_for_again_and_again() -> None:
    """It is the last event for ever; a condition may refuse it."""
    waiting = Waiting()
    waiting.offer(THE_END)
    assert wait(waiting, Closed) == THE_END
    assert wait(waiting, Closed) == THE_END
    waiting.mark()
    assert wait(waiting, Closed) == THE_END
    with pytest.raises(ConnectionClosedError):
        wait(waiting, Closed, where=lambda event: event.code == 1000)


def test_a_failure_is_raised_once_in_one_waiting_thread() -> None:
    """In who waits now, or next; the others go on waiting."""
    waiting = Waiting()
    waiting.fail(LookupError("a handler's"))
    with pytest.raises(LookupError):
        wait(waiting)
    with pytest.raises(RealtimeTimeoutError):
        wait(waiting, timeout=0.01)
    others = [Other(lambda: wait(waiting, timeout=20.0)) for _ in range(2)]
    while len(waiting._waiters) < 2:
        threading.Event().wait(0.001)
    waiting.fail(LookupError("a handler's"))
    waiting.offer(number(1))
    results = sorted(type(other.end()).__name__ for other in others)
    assert results == ["LookupError", "Ping"]


# -- streams ---------------------------------------------------------------------------------------------------------------------


def test_a_stream_has_all_events_from_its_call_on() -> None:
    """Not those before, and not after it was forgotten."""
    waiting = Waiting()
    waiting.offer(number(1))
    stream = waiting.stream()
    waiting.offer(number(2))
    waiting.offer(AudioDelta(audio=b"a"))
    assert stream.next(0) == number(2)
    assert stream.next(0) == AudioDelta(audio=b"a")
    waiting.forget(stream)
    waiting.offer(number(3))
    with pytest.raises(RealtimeTimeoutError, match="no event came within 0 s"):
        stream.next(0)


def test_a_stream_that_looks_back_begins_at_this_threads_mark() -> None:
    """What is kept since then comes first, and nothing twice."""
    waiting = Waiting()
    waiting.offer(number(1))
    waiting.mark()
    waiting.offer(number(2))
    stream = waiting.stream(look_back=True)
    waiting.offer(number(3))
    assert [stream.next(0), stream.next(0)] == [number(2), number(3)]


def test_a_stream_ends_after_the_end() -> None:
    """Iterating stops, and asking for the next event says why."""
    waiting = Waiting()
    stream = waiting.stream()
    waiting.offer(number(1))
    waiting.offer(THE_END)
    assert list(stream) == [number(1), THE_END]
    with pytest.raises(NotConnectedError, match="its last event was already read"):
        stream.next()


@pytest.mark.parametrize("look_back", [False, True])
def test_a_stream_made_after_the_end_has_the_end_alone(look_back: bool) -> None:
    """Iterating does not hang, also for a thread that has seen the end already."""
    waiting = Waiting()
    waiting.offer(THE_END)
    wait(waiting, Closed)
    assert list(waiting.stream(look_back=look_back)) == [THE_END]


def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    """The program's delay does not cost memory without bound."""
    stream = EventStream(size=3)
    for n in range(5):
        stream.offer(number(n))
    assert stream.dropped == 2
    assert stream.next(0) == number(2)


def test_an_iteration_that_the_program_has_left_costs_nothing() -> None:
    """A stream that nobody refers to any more is not fed, and is forgotten."""
    waiting = Waiting()
    kept = waiting.stream()
    for _ in range(100):
        next(iter([waiting.stream()]))
    gc.collect()
    waiting.offer(number(1))
    assert [reference() for reference in waiting._streams] == [kept]
    assert kept.next(0) == number(1)
    assert waiting.dropped == 0


def test_what_a_stream_has_lost_counts_also_when_it_is_gone() -> None:
    """The metrics do not forget a loss because the program has left the iteration."""
    waiting = Waiting()
    stream = waiting.stream(2)
    for n in range(5):
        waiting.offer(number(n))
    assert (stream.dropped, waiting.dropped) == (3, 3)
    del stream
    gc.collect()
    assert waiting.dropped == 3


def test_many_threads_wait_while_many_events_come() -> None:
    """Eight threads wait for their own numbers among 800 events: each finds all of them, in order."""
    waiting = Waiting()
    start = threading.Barrier(9)

    def collect(name: int) -> list[int]:
        stream = waiting.stream()
        start.wait(5.0)
        found = []
        while len(found) < 100:
            event = stream.next(20.0)
            assert isinstance(event, Ping)
            if event.ping_id is not None and event.ping_id % 8 == name:
                found.append(event.ping_id)
        return found

    others = [Other(lambda name=name: collect(name)) for name in range(8)]  # type: ignore[misc]
    start.wait(5.0)
    for n in range(800):
        waiting.offer(number(n))
    assert [other.end() for other in others] == [list(range(name, 800, 8)) for name in range(8)]


def test_nobody_waits_longer_than_a_second_at_once() -> None:
    """A signal that came just before a lock was waited for is seen when that slice is over, with a limit and without."""
    for timeout, answers in ((None, [False, False, True]), (60.0, [False, True])):
        given: list[float] = []
        left = iter(answers)
        assert in_slices(lambda seconds: (given.append(seconds), next(left))[1], timeout)  # noqa: B023
        assert given == [1.0] * len(answers)
    given = []
    assert not in_slices(given.append, 0)
    assert given == [0.0], "with no time to wait it looks once"


def test_nothing_is_missed_and_nothing_comes_twice_while_events_fly_by() -> None:
    """Threads that begin to wait, and streams that begin to be read, in the middle of a flood see each later event once, in order."""
    waiting, count = Waiting(), 3_000
    go = threading.Semaphore(0)

    def follow() -> list[int]:
        seen = []
        while not seen or seen[-1] < count:
            seen.append(wait(waiting, timeout=20.0).ping_id)  # type: ignore[attr-defined]
            go.release()
        return seen

    def stream() -> list[int]:
        return [event.ping_id for event in waiting.stream(count, look_back=True) if isinstance(event, Ping)]

    followers = [Other(follow) for _ in range(2)]
    streams = []
    for n in range(1, count + 1):
        waiting.offer(number(n))
        if n % 1000 == 500:
            streams.append(Other(stream))
        if n % 50 == 0:
            for _ in range(100):  # no follower may fall behind what is kept
                assert go.acquire(timeout=20.0)
    waiting.offer(Closed())
    for follower in followers:
        assert follower.end() == list(range(1, count + 1))
    for one in streams:
        seen = one.end()
        assert seen == list(range(seen[0], count + 1))
