"""Sound from and to WAV files, and from there to a service: PCM16, one channel."""

from __future__ import annotations

import io
import os
import wave
from array import array
from typing import BinaryIO

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.errors import ConfigError, UnsupportedCommandError

__all__ = ["check_writable", "end_turn", "is_folder", "read_wav", "send_all", "write_wav"]

_SHORTEST = 0.1  # seconds: of less the services make no turn
_SILENCE = 2.0  # seconds: after so much every service takes a turn for finished


def read_wav(path: str | os.PathLike[str], audio: AudioFormat) -> bytes:
    """Return the sound of a WAV file, 8 or 16 bit, any rate, its channels mixed to one, as PCM16 in the rate of ``audio``.

    Raises: `ConfigError` if it cannot be read, or is shorter than a service takes.
    """
    try:
        with wave.open(os.fspath(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        why = getattr(error, "strerror", None) or str(error) or "it is empty, or ends too early"
        raise ConfigError(f"{str(path)!r} cannot be read as a WAV file: {why}", code="invalid_wav") from error
    if width not in (1, 2):
        raise ConfigError(f"{str(path)!r} has {8 * width} bits per sample; save it with 16 bits (PCM)", code="invalid_wav")
    samples = array("h", (256 * (value - 128) for value in data)) if width == 1 else array("h", data[: len(data) // 2 * 2])
    if channels > 1:
        samples = array("h", (sum(samples[at : at + channels]) // channels for at in range(0, len(samples) - channels + 1, channels)))
    if not samples:
        raise ConfigError(f"{str(path)!r} holds no sound", code="invalid_wav")
    converter = Converter(AudioFormat("pcm16", rate), audio)
    pcm = converter.convert(samples.tobytes()) + converter.flush()
    if len(pcm) < _SHORTEST * audio.bytes_per_second:
        least = f"a service wants at least {_SHORTEST:g} s of sound"
        raise ConfigError(f"{str(path)!r} is too short: {least}", code="invalid_wav")
    return pcm


def is_folder(out: str) -> bool:
    """Tell whether ``--out`` names a folder: one that is there, or a name that ends with a separator or has no ending."""
    return out != "-" and (os.path.isdir(out) or out.endswith(("/", os.sep)) or not os.path.splitext(out)[1])


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
