"""``qai-realtime say``: one question, written or recorded, and its answer."""

from __future__ import annotations

import argparse
import os
import sys

from qai_realtime_sync import AudioDelta, RealtimeClient, RealtimeConfig, ResponseDone, TranscriptDelta
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.address import add_address, client_for
from qai_realtime_sync.cli.sound_files import read_wav, send_all, write_wav

__all__ = ["add_arguments", "run"]

_AUDIO = AudioFormat()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to say, and where to."""
    parser.add_argument("what", metavar="TEXT|FILE", help="a sentence, or a WAV file of one")
    parser.add_argument("--out", metavar="FILE", help="keep the answer's sound as a WAV file")
    parser.add_argument("--voice", help="the voice of the answer")
    parser.add_argument("--instructions", default="", help="how the assistant should behave")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for the answer (default: %(default)s)")
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer while it comes; return 0. Raises: `RealtimeError`."""
    pcm = read_wav(arguments.what, _AUDIO) if os.path.isfile(arguments.what) else b""
    given = {"voice": arguments.voice} if arguments.voice else {}
    config = RealtimeConfig(instructions=arguments.instructions, turn_detection=None, **given)
    sound = bytearray()
    with client_for(arguments, config) as client:
        client.on(AudioDelta, lambda event: sound.extend(event.audio))
        client.on(TranscriptDelta, _print_words, background=True)
        with client:
            if pcm:
                _say_aloud(client, pcm, arguments.timeout)
            else:
                client.ask(arguments.what, arguments.timeout)
    print(flush=True)
    if arguments.out:
        write_wav(arguments.out, bytes(sound), _AUDIO)
        print(f"{len(sound) / _AUDIO.bytes_per_second:.1f} s of sound in {arguments.out}", file=sys.stderr)
    return 0


def _say_aloud(client: RealtimeClient, pcm: bytes, timeout: float) -> None:
    send_all(client, pcm, _AUDIO)
    client.commit_audio()
    client.create_response()
    client.wait_for(ResponseDone, timeout)


def _print_words(event: TranscriptDelta) -> None:
    if event.source == "output" and not event.snapshot:
        print(event.delta, end="", flush=True)
