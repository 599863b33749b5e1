"""Tells a client's handlers what a recording tells, as if it happened again; nothing is connected, nothing reacts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qai_realtime_sync.commands import Command, SendAudio
from qai_realtime_sync.conversation.metrics import METERED
from qai_realtime_sync.conversation.replay import Entry, Recording
from qai_realtime_sync.errors import ConfigError, NotConnectedError
from qai_realtime_sync.events import AudioDelta, Closed, Event, PlaybackStopped, StateChanged
from qai_realtime_sync.seam import Frame

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["replay"]


class _Nowhere:
    """What handlers send while a recording is replayed: checked as ever, and gone."""

    def encode(self, command: Command) -> list[Frame]:
        return []

    def try_send(self, frame: Frame) -> bool:
        return True

    @property
    def gave_all(self) -> bool:
        return True


def replay(call: Call, folder: str | os.PathLike[str], speed: float | None, wait: Callable[[float], object] | None) -> None:
    """Retell a recording; returns at its end. Raises: see `RealtimeClient.replay`."""
    if speed is not None and (isinstance(speed, bool) or not isinstance(speed, (int, float)) or not speed > 0):
        raise ConfigError(f"speed must be a number above 0 (1 = as it happened), or None, not {speed!r}")
    recording = Recording(folder, call.config)
    with call.lock:
        if call.lifecycle.state != "idle" or call.reader is not None or call.closing:
            raise NotConnectedError(
                f"this client is {call.lifecycle.state}: one client is one conversation; make a new RealtimeClient", code="already_used"
            )
        call.reader = threading.current_thread()
    call.replaying = True
    call.connected_at = call.clock()
    call.outbox.speak(_Nowhere())
    call.outbox.open(_Nowhere())
    try:
        call.delivery.retell(_Retelling(call, recording, speed, wait).events())
    finally:
        call.outbox.end()
        call.pool.stop()
        call.lane.stop()
        call.reader = None
        call.to_state("closed")  # untold: where the recording told no state, or broke off
        call.opened.set()
        call.over.set()


class _Retelling:
    """One way through a recording, at its speed."""

    def __init__(self, call: Call, recording: Recording, speed: float | None, wait: Callable[[float], object] | None) -> None:
        self._call = call
        self._recording = recording
        self._speed = speed
        self._wait = wait or call.wake_backoff.wait  # set when the client is closed
        self._silent_at = 0.0
        self._sounding = ("", "")

    def events(self) -> Iterator[Event]:
        """Yield the recorded events when their time has come, and an end if there is none."""
        call = self._call
        begun = call.clock()
        told_end = False
        for entry in self._recording.entries():
            if self._speed is not None and (left := begun + entry.at / self._speed - call.clock()) > 0:
                self._wait(left)
            if call.closing or told_end:
                break
            if isinstance(entry.what, Command):
                self._sent(entry, entry.what)
            else:
                self._told(entry, entry.what)
                told_end = isinstance(entry.what, Closed)
                yield entry.what
        if not told_end:
            changed = call.to_state("closed")
            if changed is not None:
                yield changed
            yield Closed(
                by="client" if call.closing else "network",
                meaning="normal" if call.closing else "lost",
                clean=call.closing,
                reason="" if call.closing else "the recording ends here",
            )

    def _sent(self, entry: Entry, command: Command) -> None:
        call = self._call
        if isinstance(command, SendAudio) and entry.begins is not None:
            call.turns.spoke(entry.begins, len(command.audio) / call.config.input_audio.bytes_per_second)
        call.turns.sent(command, entry.at)
        for observe in call.observers:
            observe(command, call.clock())

    def _told(self, entry: Entry, event: Event) -> None:
        """Let the parts follow that only keep a record; what they would have told is in the recording."""
        call = self._call
        if type(event) in METERED:
            call.meter.told(event)
        if isinstance(event, StateChanged):
            call.retell_state(event)
            if event.new == "handshaking":  # nothing of the user's sound leaves from here to the service's readiness
                call.turns.connected(call.config.turn_detection)
        elif isinstance(event, AudioDelta):
            self._sound(entry, event)
        elif isinstance(event, PlaybackStopped):
            if event.reason == "finished":
                call.turns.silent(min(entry.at, self._silent_at))
            else:
                self._silent_at = min(self._silent_at, entry.at)
                if call.playback is not None:
                    call.playback.stop(event.reason)
            self._sounding = ("", "")
        call.turns.told(event, entry.at)

    def _sound(self, entry: Entry, event: AudioDelta) -> None:
        call, begins = self._call, entry.begins if entry.begins is not None else entry.at
        if (event.response_id, event.item_id) != self._sounding:
            self._sounding = (event.response_id, event.item_id)
            call.turns.sounds(event.response_id, begins, self._silent_at)
        self._silent_at = begins + len(event.audio) / call.config.output_audio.bytes_per_second
        call.heard_bytes += len(event.audio)
        if call.playback is not None:
            try:
                call.playback.told(event)
            except Exception as error:  # the sink is the program's: its failure is told like a handler's
                call.sink_failed(event, error)
