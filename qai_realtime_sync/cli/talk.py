"""``qai-realtime talk``: a conversation by microphone and loudspeaker."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from qai_realtime_sync import Closed, RealtimeClient
from qai_realtime_sync.cli.address import add_address, client_for
from qai_realtime_sync.cli.assistant import add_assistant, config_from
from qai_realtime_sync.cli.keys import Keys
from qai_realtime_sync.cli.recording_folder import check_kept, discard, recording_folder
from qai_realtime_sync.cli.talk_screen import Activity, TalkScreen
from qai_realtime_sync.cli.talk_sound import add_sound, advised, microphone_for, quiet_alsa, speaker_for
from qai_realtime_sync.cli.terminal import LivePanel, json_line
from qai_realtime_sync.conversation.recorder import Recorder
from qai_realtime_sync.devices import Microphone, Speaker
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime talk --voice Eve --half-duplex"

_FRAME = 0.1  # seconds between two looks at keys and levels
_AFTERWARDS = 0.7  # seconds after the last sound, in which it is told that it was the last


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add both ends of the sound, how to talk, and where to."""
    add_sound(parser)
    parser.add_argument("--push-to-talk", action="store_true", help="space begins and ends what you say")
    parser.add_argument("--out", metavar="FOLDER", help="keep sound, events and transcript")
    parser.add_argument("--json", action="store_true", help="events as lines of JSON, the result last")
    add_assistant(parser)
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Talk until it is ended; return 0, or 1 if it ended by itself otherwise than well. Raises: `RealtimeError`."""
    is_sound = arguments.pipe or arguments.output == "-"  # what standard output is
    with contextlib.redirect_stdout(sys.stderr) if is_sound else contextlib.nullcontext():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        manual = {"turn_detection": None} if arguments.push_to_talk else {}
        config = config_from(arguments, **manual)
        if arguments.push_to_talk and (sys.stdin is None or not sys.stdin.isatty()):
            raise ConfigError("--push-to-talk needs a terminal: its key comes from there")
        quiet_alsa()
        talk = _Talk(arguments.push_to_talk)
        speaker = speaker_for(arguments, config, talk.lost)
        microphone = microphone_for(arguments, config, speaker, talk.lost)
        try:
            stack.enter_context(speaker)
            stack.enter_context(microphone)
        except ConfigError as error:
            raise advised(error) from error
        client = stack.enter_context(client_for(arguments, config, reconnect=True))
        screen = TalkScreen(LivePanel("qai-realtime talk"), as_json=arguments.json)
        screen.line("", f"(you: {microphone.name}; assistant: {speaker.name})", "quiet")
        if arguments.out:
            stack.enter_context(_kept(client, arguments.out, screen, talk))
        talk.converse(client, microphone, speaker, screen)
    if arguments.json:
        ends = {"input": microphone.name, "output": speaker.name, "underruns": speaker.underruns, "overruns": microphone.overruns}
        json_line({"name": "result", "command": "talk", "ok": True, "exit_code": 0, "turns": len(client.conversation), **ends})
    return 0


@contextlib.contextmanager
def _kept(client: RealtimeClient, out: str, screen: TalkScreen, talk: _Talk) -> Iterator[None]:
    """Keep the conversation in a folder; of one that there was not no folder is left. Raises: `ConfigError`."""
    is_new = not os.path.exists(out)
    folder = recording_folder(out, "qai-talk", lambda line: screen.line("", f"({line})", "warning"))
    try:
        with Recorder(folder) as recorder:
            client.record_to(recorder)
            yield
        check_kept(recorder)
    finally:
        if is_new and not talk.connected:
            discard(folder)


class _Talk:
    """One conversation: joins client, microphone, loudspeaker, screen and keys."""

    def __init__(self, push_to_talk: bool) -> None:
        self._push_to_talk = push_to_talk
        self._over = threading.Event()
        self._error: RealtimeError | None = None
        self._lock = threading.Lock()  # guards _holds: no block is sent after what was said is committed
        self._holds = False
        self._quits = False
        self.connected = False

    def lost(self, error: RealtimeError) -> None:
        """A device is gone: the conversation ends, and says why."""
        self._error = self._error or error
        self._over.set()

    def converse(self, client: RealtimeClient, microphone: Microphone, speaker: Speaker, screen: TalkScreen) -> None:
        """Talk until a key, a signal or either end ends it. Raises: `RealtimeError` if that was a failure."""
        activity = Activity()
        activity.follow(client)
        screen.follow(client)
        client.on(Closed, self._closed)
        client.play_to(speaker)

        def send(block: bytes) -> None:
            with self._lock:
                if self._holds or not self._push_to_talk:
                    client.send_audio(block)
                    # Of what was sent, block by block: a file may have been read to its end, and nothing of it been sent yet.
                    activity.spoke(0.0 if client.muted else client.input_level)

        with client, screen.panel, Keys() as keys:  # the terminal is itself again before anything else ends
            self.connected = True
            screen.line("", f"(connected{', session ' if client.session_id else ''}{client.session_id})", "good")
            activity.begin()
            microphone.send_to(send)
            hint = self._hint() if keys.works else "Ctrl-C quits"
            if keys.works:
                screen.line("", f"({hint})", "quiet")
            while not self._over.is_set() and not self._quits:
                self._press(keys.read(_FRAME, self._over), client, screen)
                screen.refresh(microphone.level, speaker.level, self._state(client), hint)
                if microphone.is_said and activity.is_quiet and not speaker.is_heard(_AFTERWARDS):
                    break
            if self._error is not None:
                raise self._error

    def _closed(self, event: Closed) -> None:
        if event.by != "client" and self._error is None:
            reason = event.reason or str(event.error or event.meaning)
            self._error = RealtimeError(f"the conversation was ended by the {event.by}: {reason}", code=event.meaning)
        self._over.set()

    def _hint(self) -> str:
        talk = "space talks, " if self._push_to_talk else ""
        return f"{talk}m mutes, i interrupts, q quits"

    def _state(self, client: RealtimeClient) -> str:
        if client.muted:
            return "muted"
        if self._push_to_talk:
            return "recording: space sends" if self._holds else "press space to talk"
        return "listening"

    def _press(self, key: str, client: RealtimeClient, screen: TalkScreen) -> None:
        if key in ("q", "Q", "\x04"):
            self._quits = True
        elif key in ("m", "M"):
            (client.unmute if client.muted else client.mute)()
            screen.line("", "(muted)" if client.muted else "(not muted any more)", "warning")
        elif key in ("i", "I"):
            client.interrupt()
        elif key == " " and self._push_to_talk:
            self._push(client)

    def _push(self, client: RealtimeClient) -> None:
        if not self._holds:
            client.interrupt()
            with self._lock:
                self._holds = True
            return
        with self._lock:
            self._holds = False
            client.commit_audio()
            client.create_response()
