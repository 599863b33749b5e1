"""``qai-realtime transcribe``: what is said in a recording, as a service hears it."""

from __future__ import annotations

import argparse
from typing import Any

from qai_realtime_sync import Event, RealtimeConfig, TranscriptDone, TranscriptFailed
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.address import add_address, client_for, seconds
from qai_realtime_sync.cli.sound_files import read_wav, send_all
from qai_realtime_sync.errors import ApiError

__all__ = ["add_arguments", "run"]

_AUDIO = AudioFormat()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, and where to."""
    parser.add_argument("file", metavar="FILE", help="a WAV file")
    parser.add_argument("--timeout", type=seconds, default=60.0, help="seconds to wait for the words (default: %(default)s)")
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the words; return 0. Raises: `RealtimeError`."""
    pcm = read_wav(arguments.file, _AUDIO)
    with client_for(arguments, RealtimeConfig(turn_detection=None), words=True) as client:
        with client:
            send_all(client, pcm, _AUDIO)
            client.commit_audio()
            done: Any = client.wait_for(Event, arguments.timeout, where=_is_last)
    if isinstance(done, TranscriptFailed):
        raise ApiError(done.message or "the service could not write it down", code=done.code or "transcript_failed")
    print(done.transcript)
    return 0


def _is_last(event: object) -> bool:
    return isinstance(event, TranscriptFailed) or (isinstance(event, TranscriptDone) and event.source == "input" and event.final)
