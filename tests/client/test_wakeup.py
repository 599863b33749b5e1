"""Latch, Bell and Changes: one wakes all for good, one a thread for each ring, one who waits for something to become true."""

from __future__ import annotations

import math
import signal
import threading

import pytest

from qai_realtime_sync.client.wakeup import Bell, Changes, Latch


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


def test_changes_wake_everybody_whose_wish_has_come_true() -> None:
    """Ten threads take one thing each of what is put down in any order; one whose wish does not come true gives up in its time."""
    lock = threading.Lock()
    changes, things, taken = Changes(lock), list[int](), list[int]()

    def take() -> bool:
        if not things:
            return False
        taken.append(things.pop())
        return True

    threads = [threading.Thread(target=changes.wait_for, args=(take, 20.0)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for number in range(10):
        with lock:
            things.append(number)
            changes.tell()
    for thread in threads:
        thread.join(20.0)
    assert sorted(taken) == list(range(10))
    assert not changes.wait_for(take, 0.01)
    assert not changes.wait_for(take, 0)
    assert not changes.wait_for(take, -1.0)
    assert changes._bells == []


def test_a_signal_while_waiting_comes_out_as_it_was_raised() -> None:
    """A hundred interruptions, each as early as it can come: always the exception of the signal, and the lock is free after it."""
    lock = threading.Lock()
    changes = Changes(lock)
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come in the main thread only")
    seen: list[type[BaseException]] = []
    main = threading.get_ident()
    for _ in range(100):
        about = threading.Event()

        def interrupt(about: threading.Event = about) -> None:
            about.wait(20.0)
            signal.pthread_kill(main, signal.SIGINT)

        def is_so(about: threading.Event = about) -> bool:
            about.set()
            return False

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            while len(seen) < 100:
                changes.wait_for(is_so, 0.05)  # a signal just before a lock is waited for is seen only when that wait ends
        except BaseException as error:
            seen.append(type(error))
        thread.join(20.0)
        assert not lock.locked()
    assert seen == [KeyboardInterrupt] * 100
    assert changes._bells == []
