"""``qai-realtime transcribe``: what is said in a recording, as a service hears it."""

from __future__ import annotations

import argparse
from typing import Any

from qai_realtime_sync import ErrorReceived, Event, RealtimeClient, TranscriptDone, TranscriptFailed
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.address import add_address, client_for, seconds
from qai_realtime_sync.cli.assistant import config_from
from qai_realtime_sync.cli.json_events import follow_as_json
from qai_realtime_sync.cli.sound_files import check_writable, end_turn, read_wav, send_all
from qai_realtime_sync.cli.terminal import json_line, say
from qai_realtime_sync.errors import ApiError, ConfigError, RealtimeTimeoutError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime transcribe question.wav --local"
_AUDIO = AudioFormat()
_NOTHING_HEARD = "input_audio_buffer_commit_empty"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, and where to."""
    parser.add_argument("file", metavar="FILE", help="a WAV file")
    parser.add_argument("--model", help="the model (default: the service's own)")
    parser.add_argument("--out", metavar="FILE", help="write the words to a file too")
    parser.add_argument("--timeout", type=seconds, default=60.0, help="seconds to wait for the words (default: %(default)g)")
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="events as lines of JSON, the result last")
    parser.set_defaults(instructions="", voice=None)


def run(arguments: argparse.Namespace) -> int:
    """Print the words; return 0. Raises: `RealtimeError`."""
    pcm = read_wav(arguments.file, _AUDIO)
    if arguments.out:
        check_writable(arguments.out)
    with client_for(arguments, config_from(arguments, turn_detection=None), words=True) as client:
        if arguments.json:
            follow_as_json(client)
        with client:
            send_all(client, pcm, _AUDIO)
            end_turn(client, _AUDIO)
            done = _last(client, arguments.timeout)
    if isinstance(done, (TranscriptFailed, ErrorReceived)):
        raise ApiError(done.message or "the service could not write it down", code=done.code or "transcript_failed")
    if arguments.out:
        _write(arguments.out, done.transcript)
    if arguments.json:
        length = round(len(pcm) / _AUDIO.bytes_per_second, 3)
        json_line({"name": "result", "command": "transcribe", "ok": True, "exit_code": 0, "text": done.transcript, "seconds": length})
    else:
        say(done.transcript)
    return 0


def _last(client: RealtimeClient, timeout: float) -> Any:
    """Wait for the words, or for what comes instead of them. Raises: `RealtimeError`."""
    try:
        return client.wait_for(Event, timeout, where=_is_last)
    except RealtimeTimeoutError as error:
        raise RealtimeTimeoutError(f"no transcript came within {timeout:g} s", code=error.code) from error


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")
    except OSError as error:
        raise ConfigError(f"{path!r} cannot be written: {error.strerror or error}", code="invalid_path") from error


def _is_last(event: object) -> bool:
    if isinstance(event, ErrorReceived):
        return event.code == _NOTHING_HEARD
    return isinstance(event, TranscriptFailed) or (isinstance(event, TranscriptDone) and event.source == "input" and event.final)
