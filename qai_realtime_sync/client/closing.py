"""How a client ends: from any thread, in any state, bounded; and how all clients of a process end with it."""

from __future__ import annotations

import atexit
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING

from qai_realtime_sync.client.billing import unsettled
from qai_realtime_sync.client.waiting import LONGEST
from qai_realtime_sync.errors import ConfigError, ConnectError
from qai_realtime_sync.events import Closed, Event

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["abandon", "abort", "close", "close_all", "end_unstarted", "end_with_process", "join"]

# Not a WeakSet: that cannot be gone through while another thread connects.
_open_calls: weakref.WeakValueDictionary[int, Call] = weakref.WeakValueDictionary()
_registered = False
_AT_EXIT = 2.0
_ABORTED_WITHIN = 0.3


def close(call: Call, code: int, reason: str, timeout: float) -> None:
    """End the conversation in an orderly way and wait for it, ``timeout`` seconds at most; in a handler only begin to end it.

    Raises: `ConfigError` for a code or a reason that cannot be sent, before anything has happened.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise ConfigError(f"a close code is a whole number like 1000, not {code!r}")
    if not isinstance(reason, str):
        raise ConfigError(f"the reason of a close must be text, not {type(reason).__name__}")
    if not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, 1005, 1006):
        raise ConfigError(f"{code} is not a close code that may be sent: 1000 to 1003, 1007 to 1014 and 3000 to 4999 are")
    timeout = min(timeout, LONGEST)
    deadline = call.clock() + timeout
    billing = call.billing
    if billing is not None:
        billing.limit(timeout)
    first = call.request_close(code, reason)
    if call.reader is None:
        if first:
            _never_opened(call)
        if threading.current_thread() not in (call.lane.thread, call.teller.thread):
            call.over.wait(timeout)
            join(call, deadline)
        return
    if call.delivery.in_delivery:
        if first:
            call.close_from_handler()
        return
    call.close_connection(max(0.05, (deadline - call.clock()) / 2))
    if billing is not None:
        billing.finish()  # not left to the reader alone: a handler that does not return holds it
    if not call.over.wait(max(0.0, deadline - call.clock() - 0.2)):
        abort(call)
        call.over.wait(max(0.05, deadline - call.clock()))
    if billing is not None:
        billing.wait(max(0.0, deadline - call.clock()))
    join(call, deadline)


def abort(call: Call) -> None:
    """End now, without goodbye; never waits."""
    call.request_close(1006, "")
    if call.reader is None:
        _never_opened(call)
        return
    connection = call.connection
    if connection is not None:
        connection.abort()


def abandon(reference: weakref.ref[Call]) -> None:
    """Nobody refers to the client any more: end it from a thread of its own, because the collector may run anywhere."""
    call = reference()  # its threads hold it while it lives
    if call is not None and call.is_ours and call.reader is not None and not call.over.is_set():
        threading.Thread(target=close, args=(call, 1000, "", call.options.close_timeout), name="qai-closer", daemon=True).start()


def end_with_process(call: Call) -> None:
    """Close this conversation when the interpreter exits, if it is still open then."""
    global _registered
    _open_calls[id(call)] = call
    if not _registered:
        _registered = True
        atexit.register(close_all)


def close_all() -> None:
    """Close every open conversation of this process, all at once, and settle what is billed: two seconds at most."""
    found = [reference() for reference in _open_calls.valuerefs()]
    calls = [call for call in found if call is not None and call.is_ours and not call.over.is_set()]
    deadline = monotonic() + _AT_EXIT
    for call in calls:
        if call.request_close(1001, ""):
            call.close_from_handler()  # in the senders' threads, so that all close at once
    goodbye = deadline - _AT_EXIT / 2  # the rest of the time is for the bills
    left = [call for call in calls if not call.over.wait(max(0.0, goodbye - monotonic()))]
    for call in left:
        abort(call)
    for call in left:  # all within one moment: a handler that does not return uses it up alone, a hundred must not take ten seconds
        call.over.wait(max(0.0, goodbye + _ABORTED_WITHIN - monotonic()))
    bills = unsettled()
    for billing in bills:
        billing.limit(max(0.0, deadline - monotonic()))
        billing.finish()  # also where a handler that does not return holds the reader
    for billing in bills:
        billing.wait(max(0.0, deadline - monotonic()))
        billing.report_unsettled()


def end_unstarted(call: Call, error: ConnectError) -> None:
    """Its threads could not be started: end it as any attempt to connect that failed, for every thread that waits for the end."""
    states = [call.to_state("connecting"), call.to_state("closed" if call.closing else "failed")]
    call.connect_error = error
    call.reader = None
    by_us = call.closing
    if not by_us:
        call.outbox.close("the conversation is over (lost)")
    call.mutations.end()
    call.pool.stop()
    if call.billing is not None:
        call.billing.finish()
    closed = Closed(
        code=None,
        by="client" if by_us else "network",
        clean=by_us,
        meaning="normal" if by_us else "lost",
        error=None if by_us else error,
        unsent=call.outbox.end(),
    )
    _tell_end(call, [*(state for state in states if state is not None), closed])
    call.sender.stop()
    join(call, call.clock() + call.options.close_timeout)


def _never_opened(call: Call) -> None:
    changed = call.to_state("closed")
    if changed is None:
        return
    _tell_end(call, [changed, Closed(code=None, clean=True, by="client", meaning="normal", unsent=call.outbox.end())])


def _tell_end(call: Call, events: list[Event]) -> None:
    """Tell the last events where there is no reader to do it."""
    for event in events:
        call.announce(event)
    call.teller.post(call.over.set)
    call.teller.post(call.opened.set)
    call.teller.stop()
    call.lane.stop()


def join(call: Call, deadline: float) -> None:
    """Wait for the threads that are ours; user code that does not return keeps only its own thread."""
    billing = call.billing.threads if call.billing is not None else ()
    for thread in (call.reader, call.sender.thread, call.lane.thread, call.teller.thread, *billing, *call.pool.threads):
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join(max(0.0, deadline - call.clock()))
