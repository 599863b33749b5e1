"""A client behind a fault proxy, all its events in order, and the rules that every life must keep, however it was disturbed."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from qai_realtime_sync import Closed, Event, RealtimeClient, RealtimeConfig, Reconnected, Reconnecting, ReconnectPolicy, StateChanged
from tests.faults.proxy import FaultProxy

__all__ = ["AT_ONCE", "FAST", "LATE", "PATIENCE", "Scene", "Seen", "ours"]

PATIENCE = 20.0
# What comes at once, without a timer of ours: seconds that a busy computer gets, far below the ping of 10 s or a connect's 10 s.
AT_ONCE = 4.0
LATE = 4.0  # seconds that a busy computer may add to a timer
FAST = ReconnectPolicy(attempts=400, seconds=PATIENCE, base=0.02, cap=0.1)
FINAL_STATES = ("closed", "failed")


class Seen:
    """Every event of one client, in order; waits for more."""

    def __init__(self, client: RealtimeClient) -> None:
        self._changed = threading.Condition()  # guards events
        self.events: list[Event] = []
        client.on(Event, self._keep)

    def _keep(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, *classes: type[Event]) -> list[Any]:
        """The events of these classes so far."""
        with self._changed:
            return [event for event in self.events if isinstance(event, classes)]

    def until(self, cls: type[Event], count: int = 1, where: Callable[[Any], bool] = lambda event: True, timeout: float = PATIENCE) -> Any:
        """Wait for the event with this number, from 1, and return it."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [event for event in self.events if isinstance(event, cls) and where(event)]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    names = [event.event_name for event in self.events]
                    raise AssertionError(f"{cls.__name__} number {count} did not come within {timeout} s; there came {names[-20:]}")

    def check_life(self) -> Closed:
        """Check what holds of every life that is over, and return its `Closed`."""
        events = self.of(Event)
        ends = [event for event in events if isinstance(event, Closed)]
        assert len(ends) == 1, f"the end was told {len(ends)} times"
        assert events[-1] is ends[0], f"{events[-1].event_name} came after the end"
        states = [event for event in events if isinstance(event, StateChanged)]
        assert [state.number for state in states] == list(range(1, len(states) + 1)), "a state was told twice, or not"
        assert all(a.new == b.old for a, b in zip(states, states[1:])), "states do not follow each other"
        assert states[-1].new in FINAL_STATES
        losses = sum(1 for state in states if state.old == "open" and state.new == "backoff")
        assert len(self.of(Reconnected)) <= losses, "a reconnect without a loss"
        first_tries = [event for event in self.of(Reconnecting) if event.attempt == 1]
        assert len(first_tries) <= losses, "one loss was told as several"
        end: Closed = ends[0]
        return end


class Scene:
    """Makes clients of what stands behind ``proxy``; a context manager that ends them and checks each life."""

    def __init__(self, proxy: FaultProxy, scheme: str, context: ssl.SSLContext | None = None) -> None:
        self.proxy = proxy
        self.scheme = scheme
        self.context = context
        self._made: list[tuple[RealtimeClient, Seen]] = []

    def client(self, config: RealtimeConfig | None = None, **options: Any) -> tuple[RealtimeClient, Seen]:
        """A client that is not connected yet, and what it sees; ``reconnect`` is quick unless it is given."""
        options.setdefault("reconnect", FAST)
        options.setdefault("base_url", self.proxy.url(self.scheme))
        options.setdefault("connect_timeout", PATIENCE)
        options.setdefault("ssl_context", self.context)
        client = RealtimeClient("qai_k_of_the_fault_tests", config, **options)
        seen = Seen(client)
        self._made.append((client, seen))
        return client, seen

    def open(self, config: RealtimeConfig | None = None, **options: Any) -> tuple[RealtimeClient, Seen]:
        """A client that is connected."""
        client, seen = self.client(config, **options)
        client.connect()
        return client, seen

    def finish(self) -> None:
        """Close every client and check its life: one end, nothing after it, every command accounted for."""
        made, self._made = self._made, []
        for client, seen in made:
            client.close()
            assert client.state in FINAL_STATES
            if seen.events:
                seen.check_life()
            assert client.outbox.waiting == 0, "a command has no outcome"

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            for client, _seen in self._made:
                client.abort()


def ours() -> list[str]:
    """The names of the client's threads that run."""
    names = ("qai-reader", "qai-sender", "qai-lane", "qai-tool", "qai-billing", "qai-closer", "qai-resolver")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]
