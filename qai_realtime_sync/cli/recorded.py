"""What is left of a recorded conversation, whole or not: its events, its turns and its sound, and what is missing of them."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from qai_realtime_sync import Conversation, Metrics, RealtimeClient, RealtimeConfig
from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli.recorded_sound import RecordedSound
from qai_realtime_sync.commands import command_from_dict
from qai_realtime_sync.errors import ConfigError, RealtimeError
from qai_realtime_sync.events import event_from_dict

__all__ = ["Recorded", "config_of", "event_of", "find_recording", "load", "newest_recording"]

_EVENTS, _SOUND, _TURNS = "events.jsonl", "conversation.wav", "transcript.json"
_MAKERS = "`demo`, `record` and `say --out FOLDER`"
_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
_LOOKED_AT = 8  # deltas whose length tells the format
_LONGEST = 7 * 86400.0  # seconds: a later time is no time of a conversation
_LARGEST = 2**26  # bytes: no piece of sound is larger


@attrs.define(kw_only=True)
class Recorded:
    """A recorded conversation; ``problems`` says in words what is missing or broken, in the order in which it was found."""

    folder: pathlib.Path
    events: list[dict[str, Any]] = attrs.field(factory=list)
    turns: Conversation = attrs.field(factory=Conversation)
    metrics: Metrics = attrs.field(factory=Metrics)
    sound: RecordedSound | None = None
    problems: list[str] = attrs.field(factory=list)

    @property
    def duration(self) -> float:
        """Seconds until nothing happens and nothing sounds any more."""
        last = max((float(event["at"]) for event in self.events), default=0.0)
        times = [at for turn in self.turns for at in (turn.sound_ended_at, turn.spoke_until, turn.ended_at) if at is not None]
        return max([last, self.sound.duration if self.sound else 0.0, *times])


def find_recording(wanted: str | None) -> pathlib.Path:
    """Return the folder that was named, or else the newest recording of the current folder. Raises: `ConfigError`."""
    if wanted is None:
        return newest_recording()
    path = pathlib.Path(wanted)
    if not path.exists():
        raise ConfigError(f"there is no folder {wanted!r}; give one that {_MAKERS} left", code="invalid_path")
    return path


def newest_recording(where: pathlib.Path | None = None) -> pathlib.Path:
    """Return the folder of the recording that was written last: the current folder, or one in it. Raises: `ConfigError`."""
    here = where or pathlib.Path()
    paths = [path for name in (_EVENTS, _SOUND) for path in (here / name, *here.glob(f"*/{name}")) if path.is_file()]
    found = [(path.stat().st_mtime, path.parent) for path in paths]
    if not found:
        raise ConfigError(
            "there is no recording in this folder, nor in one below it; `qai-realtime demo` makes one, or name a folder",
            code="invalid_path",
        )
    return max(found)[1]


def load(folder: pathlib.Path) -> Recorded:
    """Read what there is. Raises: `ConfigError` if that is nothing."""
    if folder.is_file() and folder.suffix.lower() == ".wav":
        sound, why = RecordedSound.opened(folder)
        if sound is None:
            raise ConfigError(f"{str(folder)!r} cannot be read: {why}", code="invalid_recording")
        return Recorded(folder=folder.parent, sound=sound, problems=["this is the sound alone: no turns, no events"])
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is neither a recorded folder nor a WAV file", code="invalid_recording")
    found = Recorded(folder=folder)
    _read_events(found)
    found.sound, why = RecordedSound.opened(folder / _SOUND)
    if why:
        found.problems.append(why)
    if not found.events and found.sound is None:
        if not any((folder / name).exists() for name in (_EVENTS, _SOUND)):
            raise ConfigError(
                f"{str(folder)!r} is no recording: there is neither {_EVENTS} nor {_SOUND} in it; "
                f"{_MAKERS} leave such a folder",
                code="invalid_recording",
            )
        raise ConfigError(f"the recording in {str(folder)!r} is empty: {'; '.join(found.problems)}", code="invalid_recording")
    _read_turns(found)
    return found


def config_of(events: Iterable[dict[str, Any]]) -> RealtimeConfig:
    """Return a configuration with the format in which the sound of a conversation came, as the length of its pieces tells it."""
    rates: list[float] = []
    for event in events:
        size, length = event.get("audio"), event.get("duration_ms")
        if event.get("name") == "audio_delta" and isinstance(size, int) and isinstance(length, (int, float)) and length > 0 and size > 0:
            rates.append(size / length * 1000)
            if len(rates) == _LOOKED_AT:
                break
    if not rates:
        return RealtimeConfig()
    per_second = sorted(rates)[len(rates) // 2]
    if abs(per_second - 8000) < 400:  # a byte for each sample: a telephone's, µ-law or A-law alike in length
        return RealtimeConfig(input_format="g711_ulaw", output_format="g711_ulaw")
    rate = min(_RATES, key=lambda known: abs(known * 2 - per_second))
    return RealtimeConfig(sample_rate=rate)


# -- events ------------------------------------------------------------------------------------------------------------------


def _read_events(found: Recorded) -> None:
    path = found.folder / _EVENTS
    if not path.is_file():
        found.problems.append(f"there is no {_EVENTS}: turns and events are not known")
        return
    broken: list[int] = []
    last = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for last, line in enumerate(lines, 1):
                event = event_of(line)
                if event is not None:
                    found.events.append(event)
                elif line.strip():
                    broken.append(last)
    except OSError as error:
        found.problems.append(f"{_EVENTS} cannot be read: {error.strerror or error}")
    if broken == [last]:
        found.problems.append(f"the last line of {_EVENTS} is cut off: what wrote it was ended in the middle")
    elif broken:
        shown = ", ".join(map(str, broken[:5])) + (" …" if len(broken) > 5 else "")
        found.problems.append(f"{len(broken)} lines of {_EVENTS} cannot be read and are left out (line {shown})")
    if not found.events:
        found.problems.append(f"there is no event in {_EVENTS}")
    elif not any(event["name"] == "closed" for event in found.events):
        found.problems.append("the recording has no end: what wrote it was ended before the conversation was")


def event_of(line: str) -> dict[str, Any] | None:
    """Return a line of ``events.jsonl`` as it is, if it is one of a recording."""
    try:
        value = json.loads(line)
        at = float(value["at"])
        if not 0 <= at < _LONGEST or value["direction"] not in ("sent", "received"):
            return None
        if not 0 <= int(value.get("audio", 0)) <= _LARGEST:
            return None
        (command_from_dict if value["direction"] == "sent" else event_from_dict)(value, AudioFormat())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, RealtimeError):
        return None
    found: dict[str, Any] = value
    return found


# -- turns -------------------------------------------------------------------------------------------------------------------


def _read_turns(found: Recorded) -> None:
    """Follow the events again: their times are the recording's own, and they are there also where nobody wrote the end down."""
    if found.events and _replayed(found):
        return
    path = found.folder / _TURNS
    if not path.is_file():
        return
    try:
        found.turns = Conversation.from_json(path.read_bytes())
    except (OSError, ConfigError) as error:
        found.problems.append(f"{_TURNS} cannot be read: {error}")


def _replayed(found: Recorded) -> bool:
    client = RealtimeClient("replay", config_of(found.events))
    try:
        with tempfile.TemporaryDirectory(prefix="qai-report-") as folder:
            with open(os.path.join(folder, _EVENTS), "w", encoding="utf-8", errors="backslashreplace") as lines:
                lines.writelines(_lines(found.events))
            client.replay(folder)
    except (RealtimeError, OSError) as error:
        found.problems.append(f"the turns cannot be followed from the events: {error}")
        return False
    found.turns, found.metrics = client.conversation, client.metrics
    return True


def _lines(events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        yield json.dumps(event, ensure_ascii=False) + "\n"
