"""The call of the demo: server, client, recorder and caller joined, and the three turns played."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import time
from contextlib import ExitStack
from typing import Any

import attrs

from qai_realtime_sync import (
    AudioDelta,
    PlaybackStopped,
    RealtimeClient,
    RealtimeConfig,
    RealtimeTimeoutError,
    ResponseDone,
    TurnDetection,
)
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.caller import Caller, RealTime, SkippingTime
from qai_realtime_sync.cli.demo_report import Measured, Spoken, checks_of, checks_of_recording, latency_table, write_checks
from qai_realtime_sync.cli.demo_script import GREETING, INTERRUPTION, QUESTION, get_weather
from qai_realtime_sync.cli.interruptions import Interruptions
from qai_realtime_sync.cli.live import Live
from qai_realtime_sync.cli.recording_folder import check_kept
from qai_realtime_sync.cli.server_process import ServerProcess
from qai_realtime_sync.cli.sound_files import read_wav
from qai_realtime_sync.cli.terminal import say
from qai_realtime_sync.conversation.pacing import PacedSink
from qai_realtime_sync.conversation.recorder import Recorder
from qai_realtime_sync.errors import ConfigError

__all__ = ["DemoCall"]

_AUDIO = AudioFormat()
_STEP = 25.0  # seconds that one step may take
_LISTENED = 2.5  # seconds of the answer that the caller hears before speaking
_SILENCE_MS = 500
_QUIET = 1.5  # seconds without anything that end a recording's conversation
_LOCAL_KEY = "qai_demo"
_PIP = "pip install 'qai-realtime-sync[offline]'"


class DemoCall:
    """One run of the demo: `talk`, then `report`. Raises: `ConfigError` for what is known to be missing before anything begins."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._folder = pathlib.Path()
        self.connected = False  # so there is something in the recording
        if arguments.url and not (arguments.key or os.environ.get("QAI_API_KEY")):
            raise ConfigError("--url needs a key: set the environment variable QAI_API_KEY, or give --key", code="no_key")
        if not arguments.url:
            import qai_realtime_sync.offline  # noqa: F401 - says which pip line helps if a part of the server is missing
        self._own_sound = read_wav(arguments.wav, _AUDIO) if arguments.wav else b""
        self._clock = SkippingTime() if arguments.fast else RealTime()
        self._recorder: Recorder | None = None
        self._measured = Measured()
        self._turns: list[Spoken] = []
        self._journal: dict[str, Any] | None = None
        self._light = bool(arguments.light)

    # -- the call -------------------------------------------------------------------------------------------------------------

    def talk(self, folder: pathlib.Path, interruptions: Interruptions) -> None:
        """Start what is needed, play and record the turns, and end everything. Raises: `RealtimeError`."""
        self._folder = folder
        with ExitStack() as stack:
            server = self._start_server(stack, interruptions)
            sentences = self._sentences()
            if server is not None:
                server.wait_until_ready()
                self._light = server.description.startswith("light")
                print(server.description, flush=True)
                if self._light and not self._arguments.light:
                    print(f"in light mode the caller is tones, and the question is typed; for voices: {_PIP}", flush=True)
            if self._light and not self._own_sound:
                sentences = {text: _tones(text) for text in (GREETING, INTERRUPTION)}
            self._converse(server, sentences)

    def _start_server(self, stack: ExitStack, interruptions: Interruptions) -> ServerProcess | None:
        if self._arguments.url:
            return None
        print("starting the local server in a process of its own ...", flush=True)
        arguments = self._arguments
        server = ServerProcess(key=_LOCAL_KEY, light=arguments.light, tls=arguments.tls, dialect=arguments.dialect)
        with interruptions.held():
            stack.enter_context(server)
        return server

    def _sentences(self) -> dict[str, bytes]:
        """Return the caller's sentences as sound, by their text; none if they are not needed or there is no voice."""
        if self._own_sound:
            length = len(self._own_sound) / _AUDIO.bytes_per_second
            print(f"the caller is {self._arguments.wav} ({length:.1f} s); the small recogniser may mishear it", flush=True)
            return {}
        if self._arguments.light:
            return {}
        print("loading the caller's voice ...", flush=True)
        started = time.monotonic()
        try:
            from qai_realtime_sync.offline import caller_voice

            texts = (GREETING, QUESTION) if self._arguments.fast else (GREETING, QUESTION, INTERRUPTION)
            sentences = {text: caller_voice(text)[0] for text in texts}
        except (ConfigError, OSError) as error:
            if self._arguments.url:
                raise ConfigError(f"the scripted caller has no voice: {error}; or use --wav", code="missing_dependency") from error
            return {}
        print(f"{len(sentences)} sentences synthesised in {time.monotonic() - started:.1f} s", flush=True)
        return sentences

    def _converse(self, server: ServerProcess | None, sentences: dict[str, bytes]) -> None:
        arguments = self._arguments
        client = self._client(server)
        client.tool(get_weather)
        recorder = self._recorder = Recorder(self._folder, clock=self._clock.now)
        sink = PacedSink(client.config.output_audio, clock=self._clock.now)
        client.record_to(recorder)
        client.play_to(sink)
        live = Live(lambda: recorder.seconds(self._clock.now()))
        live.follow(client)
        self._measured.follow(client)
        try:
            with recorder, client, Caller(client.send_audio, _AUDIO, self._clock) as caller:
                self.connected = True
                live.line("", f"(connected to {arguments.url or (server.url if server else '')}, session {client.session_id})")
                player = _Player(client, caller, sink, live, self._clock, self._turns)
                if self._own_sound:
                    player.recording(self._own_sound)
                elif self._light:
                    player.light(sentences, fast=arguments.fast)
                else:
                    player.spoken(sentences, fast=arguments.fast)
                if server is not None:
                    self._journal = server.journal()
        finally:
            live.end()
        check_kept(recorder)

    def _client(self, server: ServerProcess | None) -> RealtimeClient:
        """A client of the gateway, of a local server that stands in for it, or straight of one that speaks another dialect."""
        arguments = self._arguments
        config = RealtimeConfig(
            instructions="You are a friendly assistant on the telephone. Use the tool for questions about the weather.",
            turn_detection=TurnDetection(silence_duration_ms=_SILENCE_MS),
        )
        if server is None:
            return RealtimeClient(arguments.key, config, base_url=arguments.url, reconnect=False, close_timeout=1.5)
        context = server.ssl_context
        if arguments.dialect != "xai":
            return RealtimeClient.direct(
                server.ws_url, _LOCAL_KEY, config, dialect=arguments.dialect, reconnect=False, close_timeout=1.5,
                ssl_context=context, proxy=False,
            )  # fmt: skip
        return RealtimeClient(
            _LOCAL_KEY, config, base_url=server.url, reconnect=False, close_timeout=1.5, ssl_context=context, proxy=False
        )

    # -- the report -----------------------------------------------------------------------------------------------------------

    def report(self) -> tuple[int, dict[str, Any]]:
        """Print latencies and checks, add them to the transcript; return the exit code, and the same for a program."""
        if self._own_sound:
            self._turns = self._measured.turns_heard(_SILENCE_MS / 1000)
        rows = self._measured.rows(self._turns)
        checks = (
            checks_of_recording(rows) if self._own_sound else checks_of(self._measured, self._turns, rows, self._journal)
        )
        say()
        say("latency" + (" (without pacing)" if self._arguments.fast else ""), "strong")
        for line in latency_table(rows):
            say(line)
        say("checks", "strong")
        for check, line in zip(checks, write_checks(checks)):
            say(line, "good" if check.ok else "bad")
        path = self._folder / "transcript.json"
        value = json.loads(path.read_text(encoding="utf-8"))
        told = {
            "paced": not self._arguments.fast,
            "latencies": [attrs.asdict(row) for row in rows],
            "checks": [{"ok": check.ok, "text": check.text} for check in checks],
        }
        value["demo"] = {**told, "server": {"conversations": self._journal["conversations"]} if self._journal else None}
        path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", errors="backslashreplace")
        say(f"listen to {self._folder / 'conversation.wav'} (caller left, assistant right)")
        say(f"see it: qai-realtime report {shlex.quote(str(self._folder))}")
        return (0 if all(check.ok for check in checks) else 1), told


