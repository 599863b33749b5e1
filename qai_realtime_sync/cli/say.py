"""``qai-realtime say``: one question, written or recorded, and its answer."""

from __future__ import annotations

import argparse
import os
import sys

from qai_realtime_sync import AudioDelta, RealtimeClient, RealtimeConfig, ResponseDone, TranscriptDelta
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.address import add_address, client_for, seconds
from qai_realtime_sync.cli.sound_files import read_wav, send_all, write_wav
from qai_realtime_sync.errors import ApiError, ConfigError

__all__ = ["add_arguments", "run"]

_AUDIO = AudioFormat()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to say, and where to."""
    parser.add_argument("what", metavar="TEXT|FILE", help="a sentence, or a WAV file of one")
    parser.add_argument("--out", metavar="FILE", help="keep the answer's sound as a WAV file")
    parser.add_argument("--voice", help="the voice of the answer")
    parser.add_argument("--instructions", default="", help="how the assistant should behave")
    parser.add_argument("--timeout", type=seconds, default=30.0, help="seconds to wait for the answer (default: %(default)s)")
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer while it comes; return 0. Raises: `RealtimeError`, also when the service fails to answer."""
    pcm = _recording(arguments.what)
    given = {"voice": arguments.voice} if arguments.voice else {}
    config = RealtimeConfig(instructions=arguments.instructions, turn_detection=None, **given)
    sound = bytearray()
    with client_for(arguments, config) as client:
        client.on(AudioDelta, lambda event: sound.extend(event.audio))
        client.on(TranscriptDelta, _print_words, background=True)
        with client:
            if pcm:
                status = _say_aloud(client, pcm, arguments.timeout)
            else:
                status = client.ask(arguments.what, arguments.timeout).status
    print(flush=True)
    if status != "completed":
        print(f"warning: the answer is not whole: {status}", file=sys.stderr)
    if arguments.out:
        write_wav(arguments.out, bytes(sound), _AUDIO)
        print(f"{len(sound) / _AUDIO.bytes_per_second:.1f} s of sound in {arguments.out}", file=sys.stderr)
    return 0


def _recording(what: str) -> bytes:
    """The sound of a WAV file, or nothing for a sentence. Raises: `ConfigError` for what only looks like a file."""
    if os.path.isfile(what):
        return read_wav(what, _AUDIO)
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    is_path = not any(map(str.isspace, what)) and any(separator in what for separator in separators)
    if is_path or what.lower().endswith(".wav"):
        raise ConfigError(f"there is no file {what!r}; give the path of a WAV file, or a sentence", code="invalid_wav")
    return b""


def _say_aloud(client: RealtimeClient, pcm: bytes, timeout: float) -> str:
    """Send a recording as one turn and return how the answer ended."""
    send_all(client, pcm, _AUDIO)
    client.commit_audio()
    client.create_response()
    done = client.wait_for(ResponseDone, timeout)
    if done.status == "failed":
        raise ApiError(
            done.error_message or "the service could not answer", code=done.error_code or done.reason or "response_failed"
        )
    return f"{done.status} ({done.reason})" if done.reason and done.status != "completed" else done.status


def _print_words(event: TranscriptDelta) -> None:
    if event.source == "output" and not event.snapshot:
        print(event.delta, end="", flush=True)
