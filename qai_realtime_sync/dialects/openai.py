"""OpenAI Realtime, GA; also Azure OpenAI, and Azure Voice Live by its beta names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import attrs

from qai_realtime_sync.commands import CreateResponse
from qai_realtime_sync.config import AudioFormat, RealtimeConfig, RealtimeSession
from qai_realtime_sync.dialects import address
from qai_realtime_sync.dialects.base import Dialect, remember, unsupported_commands
from qai_realtime_sync.dialects.endings import AUTH, BAD_REQUEST, by_words
from qai_realtime_sync.dialects.openai_commands import ENCODERS, beta_response, ga_response
from qai_realtime_sync.dialects.openai_events import DECODERS, Call, with_underscores
from qai_realtime_sync.dialects.openai_session import beta_session, ga_session, gateway_session, is_gpt
from qai_realtime_sync.dialects.rows import at, read_text
from qai_realtime_sync.events import ErrorReceived
from qai_realtime_sync.seam import Ending, Handshake, Resume, Traits

__all__ = ["OpenAI"]

PCM_24K: Final = AudioFormat("pcm16", 24000)
_AUDIO_DELTAS: Final = frozenset({"response.output_audio.delta", "response.audio.delta"})
_NO_PART: Final = ("", "", 0, "")
_CALLS: Final = frozenset({"function_call", "mcp_call"})


class OpenAI(Dialect):
    """OpenAI Realtime, GA; also Azure OpenAI, and Azure Voice Live by its beta names."""

    name = "openai"
    url: ClassVar[str] = "wss://api.openai.com/v1/realtime"
    traits = Traits(
        unsupported=unsupported_commands(ENCODERS),
        fixed_input=PCM_24K,
        fixed_output=PCM_24K,
        voice_fixed_by_audio=True,
        session_cap=3600.0,
    )
    decoders = with_underscores(DECODERS)
    encoders = ENCODERS
    sound_key = b'"delta"'

    def __init__(self, gateway: bool = False) -> None:
        super().__init__(gateway)
        self.session_id = ""
        self.resumption = False  # our configuration asks the service to keep the conversation
        self.replaying = False  # a resumed connection, before our configuration is in force
        self.beta = False  # the service wants the beta's session object
        self.binary_input = False
        self.after_text = ["text", "audio"] if gateway else None  # the modalities that are named when a text is to be answered
        self.calls: dict[str, Call] = {}  # by item id, until their response is done
        self.told_calls: dict[str, None] = {}  # call ids, in order
        self.running: dict[str, bool] = {}  # response id -> the user spoke during it
        self.spellings: dict[tuple[str, str, int], str] = {}  # item, response and index of a text part -> the name it came under first
        self.latest_part = _NO_PART  # the same of the text that came last, and its name; ids that are missing are not kept

    # -- opening ---------------------------------------------------------------------------------------------------------

    def handshake(
        self, config: RealtimeConfig, session: RealtimeSession, api_key: str = "", resume: Resume | None = None
    ) -> Handshake:
        """Return address, headers and the update that configures the session. Raises: `ConfigError`."""
        self.beta = address.is_voice_live(session.ws_url) or session.provider.lower() == "azure_voice_live"
        self.traits = self._traits(config)
        query = {"model": config.model, "conversation_id": resume.handle if resume and self.traits.resumable else ""}
        self.replaying = bool(query["conversation_id"])
        opening = self.session_update(config)
        self.heard(opening)
        if opening.get("type") == "transcription" and not self.gateway:
            query = {"intent": "transcription"}  # instead of the model (source: OpenAI schema)
        if self.gateway:
            return address.gateway(session.url, "/qai/v1/realtime", query, api_key, config)
        return address.direct(session, self.url, query, api_key, config)

    def session_body(self, config: RealtimeConfig) -> dict[str, Any]:
        """Return the session a short-lived secret is minted for (source: OpenAI ``client_secrets``); the gateway wants less."""
        if self.gateway:
            return {"model": config.model} if config.model else {}
        session = self.session_update(config)
        body = {"model": config.model} if config.model and session.get("type") != "transcription" else {}
        return {"session": {**session, **body}}

    def session_update(self, config: RealtimeConfig, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the session object of an update, and take note of what it asks for; what may be refused holds once it is echoed."""
        if self.gateway:
            session = gateway_session(config, changes)
            self.after_text = session.get("modalities") or ["text", "audio"]
        else:
            session = self.direct_session(config, changes)
        self.resumption = at(session, "resumption", "enabled") is True
        return session

    def direct_session(self, config: RealtimeConfig, changes: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the session object as the service itself wants it."""
        return beta_session(config, changes) if self.beta else ga_session(config, changes)

    def _traits(self, config: RealtimeConfig) -> Traits:
        """The fixed formats are those of pcm16: with G.711 the configuration decides."""
        usual, fixed = type(self).traits, self.fixed_format(config)
        return attrs.evolve(
            usual,
            fixed_input=fixed if config.input_format == "pcm16" else None,
            fixed_output=fixed if config.output_format == "pcm16" else None,
            session_cap=None if self.gateway else usual.session_cap,
        )

    def fixed_format(self, config: RealtimeConfig) -> AudioFormat | None:
        """Return the one pcm16 format that the service takes and gives, ``None`` if the configuration decides."""
        if self.gateway:
            return PCM_24K if is_gpt(config.model) else None
        return type(self).traits.fixed_input

    # -- what arrives ----------------------------------------------------------------------------------------------------

    def place(self, value: Any, sound: bytes) -> bool:
        """Sound stands at the top of an audio delta; a long text may look like base64 too."""
        if type(value) is not dict or value.get("delta") != "":
            return False
        tag = value.get("type")
        if type(tag) is not str or tag not in _AUDIO_DELTAS:
            return False
        value["delta"] = sound
        return True

    # -- what frames leave behind ----------------------------------------------------------------------------------------

    def heard(self, session: Mapping[str, Any]) -> None:
        """Take note of a session object: the one that opens the connection, or the service's echo of it."""

    def keep_call(self, item: Any) -> None:
        """Keep name and call id of a call's item."""
        if read_text(at(item, "type")) in _CALLS and type(item_id := item.get("id")) is str:
            call = Call(read_text(item.get("name")), read_text(item.get("call_id")), read_text(item.get("server_label")))
            remember(self.calls, item_id, call)

    def only_running(self) -> str:
        """Return the id of the answer that runs, if it is the only one: an end without an id is its end."""
        return next(iter(self.running)) if len(self.running) == 1 else ""

    def forget(self, response_id: str) -> None:
        """Drop what was kept for a response that is done."""
        self.latest_part = _NO_PART
        for part in [part for part in self.spellings if part[1] == response_id]:
            del self.spellings[part]

    # -- what goes out ---------------------------------------------------------------------------------------------------

    def response_body(self, command: CreateResponse) -> dict[str, Any]:
        """Return the body of a ``response.create``, empty if nothing is set."""
        return beta_response(command, self.after_text) if self.gateway or self.beta else ga_response(command)

    # -- the end ---------------------------------------------------------------------------------------------------------

    def ending(self, code: int | None, reason: str) -> Ending:
        """Read the close; straight to a service, a session that became too old may begin anew (source: openai/openai-python)."""
        return self._anew(super().ending(code, reason))

    def error_ending(self, event: ErrorReceived) -> Ending | None:
        """Read a fatal error: ``session_expired`` and ``max_duration``, a bad key, or the refused beta."""
        if not event.fatal:
            return None
        last = event.code.rpartition(".")[2]
        known = {"beta_api_shape_disabled": BAD_REQUEST, "invalid_api_key": AUTH}
        return self._anew(known.get(last) or by_words(f"{event.code} {event.type}") or BAD_REQUEST)

    def _anew(self, ending: Ending) -> Ending:
        return ending if self.gateway or ending.meaning != "session_cap" else attrs.evolve(ending, retry=True)
