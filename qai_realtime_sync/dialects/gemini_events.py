"""Events of Gemini Live: one row per member of a message (source: the vendor's SDK types, recorded sessions)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.dialects.base import remember
from qai_realtime_sync.dialects.gemini_calls import function_calls, partial_call
from qai_realtime_sync.dialects.rows import (
    Decoder,
    Value,
    at,
    flag,
    gives,
    made,
    read_mapping,
    read_number,
    read_text,
    read_whole,
    row,
    text,
)
from qai_realtime_sync.events import (
    AudioDelta,
    AudioDone,
    Event,
    FunctionCall,
    FunctionCallCancelled,
    FunctionCallDelta,
    GoingAway,
    Interrupted,
    ReasoningDelta,
    ResponseCreated,
    ResponseDone,
    ResumptionUpdate,
    SessionReady,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TextDone,
    TokenUsage,
    TranscriptDelta,
    TranscriptDone,
    Unknown,
    Usage,
    WaitingForInput,
)

if TYPE_CHECKING:
    from qai_realtime_sync.dialects.gemini import Gemini

__all__ = ["DECODERS", "OUTPUT", "usage"]

OUTPUT: Final = AudioFormat("pcm16", 24000)

# -- readers -----------------------------------------------------------------------------------------------------------------


def seconds(value: Any) -> float | None:
    """Read a duration: ``"9.5s"``, or a number of seconds."""
    try:
        found = float(value.removesuffix("s")) if type(value) is str else read_number(value, -1.0)
    except ValueError:
        return None
    return found if 0 <= found < 1e9 else None


def _milliseconds(value: Any) -> int | None:
    found = seconds(value)
    return None if found is None else round(found * 1000)


def usage(value: Any) -> TokenUsage:
    """Read ``usageMetadata``, of the developer API or of Vertex (recorded)."""
    given = read_mapping(value)
    made_by = "response" if "responseTokenCount" in given else "candidates"
    sent, heard = given.get("promptTokensDetails"), given.get(f"{made_by}TokensDetails")
    return TokenUsage(
        input_tokens=read_whole(given.get("promptTokenCount")),
        output_tokens=read_whole(given.get(f"{made_by}TokenCount")),
        total_tokens=read_whole(given.get("totalTokenCount")),
        cached_tokens=read_whole(given.get("cachedContentTokenCount")),
        input_audio_tokens=_by_modality(sent, "AUDIO"),
        input_text_tokens=_by_modality(sent, "TEXT"),
        output_audio_tokens=_by_modality(heard, "AUDIO"),
        output_text_tokens=_by_modality(heard, "TEXT"),
        raw=given,
    )


def _by_modality(details: Any, modality: str) -> int:
    if type(details) is not list:
        return 0
    counts = (read_whole(at(part, "tokenCount")) for part in details if at(part, "modality") == modality)
    return sum(count for count in counts)


# -- members -----------------------------------------------------------------------------------------------------------------


@gives(SessionReady)
def setup_complete(dialect: Gemini, value: Value) -> list[Event]:
    """The setup is in force; only now may anything else be sent."""
    session = read_mapping(value.get("setupComplete"))
    session_id = read_text(session.get("sessionId"))
    return [
        SessionReady(
            raw=value, session_id=session_id, session=session, input_format=dialect.input_format, output_format=OUTPUT
        )
    ]


@gives(
    TranscriptDelta,
    TranscriptDone,
    ResponseCreated,
    ReasoningDelta,
    TextDelta,
    TextDone,
    AudioDelta,
    AudioDone,
    Interrupted,
    WaitingForInput,
    ResponseDone,
)
def server_content(dialect: Gemini, value: Value) -> list[Event]:
    """What the model hears and says; one message may hold several fields at once (recorded)."""
    content = value["serverContent"]
    told: list[Event] = []
    if "interimInputTranscription" in content:
        told += dialect.guess_user(content["interimInputTranscription"], value)
    if "inputTranscription" in content:
        told += dialect.heard_user(content["inputTranscription"], value)
    if "modelTurn" in content:
        parts = at(content, "modelTurn", "parts")
        for part in parts if type(parts) is list else ():
            told += dialect.said(part, value)
    if "outputTranscription" in content:
        told += dialect.heard_model(content["outputTranscription"], value)
    if content.get("interrupted") is True:
        told += dialect.cut_off(value)
    if content.get("generationComplete") is True and dialect.sounded:
        dialect.sounded = False
        told.append(AudioDone(raw=value, response_id=dialect.turn))
    if content.get("waitingForInput") is True:
        told.append(WaitingForInput(raw=value, response_id=dialect.turn))
    if content.get("turnComplete") is True:
        told += dialect.turn_over(content, value)
    return told


@gives(ResponseCreated, FunctionCallDelta, FunctionCall)
def tool_call(dialect: Gemini, value: Value) -> list[Event]:
    """The model asks for functions, and waits until all are answered."""
    told: list[Event] = []
    for given in function_calls(value.get("toolCall")):
        name = read_text(given.get("name"))
        call_id = read_text(given.get("id"))
        if not name:
            told.append(Unknown(type="toolCall", problem="a function call without a name", raw=value))
            continue
        wire_id, call_id = call_id, call_id or dialect.unnamed_call(name)
        arguments, pieces = partial_call(dialect.partial, call_id, given)
        told += dialect.begin(value)
        if pieces:
            told.append(
                FunctionCallDelta(raw=value, call_id=call_id, name=name, delta=pieces, response_id=dialect.turn)
            )
        if arguments is None or call_id in dialect.told_calls:
            continue
        remember(dialect.told_calls, call_id, None)
        dialect.keep_call(call_id, wire_id, name)
        told.append(FunctionCall(raw=value, name=name, call_id=call_id, arguments=arguments, response_id=dialect.turn))
    return told


@gives(FunctionCallCancelled)
def cancelled(dialect: Gemini, value: Value) -> list[Event]:
    """The user spoke while tools ran: these results are not wanted."""
    ids = at(value, "toolCallCancellation", "ids")
    told: list[Event] = []
    for call_id in ids if type(ids) is list else ():
        if type(call_id) is str:
            dialect.forget_call(call_id)
            told.append(FunctionCallCancelled(raw=value, call_id=call_id))
    return told


_speech_started = row(SpeechStarted, audio_start_ms=made(_milliseconds, "voiceActivity", "audioOffset"))
_speech_stopped = row(SpeechStopped, audio_end_ms=made(_milliseconds, "voiceActivity", "audioOffset"))
_ACTIVITY: Final = {
    "ACTIVITY_START": _speech_started,
    "ACTIVITY_END": _speech_stopped,
    "VAD_SIGNAL_TYPE_SOS": _speech_started,
    "VAD_SIGNAL_TYPE_EOS": _speech_stopped,
}


@gives(SpeechStarted, SpeechStopped)
def activity(dialect: Gemini, value: Value) -> list[Event]:
    """Speech begins or ends, where activity signals are enabled."""
    signal = at(value, "voiceActivity", "voiceActivityType") or at(value, "voiceActivityDetectionSignal", "vadSignalType")
    decoder = _ACTIVITY.get(signal) if type(signal) is str else None
    return decoder(dialect, value) if decoder is not None else []


@gives(Usage)
def usage_alone(dialect: Gemini, value: Value) -> list[Event]:
    """Usage in a message that ends no turn."""
    if at(value, "serverContent", "turnComplete") is True:
        return []
    return [Usage(raw=value, usage=usage(value.get("usageMetadata")), source="response", response_id=dialect.turn)]


# -- the rows ----------------------------------------------------------------------------------------------------------------

DECODERS: Final[dict[str, Decoder]] = {
    "setupComplete": setup_complete,
    "serverContent": server_content,
    "toolCall": tool_call,
    "toolCallCancellation": cancelled,
    "voiceActivity": activity,
    "voiceActivityDetectionSignal": activity,
    "sessionResumptionUpdate": row(
        ResumptionUpdate,
        handle=text("sessionResumptionUpdate", "newHandle"),
        resumable=flag("sessionResumptionUpdate", "resumable"),
    ),
    "goAway": row(GoingAway, time_left=made(seconds, "goAway", "timeLeft")),
    "usageMetadata": usage_alone,
}
