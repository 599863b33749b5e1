"""The folder of a recording: a new one, or the one that was asked for; and none of a conversation that there was not."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable

from qai_realtime_sync.conversation.recorder import Recorder
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["FILES", "check_kept", "discard", "recording_folder"]

FILES = ("conversation.wav", "transcript.json", "events.jsonl")
_MOST_FOLDERS = 1000


def recording_folder(wanted: str | None, name: str, say: Callable[[str], object] = print) -> pathlib.Path:
    """Make the folder for the recording and return it; one that was not asked for is always a new one: ``name``, ``name``-2 ….

    Raises: `ConfigError` if nothing can be written to the one that was asked for.
    """
    if wanted == "":
        raise ConfigError("--out is empty: give the folder a name, or . for this one")
    if wanted is not None:
        folder = pathlib.Path(wanted)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ConfigError(f"--out {wanted}: nothing can be written there: {error.strerror or error}", code="invalid_path") from error
        if any((folder / name).exists() for name in FILES):
            say(f"replacing the recording that is in {folder}{os.sep}")
        return folder
    for number in range(1, _MOST_FOLDERS):
        folder = pathlib.Path(name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError:  # not our folder, or a disk that cannot be written to
            break
    return pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-"))


def check_kept(recorder: Recorder) -> None:
    """Raise `RealtimeError` if the recording is over before the conversation was: a full disk, say."""
    if recorder.error is not None:
        why = recorder.error.strerror or recorder.error
        raise RealtimeError(f"the recording in {str(recorder.path)!r} is not whole: {why}", code="recording_failed")


def discard(folder: pathlib.Path) -> None:
    """Remove a folder of ours that has no conversation; whatever else is in it stays."""
    with contextlib.suppress(OSError):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
