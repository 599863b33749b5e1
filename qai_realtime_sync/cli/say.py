"""``qai-realtime say``: one question, written or recorded, and its answer."""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from qai_realtime_sync import AudioDelta, RealtimeClient, Recorder, ResponseDone, TextDelta, TranscriptDelta, TranscriptDone
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.address import add_address, client_for, seconds
from qai_realtime_sync.cli.assistant import add_assistant, config_from
from qai_realtime_sync.cli.json_events import follow_as_json
from qai_realtime_sync.cli.recording_folder import check_kept
from qai_realtime_sync.cli.sound_files import check_writable, end_turn, is_folder, read_wav, send_all, write_wav
from qai_realtime_sync.cli.terminal import cleaned, json_line
from qai_realtime_sync.errors import ApiError, ConfigError

__all__ = ["EXAMPLE", "add_arguments", "recording_of", "run", "say_aloud"]

EXAMPLE = 'qai-realtime say "What can you do?" --out answer.wav'
_AUDIO = AudioFormat()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to say, and where to."""
    parser.add_argument("what", metavar="TEXT|FILE", help="a sentence, or a WAV file of one")
    parser.add_argument("--out", metavar="FILE", help="the answer as FILE.wav, - for stdout; a FOLDER keeps all")
    add_assistant(parser)
    parser.add_argument("--timeout", type=seconds, default=30.0, help="seconds to wait for the answer (default: %(default)g)")
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="events as lines of JSON, the result last")


def run(arguments: argparse.Namespace) -> int:
    """Print the answer while it comes; return 0. Raises: `RealtimeError`, also when the service fails to answer."""
    if arguments.json and arguments.out == "-":
        raise ConfigError("--json and --out - both want standard output; give the sound a file")
    if arguments.out == "":
        raise ConfigError("--out is empty: give a FILE.wav or a FOLDER, or - for standard output")
    pcm = recording_of(arguments.what)
    if arguments.out not in (None, "-") and not is_folder(arguments.out):
        check_writable(arguments.out)
    sound, words = bytearray(), _Words(to=sys.stderr if arguments.out == "-" else sys.stdout)
    with ExitStack() as stack:
        client = stack.enter_context(client_for(arguments, config_from(arguments, turn_detection=None)))
        client.on(AudioDelta, lambda event: sound.extend(event.audio))
        if arguments.json:
            follow_as_json(client)
        else:
            client.on(TranscriptDelta, words.spoken, background=True)
            client.on(TextDelta, words.written, background=True)
            client.on(TranscriptDone, words.whole, background=True)
        recorder = stack.enter_context(_kept(client, arguments.out))
        with client:
            status = say_aloud(client, pcm, arguments.timeout) if pcm else client.ask(arguments.what, arguments.timeout).status
        turns = client.conversation
    if not arguments.json:
        words.end()
    if recorder is not None:
        check_kept(recorder)
    if status != "completed":
        print(f"warning: the answer is not whole: {status}", file=sys.stderr)
    written = _write(arguments.out, bytes(sound))
    if arguments.json:
        text = turns[-1].assistant if turns else ""
        length = round(len(sound) / _AUDIO.bytes_per_second, 3)
        told = {"status": status, "text": text, "seconds": length, "out": arguments.out}
        json_line({"name": "result", "command": "say", "ok": True, "exit_code": 0, **told})
    elif written:
        print(written, file=sys.stderr)
    words.check()  # after the sound was written, which was paid for
    return 0


def recording_of(what: str) -> bytes:
    """The sound of a WAV file, or nothing for a sentence. Raises: `ConfigError` for what only looks like a file."""
    if not what.strip():
        raise ConfigError("there is nothing to say: give a sentence, or the path of a WAV file")
    if os.path.isfile(what):
        return read_wav(what, _AUDIO)
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    is_path = not any(map(str.isspace, what)) and any(separator in what for separator in separators)
    if is_path or what.lower().endswith(".wav"):
        found = f"{what!r} is a folder" if os.path.isdir(what) else f"there is no file {what!r}"
        raise ConfigError(f"{found}; give the path of a WAV file, or a sentence", code="invalid_wav")
    if not what.isascii() and what != what.encode("utf-8", "replace").decode("utf-8"):  # bytes that Python could only keep as halves
        why = "its bytes are not in the encoding that is set here; write it in UTF-8"
        raise ConfigError(f"{what!r} is no text: {why}", code="invalid_text")
    return b""


def say_aloud(
    client: RealtimeClient, pcm: bytes, timeout: float, *, pace: bool = False, said: Callable[[float], object] | None = None
) -> str:
    """Send a recording as one turn and return how the answer ended, after the rounds of tools.

    ``pace``: as slow as it was spoken; ``said`` is told how many seconds were sent. Raises: `RealtimeError`.
    """
    if pace:
        client.send_audio_from(pcm, audio=_AUDIO, pace=True)
    else:
        send_all(client, pcm, _AUDIO)
    if said is not None:
        said(len(pcm) / _AUDIO.bytes_per_second)
    silence = end_turn(client, _AUDIO)
    if not silence:
        client.create_response()
    elif said is not None:
        said(silence)
    while True:
        done = client.wait_for(ResponseDone, timeout)
        if silence and done.status == "cancelled":
            continue  # that was the answer to a pause: who goes on talking cuts it off
        if done.status == "failed":
            raise ApiError(
                done.error_message or "the service could not answer", code=done.error_code or done.reason or "response_failed"
            )
        if not (client.config.tools and any(item.type == "function_call" for item in done.output)):
            return f"{done.status} ({done.reason})" if done.reason and done.status != "completed" else done.status


@contextmanager
def _kept(client: RealtimeClient, out: str | None) -> Iterator[Recorder | None]:
    """Keep the whole conversation where ``out`` is a folder."""
    if out is None or not is_folder(out):
        yield None
        return
    with Recorder(out) as recorder:
        client.record_to(recorder)
        yield recorder


def _write(out: str | None, pcm: bytes) -> str:
    """Write the answer's sound; return what to say of it."""
    if out is None:
        return ""
    length = f"{len(pcm) / _AUDIO.bytes_per_second:.1f} s of sound"
    if out == "-":
        write_wav(sys.stdout.buffer, pcm, _AUDIO)
        return f"{length} to standard output"
    if not is_folder(out):
        write_wav(out, pcm, _AUDIO)
        return f"{length} in {out}"
    return f"the conversation is in {pathlib.Path(out)}{os.sep}; see it with: qai-realtime report {shlex.quote(out)}"


class _Words:
    """Prints an answer's words as they come."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._lost: OSError | None = None  # nobody reads any more, or the disk is full
        self._shown: set[str] = set()  # answers whose words were printed

    def spoken(self, event: TranscriptDelta) -> None:
        if event.source == "output" and not event.snapshot:
            self._print(event.item_id or event.response_id, event.delta)

    def written(self, event: TextDelta) -> None:
        self._print(event.item_id or event.response_id, event.delta)

    def whole(self, event: TranscriptDone) -> None:
        """Not every service tells the words one by one."""
        answer = event.item_id or event.response_id
        if event.source == "output" and answer not in self._shown:
            self._print(answer, event.transcript)

    def end(self) -> None:
        self._write("\n")

    def check(self) -> None:
        """Raise `OSError` if not all of it could be printed."""
        if self._lost is not None:
            raise self._lost

    def _print(self, answer: str, words: str) -> None:
        if not words:
            return
        if self._shown and answer not in self._shown:
            self._write("\n")
        self._shown.add(answer)
        self._write(cleaned(words))

    def _write(self, text: str) -> None:
        if self._lost is not None:
            return
        try:
            print(text, end="", flush=True, file=self._to)
        except OSError as error:
            self._lost = error
