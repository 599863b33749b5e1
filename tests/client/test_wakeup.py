"""Latch and Bell: one wakes all for good, the other one thread for each ring."""

from __future__ import annotations

import math
import threading

import pytest

from qai_realtime_sync.client.wakeup import Bell, Latch


def test_a_latch_lets_everybody_through_for_good() -> None:
    """Ten threads that wait pass when it is set, and so does who comes later."""
    latch = Latch()
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.append(latch.wait(20.0))) for _ in range(10)]
    for thread in threads:
        thread.start()
    assert not latch.is_set()
    latch.set()
    for thread in threads:
        thread.join(20.0)
    assert passed == [True] * 10
    assert latch.is_set()
    assert latch.wait()
    assert latch.wait(-1.0)


def test_a_latch_that_is_not_set_lets_nobody_through() -> None:
    """A wait ends after its seconds, also after less than none."""
    latch = Latch()
    assert not latch.wait(0.01)
    assert not latch.wait(-5.0)


def test_a_latch_may_be_set_by_many() -> None:
    """Four threads that set it at once do not disturb each other."""
    for _ in range(50):
        latch, start, failed = Latch(), threading.Barrier(4), list[BaseException]()

        def set_it(latch: Latch = latch, start: threading.Barrier = start, failed: list[BaseException] = failed) -> None:
            start.wait(20.0)
            try:
                latch.set()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=set_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert latch.wait(20.0)
        for thread in threads:
            thread.join(20.0)
        assert not failed
        assert latch.wait(0)


@pytest.mark.parametrize("timeout", [1e10, 1e300, math.inf, 10**12])
@pytest.mark.parametrize("kind", [Latch, Bell])
def test_more_seconds_than_a_lock_can_count_are_waited_for_all_the_same(kind: type[Latch | Bell], timeout: float) -> None:
    """A thread that waits so long is woken like any other."""
    waited_for = kind()
    timer = threading.Timer(0.05, waited_for.set if isinstance(waited_for, Latch) else waited_for.ring)
    timer.start()
    try:
        assert waited_for.wait(timeout)
    finally:
        timer.join(20.0)


def test_a_ring_that_nobody_waits_for_is_kept_once() -> None:
    """Three rings let one wait through, the next one not."""
    bell = Bell()
    for _ in range(3):
        bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0.01)
    assert not bell.wait(-1.0)


def test_no_ring_is_lost() -> None:
    """What was put down before a ring is seen after the wait: 2000 items from four threads arrive."""
    bell, items, seen = Bell(), list[int](), 0

    def put() -> None:
        for _ in range(500):
            items.append(1)
            bell.ring()

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    while seen < 2000:
        assert bell.wait(20.0)
        seen = len(items)
    for thread in threads:
        thread.join(20.0)
