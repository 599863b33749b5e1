"""Gemini Live: one member per message, no ids, no items (source: the vendor's SDK types, recorded sessions).

The wire has no response ids, so turns are counted (``turn_1`` …); transcripts come in pieces and are joined here. The members of
one message are read in a fixed order, so that what belongs to a turn is told before its end.
"""

from __future__ import annotations

import os
from operator import itemgetter
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from qai_realtime_sync.commands import Command, Configure
from qai_realtime_sync.config import AudioFormat, RealtimeConfig, RealtimeSession
from qai_realtime_sync.dialects import address
from qai_realtime_sync.dialects.base import Dialect, json_frame, remember, unsupported_commands
from qai_realtime_sync.dialects.endings import BAD_REQUEST, by_words, meaning_of
from qai_realtime_sync.dialects.gemini_commands import ANSWERED, ENCODERS
from qai_realtime_sync.dialects.gemini_events import DECODERS, OUTPUT, usage
from qai_realtime_sync.dialects.gemini_setup import setup
from qai_realtime_sync.dialects.rows import (
    UnreadableError,
    Value,
    at,
    read_mapping,
    read_sound,
    read_text,
)
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import (
    AudioDelta,
    AudioDone,
    Event,
    Interrupted,
    ReasoningDelta,
    ResponseCreated,
    ResponseDone,
    TextDelta,
    TextDone,
    TranscriptDelta,
    TranscriptDone,
    Unknown,
)
from qai_realtime_sync.seam import Ending, Frame, Handshake, Resume, Traits

__all__ = ["Gemini"]

_HOST: Final = "wss://generativelanguage.googleapis.com/ws/google.ai.generativelanguage"
URL: Final = f"{_HOST}.v1beta.GenerativeService.BidiGenerateContent"
TOKEN_URL: Final = f"{_HOST}.v1alpha.GenerativeService.BidiGenerateContentConstrained"
_INPUT: Final = AudioFormat("pcm16", 16000)


