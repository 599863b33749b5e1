"""What a program may pass wrongly comes back as one kind of error, in its own thread."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync import dialects
from qai_realtime_sync.commands import COMMANDS, Command, Configure, RawEvent, SendAudio, SendText
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession, Voice
from qai_realtime_sync.dialects.wire import dumps, loads
from qai_realtime_sync.errors import UnsupportedCommandError
from qai_realtime_sync.seam import Frame

odd = st.sampled_from([None, "", "x", "\ud800", "\n\"\\", 0, -1, math.nan, 1.5, True, b"", b"\xff", [], {}, [math.inf], object()])


@pytest.mark.parametrize("name", dialects.names())
@given(data=st.data())
def test_odd_fields_give_frames_or_one_error(name: str, data: st.DataObject) -> None:
    """Whatever stands in a command's fields, it is JSON on the wire or an `UnsupportedCommandError`."""
    dialect = dialects.choose(name)(gateway=name == "gateway")
    made = data.draw(st.sampled_from(sorted(COMMANDS.values(), key=lambda command: command.__name__)))
    fields = {field.name: data.draw(odd) for field in attrs.fields(made)}
    if made is Configure:
        fields["config"] = RealtimeConfig(session={"x": data.draw(odd)})
        fields["changes"] = data.draw(st.sampled_from([None, {}, {"audio": None}, {"a": math.nan}, {"tools": 5}]))
    try:
        frames = dialect.encode(made(**fields))
    except UnsupportedCommandError as error:
        assert str(error)
        return
    for frame in frames:
        assert isinstance(frame, Frame)
        if frame.text and made is not RawEvent:
            assert isinstance(loads(frame.payload), dict)


def test_sound_goes_in_binary_messages_once_the_service_says_so() -> None:
    """A change of a running session may be refused: until its echo comes, sound stays what the service takes for certain."""
    dialect, config = dialects.choose("xai")(), RealtimeConfig()
    dialect.handshake(config, RealtimeSession())
    [update] = dialect.encode(Configure(config=config, changes={"audio": {"input": {"transport": "binary"}}}))
    session = loads(update.payload)["session"]
    assert session["audio"]["input"]["transport"] == "binary"
    dialect.decode('{"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}')
    assert dialect.encode(SendAudio(audio=b"\1\2"))[0].text
    dialect.decode(dumps({"type": "session.updated", "session": session}))
    assert dialect.encode(SendAudio(audio=b"\1\2")) == [Frame(b"\1\2", False)]


def test_sound_goes_in_binary_messages_from_the_first_one_on_if_the_session_opens_so() -> None:
    """What opens a session is in force or there is no session."""
    dialect = dialects.choose("xai")()
    dialect.handshake(RealtimeConfig(session={"audio": {"input": {"transport": "binary"}}}), RealtimeSession())
    assert dialect.encode(SendAudio(audio=b"\1\2")) == [Frame(b"\1\2", False)]


@given(audio=st.binary(max_size=100), event_id=st.text(max_size=5))
def test_the_sound_template_is_json(audio: bytes, event_id: str) -> None:
    """The frame that is never dumped reads as what dumping would have written."""
    import base64

    text = base64.b64encode(audio).decode()
    (frame,) = dialects.choose("openai")().encode(SendAudio(audio=audio, event_id=event_id))
    wanted = {"type": "input_audio_buffer.append", "audio": text} | ({"event_id": event_id} if event_id else {})
    assert loads(frame.payload) == wanted
    (frame,) = dialects.choose("elevenlabs")().encode(SendAudio(audio=audio))
    assert loads(frame.payload) == {"user_audio_chunk": text}
    (frame,) = dialects.choose("gemini")().encode(SendAudio(audio=memoryview(audio)))  # type: ignore[arg-type]
    assert loads(frame.payload)["realtimeInput"]["audio"]["data"] == text


@pytest.mark.parametrize(
    "command",
    [RawEvent(value={"a": math.nan}), RawEvent(value=[1]), RawEvent(value=None), SendAudio(audio="AQID"), SendText(text=object())],  # type: ignore[arg-type]
)
def test_what_json_cannot_say_is_refused_with_its_cause(command: Command) -> None:
    """The error names the command and keeps the cause."""
    with pytest.raises(UnsupportedCommandError, match=f"{command.command_name} cannot be sent") as refused:
        dialects.choose()().encode(command)
    assert refused.value.code == "invalid_value"
    assert refused.value.__cause__ is not None


def test_raw_events_go_out_as_they_are() -> None:
    """Text as a text message, bytes as a binary one, nothing added."""
    dialect = dialects.choose()()
    assert dialect.encode(RawEvent(value="ä", event_id="x")) == [Frame("ä".encode(), True)]
    assert dialect.encode(RawEvent(value=b"\x00\x01")) == [Frame(b"\x00\x01", False)]


def test_a_voice_of_the_list_is_plain_text_on_the_wire() -> None:
    """An enum member is never spelled with its class."""
    for name in ("xai", "openai", "gemini"):
        (frame,) = dialects.choose(name)().encode(Configure(config=RealtimeConfig(voice=Voice.EVE)))
        assert b'"eve"' in frame.payload
        assert b"Voice" not in bytes(frame.payload).replace(b"prebuiltVoiceConfig", b"").replace(b"VoiceConfig", b"")
