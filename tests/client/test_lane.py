"""The ordered lane: one thread, started on first use, that finishes what it was given."""

from __future__ import annotations

import threading

import pytest

from qai_realtime_sync.client.lane import Lane


def end(lane: Lane) -> None:
    lane.stop()
    if lane.thread is not None:
        lane.thread.join(20.0)
        assert not lane.thread.is_alive()


def test_no_thread_before_the_first_use() -> None:
    """An unused lane costs nothing, and can be stopped."""
    lane = Lane("qai-lane")
    assert lane.thread is None
    end(lane)


def test_actions_run_in_order_in_one_thread() -> None:
    """From however many threads they come."""
    lane, done = Lane("qai-lane"), []
    for number in range(100):
        lane.post(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]
    end(lane)
    assert done == [(number, "qai-lane") for number in range(100)]


def test_stopping_lets_what_is_queued_finish() -> None:
    """A promise that was made is kept."""
    lane, gate, done = Lane("qai-lane"), threading.Event(), []
    lane.post(lambda: gate.wait(5.0))  # type: ignore[arg-type, return-value]
    lane.post(lambda: done.append(1))
    lane.stop()
    gate.set()
    end(lane)
    assert done == [1]


def test_an_action_may_post_another() -> None:
    """It comes behind what waits already."""
    lane, gate, done, over = Lane("qai-lane"), threading.Event(), [], threading.Event()
    lane.post(lambda: gate.wait(5.0))  # type: ignore[arg-type, return-value]
    lane.post(lambda: (lane.post(lambda: (done.append(3), over.set())[0]), done.append(1))[1])
    lane.post(lambda: done.append(2))
    gate.set()
    assert over.wait(20.0)
    end(lane)
    assert done == [1, 2, 3]


def test_without_threads_it_runs_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the interpreter is ending no thread can be started: what was promised is done all the same."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    lane, done = Lane("qai-lane"), []
    lane.post(lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]
    assert lane.thread is None
