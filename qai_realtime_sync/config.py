"""What the user wants (`RealtimeConfig` and its parts) and with what right it connects (`RealtimeSession`).

A field that is `UNSET` is left out of the wire form, so the service's own default holds; ``None`` is a value of its own
(``turn_detection=None`` means manual turns). Wrong values raise `ConfigError` when the object is made, in the caller's thread.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.fields import FrozenByFields

__all__ = [
    "DEFAULT_VOICE",
    "UNSET",
    "AudioFormat",
    "Encoding",
    "RealtimeConfig",
    "RealtimeSession",
    "Tool",
    "Transcription",
    "TurnDetection",
    "Unset",
    "Voice",
    "redacted",
]


class Unset(enum.Enum):
    """The type of `UNSET`: nothing was said, the service's default holds. Never the same as ``None``."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset.UNSET

Encoding: TypeAlias = Literal["pcm16", "g711_ulaw", "g711_alaw"]
DEFAULT_VOICE: Final = "Sal"
_ENCODINGS = ("pcm16", "g711_ulaw", "g711_alaw")
_G711_RATE = 8000


class Voice(str, enum.Enum):
    """Voices of xAI, which also stands behind the gateway; any other text is allowed as a voice too (source: xAI voice list)."""

    ARA = "ara"
    EVE = "eve"
    LEO = "leo"
    REX = "rex"
    SAL = "sal"
    ALTAIR = "altair"
    ATLAS = "atlas"
    AURORA = "aurora"
    CARINA = "carina"
    CASTOR = "castor"
    CELESTE = "celeste"
    COSMO = "cosmo"
    HELIOS = "helios"
    HELIX = "helix"
    IRIS = "iris"
    KEPLER = "kepler"
    LIORA = "liora"
    LUMEN = "lumen"
    LUNA = "luna"
    LUX = "lux"
    NAKSH = "naksh"
    ORION = "orion"
    PERSEUS = "perseus"
    RIGEL = "rigel"
    SIRIUS = "sirius"
    URSA = "ursa"
    ZAGAN = "zagan"
    ZENITH = "zenith"

    def __str__(self) -> str:
        return self.value


# -- secrets -----------------------------------------------------------------------------------------------------------------

