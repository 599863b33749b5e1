"""Synchronous, thread-based realtime voice for Python programs without an event loop.

Names are loaded on first use (PEP 562), so that importing the package costs next to nothing.
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
    )
    from qai_realtime_sync.commands import (
        CancelResponse as CancelResponse,
    )
    from qai_realtime_sync.commands import (
        ClearAudio as ClearAudio,
    )
    from qai_realtime_sync.commands import (
        Command as Command,
    )
    from qai_realtime_sync.commands import (
        CommitAudio as CommitAudio,
    )
    from qai_realtime_sync.commands import (
        Configure as Configure,
    )
    from qai_realtime_sync.commands import (
        CreateResponse as CreateResponse,
    )
    from qai_realtime_sync.commands import (
        DeleteItem as DeleteItem,
    )
    from qai_realtime_sync.commands import (
        Pong as Pong,
    )
    from qai_realtime_sync.commands import (
        RawEvent as RawEvent,
    )
    from qai_realtime_sync.commands import (
        RetrieveItem as RetrieveItem,
    )
    from qai_realtime_sync.commands import (
        Say as Say,
    )
    from qai_realtime_sync.commands import (
        SendAudio as SendAudio,
    )
    from qai_realtime_sync.commands import (
        SendContext as SendContext,
    )
    from qai_realtime_sync.commands import (
        SendFunctionResult as SendFunctionResult,
    )
    from qai_realtime_sync.commands import (
        SendImage as SendImage,
    )
    from qai_realtime_sync.commands import (
        SendText as SendText,
    )
    from qai_realtime_sync.commands import (
        TruncateItem as TruncateItem,
    )
    from qai_realtime_sync.config import (
        UNSET as UNSET,
    )
    from qai_realtime_sync.config import (
        RealtimeConfig as RealtimeConfig,
    )
    from qai_realtime_sync.config import (
        RealtimeSession as RealtimeSession,
    )
    from qai_realtime_sync.config import (
        Tool as Tool,
    )
    from qai_realtime_sync.config import (
        Transcription as Transcription,
    )
    from qai_realtime_sync.config import (
        TurnDetection as TurnDetection,
    )
    from qai_realtime_sync.config import (
        Voice as Voice,
    )
    from qai_realtime_sync.conversation.metrics import HandlerTime as HandlerTime
    from qai_realtime_sync.conversation.metrics import Metrics as Metrics
    from qai_realtime_sync.conversation.metrics import TurnMetrics as TurnMetrics
    from qai_realtime_sync.conversation.pacing import PacedSink as PacedSink
    from qai_realtime_sync.conversation.record import Conversation as Conversation
    from qai_realtime_sync.conversation.recorder import Recorder as Recorder
    from qai_realtime_sync.conversation.telemetry import Telemetry as Telemetry
    from qai_realtime_sync.errors import (
        ApiError as ApiError,
    )
    from qai_realtime_sync.errors import (
        ConfigError as ConfigError,
    )
    from qai_realtime_sync.errors import (
        ConnectError as ConnectError,
    )
    from qai_realtime_sync.errors import (
        ConnectionClosedError as ConnectionClosedError,
    )
    from qai_realtime_sync.errors import (
        ForkedClientError as ForkedClientError,
    )
    from qai_realtime_sync.errors import (
        NotConnectedError as NotConnectedError,
    )
    from qai_realtime_sync.errors import (
        OutboxFullError as OutboxFullError,
    )
    from qai_realtime_sync.errors import (
        RealtimeError as RealtimeError,
    )
    from qai_realtime_sync.errors import (
        RealtimeTimeoutError as RealtimeTimeoutError,
    )
    from qai_realtime_sync.errors import (
        UnsupportedCommandError as UnsupportedCommandError,
    )
    from qai_realtime_sync.events import (
        AudioDelta as AudioDelta,
    )
    from qai_realtime_sync.events import (
        AudioDone as AudioDone,
    )
    from qai_realtime_sync.events import (
        Closed as Closed,
    )
    from qai_realtime_sync.events import (
        ContentPart as ContentPart,
    )
    from qai_realtime_sync.events import (
        ContentPartAdded as ContentPartAdded,
    )
    from qai_realtime_sync.events import (
        ContentPartDone as ContentPartDone,
    )
    from qai_realtime_sync.events import (
        ContextMutated as ContextMutated,
    )
    from qai_realtime_sync.events import (
        ConversationCreated as ConversationCreated,
    )
    from qai_realtime_sync.events import (
        DtmfReceived as DtmfReceived,
    )
    from qai_realtime_sync.events import (
        ErrorReceived as ErrorReceived,
    )
    from qai_realtime_sync.events import (
        Event as Event,
    )
    from qai_realtime_sync.events import (
        FunctionCall as FunctionCall,
    )
    from qai_realtime_sync.events import (
        FunctionCallCancelled as FunctionCallCancelled,
    )
    from qai_realtime_sync.events import (
        FunctionCallDelta as FunctionCallDelta,
    )
    from qai_realtime_sync.events import (
        GoingAway as GoingAway,
    )
    from qai_realtime_sync.events import (
        HandlerFailed as HandlerFailed,
    )
    from qai_realtime_sync.events import (
        InputCleared as InputCleared,
    )
    from qai_realtime_sync.events import (
        InputCommitted as InputCommitted,
    )
    from qai_realtime_sync.events import (
        InputTimeout as InputTimeout,
    )
    from qai_realtime_sync.events import (
        Interrupted as Interrupted,
    )
    from qai_realtime_sync.events import (
        Item as Item,
    )
    from qai_realtime_sync.events import (
        ItemAdded as ItemAdded,
    )
    from qai_realtime_sync.events import (
        ItemDeleted as ItemDeleted,
    )
    from qai_realtime_sync.events import (
        ItemDone as ItemDone,
    )
    from qai_realtime_sync.events import (
        ItemRetrieved as ItemRetrieved,
    )
    from qai_realtime_sync.events import (
        ItemTruncated as ItemTruncated,
    )
    from qai_realtime_sync.events import (
        McpApprovalRequested as McpApprovalRequested,
    )
    from qai_realtime_sync.events import (
        McpCall as McpCall,
    )
    from qai_realtime_sync.events import (
        McpCallDelta as McpCallDelta,
    )
    from qai_realtime_sync.events import (
        McpListTools as McpListTools,
    )
    from qai_realtime_sync.events import (
        McpStatus as McpStatus,
    )
    from qai_realtime_sync.events import (
        OutputBufferCleared as OutputBufferCleared,
    )
    from qai_realtime_sync.events import (
        OutputBufferStarted as OutputBufferStarted,
    )
    from qai_realtime_sync.events import (
        OutputBufferStopped as OutputBufferStopped,
    )
    from qai_realtime_sync.events import (
        OutputItemAdded as OutputItemAdded,
    )
    from qai_realtime_sync.events import (
        OutputItemDone as OutputItemDone,
    )
    from qai_realtime_sync.events import (
        Ping as Ping,
    )
    from qai_realtime_sync.events import (
        PlaybackStopped as PlaybackStopped,
    )
    from qai_realtime_sync.events import (
        RateLimit as RateLimit,
    )
    from qai_realtime_sync.events import (
        RateLimits as RateLimits,
    )
    from qai_realtime_sync.events import (
        ReasoningDelta as ReasoningDelta,
    )
    from qai_realtime_sync.events import (
        Reconnected as Reconnected,
    )
    from qai_realtime_sync.events import (
        Reconnecting as Reconnecting,
    )
    from qai_realtime_sync.events import (
        ResponseCreated as ResponseCreated,
    )
    from qai_realtime_sync.events import (
        ResponseDone as ResponseDone,
    )
    from qai_realtime_sync.events import (
        ResumptionUpdate as ResumptionUpdate,
    )
    from qai_realtime_sync.events import (
        ServerTool as ServerTool,
    )
    from qai_realtime_sync.events import (
        ServiceSilent as ServiceSilent,
    )
    from qai_realtime_sync.events import (
        SessionCreated as SessionCreated,
    )
    from qai_realtime_sync.events import (
        SessionReady as SessionReady,
    )
    from qai_realtime_sync.events import (
        SpeechStarted as SpeechStarted,
    )
    from qai_realtime_sync.events import (
        SpeechStopped as SpeechStopped,
    )
    from qai_realtime_sync.events import (
        StateChanged as StateChanged,
    )
    from qai_realtime_sync.events import (
        TextDelta as TextDelta,
    )
    from qai_realtime_sync.events import (
        TextDone as TextDone,
    )
    from qai_realtime_sync.events import (
        TokenUsage as TokenUsage,
    )
    from qai_realtime_sync.events import (
        TranscriptCorrected as TranscriptCorrected,
    )
    from qai_realtime_sync.events import (
        TranscriptDelta as TranscriptDelta,
    )
    from qai_realtime_sync.events import (
        TranscriptDone as TranscriptDone,
    )
    from qai_realtime_sync.events import (
        TranscriptFailed as TranscriptFailed,
    )
    from qai_realtime_sync.events import (
        TranscriptSegment as TranscriptSegment,
    )
    from qai_realtime_sync.events import (
        TurnDone as TurnDone,
    )
    from qai_realtime_sync.events import (
        Unknown as Unknown,
    )
    from qai_realtime_sync.events import (
        Usage as Usage,
    )
    from qai_realtime_sync.events import (
        VadScore as VadScore,
    )
    from qai_realtime_sync.events import (
        WaitingForInput as WaitingForInput,
    )
    from qai_realtime_sync.rest import RestClient as RestClient
    from qai_realtime_sync.turns import Answer as Answer
    from qai_realtime_sync.turns import ToolCall as ToolCall
    from qai_realtime_sync.turns import Turn as Turn

__version__ = "0.1.0"

_ROOMS = {
    "audio": (
        "AudioFormat",
    ),
    "client.client": (
        "RealtimeClient",
    ),
    "client.lifecycle": (
        "ReconnectPolicy",
    ),
    "client.signals": (
        "install_signal_handlers",
    ),
    "commands": (
        "ApproveMcpCall",
        "CancelResponse",
        "ClearAudio",
        "Command",
        "CommitAudio",
        "Configure",
        "CreateResponse",
        "DeleteItem",
        "Pong",
        "RawEvent",
        "RetrieveItem",
        "Say",
        "SendAudio",
        "SendContext",
        "SendFunctionResult",
        "SendImage",
        "SendText",
        "TruncateItem",
    ),
    "config": (
        "RealtimeConfig",
        "RealtimeSession",
        "Tool",
        "Transcription",
        "TurnDetection",
        "UNSET",
        "Voice",
    ),
    "conversation.pacing": ("PacedSink",),
    "conversation.recorder": ("Recorder",),
    "conversation.metrics": (
        "HandlerTime",
        "Metrics",
        "TurnMetrics",
    ),
    "conversation.record": (
        "Conversation",
    ),
    "conversation.telemetry": (
        "Telemetry",
    ),
    "errors": (
        "ApiError",
        "ConfigError",
        "ConnectError",
        "ConnectionClosedError",
        "ForkedClientError",
        "NotConnectedError",
        "OutboxFullError",
        "RealtimeError",
        "RealtimeTimeoutError",
        "UnsupportedCommandError",
    ),
    "events": (
        "AudioDelta",
        "AudioDone",
        "Closed",
        "ContentPart",
        "ContentPartAdded",
        "ContentPartDone",
        "ContextMutated",
        "ConversationCreated",
        "DtmfReceived",
        "ErrorReceived",
        "Event",
        "FunctionCall",
        "FunctionCallCancelled",
        "FunctionCallDelta",
        "GoingAway",
        "HandlerFailed",
        "InputCleared",
        "InputCommitted",
        "InputTimeout",
        "Interrupted",
        "Item",
        "ItemAdded",
        "ItemDeleted",
        "ItemDone",
        "ItemRetrieved",
        "ItemTruncated",
        "McpApprovalRequested",
        "McpCall",
        "McpCallDelta",
        "McpListTools",
        "McpStatus",
        "OutputBufferCleared",
        "OutputBufferStarted",
        "OutputBufferStopped",
        "OutputItemAdded",
        "OutputItemDone",
        "Ping",
        "PlaybackStopped",
        "RateLimit",
        "RateLimits",
        "ReasoningDelta",
        "Reconnected",
        "Reconnecting",
        "ResponseCreated",
        "ResponseDone",
        "ResumptionUpdate",
        "ServerTool",
        "ServiceSilent",
        "SessionCreated",
        "SessionReady",
        "SpeechStarted",
        "SpeechStopped",
        "StateChanged",
        "TextDelta",
        "TextDone",
        "TokenUsage",
        "TranscriptCorrected",
        "TranscriptDelta",
        "TranscriptDone",
        "TranscriptFailed",
        "TranscriptSegment",
        "TurnDone",
        "Unknown",
        "Usage",
        "VadScore",
        "WaitingForInput",
    ),
    "rest": (
        "RestClient",
    ),
    "turns": (
        "Answer",
        "ToolCall",
        "Turn",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Answer",
    "ApiError",
    "ApproveMcpCall",
    "AudioDelta",
    "AudioDone",
    "AudioFormat",
    "CancelResponse",
    "ClearAudio",
    "Closed",
    "Command",
    "CommitAudio",
    "ConfigError",
    "Configure",
    "ConnectError",
    "ConnectionClosedError",
    "ContentPart",
    "ContentPartAdded",
    "ContentPartDone",
    "ContextMutated",
    "Conversation",
    "ConversationCreated",
    "CreateResponse",
    "DeleteItem",
    "DtmfReceived",
    "ErrorReceived",
    "Event",
    "ForkedClientError",
    "FunctionCall",
    "FunctionCallCancelled",
    "FunctionCallDelta",
    "GoingAway",
    "HandlerFailed",
    "HandlerTime",
    "InputCleared",
    "InputCommitted",
    "InputTimeout",
    "Interrupted",
    "Item",
    "ItemAdded",
    "ItemDeleted",
    "ItemDone",
    "ItemRetrieved",
    "ItemTruncated",
    "McpApprovalRequested",
    "McpCall",
    "McpCallDelta",
    "McpListTools",
    "McpStatus",
    "Metrics",
    "NotConnectedError",
    "OutboxFullError",
    "OutputBufferCleared",
    "OutputBufferStarted",
    "OutputBufferStopped",
    "OutputItemAdded",
    "OutputItemDone",
    "PacedSink",
    "Ping",
    "PlaybackStopped",
    "Pong",
    "RateLimit",
    "RateLimits",
    "RawEvent",
    "RealtimeClient",
    "RealtimeConfig",
    "RealtimeError",
    "RealtimeSession",
    "RealtimeTimeoutError",
    "ReasoningDelta",
    "ReconnectPolicy",
    "Reconnected",
    "Reconnecting",
    "Recorder",
    "ResponseCreated",
    "ResponseDone",
    "RestClient",
    "ResumptionUpdate",
    "RetrieveItem",
    "Say",
    "SendAudio",
    "SendContext",
    "SendFunctionResult",
    "SendImage",
    "SendText",
    "ServerTool",
    "ServiceSilent",
    "SessionCreated",
    "SessionReady",
    "SpeechStarted",
    "SpeechStopped",
    "StateChanged",
    "Telemetry",
    "TextDelta",
    "TextDone",
    "TokenUsage",
    "Tool",
    "ToolCall",
    "TranscriptCorrected",
    "TranscriptDelta",
    "TranscriptDone",
    "TranscriptFailed",
    "TranscriptSegment",
    "Transcription",
    "TruncateItem",
    "Turn",
    "TurnDetection",
    "TurnDone",
    "TurnMetrics",
    "UNSET",
    "Unknown",
    "UnsupportedCommandError",
    "Usage",
    "VadScore",
    "Voice",
    "WaitingForInput",
    "install_signal_handlers",
]


def __getattr__(name: str) -> object:
    import importlib

    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
