"""Transcripts as data: what a story's lines mean, and how a dialect is held against them.

| line | meaning |
|---|---|
| ``{"#": text}`` | a remark |
| ``{"given": {…}}`` | how the connection was opened: ``config``, ``gateway``, ``url``, ``resume`` |
| ``{"<": frame, "=": [events]}`` | what arrives, and the events it gives; ``"problem": "*"`` stands for any text |
| ``{">": frame, "+": command}`` | a command, and what goes out; a list of frames for several or none |
| ``{"+": command, "!": words}`` | a command that is refused with a message that holds these words |

A frame is a JSON object, or text that is sent as it is. With ``"binary": true`` it travels in a binary message, and
``{"base64": …}`` stands for bytes that are not JSON. Events and commands have the spelling of their ``to_dict``.
"""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from qai_realtime_sync import dialects
from qai_realtime_sync.commands import COMMANDS, Command
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.dialects import Dialect
from qai_realtime_sync.dialects.gemini import Gemini
from qai_realtime_sync.seam import Frame, Resume

FOLDER = pathlib.Path(__file__).parent.parent / "transcripts"


def stories() -> list[str]:
    """Return every story as ``dialect/name``."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in FOLDER.glob("*/*.jsonl"))


def lines(story: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a story."""
    for line in (FOLDER / f"{story}.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            yield json.loads(line)


def opened(story: str) -> Dialect:
    """Return the dialect of a story, opened as its first ``given`` says."""
    made = dialects.choose(story.split("/")[0])
    given = next((line["given"] for line in lines(story) if "given" in line), None)
    dialect = made(gateway=given.get("gateway", False)) if given is not None else made()
    if isinstance(dialect, Gemini):
        dialect.tag = "made"  # else random, so that two connections do not make up the same call ids
    if given is None:
        return dialect
    resume = Resume(handle=given["resume"]) if "resume" in given else None
    session = RealtimeSession(url=given.get("url", "wss://service.test/?agent_id=a"))
    dialect.handshake(RealtimeConfig.from_dict(given.get("config", {})), session, "key", resume)
    return dialect


def frame_of(line: dict[str, Any]) -> Frame:
    """Return the message of a ``<`` line."""
    value, text = line["<"], not line.get("binary", False)
    if isinstance(value, dict) and set(value) == {"base64"}:
        return Frame(base64.b64decode(value["base64"]), text)
    return Frame(value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode(), text)


def command_of(value: dict[str, Any]) -> Command:
    """Return the command of a ``+`` line; sound and pictures are given by their length."""
    fields = dict(value)
    made = COMMANDS[fields.pop("name")]
    if "tool_name" in fields:
        fields["name"] = fields.pop("tool_name")
    if "config" in fields:
        fields["config"] = RealtimeConfig.from_dict(fields["config"])
    for name in ("audio", "image"):
        if name in fields:
            fields[name] = bytes(fields[name])
    return made(**fields)


def sent_by(frames: list[Frame]) -> Any:
    """Return frames in the spelling of a ``>`` line."""
    values = [_spelled(frame) for frame in frames]
    return values[0] if len(values) == 1 else values


def _spelled(frame: Frame) -> Any:
    payload = bytes(frame.payload)
    return json.loads(payload) if frame.text else {"base64": base64.b64encode(payload).decode()}
