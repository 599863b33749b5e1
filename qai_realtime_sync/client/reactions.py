"""What the client does by itself when it is told something, before any handler: one function per event.

A reaction returns events of the client's own that it caused, in order; ``None`` means that the event is void and nobody hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qai_realtime_sync.client.barge_in import speech_began, speech_ended, stop_playing, watch_playback
from qai_realtime_sync.client.history import history_commands
from qai_realtime_sync.commands import (
    CancelResponse,
    DeleteItem,
    Pong,
    RetrieveItem,
    SendContext,
    SendFunctionResult,
    SendText,
    TruncateItem,
)
from qai_realtime_sync.conversation.responses import BUSY
from qai_realtime_sync.conversation.turns import FOLLOWED
from qai_realtime_sync.events import (
    AudioDelta,
    AudioDone,
    ConversationCreated,
    ErrorReceived,
    Event,
    FunctionCall,
    FunctionCallCancelled,
    GoingAway,
    Interrupted,
    McpCall,
    OutputItemDone,
    Ping,
    PlaybackStopped,
    Reconnected,
    ResponseCreated,
    ResponseDone,
    ResumptionUpdate,
    ServerTool,
    SessionCreated,
    SessionReady,
    SpeechStarted,
    SpeechStopped,
    TranscriptDelta,
    TranscriptDone,
    Usage,
)

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["react"]

log = logging.getLogger("qai_realtime_sync")

_BUSY_FOR = 5.0
_OF_ITEMS = (CancelResponse, TruncateItem, DeleteItem, RetrieveItem, SendFunctionResult)  # which a new conversation never had


def react(call: Call, event: Event) -> Sequence[Event] | None:
    """Let the client's own parts see an event. Return what that caused, or ``None`` if the event is void."""
    cls = event.__class__
    turns = call.turns
    noted = turns.noted.get(cls)
    if noted is not None and noted == event.response_id:  # type: ignore[attr-defined]
        return _audio(call, event) if cls is AudioDelta else ()  # type: ignore[arg-type]  # one more piece: the usual event
    row = _REACTIONS.get(cls)
    caused: Sequence[Event] | None = () if row is None else row(call, event)
    if caused is None or cls not in FOLLOWED:
        return caused
    done = turns.told(event, call.clock() - call.connected_at)
    return caused if done is None else [*caused, done]


# -- session -----------------------------------------------------------------------------------------------------------------


def _session_created(call: Call, event: SessionCreated) -> list[Event]:
    call.expires_at = event.expires_at
    call.session_id = event.session_id or call.session_id
    return []


def _conversation_created(call: Call, event: ConversationCreated) -> list[Event]:
    call.session_id = call.session_id or event.conversation_id
    return []


def _session_ready(call: Call, event: SessionReady) -> list[Event]:
    assert call.dialect is not None
    call.session_id = event.session_id or call.session_id
    call.adopt_formats(event)
    connection = call.connection
    opened = call.to_state("open")
    if opened is None or connection is None:
        call.mutations.confirmed()
        return []
    if call.history_due:
        call.outbox.forget(lambda command: isinstance(command, _OF_ITEMS))
        _tell_history(call)
    call.mutations.opening()
    call.turns.connected(call.config.turn_detection)
    call.void.clear()
    call.renewal.begin()
    call.outbox.open(connection)
    call.mutations.opened()
    call.posting.post_held(call.responses.next())
    call.opened.set()
    return [opened]


def _tell_history(call: Call) -> None:
    """The service does not know the conversation (any more): what was heard of it is given as context."""
    assert call.dialect is not None
    call.history_due = False
    commands = history_commands([*call.seed, *call.turns.snapshot()])
    # What the user wrote just before the loss may stand in the history and wait to be written again: the model must hear it once.
    waiting = [command.text for command in call.outbox.held(SendText) if call.posting.was_noted(command)]
    answered = SendText in call.dialect.traits.answers_by_itself
    if answered:  # history would bring no answer there
        again = (*waiting, "\n".join(waiting))  # several that were written one after the other are one turn
        commands = [command for command in commands if command.role != "user" or command.text not in again]
    if commands and SendContext not in call.dialect.traits.unsupported:
        characters = sum(len(command.text) for command in commands)
        log.info(
            "%d pieces of history are given to the service: %d characters, about %d input tokens",
            len(commands),
            characters,
            characters // 4,
        )
        if not answered:
            said = [text for text in waiting if any(text in command.text for command in commands if command.role == "user")]
            call.outbox.forget(lambda one: isinstance(one, SendText) and call.posting.was_noted(one) and one.text in said)
        call.outbox.prepend(commands)


def _ping(call: Call, event: Ping) -> list[Event]:
    assert call.dialect is not None
    if event.ping_id is not None and Pong not in call.dialect.traits.unsupported:
        call.submit_quietly([Pong(ping_id=event.ping_id)])
    return []


def _error(call: Call, event: ErrorReceived) -> list[Event] | None:
    event.command = call.posting.command_of(event.caused_by)
    if call.access is not None:
        event.message, event.param = call.access.cleaned(event.message), call.access.cleaned(event.param)
    call.last_error = event
    call.mutations.refused(event)
    call.posting.post_held(call.responses.told(event))
    if event.code == BUSY:
        # Its end brings the held request; if it never shows, the request must not be held for ever.
        call.sender.after(_BUSY_FOR, lambda: call.posting.post_held(call.responses.unblock()))
    # The service had ended the answer by itself before our cancel: nothing that the program did, and nothing it could do.
    return None if event.benign and call.posting.is_own_cancel(event.caused_by) else []


