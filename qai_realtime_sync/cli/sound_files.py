"""Sound from and to WAV files, and from there to a service: PCM16, one channel."""

from __future__ import annotations

import io
import os
import wave
from typing import BinaryIO

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.client.wav_in import WavIn
from qai_realtime_sync.errors import ConfigError, UnsupportedCommandError

__all__ = ["check_writable", "end_turn", "is_folder", "is_same_file", "read_wav", "send_all", "write_wav"]

_SHORTEST = 0.1  # seconds: of less the services make no turn
_SILENCE = 2.0  # seconds: after so much every service takes a turn for finished


def read_wav(path: str | os.PathLike[str], audio: AudioFormat) -> bytes:
    """Return the sound of a WAV file of any kind that the client reads, its channels mixed to one, as PCM16 in the rate of ``audio``.

    Raises: `ConfigError` if it cannot be read, or is shorter than a service takes.
    """
    name = repr(os.fspath(path))
    try:
        with open(path, "rb") as file:
            wav = WavIn(file)
            converter = Converter(wav.audio, audio)
            sound = b"".join(wav.pieces())
    except OSError as error:
        raise ConfigError(f"{name} cannot be read as a WAV file: {error.strerror or error}", code="invalid_wav") from error
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}", code=str(error.code)) from error
    if not sound:
        raise ConfigError(f"{name} holds no sound", code="invalid_wav")
    pcm = converter.convert(sound) + converter.flush()
    if len(pcm) < _SHORTEST * audio.bytes_per_second:
        raise ConfigError(f"{name} is too short: a service wants at least {_SHORTEST:g} s of sound", code="invalid_wav")
    return pcm


def is_folder(out: str) -> bool:
    """Tell whether ``--out`` names a folder: one that is there, or a name that ends with a separator or has no ending."""
    return out != "-" and (os.path.isdir(out) or out.endswith(("/", os.sep)) or not os.path.splitext(out)[1])


def is_same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Tell whether two paths lead to one file that is there."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def check_writable(path: str) -> None:
    """Raise `ConfigError` if no file can be written there: to be known before a conversation is paid for. Nothing is written."""
    folder = os.path.dirname(path) or os.curdir
    if os.path.isdir(path):
        why = "it is a folder"
    elif not os.path.isdir(folder):
        why = f"there is no folder {folder!r}"
    elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
        why = "permission denied"
    else:
        return
    raise ConfigError(f"{path!r} cannot be written: {why}", code="invalid_path")


def write_wav(to: str | os.PathLike[str] | BinaryIO, pcm: bytes, audio: AudioFormat) -> None:
    """Write PCM16 as a WAV file of one channel, by its path or to an open file, a pipe too. Raises: `ConfigError` if that cannot be."""
    made = io.BytesIO()  # a pipe has no place to go back to, where the size belongs
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.sample_rate)
        file.writeframes(pcm)
    if not isinstance(to, (str, os.PathLike)):
        to.write(made.getvalue())
        to.flush()
        return
    try:
        with open(to, "wb") as opened:
            opened.write(made.getvalue())
    except OSError as error:
        raise ConfigError(f"{str(to)!r} cannot be written: {error.strerror or error}", code="invalid_path") from error


def end_turn(client: RealtimeClient, audio: AudioFormat) -> float:
    """Say that the user has finished; where a service has no word for that, by silence, as a talking user does.

    Return the seconds of silence that were sent; then the answer comes by itself. Raises: `RealtimeError`.
    """
    try:
        client.commit_audio()
    except UnsupportedCommandError:
        client.send_audio(bytes(round(_SILENCE * audio.sample_rate) * audio.sample_width))
        client.drain()
        return _SILENCE
    return 0.0


def send_all(client: RealtimeClient, pcm: bytes, audio: AudioFormat) -> None:
    """Send a recording as fast as the network takes it, never more than a second ahead of it. Raises: `RealtimeError`."""
    for start in range(0, len(pcm), audio.bytes_per_second):
        client.send_audio(pcm[start : start + audio.bytes_per_second])
        client.drain()
