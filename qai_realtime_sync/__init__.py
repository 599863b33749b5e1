"""Synchronous, thread-based realtime voice for Python programs without an event loop.

Names are loaded on first use (PEP 562), so that importing the package costs next to nothing. A public name stands twice here: for type
checkers in the imports below, and for the interpreter in the table of rooms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from qai_realtime_sync.audio import AudioFormat as AudioFormat
    from qai_realtime_sync.client.client import RealtimeClient as RealtimeClient
    from qai_realtime_sync.client.lifecycle import ReconnectPolicy as ReconnectPolicy
    from qai_realtime_sync.client.signals import install_signal_handlers as install_signal_handlers
    from qai_realtime_sync.commands import (
        ApproveMcpCall as ApproveMcpCall,
        CancelResponse as CancelResponse,
        ClearAudio as ClearAudio,
        Command as Command,
        CommitAudio as CommitAudio,
        Configure as Configure,
        CreateResponse as CreateResponse,
        DeleteItem as DeleteItem,
        Pong as Pong,
        RawEvent as RawEvent,
        RetrieveItem as RetrieveItem,
        Say as Say,
        SendAudio as SendAudio,
        SendContext as SendContext,
        SendFunctionResult as SendFunctionResult,
        SendImage as SendImage,
        SendText as SendText,
        TruncateItem as TruncateItem,
    )
    from qai_realtime_sync.config import (
        UNSET as UNSET,
        RealtimeConfig as RealtimeConfig,
        RealtimeSession as RealtimeSession,
        Tool as Tool,
        Transcription as Transcription,
        TurnDetection as TurnDetection,
        Voice as Voice,
    )
    from qai_realtime_sync.conversation.metrics import (
        HandlerTime as HandlerTime,
        Metrics as Metrics,
        TurnMetrics as TurnMetrics,
    )
    from qai_realtime_sync.conversation.pacing import PacedSink as PacedSink
    from qai_realtime_sync.conversation.record import Conversation as Conversation
    from qai_realtime_sync.conversation.recorder import Recorder as Recorder
    from qai_realtime_sync.conversation.telemetry import Telemetry as Telemetry
    from qai_realtime_sync.errors import (
        ApiError as ApiError,
        ConfigError as ConfigError,
        ConnectError as ConnectError,
        ConnectionClosedError as ConnectionClosedError,
        ForkedClientError as ForkedClientError,
        NotConnectedError as NotConnectedError,
        OutboxFullError as OutboxFullError,
        RealtimeError as RealtimeError,
        RealtimeTimeoutError as RealtimeTimeoutError,
        UnsupportedCommandError as UnsupportedCommandError,
    )
    from qai_realtime_sync.events import (
        AudioDelta as AudioDelta,
        AudioDone as AudioDone,
        Closed as Closed,
        ContentPart as ContentPart,
        ContentPartAdded as ContentPartAdded,
        ContentPartDone as ContentPartDone,
        ContextMutated as ContextMutated,
        ConversationCreated as ConversationCreated,
        DtmfReceived as DtmfReceived,
        ErrorReceived as ErrorReceived,
        Event as Event,
        FunctionCall as FunctionCall,
        FunctionCallCancelled as FunctionCallCancelled,
        FunctionCallDelta as FunctionCallDelta,
        GoingAway as GoingAway,
        HandlerFailed as HandlerFailed,
        InputCleared as InputCleared,
        InputCommitted as InputCommitted,
        InputTimeout as InputTimeout,
        Interrupted as Interrupted,
        Item as Item,
        ItemAdded as ItemAdded,
        ItemDeleted as ItemDeleted,
        ItemDone as ItemDone,
        ItemRetrieved as ItemRetrieved,
        ItemTruncated as ItemTruncated,
        McpApprovalRequested as McpApprovalRequested,
        McpCall as McpCall,
        McpCallDelta as McpCallDelta,
        McpListTools as McpListTools,
        McpStatus as McpStatus,
        OutputBufferCleared as OutputBufferCleared,
        OutputBufferStarted as OutputBufferStarted,
        OutputBufferStopped as OutputBufferStopped,
        OutputItemAdded as OutputItemAdded,
        OutputItemDone as OutputItemDone,
        Ping as Ping,
        PlaybackStopped as PlaybackStopped,
        RateLimit as RateLimit,
        RateLimits as RateLimits,
        ReasoningDelta as ReasoningDelta,
        Reconnected as Reconnected,
        Reconnecting as Reconnecting,
        ResponseCreated as ResponseCreated,
        ResponseDone as ResponseDone,
        ResumptionUpdate as ResumptionUpdate,
        ServerTool as ServerTool,
        ServiceSilent as ServiceSilent,
        SessionCreated as SessionCreated,
        SessionReady as SessionReady,
        SpeechStarted as SpeechStarted,
        SpeechStopped as SpeechStopped,
        StateChanged as StateChanged,
        TextDelta as TextDelta,
        TextDone as TextDone,
        TokenUsage as TokenUsage,
        TranscriptCorrected as TranscriptCorrected,
        TranscriptDelta as TranscriptDelta,
        TranscriptDone as TranscriptDone,
        TranscriptFailed as TranscriptFailed,
        TranscriptSegment as TranscriptSegment,
        TurnDone as TurnDone,
        Unknown as Unknown,
        Usage as Usage,
        VadScore as VadScore,
        WaitingForInput as WaitingForInput,
    )
    from qai_realtime_sync.rest import RestClient as RestClient
    from qai_realtime_sync.turns import (
        Answer as Answer,
        ToolCall as ToolCall,
        Turn as Turn,
    )

__version__ = "0.1.0"

_ROOMS = {
    "audio": "AudioFormat",
    "client.client": "RealtimeClient",
    "client.lifecycle": "ReconnectPolicy",
    "client.signals": "install_signal_handlers",
    "commands": """
        ApproveMcpCall CancelResponse ClearAudio Command CommitAudio Configure CreateResponse DeleteItem Pong RawEvent RetrieveItem
        Say SendAudio SendContext SendFunctionResult SendImage SendText TruncateItem
    """,
    "config": "RealtimeConfig RealtimeSession Tool Transcription TurnDetection UNSET Voice",
    "conversation.pacing": "PacedSink",
    "conversation.recorder": "Recorder",
    "conversation.metrics": "HandlerTime Metrics TurnMetrics",
    "conversation.record": "Conversation",
    "conversation.telemetry": "Telemetry",
    "errors": """
        ApiError ConfigError ConnectError ConnectionClosedError ForkedClientError NotConnectedError OutboxFullError RealtimeError
        RealtimeTimeoutError UnsupportedCommandError
    """,
    "events": """
        AudioDelta AudioDone Closed ContentPart ContentPartAdded ContentPartDone ContextMutated ConversationCreated DtmfReceived
        ErrorReceived Event FunctionCall FunctionCallCancelled FunctionCallDelta GoingAway HandlerFailed InputCleared InputCommitted
        InputTimeout Interrupted Item ItemAdded ItemDeleted ItemDone ItemRetrieved ItemTruncated McpApprovalRequested McpCall
        McpCallDelta McpListTools McpStatus OutputBufferCleared OutputBufferStarted OutputBufferStopped OutputItemAdded
        OutputItemDone Ping PlaybackStopped RateLimit RateLimits ReasoningDelta Reconnected Reconnecting ResponseCreated
        ResponseDone ResumptionUpdate ServerTool ServiceSilent SessionCreated SessionReady SpeechStarted SpeechStopped StateChanged
        TextDelta TextDone TokenUsage TranscriptCorrected TranscriptDelta TranscriptDone TranscriptFailed TranscriptSegment TurnDone
        Unknown Usage VadScore WaitingForInput
    """,
    "rest": "RestClient",
    "turns": "Answer ToolCall Turn",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = [*sorted(_ROOM_OF)]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    import importlib

    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