# -- the assistant -----------------------------------------------------------------------------------------------------------


def _audio(call: Call, event: AudioDelta) -> Sequence[Event] | None:
    if event.response_id in call.void:
        return None
    if call.sound.converts_incoming:
        event.audio = call.sound.incoming(event.audio, event.response_id)
    call.heard_bytes += len(event.audio)
    if call.playback is not None:
        _play(call, event)
    return ()


def _play(call: Call, event: AudioDelta) -> None:
    if call.playback is not None:
        try:
            began = call.playback.told(event)
            if began is not None:
                call.turns.sounds(event.response_id, began.at - call.connected_at, began.silent_at - call.connected_at)
        except BaseException as error:  # the sink is the program's: its failure is told like a handler's
            call.sink_failed(event, error)


def _audio_done(call: Call, event: AudioDone) -> list[Event]:
    rest = call.sound.incoming_end(event.response_id)
    if rest and event.response_id not in call.void:
        last = AudioDelta(
            audio=rest,
            response_id=event.response_id,
            item_id=event.item_id,
            output_index=event.output_index,
            content_index=event.content_index,
        )
        _play(call, last)
        call.tell(last)
    return []


def _response_created(call: Call, event: ResponseCreated) -> list[Event]:
    if not call.own_answers.begins():
        call.make_void([event.response_id])
    call.posting.post_held(call.responses.told(event))
    return []


def _response_done(call: Call, event: ResponseDone) -> list[Event]:
    call.renewal.answered()
    if event.response_id != call.responses.active and not (event.status == "cancelled" and call.own_answers.is_asked):
        call.own_answers.begins()  # it had nothing in it, and so no beginning; one that was cut off is not the newest text's
    call.meter.told(event)
    call.posting.post_held(call.responses.told(event))
    call.posting.follow_tools(event)
    call.sound.incoming_end(event.response_id)  # of an answer that was cut off: what the filter still holds is not wanted
    if event.response_id and event.response_id not in call.responses.beside:
        call.sound.incoming_end()  # nor of its pieces that did not say whose they are
    if call.playback is not None:
        call.playback.told(event)
        watch_playback(call)
    call.settled()
    return []


def _metered(call: Call, event: Event) -> list[Event]:
    call.meter.told(event)
    return []


def _said(call: Call, event: TranscriptDone) -> list[Event]:
    if event.source == "input":
        call.own_answers.user_said(event.transcript)
    return _metered(call, event)


def _words(call: Call, event: TranscriptDelta) -> Sequence[Event]:
    if event.source == "input" and call.own_answers.is_due:
        call.own_answers.begins()  # the next answer is to what the user says now
    return ()


def _resumption(call: Call, event: ResumptionUpdate) -> list[Event]:
    call.renewal.may_resume(event.resumable)
    return []


def _going_away(call: Call, event: GoingAway) -> list[Event]:
    call.renewal.expect_end(event.time_left if event.time_left is not None else 10.0)
    return []


def _playback_stopped(call: Call, event: PlaybackStopped) -> list[Event]:
    call.renewal.look()
    return []


def _interrupted(call: Call, event: Interrupted) -> list[Event]:
    if call.playback is None or call.options.barge_in is False:
        return []
    if call.speech_timer is not None:
        return []  # the service is less patient than the program: what has come plays on until the speech was long enough
    call.make_void([event.response_id])
    return stop_playing(call, "barge_in")


def _function_called(call: Call, event: FunctionCall) -> list[Event]:
    if event.response_id in call.responses.beside:
        event.expects_result = False  # the conversation does not have this call: a result of it would be refused
    call.own_answers.work_begins()
    return _tool(call, event)


def _tool(call: Call, event: Event) -> list[Event]:
    call.posting.follow_tools(event)
    return []


def _worked(call: Call, event: Event) -> list[Event]:
    call.own_answers.work_begins()
    return []


def _speech_started(call: Call, event: SpeechStarted) -> list[Event]:
    return speech_began(call)


def _speech_stopped(call: Call, event: SpeechStopped) -> list[Event]:
    speech_ended(call)
    return []


_REACTIONS: dict[type[Event], Callable[[Call, Any], Sequence[Event] | None]] = {
    SessionCreated: _session_created,
    ConversationCreated: _conversation_created,
    SessionReady: _session_ready,
    Ping: _ping,
    ErrorReceived: _error,
    AudioDelta: _audio,
    AudioDone: _audio_done,
    ResponseCreated: _response_created,
    ResponseDone: _response_done,
    Interrupted: _interrupted,
    FunctionCall: _function_called,
    FunctionCallCancelled: _tool,
    McpCall: _worked,
    ServerTool: _worked,
    OutputItemDone: _tool,
    SpeechStarted: _speech_started,
    SpeechStopped: _speech_stopped,
    PlaybackStopped: _playback_stopped,
    Reconnected: _metered,
    TranscriptDelta: _words,
    TranscriptDone: _said,
    Usage: _metered,
    ResumptionUpdate: _resumption,
    GoingAway: _going_away,
}
