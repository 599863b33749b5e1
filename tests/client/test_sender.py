"""The sender: timers on a fake clock, flushing in slices, and nothing that can keep either from the other."""

from __future__ import annotations

import logging
import math
import threading
import time

import pytest

from qai_realtime_sync.client.sender import Sender
from qai_realtime_sync.errors import ConnectionClosedError, RealtimeTimeoutError


class Flushes:
    """What is flushed: notes each call; ``full`` says that the socket does not take it."""

    def __init__(self) -> None:
        self.full = False
        self.closed = False
        self.timeouts: list[float] = []
        self.called = threading.Semaphore(0)

    def __call__(self, timeout: float) -> None:
        self.timeouts.append(timeout)
        self.called.release()
        if self.closed:
            raise ConnectionClosedError("gone")
        if self.full:
            threading.Event().wait(timeout)
            raise RealtimeTimeoutError("full")


def end(sender: Sender) -> None:
    sender.stop()
    assert sender.thread is not None
    sender.thread.join(20.0)
    assert not sender.thread.is_alive()


def running() -> tuple[Sender, Flushes]:
    flushes = Flushes()
    sender = Sender(time.monotonic, flushes)
    sender.start()
    return sender, flushes


def test_timers_run_when_they_are_due_and_in_their_order() -> None:
    """The earlier one first, however they were set; those of the same time in the order of setting."""
    sender, _ = running()
    done, over = [], threading.Event()
    now = time.monotonic()
    sender.after(0.05, lambda: (done.append(("c", time.monotonic() - now)), over.set())[0])
    sender.after(0.02, lambda: done.append(("a", time.monotonic() - now)))
    sender.after(0.02, lambda: done.append(("b", time.monotonic() - now)))
    assert over.wait(20.0)
    end(sender)
    assert [name for name, _ in done] == ["a", "b", "c"]
    assert done[0][1] >= 0.02
    assert done[2][1] >= 0.05


def test_a_cancelled_timer_does_not_run() -> None:
    """Neither before nor after its time."""
    sender, _ = running()
    done, over = [], threading.Event()
    sender.after(0.01, lambda: done.append(1)).cancel()
    sender.after(0.03, over.set)
    assert over.wait(20.0)
    end(sender)
    assert done == []


@pytest.mark.parametrize("seconds", [1e12, 1e300, math.inf])
def test_a_timer_for_never_keeps_nothing_from_its_work(seconds: float) -> None:
    """A time that no lock can wait for is waited for as long as one can: what is due before it runs, and the thread ends when told to."""
    sender, _ = running()
    never: list[int] = []
    sender.after(seconds, lambda: never.append(1))
    for _ in range(20):  # it falls asleep in between
        done = threading.Event()
        sender.after(0.001, done.set)
        assert done.wait(10.0)
    end(sender)
    assert never == []


def test_a_timer_that_fails_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    """The thread lives on; the end of the connection is no failure."""
    sender, _ = running()
    over = threading.Event()
    with caplog.at_level(logging.ERROR):
        sender.after(0.0, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        sender.after(0.01, lambda: (_ for _ in ()).throw(ConnectionClosedError("gone")))
        sender.after(0.02, over.set)
        assert over.wait(20.0)
    end(sender)
    (record,) = caplog.records
    assert record.message == "a timer of the conversation failed"
    assert record.exc_info is not None


def test_waking_flushes_once() -> None:
    """Without a reason nothing is flushed."""
    sender, flushes = running()
    sender.wake()
    assert flushes.called.acquire(timeout=20.0)
    end(sender)
    assert len(flushes.timeouts) == 1


def test_a_full_socket_is_tried_again_and_does_not_keep_timers_waiting() -> None:
    """A timer that is set while the socket is full runs within a slice, not after the next timer that was known."""
    sender, flushes = running()
    flushes.full = True
    sender.after(60.0, lambda: None)
    sender.wake()
    assert flushes.called.acquire(timeout=20.0)
    over = threading.Event()
    started = time.monotonic()
    sender.after(0.0, over.set)
    assert over.wait(20.0)
    assert time.monotonic() - started < 10.0
    assert flushes.called.acquire(timeout=20.0)
    flushes.full = False
    end(sender)
    assert max(flushes.timeouts) <= 0.05


def test_a_lost_connection_ends_the_flushing() -> None:
    """What the reader will tell is not tried again here."""
    sender, flushes = running()
    flushes.closed = True
    sender.wake()
    assert flushes.called.acquire(timeout=20.0)
    end(sender)
    assert len(flushes.timeouts) == 1


def test_a_flush_is_never_longer_than_to_the_next_timer() -> None:
    """A timer that is due soon bounds the wait for the socket."""
    sender, flushes = running()
    flushes.full = True
    over = threading.Event()
    sender.after(0.02, over.set)
    sender.wake()
    assert over.wait(20.0)
    flushes.full = False
    end(sender)
    assert flushes.timeouts[0] <= 0.02


def test_stopping_does_not_wait_for_timers() -> None:
    """What is not due at the end is forgotten."""
    sender, _ = running()
    sender.after(60.0, lambda: None)
    started = time.monotonic()
    end(sender)
    assert time.monotonic() - started < 10.0