class Gemini(Dialect):
    """Gemini Live, straight to the developer API or to Vertex."""

    name = "gemini"
    traits = Traits(
        answers_by_itself=ANSWERED,
        unsupported=unsupported_commands(ENCODERS),
        resumable=True,
        configures_once=True,
        fixed_output=OUTPUT,
        speech_events=False,
        items=False,
        session_cap=600.0,
    )
    decoders = DECODERS
    encoders = ENCODERS
    sound_key = b'"data"'

    def __init__(self, gateway: bool = False) -> None:
        super().__init__(gateway)
        # what was sent
        self.config: RealtimeConfig | None = None
        self.handle = ""  # what the setup asks to resume
        self.vertex = False
        self.input_format = _INPUT
        self.manual = False  # we say where the user's activity begins and ends
        self.active = False  # manual: it has begun
        self.free_tools: frozenset[str] = frozenset()  # names of tools the model does not wait for
        # what arrived
        self.number = 1  # of the turn
        self.created = self.sounded = self.was_interrupted = False  # of this turn
        self.text = self.model_text = self.user_text = ""  # written answer, transcript of the answer, of the user, so far
        self.input_turn = ""  # the turn that the user's transcript belongs to, "" while there is none
        self.user_before = 0  # characters of it that came before the answer began
        self.guessed = False  # words were told that are not settled: the settled ones take their place
        # calls
        self.made_up = self.kept = 0  # ids, calls
        self.tag = ""  # part of them: another connection of the conversation must not make up the same ones
        self.partial: dict[str, Any] = {}  # call id -> arguments so far
        self.told_calls: dict[str, None] = {}
        self.calls: dict[str, tuple[str, str, int]] = {}  # call id -> (the wire's id, name, the how-manieth call it is)
        self.unnamed: dict[str, str] = {}  # name -> our id of a call without one, while its arguments arrive
        self.waiting: dict[str, None] = {}  # calls that the model waits for
        self.results: dict[str, tuple[int, Value]] = {}  # what it will be answered, once all are there, and of the how-manieth call

    # -- opening ---------------------------------------------------------------------------------------------------------

    def handshake(
        self, config: RealtimeConfig, session: RealtimeSession, api_key: str = "", resume: Resume | None = None
    ) -> Handshake:
        """Return address, headers and the setup. A key goes into a header, never into the address. Raises: `ConfigError`."""
        if self.gateway:
            raise ConfigError("the gateway does not speak Gemini; connect straight, with RealtimeClient.direct()")
        self.handle = resume.handle if resume else ""
        key = address.checked_key(session.ephemeral_token or api_key)
        token = key.startswith("auth_tokens/")
        given = session.ws_url or (TOKEN_URL if token else URL)
        url = address.ws_address(given)
        self.vertex = (urlsplit(url).hostname or "").endswith("aiplatform.googleapis.com")
        self.note(config)
        commands = (Configure(config=config),)
        query = {pair.partition("=")[0] for pair in urlsplit(url).query.split("&")}
        headers: dict[str, str] = {}
        if session.signed_url:
            url = session.signed_url
        elif key and not query & {"key", "access_token"}:
            if token:
                headers = {"Authorization": f"Token {key}"}
            else:
                headers = {"Authorization": f"Bearer {key}"} if self.vertex else {"x-goog-api-key": key}
        return Handshake(url=url, headers=headers, commands=commands, timeout=address.DIRECT_TIMEOUT)

    def session_body(self, config: RealtimeConfig) -> dict[str, Any]:
        """Return the setup that a short-lived token is bound to."""
        return {"bidiGenerateContentSetup": setup(config, None, vertex=self.vertex, handle="")}

    def note(self, config: RealtimeConfig) -> None:
        """Take note of what the configuration says about sound: pcm16 at any rate goes in, G.711 must be converted."""
        pcm = config.input_format == "pcm16"
        self.input_format = config.input_audio if pcm else _INPUT
        self.manual = config.turn_detection is None
        self.traits = attrs.evolve(type(self).traits, fixed_input=None if pcm else _INPUT)

    # -- what arrives ----------------------------------------------------------------------------------------------------

    def place(self, value: Any, sound: bytes) -> bool:
        """Sound stands in one part of the model's turn."""
        parts = at(value, "serverContent", "modelTurn", "parts")
        for part in parts if type(parts) is list else ():
            data = at(part, "inlineData")
            if at(data, "data") == "" and read_text(at(data, "mimeType")).startswith("audio/"):
                data["data"] = sound
                return True
        return False

    def understand(self, value: Value) -> list[Event]:
        """Return the events of all members, in the order of the table."""
        told: list[Event] = []
        members = value if len(value) == 1 else [tag for tag in self.decoders if tag in value]
        known = False
        for tag in members:
            decoder = self.decoders.get(tag)
            if decoder is None or type(value[tag]) is not dict:
                continue
            known = True
            try:
                told += decoder(self, value)
            except UnreadableError as error:
                told.append(Unknown(type=tag, problem=str(error), raw=value))
        if known:
            return told
        tag = next(iter(value), "")
        problem = f"{tag} is not an object" if tag in self.decoders else None
        return [Unknown(type=tag, problem=problem, raw=value)]

    @property
    def turn(self) -> str:
        """The id of this turn."""
        return f"turn_{self.number}"

    @property
    def is_cut_off(self) -> bool:
        """The answer of this turn was interrupted: what still comes of it is void."""
        return self.was_interrupted and self.created

    def begin(self, raw: Value) -> list[Event]:
        """Return `ResponseCreated` with the first content of a turn; an interruption before it was about nothing of this answer."""
        if self.created:
            return []
        self.created, self.was_interrupted = True, False
        self.user_before = len(self.user_text)
        return [ResponseCreated(raw=raw, response_id=self.turn)]

    def guess_user(self, given: Any, raw: Value) -> list[Event]:
        """What the user may be saying, behind what is settled (source: public clients of the service); a fuller guess replaces it."""
        guess = read_text(at(given, "text"))
        if not guess:
            return []
        self.guessed = True
        text = self.user_text + guess
        return [TranscriptDelta(raw=raw, text=text, snapshot=True, source="input", response_id=self.input_turn or self.turn)]

    def heard_user(self, given: Any, raw: Value) -> list[Event]:
        """A piece of what the user says."""
        told: list[Event] = []
        piece = read_text(at(given, "text"))
        if piece:
            self.input_turn = self.input_turn or self.turn
            self.user_text += piece
            pieces = {"text": self.user_text, "snapshot": True} if self.guessed else {"delta": piece}
            self.guessed = False
            told.append(TranscriptDelta(raw=raw, source="input", response_id=self.input_turn, **pieces))
        return told + self.user_done(raw) if at(given, "finished") is True else told

    def user_done(self, raw: Value) -> list[Event]:
        """What the user said, whole, if it was anything."""
        transcript, turn = self.user_text.strip(), self.input_turn
        self.user_text = self.input_turn = ""
        self.user_before, self.guessed = 0, False
        return [TranscriptDone(raw=raw, transcript=transcript, source="input", response_id=turn)] if transcript else []

    def heard_model(self, given: Any, raw: Value) -> list[Event]:
        """A piece of what the model says; what comes after an interruption was never heard."""
        if self.is_cut_off:
            return []
        told: list[Event] = []
        piece = read_text(at(given, "text"))
        if piece:
            told = self.begin(raw)
            self.model_text += piece
            told.append(TranscriptDelta(raw=raw, delta=piece, source="output", response_id=self.turn))
        return told + self.model_done(raw) if at(given, "finished") is True else told

    def model_done(self, raw: Value) -> list[Event]:
        """What the model said, whole, if it was anything."""
        transcript, self.model_text = self.model_text.strip(), ""
        return [TranscriptDone(raw=raw, transcript=transcript, response_id=self.turn)] if transcript else []

    def said(self, part: Any, raw: Value) -> list[Event]:
        """One part of a model's turn: a thought, text or sound; code and its results have no event, nor has what an interruption voids."""
        if self.is_cut_off:
            return []
        if type(written := at(part, "text")) is str and written:
            told = self.begin(raw)
            if at(part, "thought") is True:
                return [*told, ReasoningDelta(raw=raw, delta=written, response_id=self.turn)]
            self.text += written
            return [*told, TextDelta(raw=raw, delta=written, response_id=self.turn)]
        data = read_mapping(at(part, "inlineData"))
        if not read_text(data.get("mimeType")).startswith("audio/"):
            return []
        try:
            sound = read_sound(data.pop("data", None), "inlineData.data")
        except UnreadableError as error:
            return [Unknown(type="serverContent", problem=str(error), raw=raw)]
        self.sounded = True
        return [*self.begin(raw), AudioDelta(raw=raw, audio=sound, response_id=self.turn)]

    def cut_off(self, raw: Value) -> list[Event]:
        """The user interrupted: what is queued for the speaker is void, and the transcript ends here."""
        self.was_interrupted, self.sounded = True, False
        response_id = self.turn if self.created else ""  # an answer that has not begun may still come
        return [*self.model_done(raw), Interrupted(raw=raw, response_id=response_id, reason="interrupted")]

    def turn_over(self, content: Value, raw: Value) -> list[Event]:
        """The end of a turn; if it was interrupted, what the user said since the answer began belongs to the next one, and goes on.

        A turn without any content is an answer too, an empty one: who waits for it would wait for ever.
        """
        told: list[Event] = []
        if self.sounded:
            told.append(AudioDone(raw=raw, response_id=self.turn))
        if self.text:
            told.append(TextDone(raw=raw, text=self.text, response_id=self.turn))
        told += self.model_done(raw)
        next_words = self.user_text[self.user_before :] if self.was_interrupted else ""
        self.user_text = kept = self.user_text.removesuffix(next_words)
        if next_words and kept:  # the pieces that were told are more than this sentence
            told.append(TranscriptDelta(raw=raw, text=kept, snapshot=True, source="input", response_id=self.input_turn))
        told += self.user_done(raw)
        if not self.was_interrupted:
            told += self.begin(raw)
        reason = read_text(content.get("turnCompleteReason"))
        given = raw.get("usageMetadata")
        told.append(
            ResponseDone(
                raw=raw,
                response_id=self.turn,
                status="cancelled" if self.was_interrupted else "completed",
                reason=reason or ("interrupted" if self.was_interrupted else ""),
                usage=usage(given) if type(given) is dict and given else None,
            )
        )
        self.number += 1
        self.created = self.sounded = self.was_interrupted = False
        self.text = ""
        if next_words:
            self.user_text, self.input_turn = next_words, self.turn
            told.append(TranscriptDelta(raw=raw, text=next_words, snapshot=True, source="input", response_id=self.turn))
        return told

    # -- calls -----------------------------------------------------------------------------------------------------------

    def unnamed_call(self, name: str) -> str:
        """Return an id for a call that the wire gave none; the pieces of one call share it."""
        call_id = self.unnamed.get(name)
        if call_id is None:
            self.tag = self.tag or os.urandom(3).hex()
            self.made_up += 1
            call_id = f"call_{self.tag}_{self.made_up}"
            remember(self.unnamed, name, call_id, limit=64)
        return call_id

    def keep_call(self, call_id: str, wire_id: str, name: str) -> None:
        """Keep what its answer needs; the model waits for it, unless its tool is one that need not be waited for."""
        self.kept += 1
        remember(self.calls, call_id, (wire_id, name, self.kept))
        if not wire_id:
            self.unnamed.pop(name, None)
        if name not in self.free_tools:
            remember(self.waiting, call_id, None, limit=64)

    def forget_call(self, call_id: str) -> None:
        """The model does not wait for this call any more, and a result that is held back for it is not wanted."""
        self.waiting.pop(call_id, None)
        self.partial.pop(call_id, None)
        self.results.pop(call_id, None)

    def answers(self) -> Value | None:
        """Return the one message with all results once every call is answered; a model that waits for none gets none.

        In the order of the calls: nothing else tells the results of two calls without ids, of the same name, from each other.
        """
        if self.waiting or not self.results:
            return None
        results, self.results = self.results, {}
        return {"toolResponse": {"functionResponses": [result for _, result in sorted(results.values(), key=itemgetter(0))]}}

    # -- what goes out ---------------------------------------------------------------------------------------------------

    def encode(self, command: Command) -> list[Frame]:
        """Return the messages of a command, after results that waited for a call which was cancelled since."""
        frames = super().encode(command)
        held = self.answers()
        return frames if held is None else [*json_frame(held), *frames]

    # -- the end ---------------------------------------------------------------------------------------------------------

    def ending(self, code: int | None, reason: str) -> Ending:
        """Read the close, the only place where errors are told: 1011 is a quota or a failure, 1008 also an unknown model."""
        if code == 1008 and by_words(reason) is None and ("not found" in reason or "not supported" in reason):
            return BAD_REQUEST
        return meaning_of(code, reason)