# The end matters: a token is a secret, but max_output_tokens and keyterms are none.
_SECRET_KEY = re.compile(
    r"secret(?!ar)|passw(?:or)?d|passphrase|authorization|credential|signature|bearer"
    r"|(?:api|access|private|signing|encryption|subscription)[\W_]*key"
    r"|(?:token|headers|cookies?|signed[\W_]*url|(?:^|[\W_])auth)$",
    re.IGNORECASE,
)
_URL_KEY = re.compile(r"(?:url|uri)$", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/?#@]*@")


def redacted(value: Any) -> Any:
    """Return a copy of a JSON value for logs and text forms, without what could be a credential.

    What stands under a key like ``authorization``, ``openai_api_key`` or ``refresh_token``, as in tools of MCP servers and in
    sessions, is replaced by ``"<redacted>"``, and so are user and query of an address under a key like ``server_url``.
    """
    if isinstance(value, Mapping):
        return {key: _redacted_part(str(key), part) for key, part in value.items()}
    return [redacted(part) for part in value] if isinstance(value, (list, tuple)) else value


def _redacted_part(key: str, part: Any) -> Any:
    if part and not isinstance(part, bool) and _SECRET_KEY.search(key):
        return "<redacted>"
    if isinstance(part, str) and _URL_KEY.search(key):
        address, query, _ = part.partition("?")
        return _USER.sub("<redacted>@", address) + (query and "?<redacted>")
    return redacted(part)


def _redacted_repr(value: Any) -> str:
    return repr(redacted(value))


# -- checks ------------------------------------------------------------------------------------------------------------------

_Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _fail(owner: object, attribute: attrs.Attribute[Any], value: object, wanted: str) -> ConfigError:
    short = isinstance(value, (bool, int, float, str, type(None))) and len(repr(value)) <= 80
    shown = repr(value) if short else type(value).__name__
    return ConfigError(f"{type(owner).__name__}.{attribute.name} must be {wanted}, not {shown}")


def _text(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise _fail(owner, attribute, value, "text")


def _optional_text(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not UNSET:
        _text(owner, attribute, value)


def _said(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is UNSET:
        raise _fail(owner, attribute, value, "given; leave it out for its default")


def _flag(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not UNSET and not isinstance(value, bool):
        raise _fail(owner, attribute, value, "True or False")


def _number(low: float, high: float, *, whole: bool = False, optional: bool = False) -> _Validator:
    wanted = f"a{' whole' if whole else ''} number from {low:g} to {high:g}"

    def check(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is UNSET or (optional and value is None):
            return
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            raise _fail(owner, attribute, value, wanted)

    return check


def _one_of(*words: str) -> _Validator:
    def check(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not UNSET and value not in words:
            raise _fail(owner, attribute, value, "one of " + ", ".join(words))

    return check


def _mapping(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _fail(owner, attribute, value, "a dict with text keys")


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _voice_name(value: Any) -> Any:
    return value.value if isinstance(value, Voice) else value


# -- parts -------------------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class TurnDetection(FrozenByFields):
    """When the service believes that the user has begun and ended to speak.

    ``type``: ``"server_vad"`` (by silence) or ``"semantic_vad"`` (by meaning; OpenAI only). ``threshold`` 0 to 1;
    ``prefix_padding_ms`` sound kept from before the speech; ``silence_duration_ms`` silence that ends it; ``idle_timeout_ms``
    when to speak unasked; ``create_response`` answer by itself; ``interrupt_response`` stop answering when the user speaks;
    ``eagerness`` (semantic_vad) ``low``, ``medium``, ``high`` or ``auto``. For manual turns use
    ``RealtimeConfig(turn_detection=None)``.

    Raises: `ConfigError` for a value out of range.
    """

    type: str = attrs.field(default="server_vad", validator=[_said, _one_of("server_vad", "semantic_vad")])
    threshold: float | Unset = attrs.field(default=UNSET, validator=_number(0, 1), kw_only=True)
    prefix_padding_ms: int | Unset = attrs.field(default=UNSET, validator=_number(0, 10_000, whole=True), kw_only=True)
    silence_duration_ms: int | Unset = attrs.field(default=UNSET, validator=_number(0, 10_000, whole=True), kw_only=True)
    idle_timeout_ms: int | None | Unset = attrs.field(
        default=UNSET, validator=_number(0, 3_600_000, whole=True, optional=True), kw_only=True
    )
    create_response: bool | Unset = attrs.field(default=UNSET, validator=_flag, kw_only=True)
    interrupt_response: bool | Unset = attrs.field(default=UNSET, validator=_flag, kw_only=True)
    eagerness: str | Unset = attrs.field(default=UNSET, validator=_one_of("low", "medium", "high", "auto"), kw_only=True)


@attrs.frozen(eq=False, repr=False)
class Transcription(FrozenByFields):
    """How the user's speech is written down: ``model`` (``""`` = the usual one), ``language`` (BCP 47), ``prompt`` (hints).

    Raises: `ConfigError` for a value of the wrong type.
    """

    model: str = attrs.field(default="", validator=_text)
    language: str = attrs.field(default="", validator=_text, kw_only=True)
    prompt: str = attrs.field(default="", validator=_text, kw_only=True)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Tool(FrozenByFields):
    """A function the model may call: its name, what it does, the JSON Schema of its arguments, and the Python function.

    ``function`` may be ``None``: then the program answers the calls itself (`on_function_call` and `send_function_result`).
    ``timeout`` is the longest run in seconds. Use ``@client.tool`` to make one from a plain function.

    Raises: `ConfigError` for an empty name or a schema that is not a dict.
    """

    name: str = attrs.field()
    description: str = attrs.field(default="", validator=_text)
    parameters: Mapping[str, Any] = attrs.field(factory=lambda: {"type": "object", "properties": {}}, validator=_mapping)
    function: Callable[..., Any] | None = attrs.field(default=None, eq=False, repr=False)
    timeout: float = attrs.field(default=30.0, validator=[_said, _number(0.001, 86_400)])

    @function.validator
    def _check_function(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None and not callable(value):
            raise _fail(self, attribute, value, "a function, or None for calls that the program answers itself")

    @name.validator
    def _check_name(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str) or not value.strip():
            raise _fail(self, attribute, value, "a name that is not empty")

    def to_dict(self) -> dict[str, Any]:
        """The flat function tool of the OpenAI family (source: OpenAI schema): type, name, description, parameters."""
        return {"type": "function", "name": self.name, "description": self.description, "parameters": dict(self.parameters)}


# -- the configuration -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RealtimeConfig(FrozenByFields):
    """What a conversation should be like; frozen, so threads may share it.

    Change a copy: ``attrs.evolve(config, voice="Eve")``.

    | field | default | note |
    |---|---|---|
    | ``voice`` | ``"Sal"`` | text or `Voice`; services that do not know Sal use their own default |
    | ``instructions`` | ``""`` | the system prompt |
    | ``model`` | ``""`` | ``""`` = the service's default |
    | ``sample_rate`` | 24000 | Hz of ``send_audio`` and ``event.audio`` for pcm16; converted where the service fixes another |
    | ``input_format``, ``output_format`` | ``"pcm16"`` | or ``"g711_ulaw"``, ``"g711_alaw"``: always 8000 Hz |
    | ``tools`` | ``[]`` | dicts pass untouched, the program answers them; `Tool` objects with a function run by themselves |
    | ``tool_choice``, ``temperature``, ``max_output_tokens``, ``modalities``, ``speed`` | `UNSET` | the service's default |
    | ``turn_detection`` | ``TurnDetection("server_vad")`` | ``None`` = manual: ``commit_audio()`` and ``create_response()`` |
    | ``transcription`` | `UNSET` | of the user's speech; `UNSET` = the usual model, ``None`` = off |
    | ``resumption`` | ``True`` | ask the service to keep the conversation for a reconnect, where it can |
    | ``session`` | ``{}`` | raw session fields, merged over the others last |

    Raises: `ConfigError`, naming field, allowed values and what was given.
    """

    voice: str | Unset = attrs.field(default=DEFAULT_VOICE, validator=_optional_text, converter=_voice_name)
    instructions: str | Unset = attrs.field(default="", validator=_optional_text)
    model: str = attrs.field(default="", validator=_text)
    sample_rate: int = attrs.field(default=24000, validator=[_said, _number(8000, 48_000, whole=True)])
    input_format: Encoding = attrs.field(default="pcm16", validator=[_said, _one_of(*_ENCODINGS)])
    output_format: Encoding = attrs.field(default="pcm16", validator=[_said, _one_of(*_ENCODINGS)])
    tools: list[dict[str, Any] | Tool] = attrs.field(factory=list, converter=_as_list, repr=_redacted_repr)
    tool_choice: str | dict[str, Any] | Unset = attrs.field(default=UNSET)
    temperature: float | Unset = attrs.field(default=UNSET, validator=_number(0, 2))
    max_output_tokens: int | Literal["inf"] | Unset = attrs.field(default=UNSET)
    modalities: list[str] | Unset = attrs.field(default=UNSET, converter=_as_list)
    speed: float | Unset = attrs.field(default=UNSET, validator=_number(0.25, 5))
    turn_detection: TurnDetection | None | Unset = attrs.field(factory=TurnDetection)
    transcription: Transcription | None | Unset = attrs.field(default=UNSET)
    resumption: bool = attrs.field(default=True, validator=[_said, _flag])
    session: Mapping[str, Any] = attrs.field(factory=dict, validator=_mapping, repr=_redacted_repr)

    @tools.validator
    def _check_tools(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, list) or not all(isinstance(tool, (Mapping, Tool)) for tool in value):
            wanted = "a list of dicts or Tool objects"
            if not isinstance(value, list):
                raise _fail(self, attribute, value, wanted)
            at = next(at for at, tool in enumerate(value) if not isinstance(tool, (Mapping, Tool)))
            found = type(value[at]).__name__
            raise ConfigError(f"RealtimeConfig.tools must be {wanted}, but tools[{at}] is {found}; for a function use @client.tool")

    @tool_choice.validator
    def _check_tool_choice(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not UNSET and not isinstance(value, (str, Mapping)):
            raise _fail(self, attribute, value, '"auto", "none", "required" or a dict')

    @max_output_tokens.validator
    def _check_max_output_tokens(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is UNSET or value == "inf":
            return
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise _fail(self, attribute, value, 'a whole number above 0, or "inf"')

    @modalities.validator
    def _check_modalities(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is UNSET:
            return
        if not isinstance(value, list) or not value or not all(word in ("text", "audio") for word in value):
            raise _fail(self, attribute, value, 'a list of "text" and "audio"')

    @turn_detection.validator
    def _check_turn_detection(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not UNSET and value is not None and not isinstance(value, TurnDetection):
            raise _fail(self, attribute, value, "a TurnDetection, or None for manual turns")

    @transcription.validator
    def _check_transcription(self, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not UNSET and value is not None and not isinstance(value, Transcription):
            raise _fail(self, attribute, value, "a Transcription, or None for off")

    @property
    def input_audio(self) -> AudioFormat:
        """The format that ``send_audio`` takes."""
        return _format(self.input_format, self.sample_rate)

    @property
    def output_audio(self) -> AudioFormat:
        """The format of ``event.audio``."""
        return _format(self.output_format, self.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """The plain form for files and settings: voice, instructions and rate always, else what differs from its default.

        `Tool` objects become their JSON form, without the Python function. A field that is `UNSET` though its default is not is
        named in the list ``"unset"``, since JSON has no word for it (null is a value of its own).
        """
        value: dict[str, Any] = {}
        unset: list[str] = []
        for name, default in _DEFAULTS.items():
            given = getattr(self, name)
            if given is UNSET and default is not UNSET:
                unset.append(name)
            elif name in _ALWAYS or given != default:
                value[name] = _plain(given)
        return {**value, "unset": unset} if unset else value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> RealtimeConfig:
        """Read the form of `to_dict`. Raises: `ConfigError` for what is no mapping, a key that does not exist or a wrong value."""
        if not isinstance(value, Mapping):  # an empty file of settings is None
            raise ConfigError(f"RealtimeConfig.from_dict takes a dict as to_dict() gives it, not {type(value).__name__}")
        parts = {"turn_detection": TurnDetection, "transcription": Transcription}
        given = dict(value)
        unset = given.pop("unset", [])
        if not isinstance(unset, list):
            raise ConfigError(f'"unset" must be a list of field names, not {type(unset).__name__}')
        for name in (*given, *unset):
            if not isinstance(name, str) or name not in _DEFAULTS:
                raise ConfigError(f"RealtimeConfig has no field {name!r}; it has: {', '.join(_DEFAULTS)}")
        given.update(dict.fromkeys(unset, UNSET))
        for name, part in parts.items():
            if isinstance(given.get(name), Mapping):
                try:
                    given[name] = part(**given[name])
                except TypeError as error:
                    raise ConfigError(f"RealtimeConfig.{name}: {error}") from None
        return cls(**given)


def _format(encoding: str, sample_rate: int) -> AudioFormat:
    return AudioFormat(encoding, sample_rate if encoding == "pcm16" else _G711_RATE)


def _plain(value: Any) -> Any:
    if isinstance(value, Tool):
        return value.to_dict()
    if isinstance(value, (TurnDetection, Transcription)):
        fields = attrs.fields(type(value))
        return {f.name: getattr(value, f.name) for f in fields if getattr(value, f.name) not in (UNSET, "")}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


_ALWAYS = frozenset({"voice", "instructions", "sample_rate"})
_DEFAULTS: dict[str, Any] = {field.name: getattr(RealtimeConfig(), field.name) for field in attrs.fields(RealtimeConfig)}


# -- the right to connect ----------------------------------------------------------------------------------------------------


def _redact(value: str) -> str:
    return "'<redacted>'" if value else "''"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RealtimeSession(FrozenByFields):
    """Where a conversation connects and with what right: granted by REST, or made by the client from its arguments.

    ``ephemeral_token``, ``signed_url`` and a ``url`` with a query are credentials: no text form shows them, a pickle holds none.
    ``expires_at`` is in unix seconds, ``expires_in`` in seconds; ``None`` = not said.
    """

    url: str = attrs.field(default="", repr=lambda v: repr(v.split("?")[0] + "?<redacted>") if "?" in v else repr(v))
    ephemeral_token: str = attrs.field(default="", repr=_redact)
    signed_url: str = attrs.field(default="", repr=_redact)
    session_id: str = ""
    provider: str = ""
    model: str = ""
    voice: str = ""
    expires_at: float | None = None
    expires_in: float | None = None

    @property
    def ws_url(self) -> str:
        """The address to dial: ``signed_url`` if there is one, else ``url`` (source: gateway REST, answer of ``session``)."""
        return self.signed_url or self.url

    def __getstate__(self) -> dict[str, Any]:
        secret = {"ephemeral_token", "signed_url"}
        state = {a.name: "" if a.name in secret else getattr(self, a.name) for a in attrs.fields(RealtimeSession)}
        state["url"] = self.url.split("?")[0]
        return state

    def __copy__(self) -> RealtimeSession:
        return self  # frozen; by way of the pickle the copy would lose its token

    def __deepcopy__(self, memo: dict[int, Any]) -> RealtimeSession:
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
