"""ElevenLabs Agents: one conversation with an agent that is configured on the service (source: the vendor's message schema).

The wire's ``event_id`` counts utterances of the agent; it groups what belongs together and is our response id unless the wire
gives one. The service rarely says where a response ends: without such a word it ends where the next one begins, or where the user
cuts it off. A text that comes without a number begins a response that waits for its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from qai_realtime_sync.commands import Configure
from qai_realtime_sync.config import DEFAULT_VOICE, UNSET, RealtimeConfig, RealtimeSession, Tool
from qai_realtime_sync.dialects import address
from qai_realtime_sync.dialects.base import Dialect, remember, unsupported_commands
from qai_realtime_sync.dialects.elevenlabs_commands import ANSWERED, ENCODERS
from qai_realtime_sync.dialects.elevenlabs_events import DECODERS, number_of, utterance
from qai_realtime_sync.dialects.endings import BAD_REQUEST, LOST, NORMAL, POLICY, by_words, meaning_of
from qai_realtime_sync.dialects.merge import merged
from qai_realtime_sync.dialects.rows import Value, at, read_text
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import (
    AudioDone,
    ErrorReceived,
    Event,
    ResponseCreated,
    ResponseDone,
)
from qai_realtime_sync.seam import Ending, Handshake, Resume, Traits

__all__ = ["ElevenLabs"]

URL: Final = "wss://api.elevenlabs.io/v1/convai/conversation"

# Errors that the service reports before it closes (source: the vendor's SDK types), by what the program should make of them.
_OUR_FAULT: Final = frozenset(
    {
        "invalid_message",
        "value_error",
        "missing_fields",
        "override_error",
        "missing_dynamic_variable",
        "missing_dynamic_variable_transfer",
    }
)
_OVER: Final = frozenset({"max_duration_exceeded", "websocket_disconnect"})


class ElevenLabs(Dialect):
    """ElevenLabs Agents, straight or through the gateway."""

    name = "elevenlabs"
    traits = Traits(
        answers_by_itself=ANSWERED,
        unsupported=unsupported_commands(ENCODERS),
        two_connections=False,
        configures_once=True,
        speech_events=False,
        items=False,
        announces_ends=False,
    )
    decoders = DECODERS
    encoders = ENCODERS
    sound_key = b'"audio_base_64"'

    def __init__(self, gateway: bool = False) -> None:
        super().__init__(gateway)
        self.configured = False
        self.asked_for_events = False  # the first message named events that the program had not named
        self.ids: dict[str, str] = {}  # the wire's event id -> our response id
        self.ended: dict[str, None] = {}  # responses that are over
        self.response_id = ""  # the response that is running
        self.worded = False  # its text was told
        self.unnumbered = ""  # the same response, if no number of an utterance is known for it yet
        self.made_up = 0  # ids of ours
        self.sounding = ""  # the response whose sound has no end yet
        self.newest = -1  # the highest event id that began a response
        self.interrupted = -1  # sound up to this event id is void
        self.texts: dict[str, str] = {}  # response id -> what was written so far
        self.told_calls: dict[str, None] = {}
        self.told_tools: dict[str, bool] = {}  # calls of server tools whose end was told -> with its result

    # -- opening ---------------------------------------------------------------------------------------------------------

    def handshake(
        self, config: RealtimeConfig, session: RealtimeSession, api_key: str = "", resume: Resume | None = None
    ) -> Handshake:
        """Return address, headers and first message; a signed address stays as it is, without headers. Raises: `ConfigError`."""
        agent_id = config.session.get("agent_id")
        agent = {"agent_id": agent_id if isinstance(agent_id, str) else ""}
        if self.gateway:
            voice = "" if config.voice in (UNSET, DEFAULT_VOICE) else str(config.voice)
            query = {"voice_id": voice, "model": config.model, **agent}
            return address.gateway(session.url, "/qai/v1/realtime/elevenlabs", query, api_key, config)
        url = address.ws_address(session.ws_url or URL)
        commands = (Configure(config=config),)
        if session.signed_url or "conversation_signature=" in url or "token=" in urlsplit(url).query:
            return Handshake(url=session.ws_url, commands=commands, timeout=address.DIRECT_TIMEOUT)
        url = address.with_query(url, agent)
        if "agent_id=" not in urlsplit(url).query:
            raise ConfigError(
                "ElevenLabs needs the id of an agent: give an address with ?agent_id=…, a signed address, "
                'or RealtimeConfig(session={"agent_id": "…"})',
                code="missing_agent_id",
            )
        key = address.checked_key(session.ephemeral_token or api_key)
        headers = {"xi-api-key": key} if key else {}
        return Handshake(url=url, headers=headers, commands=commands, timeout=address.DIRECT_TIMEOUT)

    def session_body(self, config: RealtimeConfig) -> dict[str, Any]:
        """Return what the gateway mints an agent's session with (source: gateway REST: voice, prompt, tools)."""
        body: dict[str, Any] = {}
        if config.voice not in (UNSET, DEFAULT_VOICE):
            body["voice"] = config.voice
        if config.instructions:
            body["prompt"] = config.instructions
        if config.model:
            body["model"] = config.model
        if config.tools:
            body["tools"] = [tool.to_dict() if isinstance(tool, Tool) else tool for tool in config.tools]
        return body | dict(config.session)

    def relaxed(self, config: RealtimeConfig, error: ErrorReceived | None) -> RealtimeConfig | None:
        """An agent that allows no override of its events is spoken to without: its answers then end with the next one."""
        if not self.asked_for_events or error is None or error.code != "override_error":
            return None
        without = {"conversation_config_override": {"conversation": {"client_events": None}}}
        return attrs.evolve(config, session=merged(config.session, without))

    # -- what arrives ----------------------------------------------------------------------------------------------------

    def place(self, value: Any, sound: bytes) -> bool:
        """Sound stands in the audio event."""
        given = at(value, "audio_event")
        if at(value, "type") != "audio" or at(given, "audio_base_64") != "":
            return False
        given["audio_base_64"] = sound
        return True

    # -- responses, which the wire only hints at -------------------------------------------------------------------------

    def known_id(self, given: Mapping[str, Any]) -> str:
        """Return our response id of a message: by its utterance if that is known, else as the wire says it."""
        event_id = utterance(given)
        return self.ids.get(event_id) or read_text(given.get("response_id")) or event_id

    def named(self, given: Mapping[str, Any]) -> str:
        """Return the response that a message names by the service's own id, ``""`` if none was told that has it."""
        response_id = read_text(given.get("response_id"))
        return response_id if response_id and (response_id == self.response_id or response_id in self.ended) else ""

    def is_interrupted(self, given: Mapping[str, Any]) -> bool:
        """The message belongs to an utterance that the user cut off."""
        number = number_of(given)
        return number is not None and number <= self.interrupted

    def begin(self, given: Mapping[str, Any], raw: Value, *, whole: bool = False) -> tuple[str, list[Event]]:
        """Return whose response a message is; the first one of a new utterance ends the old response and begins one.

        ``whole``: the message is a response's whole text, of which each has one.
        """
        event_id, named = utterance(given), read_text(given.get("response_id"))
        if not event_id:
            return self._begin_unnumbered(named, raw) if whole else (named or self.response_id, [])
        # A second whole text is not of the response that waits for its number, unless it says so.
        response_id = self.ids.get(event_id) or ("" if whole and not named else self.bind(given))
        if response_id:
            return response_id, []
        response_id = named or event_id
        remember(self.ids, event_id, response_id)
        number = number_of(given, self.newest + 1)
        if number <= self.newest or number <= self.interrupted or response_id in self.ended or response_id == self.response_id:
            return response_id, []  # late, of an utterance that is over, or a part of the one that runs
        told = self._open(response_id, raw)
        self.newest = max(self.newest, number_of(given, self.newest))
        return response_id, told

    def _begin_unnumbered(self, named: str, raw: Value) -> tuple[str, list[Event]]:
        """The same for a whole text without a number: it belongs to the response that runs if that has none yet."""
        if named and (named in self.ended or named == self.response_id):
            return named, []
        if self.response_id and not self.worded:
            return self.response_id, []
        if not named:
            self.made_up += 1
            named = f"answer_{self.made_up}"
        told = self._open(named, raw)
        self.unnumbered = named
        return named, told

    def _open(self, response_id: str, raw: Value) -> list[Event]:
        told = self.end(self.response_id, raw)
        self.response_id, self.worded, self.unnumbered = response_id, False, ""
        return [*told, ResponseCreated(raw=raw, response_id=response_id)]

    def bind(self, given: Mapping[str, Any]) -> str:
        """Return the response that waits for its number, which a message with a new one gives it; ``""`` if none does."""
        response_id, number = self.unnumbered, number_of(given, self.newest + 1)
        if not response_id or not utterance(given) or number <= max(self.newest, self.interrupted):
            return ""
        if read_text(given.get("response_id")) not in ("", response_id):
            return ""
        self.unnumbered, self.newest = "", number
        remember(self.ids, utterance(given), response_id)
        return response_id

    def up_to(self, given: Mapping[str, Any]) -> str:
        """Return the newest response up to a number: that of an interruption is a bound, which no utterance need have."""
        limit = number_of(given)
        if limit is None:
            return self.response_id
        numbers = ((number_of({"event_id": event_id}), response_id) for event_id, response_id in self.ids.items())
        return max(((number, found) for number, found in numbers if number is not None and number <= limit), default=(0, ""))[1]

    def end(self, response_id: str, raw: Value, *, status: str = "completed", reason: str = "") -> list[Event]:
        """Return the end of a response, once."""
        if not response_id or response_id in self.ended:
            return []
        remember(self.ended, response_id, None)
        self.texts.pop(response_id, None)
        if response_id == self.response_id:
            self.response_id = self.unnumbered = ""
        told: list[Event] = []
        if response_id == self.sounding:  # few agents mark their last piece of sound
            self.sounding = ""
            if status == "completed":
                told.append(AudioDone(raw=raw, response_id=response_id))
        return [*told, ResponseDone(raw=raw, response_id=response_id, status=status, reason=reason)]

    # -- the end ---------------------------------------------------------------------------------------------------------

    def ending(self, code: int | None, reason: str) -> Ending:
        """Read the close; 1002 is a failure of the service, 4300 a queue that took too long (source: the vendor's SDK)."""
        words = by_words(reason)
        if words is None and code == 1002:
            return attrs.evolve(LOST, retry=False)  # the error before it says if a new conversation is worth trying
        return words or (LOST if code == 4300 else meaning_of(code, reason))

    def error_ending(self, event: ErrorReceived) -> Ending | None:
        """Read the error that comes just before a close: by its word, then by its number."""
        if not event.fatal:
            return None
        if event.code in _OVER:
            return NORMAL
        if event.code in _OUR_FAULT:
            return BAD_REQUEST
        if event.code == "safety_violation":
            return POLICY
        if event.code == "transport_receive_timeout":  # the user said nothing for a minute; a new conversation would end so too
            return Ending(meaning="going_away", retry=False)
        words = by_words(f"{event.code} {event.message}")
        if words is not None:
            return words
        return {"1000": NORMAL, "1008": POLICY}.get(event.type, LOST)
