"""What goes wrong on purpose: connections that are lost, closed or refused, counted from when the test asks for it."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import attrs

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import Event
from qai_realtime_sync.offline.ledger import Entry, Ledger, RateLimit
from qai_realtime_sync.offline.line import StreamSocket
from qai_realtime_sync.offline.tap import Refusal
from qai_realtime_sync.testing.expectation import check_close

__all__ = ["Fault", "Faults", "FaultySocket", "KeyedLedger", "MintLimit"]


@attrs.define(eq=False)
class Fault:
    """Something that happens to a connection after so many of the server's messages or bytes; all connections count together."""

    label: str
    kind: str  # drop, close, stall
    times: int
    events: int | None = None
    name: str = ""
    bytes: int | None = None
    code: int = 1000
    reason: str = ""
    counted: int = 0
    happened: int = 0

    @property
    def is_armed(self) -> bool:
        return self.happened < self.times


@attrs.define(eq=False)
class _Door:
    """Refusals of the next connections; with ``mints`` of sessions that are asked for too."""

    label: str
    refusal: Refusal
    times: int | None
    mints: bool
    happened: int = 0


class Faults:
    """The faults of one server; ask for them before or during a conversation. What did not happen in the end is reported.

    ``events`` counts the server's messages, those of one ``name`` if it is given: an event of ours (``"audio_delta"``) or a type on the
    wire (``"response.output_audio.delta"``). The message that makes the number full is still sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._faults: list[Fault] = []
        self._doors: list[_Door] = []
        self._barred: str | None = None

    # -- asking for them -------------------------------------------------------------------------------------------------------

    def drop_after(self, events: int | None = None, *, name: str = "", bytes: int | None = None, times: int = 1) -> None:
        """Lose the connection, without a close frame, after so many messages, or in the middle of one after so many bytes."""
        if bytes is not None:
            if events is not None or name:
                raise ConfigError("drop_after() counts either events or bytes", code="invalid_fault")
            _check("bytes", bytes)
            self._arm("drop_after", kind="drop", bytes=bytes, times=times)
        else:
            self._arm("drop_after", kind="drop", events=_events(events, name), name=name, times=times)

    def close_after(
        self, code: int, reason: str = "", *, events: int | None = None, name: str = "", times: int = 1
    ) -> None:
        """Close the connection with this code and reason after so many messages."""
        check_close(code, reason)
        self._arm("close_after", kind="close", code=code, reason=reason, events=_events(events, name), name=name, times=times)

    def stall_after(self, events: int | None = None, *, name: str = "", times: int = 1) -> None:
        """Say nothing more on that connection, which stays open, after so many messages."""
        self._arm("stall_after", kind="stall", events=_events(events, name), name=name, times=times)

    def refuse(
        self,
        status: int = 503,
        code: str = "unavailable",
        message: str = "The service is not available.",
        *,
        retry_after: float | None = None,
        times: int | None = 1,
    ) -> None:
        """Refuse the next connections at their upgrade, with an HTTP status; ``times=None``: all from now on. Minting goes well."""
        if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
            raise ConfigError(f"refuse() needs an HTTP status from 200 to 599, not {status!r}", code="invalid_fault")
        self._bar(f"refuse({status})", Refusal(status, code, message, _retry_after(retry_after)), times)

    def rate_limit(self, retry_after: float | None = 1, *, times: int | None = 1) -> None:
        """Refuse the next connections, or sessions that are asked for, with 429 and ``Retry-After``."""
        refusal = Refusal(429, "RATE_LIMITED_PER_KEY", "Too many sessions; try again later.", _retry_after(retry_after))
        self._bar("rate_limit()", refusal, times, mints=True)

    def refuse_auth(self, code: str = "invalid_key") -> None:
        """From now on no key is right, as each service says it: 401, or a close after the upgrade. ``EPHEMERAL_EXPIRED`` is a code too."""
        with self._lock:
            self._barred = code

    def clear(self) -> None:
        """Let everything go well from now on; faults that did not happen are forgotten."""
        with self._lock:
            self._faults.clear()
            self._doors.clear()
            self._barred = None

    def _arm(self, verb: str, *, times: int, **fields: Any) -> None:
        _check("times", times)
        shown = {name: value for name, value in fields.items() if name != "kind" and value}
        label = f"{verb}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
        with self._lock:
            self._faults.append(Fault(label, times=times, **fields))

    def _bar(self, label: str, refusal: Refusal, times: int | None, *, mints: bool = False) -> None:
        if times is not None:
            _check("times", times)
        with self._lock:
            self._doors.append(_Door(label, refusal, times, mints))

    # -- letting them happen ---------------------------------------------------------------------------------------------------

    def sent(self, wire_name: str, told: Sequence[Event]) -> Fault | None:
        """Count a message of the server; return the fault that it makes due."""
        names = {wire_name, *(one.event_name for one in told)}
        with self._lock:
            for fault in self._faults:
                if not fault.is_armed or fault.events is None or (fault.name and fault.name not in names):
                    continue
                fault.counted += 1
                if fault.counted >= fault.events:
                    fault.counted = 0
                    fault.happened += 1
                    return fault
        return None

    def bytes_left(self, wanted: int) -> int | None:
        """Return how many of the next ``wanted`` bytes may go out before the connection is lost, ``None`` for all."""
        with self._lock:
            for fault in self._faults:
                if not fault.is_armed or fault.bytes is None:
                    continue
                left = fault.bytes - fault.counted
                if left > wanted:
                    fault.counted += wanted
                    continue
                fault.counted = 0
                fault.happened += 1
                return left
        return None

    def refusal(self, *, minting: bool = False) -> Refusal | None:
        """Return how the connection that comes now is refused, or the session that is asked for."""
        with self._lock:
            for door in self._doors:
                if (door.mints or not minting) and (door.times is None or door.happened < door.times):
                    door.happened += 1
                    return door.refusal
        return None

    @property
    def barred(self) -> str | None:
        """The code with which every key is refused, ``None`` if keys count."""
        with self._lock:
            return self._barred

    def problems(self) -> list[str]:
        """Return in words which faults did not happen."""
        with self._lock:
            found = [
                f"fault.{one.label} did not happen{'' if one.times == 1 else f' {one.times} times, but {one.happened}'}: "
                + (f"{one.counted} of {one.bytes} bytes were sent" if one.bytes is not None else f"{one.counted} of {one.events} were sent")
                for one in self._faults
                if one.is_armed
            ]
            found += [
                f"fault.{one.label} did not happen{'' if one.times == 1 else f' {one.times} times, but {one.happened}'}: nobody connected"
                for one in self._doors
                if one.times is not None and one.happened < one.times
            ]
        return found


class FaultySocket:
    """A connection's socket that is lost after so many bytes."""

    def __init__(self, inner: StreamSocket, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.is_open = False  # the upgrade is over, and bytes count

    def recv(self, size: int) -> bytes:
        """Return some bytes."""
        return self._inner.recv(size)

    def sendall(self, data: bytes) -> None:
        """Send all of it, or as much as goes before the loss. Raises: ConnectionError then."""
        left = self._faults.bytes_left(len(data)) if self.is_open else None
        if left is None:
            self._inner.sendall(data)
            return
        self._inner.sendall(data[:left])
        self._inner.shutdown(2)
        raise ConnectionResetError("lost on purpose")

    def shutdown(self, how: int) -> None:
        """Wake everybody who waits."""
        self._inner.shutdown(how)

    def close(self) -> None:
        """Close the descriptor."""
        self._inner.close()


class KeyedLedger(Ledger):
    """A ledger that can refuse every key."""

    faults: Faults

    def look_up(self, credential: str) -> Entry:
        """Tell what a credential is good for."""
        barred = self.faults.barred
        return super().look_up(credential) if barred is None else Entry(barred)


class MintLimit(RateLimit):
    """A limit of sessions that can be reached at will."""

    faults: Faults
    _after: float | None = None  # of the last refusal; None = the limit itself says it

    def allow(self) -> bool:
        """Take one, unless a refusal is due."""
        refusal = self.faults.refusal(minting=True)
        self._after = None if refusal is None else float(refusal.headers.get("Retry-After", 1))
        return refusal is None and super().allow()

    def retry_after(self) -> int:
        """Return in how many whole seconds one is left again."""
        return super().retry_after() if self._after is None else max(1, round(self._after))


def _events(events: int | None, name: str) -> int:
    if events is None and not name:
        raise ConfigError("after how many events, or which one? drop_after(3), drop_after(name='audio_delta')", code="invalid_fault")
    _check("events", 1 if events is None else events)
    return 1 if events is None else events


def _retry_after(seconds: object) -> dict[str, str]:
    if seconds is None:
        return {}
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise ConfigError(f"retry_after must be a number of seconds from 0, or None, not {seconds!r}", code="invalid_fault")
    return {"Retry-After": f"{seconds:g}"}


def _check(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number above 0, not {value!r}", code="invalid_fault")
