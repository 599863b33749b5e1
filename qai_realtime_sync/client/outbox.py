"""What waits to be sent: bounded, in order, each command with exactly one outcome; whoever holds the write token writes.

The token is a flag, not a lock held over I/O. Its holder takes the next command and gives its frames to the connection without
blocking; when the socket is full, the token passes to the sender thread, which may block. So a caller of ``send_*`` never waits for
the network, and no two threads write at once.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias, TypeVar

import attrs

from qai_realtime_sync.client.wakeup import Changes
from qai_realtime_sync.commands import CancelResponse, Command, Pong, SendAudio, TruncateItem
from qai_realtime_sync.errors import ConnectionClosedError, NotConnectedError, OutboxFullError
from qai_realtime_sync.fields import ByFields
from qai_realtime_sync.seam import Frame

__all__ = ["Outbox", "OutboxCounts"]

_Kind = TypeVar("_Kind", bound=Command)
_OVER = "the conversation is over"
_OVERTAKES_AUDIO = (CancelResponse, TruncateItem)


class _Speaks(Protocol):
    def encode(self, command: Command) -> list[Frame]: ...


class _Writes(Protocol):
    def try_send(self, frame: Frame) -> bool: ...

    @property
    def gave_all(self) -> bool: ...


@attrs.define(kw_only=True, eq=False, repr=False)
class OutboxCounts(ByFields):
    """Outcomes since the client was made: every command ends in exactly one of ``sent``, ``failed`` and ``dropped``.

    ``sent`` means given to the kernel. ``dropped_audio`` is in seconds. ``waiting`` counts commands that have no outcome yet.
    """

    sent: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0
    dropped_audio: float = 0.0


@attrs.define(eq=False, repr=False)
class _Entry:
    command: Command
    frames: list[Frame]
    dialect: _Speaks


_Taken: TypeAlias = tuple[_Entry, _Writes, "_Speaks | None"]


class Outbox:
    """The queue between the program's threads and one socket at a time; it outlives connections.

    ``max_commands`` and ``max_audio`` (seconds) bound it. ``drop_oldest_audio`` chooses what happens to more sound than that: the
    oldest is dropped and counted, or `OutboxFullError`. ``sent`` is told each command the kernel has; ``blocked`` that somebody must
    wait for the socket and call `flushed`; ``still_wanted`` is asked before a command, but sound, is written, and what is not is dropped.
    """

    def __init__(
        self,
        *,
        max_commands: int,
        max_audio: float,
        bytes_per_second: int,
        drop_oldest_audio: bool,
        sent: Callable[[Command], None],
        blocked: Callable[[], None],
        still_wanted: Callable[[Command], bool] = lambda _: True,
    ) -> None:
        self._max_commands = max_commands
        self._max_audio = max_audio
        self._bytes_per_second = bytes_per_second
        self._longest = int(max_audio * bytes_per_second)
        self._drop_oldest_audio = drop_oldest_audio
        self._told_sent = sent
        self._blocked = blocked
        self._still_wanted = still_wanted
        self._told_next: Callable[[], object] | None = None
        self.tells_audio = False  # sound is told too, for whoever records it; else its way is the shortest
        self._lock = threading.Lock()  # guards everything below
        self._changes: Changes | None = None  # made for the first `drain`, because most never do
        self._draining = 0  # threads in `drain`
        self._queue: collections.deque[_Entry] = collections.deque()
        self._audio_bytes = 0
        self._sent_bytes = 0  # of sound that left and is not counted in seconds yet
        self._sent_audio = 0.0
        self.most_waiting = 0  # the longest the queue was
        self._commands = 0
        self._counts = OutboxCounts()
        self._dialect: _Speaks | None = None
        self._connection: _Writes | None = None
        self._ready = False
        self._holds_audio = True
        self._writing = 0  # the thread that has the write token; 0 = it is free
        self._left_to_sender = False  # the socket was full: the token, and what was half given, wait for `flushed`
        self._in_kernel_soon: _Entry | None = None
        self._over: str = ""

    # -- the life of connections -----------------------------------------------------------------------------------------------

    def speak(self, dialect: _Speaks) -> None:
        """From now on commands are spelled by ``dialect`` and held until a connection is `open`."""
        with self._lock:
            self._dialect = dialect

    def open(self, connection: _Writes) -> None:
        """The service is ready: everything held goes out over ``connection``, in order."""
        with self._lock:
            self._connection = connection
            self._ready = True
            self._holds_audio = True
        self.pump()

    def pause(self, connection: _Writes) -> None:
        """Hold everything, sound too, until the next `open`: this connection is about to be replaced, if it is still in use."""
        with self._lock:
            if self._connection is connection:
                self._ready = False

    def held(self, kind: type[_Kind]) -> list[_Kind]:
        """The commands of this kind that wait, in order."""
        with self._lock:
            return [entry.command for entry in self._queue if isinstance(entry.command, kind)]

    def forget(self, is_stale: Callable[[Command], bool]) -> None:
        """Drop what waits and is of no use any more: it was meant for something that is gone, or was said otherwise."""
        with self._lock:
            stale = [entry for entry in self._queue if is_stale(entry.command)]
            for entry in stale:
                self._queue.remove(entry)
                self._forget_size(entry)
            self._counts.dropped += len(stale)
            self._tell_drainers()

    def prepend(self, commands: Iterable[Command]) -> None:
        """What a new connection must hear before everything that waits, unless it waits already; while none is open."""
        with self._lock:
            dialect = self._dialect
            if dialect is None or self._over:
                return
            missing = [command for command in commands if not self._waits(command)]
            entries = [_Entry(command, dialect.encode(command), dialect) for command in missing]
            self._queue.extendleft(reversed(entries))
            self._commands += len(entries)

    def lose(self, *, keep_audio: bool = False) -> None:
        """The connection is gone. Sound is dropped and counted, other commands are held, also one that was half given: the service
        cannot have read it, and it goes out again (one of several frames is failed, because a part may have been read).

        What another thread is writing just now stays its business: it learns the end from the connection. ``keep_audio``: the
        connection is replaced by plan, and the user's sound goes on without a gap.
        """
        with self._lock:
            connection, self._connection = self._connection, None
            self._ready = False
            if self._left_to_sender:
                half = self._in_kernel_soon
                if half is not None and connection is not None and connection.gave_all:
                    self._counts.sent += 1  # an orderly end let it go out whole
                    self._in_kernel_soon = None
                elif half is not None:
                    self._take_back(half)
                self._fail_half_sent()
            self._tell_drainers()
            if keep_audio:
                return
            self._holds_audio = False
            kept = [entry for entry in self._queue if not isinstance(entry.command, SendAudio)]
            for entry in self._queue:
                if isinstance(entry.command, SendAudio):
                    self._drop_audio(entry)
            self._queue = collections.deque(kept)
            self._tell_drainers()

    def hold_audio(self) -> None:
        """A new connection is being prepared: sound that comes now is kept for it."""
        with self._lock:
            self._holds_audio = True

    def close(self, why: str) -> None:
        """Take nothing more: every later `put` raises with ``why``. What waits may still go out until `end`."""
        with self._lock:
            self._over = why if self._over in ("", _OVER) else self._over

    def end(self) -> tuple[Command, ...]:
        """Nothing goes out any more. Return the commands that never left, in order; sound is only counted."""
        with self._lock:
            self._over = self._over or _OVER
            self._connection = None
            self._ready = False
            self._fail_half_sent()
            unsent = []
            for entry in self._queue:
                if isinstance(entry.command, SendAudio):
                    self._drop_audio(entry)
                else:
                    unsent.append(entry.command)
                    self._counts.dropped += 1
            self._queue.clear()
            self._commands = 0
            self._tell_drainers()
            return tuple(unsent)

    # -- from the program ------------------------------------------------------------------------------------------------------

    def put(self, command: Command) -> None:
        """Spell a command and queue it; writes at once if nothing waits and the socket takes it.

        Raises: `UnsupportedCommandError`, `OutboxFullError`, `NotConnectedError`.
        """
        try:
            with self._lock:
                if self._over:
                    raise NotConnectedError(f"{command.command_name} cannot be sent: {self._over}")
                if self._dialect is None:
                    raise NotConnectedError(f"{command.command_name} cannot be sent: call connect() first, or use `with client:`")
                entry = _Entry(command, self._dialect.encode(command), self._dialect)
                taken = self._pass_by(entry)
                if taken is None:
                    if isinstance(command, SendAudio):
                        if not self._put_audio(entry, command):
                            return
                    else:
                        self._put_command(entry)
                    taken = self._take()
                    if taken is None and len(self._queue) > self.most_waiting:
                        self.most_waiting = len(self._queue)
            if taken is not None:
                self._write_from(taken)
        except (NotConnectedError, OutboxFullError):
            raise
        except BaseException:
            self._give_back()
            raise

    def measure(self, bytes_per_second: int) -> None:
        """Sound is sent in another format from now on: seconds are counted by its rate."""
        with self._lock:
            self._count_sent_audio()
            self._bytes_per_second = bytes_per_second
            self._longest = int(self._max_audio * bytes_per_second)

    @property
    def is_open(self) -> bool:
        """True while a connection takes what is put."""
        return self._ready

    def drain(self, timeout: float | None) -> bool:
        """Wait until everything has an outcome; False if ``timeout`` seconds were not enough."""
        with self._lock:
            changes = self._changes = self._changes or Changes(self._lock)
            self._draining += 1
        try:
            return changes.wait_for(lambda: not self._queue and self._in_kernel_soon is None and not self._writing, timeout)
        finally:
            with self._lock:
                self._draining -= 1

    @property
    def counts(self) -> OutboxCounts:
        """A copy of the counters."""
        with self._lock:
            waiting = len(self._queue) + (self._in_kernel_soon is not None)
            return attrs.evolve(self._counts, waiting=waiting)

    @property
    def sent(self) -> int:
        """How many commands were sent."""
        return self._counts.sent

    def tell_next(self, told: Callable[[], object] | None) -> None:
        """Call ``told`` once, after the next command was sent; ``None`` forgets the one that was asked for."""
        self._told_next = told

    @property
    def sent_audio(self) -> float:
        """Seconds of sound that were sent."""
        with self._lock:
            self._count_sent_audio()
            return self._sent_audio

    @property
    def is_empty(self) -> bool:
        """True if nothing waits."""
        return not self._queue and self._in_kernel_soon is None

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Write until the queue is empty or the socket is full; then a remainder waits, and the sender is woken for it."""
        try:
            with self._lock:
                taken = self._take()
            if taken is not None:
                self._write_from(taken)
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        """This thread was interrupted, by Ctrl-C perhaps, anywhere: a write token that nobody gives back would silence the client."""
        with self._lock:
            mine = self._writing == threading.get_ident()
            left = mine and self._left_to_sender
            if mine and not left:
                if self._queue and self._queue[0] is self._in_kernel_soon:  # see `_take`
                    self._queue.popleft()
                self._fail_half_sent()
                self._tell_drainers()
            sound = [len(entry.command.audio) for entry in self._queue if isinstance(entry.command, SendAudio)]
            self._audio_bytes, self._commands = sum(sound), len(self._queue) - len(sound)
        if left:
            self._blocked()  # the sender may not have heard of it

    def _pass_by(self, entry: _Entry) -> _Taken | None:
        """Take the write token for a piece of sound that has nobody before it, as nearly always; the lock is held."""
        if entry.command.__class__ is not SendAudio or self._queue or self._writing or not self._ready or self._connection is None:
            return None
        if not self._holds_audio or len(entry.command.audio) > self._longest:
            return None
        self._writing = threading.get_ident()
        self._in_kernel_soon = entry
        return entry, self._connection, entry.dialect

    def _take(self) -> _Taken | None:
        """Take the write token and the next command, if both are free. The lock is held."""
        if self._writing or not self._ready or not self._queue or self._connection is None:
            return None
        entry = self._queue[0]  # nothing is lost wherever the exception of a signal strikes: it is taken first, then out of the queue
        self._writing = threading.get_ident()
        self._in_kernel_soon = entry
        self._forget_size(self._queue.popleft())
        return entry, self._connection, self._dialect

    def _write_from(self, taken: _Taken | None) -> None:
        """Write this command and all that wait behind it; the token is held."""
        while taken is not None:
            entry, connection, dialect = taken
            if dialect is not None and entry.dialect is not dialect:
                entry.frames = dialect.encode(entry.command)  # queued for an earlier connection
            wanted = entry.command.__class__ is SendAudio or self._still_wanted(entry.command)
            if not (self._write(entry, connection) if wanted else self._drop(entry)):
                return
            with self._lock:
                taken = self._take()

    def _write(self, entry: _Entry, connection: _Writes) -> bool:
        """Give one command's frames to the connection; True if the token is free again and more waits."""
        whole = True
        try:
            for frame in entry.frames:
                whole = connection.try_send(frame)
        except ConnectionClosedError:
            with self._lock:
                if self._in_kernel_soon is entry:
                    self._take_back(entry)
                    self._fail_half_sent()
                    self._tell_drainers()
                return self._connection is not connection  # the reader sees the same end and tells it; or there is a new one already
        if not whole:
            with self._lock:
                if self._connection is not connection and self._in_kernel_soon is entry:
                    self._take_back(entry)  # the connection went away meanwhile
                    self._fail_half_sent()
                    return True
                self._left_to_sender = self._in_kernel_soon is entry  # the token stays taken: it is the sender's, see `flushed`
            self._blocked()
            return False
        return self._done(entry)

    def _drop(self, entry: _Entry) -> bool:
        with self._lock:
            if self._in_kernel_soon is entry:
                self._counts.dropped += 1
                self._in_kernel_soon = None
                self._writing = 0
                self._tell_drainers()
        return True

    def flushed(self) -> None:
        """The sender gave the remainder to the kernel: the token is free again, and there may be more to write."""
        with self._lock:
            # Without the flag it would be an entry that another thread is just about to write.
            entry = self._in_kernel_soon if self._left_to_sender else None
            self._left_to_sender = False
            if entry is not None:
                self._writing = threading.get_ident()
        if entry is not None:
            self._done(entry)
        self.pump()

    def _done(self, entry: _Entry) -> bool:
        """This command is in the kernel, and the token is free; True if more waits."""
        command = entry.command
        is_audio = command.__class__ is SendAudio
        with self._lock:
            if self._in_kernel_soon is not entry:
                return True
            self._counts.sent += 1  # no call from here on, so that no signal comes between: one outcome, and the token
            self._in_kernel_soon = None
            self._writing = 0
            if is_audio:
                self._sent_bytes += len(command.audio)  # type: ignore[attr-defined]
            more = bool(self._queue)
            if self._draining and not more:
                self._tell_drainers()
        if self._told_next is not None:
            told, self._told_next = self._told_next, None
            if told is not None:  # two threads may have come here
                told()
        if self.tells_audio or not is_audio:
            self._told_sent(command)
            return True  # who was told may have sent something
        return more

    # -- under the lock --------------------------------------------------------------------------------------------------------

    def _tell_drainers(self) -> None:
        if self._changes is not None:
            self._changes.tell()

    def _count_sent_audio(self) -> None:
        self._sent_audio += self._sent_bytes / self._bytes_per_second
        self._sent_bytes = 0

    def _put_audio(self, entry: _Entry, command: SendAudio) -> bool:
        if not self._holds_audio:
            self._drop_audio(entry, queued=False)
            return False
        size = len(command.audio)
        longest = self._longest
        if size > longest:
            raise OutboxFullError(
                f"one piece of sound lasts {size / self._bytes_per_second:g} s, and no more than {self._max_audio:g} s may wait to be "
                "sent: send it in pieces, or make the client with a larger max_audio"
            )
        while self._audio_bytes + size > longest:
            if not self._drop_oldest_audio:
                raise OutboxFullError(
                    f"more than {self._max_audio:g} s of sound would wait to be sent: "
                    "the network is slower than the microphone; send less, or make the client with overflow='drop_oldest'"
                )
            oldest = next(e for e in self._queue if isinstance(e.command, SendAudio))
            self._queue.remove(oldest)
            self._drop_audio(oldest)
        self._queue.append(entry)
        self._audio_bytes += size
        return True

    def _put_command(self, entry: _Entry) -> None:
        if self._commands >= self._max_commands:
            raise OutboxFullError(
                f"{self._commands} commands wait to be sent, which is the limit: the network does not take them; "
                "wait with drain(), or send less"
            )
        self._commands += 1
        if isinstance(entry.command, Pong):
            self._queue.appendleft(entry)
        elif isinstance(entry.command, _OVERTAKES_AUDIO):
            at = len(self._queue)
            while at and isinstance(self._queue[at - 1].command, SendAudio):
                at -= 1
            self._queue.insert(at, entry)
        else:
            self._queue.append(entry)

    def _forget_size(self, entry: _Entry) -> None:
        if isinstance(entry.command, SendAudio):
            self._audio_bytes -= len(entry.command.audio)
        else:
            self._commands -= 1

    def _drop_audio(self, entry: _Entry, *, queued: bool = True) -> None:
        assert isinstance(entry.command, SendAudio)
        if queued:
            self._forget_size(entry)
        self._counts.dropped += 1
        self._counts.dropped_audio += len(entry.command.audio) / self._bytes_per_second

    def _take_back(self, entry: _Entry) -> None:
        """Hold what did not get into the kernel as a whole for the next connection; not sound, and not a part of several frames."""
        if len(entry.frames) == 1 and not isinstance(entry.command, SendAudio):
            self._in_kernel_soon = None
            if not self._waits(entry.command):  # else it was `prepend`ed while this thread was writing
                self._queue.appendleft(entry)
                self._commands += 1

    def _waits(self, command: Command) -> bool:
        return any(entry.command is command for entry in self._queue)

    def _fail_half_sent(self) -> None:
        if self._in_kernel_soon is not None:
            self._counts.failed += 1
            self._in_kernel_soon = None
        self._left_to_sender = False
        self._writing = 0