def _tones(text: str) -> bytes:
    from qai_realtime_sync.offline.speech import ToneSpeech

    return b"".join(sentence.pcm for sentence in ToneSpeech().speak(text, _AUDIO.sample_rate))


class _Player:
    """Plays the caller's turns and waits for what comes back."""

    def __init__(
        self, client: RealtimeClient, caller: Caller, sink: PacedSink, live: Live, clock: RealTime, turns: list[Spoken]
    ) -> None:
        self._client, self._caller, self._sink = client, caller, sink
        self._live, self._clock, self._turns = live, clock, turns
        self._sounded: set[str] = set()  # answers with sound
        client.on(AudioDelta, lambda event: self._sounded.add(event.response_id))

    def spoken(self, sentences: dict[str, bytes], *, fast: bool) -> None:
        """The three turns with voices; with ``fast`` the first two."""
        self._say(GREETING, sentences[GREETING])
        self._hear_out()
        self._say(QUESTION, sentences[QUESTION])
        if fast:
            self._hear_out()
        else:
            self._interrupt(sentences[INTERRUPTION], words=True)

    def light(self, sentences: dict[str, bytes], *, fast: bool) -> None:
        """The same where no words are recognised: tones, and the question typed."""
        self._say(GREETING, sentences[GREETING], words=False)
        self._hear_out()
        self._live.line("caller", f"{QUESTION} (typed)")
        self._client.send_text(QUESTION)
        self._turns.append(Spoken(QUESTION, typed=True, ended_at=time.monotonic()))
        if fast:
            self._hear_out()
        else:
            self._interrupt(sentences[INTERRUPTION], words=False)

    def recording(self, pcm: bytes) -> None:
        """The user's own recording, from beginning to end, and what is still being said after it."""
        self._caller.say(pcm)
        self._live.line("caller", "(the recording begins)")
        self._caller.wait(len(pcm) / _AUDIO.bytes_per_second + _STEP)
        self._live.line("caller", "(the recording ends)")
        last = time.monotonic() + _STEP
        while time.monotonic() < last:
            try:
                self._client.next_event(_QUIET)
            except RealtimeTimeoutError:
                if not self._sink.seconds_left:
                    return

    def _say(self, text: str, pcm: bytes, *, words: bool = True, after: float = 0.0) -> None:
        spoken = Spoken(text, words=words)
        shown = text if words else f"{text} (tones)"
        if self._clock.skips:
            self._live.line("caller", shown)
        self._caller.say(pcm, after=after)
        if not self._clock.skips:
            self._live.line("caller", shown)
        spoken.ended_at = self._caller.wait(len(pcm) / _AUDIO.bytes_per_second + _STEP)
        self._turns.append(spoken)

    def _interrupt(self, pcm: bytes, *, words: bool) -> None:
        """Let the caller hear the beginning of the answer, and speak."""
        self._client.wait_for(AudioDelta, _STEP)
        self._say(INTERRUPTION, pcm, words=words, after=_LISTENED)
        self._hear_out()

    def _hear_out(self) -> None:
        """Wait until an answer with sound is over and was played."""
        if self._clock.skips:
            self._client.wait_for(ResponseDone, _STEP, where=lambda done: done.response_id in self._sounded)
            self._clock.skip(self._sink.seconds_left)
        else:
            self._client.wait_for(PlaybackStopped, _STEP, where=lambda stopped: stopped.reason == "finished")
