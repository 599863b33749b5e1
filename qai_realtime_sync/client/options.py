"""What a client was made with; checked when it is made, data only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

import attrs

from qai_realtime_sync.client.lifecycle import ReconnectPolicy, policy_of
from qai_realtime_sync.client.waiting import LONGEST, is_seconds
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.fields import FrozenByFields

__all__ = ["DEFAULT_BASE_URL", "ClientOptions", "Options"]

DEFAULT_BASE_URL = "https://api.quantumencoding.ai"
_POLICIES = ("log", "raise", "close")


def _random() -> float:
    import random  # lazily: it loads OpenSSL's digests, and only a lost connection asks for it

    return random.random()


def _check_config(_: object, __: object, value: object) -> None:
    if not isinstance(value, RealtimeConfig):
        raise ConfigError(f"config must be a RealtimeConfig, not {type(value).__name__}")


def _check_policy(_: object, __: object, value: object) -> None:
    if value not in _POLICIES:
        raise ConfigError(f"on_handler_error must be one of {', '.join(_POLICIES)}, not {value!r}")


def _bounded(value: Any) -> Any:
    """Seconds that sockets and locks are given: no more than those can count. What is no number is left to the validator."""
    return min(value, LONGEST) if is_seconds(value) else value


def _check_seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None and attribute.default is None:
        return
    if not is_seconds(value) or value <= 0:
        raise ConfigError(f"{attribute.name} must be a number of seconds above 0, not {value!r}")


def _check_seconds_or_never(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (not is_seconds(value) or value <= 0):
        raise ConfigError(f"{attribute.name} must be a number of seconds above 0, not {value!r}; None turns it off")


def _check_threshold(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value != math.inf:  # nothing waits for it: it is only compared, and never reached
        _check_seconds(owner, attribute, value)


def _check_not_negative(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not is_seconds(value) or value < 0:
        raise ConfigError(f"{attribute.name} must be a number of seconds, 0 or more, not {value!r}")


def _check_count(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{attribute.name} must be a whole number above 0, not {value!r}")


def _check_flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{attribute.name} must be True or False, not {value!r}")


def _check_ssl_context(_: object, __: object, value: object) -> None:
    # By what is called of it: loading the ssl module here would cost every plain client its time and memory.
    if value is not None and not callable(getattr(value, "wrap_bio", None)):
        raise ConfigError(
            f"ssl_context must be an ssl.SSLContext, not {type(value).__name__}; for a file of certificates: "
            "ssl.create_default_context(cafile=path)"
        )


def _check_optional_flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{attribute.name} must be True, False or None, not {value!r}")


def _check_headers(_: object, __: object, value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise ConfigError("headers must be a dict of text to text")  # the values may be secret: none is shown


def _check_overflow(_: object, __: object, value: object) -> None:
    if value not in ("error", "drop_oldest"):
        raise ConfigError(f"overflow must be 'error' or 'drop_oldest', not {value!r}")


def _check_text(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) and not (value is None and attribute.default is None):
        raise ConfigError(f"{attribute.name} must be text, not {type(value).__name__}")


class ClientOptions(TypedDict, total=False):
    """The rarer arguments of a `RealtimeClient`, for type checkers."""

    connect_timeout: float | None
    close_timeout: float
    ping_interval: float | None
    pong_timeout: float
    silent_after: float
    on_handler_error: Literal["log", "raise", "close"]
    barge_in: bool | None
    min_speech: float
    overflow: Literal["error", "drop_oldest"]
    max_commands: int
    max_audio: float
    tool_threads: int
    max_size: int
    ssl_context: Any
    proxy: str | Literal[False] | None
    allow_insecure: bool
    clock: Callable[[], float]
    random: Callable[[], float]
    dialer: Callable[..., Any] | None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Options(FrozenByFields):
    """The arguments of a `RealtimeClient`, see there."""

    config: RealtimeConfig = attrs.field(factory=RealtimeConfig, validator=_check_config)
    api_key: str | None = attrs.field(default=None, repr=False, validator=_check_text)
    base_url: str | None = attrs.field(default=None, validator=_check_text)
    session: RealtimeSession | None = None
    provider: str = attrs.field(default="", validator=_check_text)
    mint: bool = attrs.field(default=False, validator=_check_flag)
    dialect: Any = "auto"
    reconnect: ReconnectPolicy | None = attrs.field(factory=ReconnectPolicy, converter=policy_of)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False, validator=_check_headers)
    connect_timeout: float | None = attrs.field(default=None, converter=_bounded, validator=_check_seconds)
    close_timeout: float = attrs.field(default=3.0, converter=_bounded, validator=_check_seconds)
    ping_interval: float | None = attrs.field(default=10.0, validator=_check_seconds_or_never)
    pong_timeout: float = attrs.field(default=8.0, validator=_check_seconds)
    silent_after: float = attrs.field(default=20.0, validator=_check_threshold)
    on_handler_error: str = attrs.field(default="log", validator=_check_policy)
    barge_in: bool | None = attrs.field(default=None, validator=_check_optional_flag)
    min_speech: float = attrs.field(default=0.0, validator=_check_not_negative)
    overflow: str = attrs.field(default="error", validator=_check_overflow)
    max_commands: int = attrs.field(default=1000, validator=_check_count)
    max_audio: float = attrs.field(default=30.0, converter=_bounded, validator=_check_seconds)
    tool_threads: int = attrs.field(default=4, validator=_check_count)
    max_size: int = attrs.field(default=16 * 2**20, validator=_check_count)
    ssl_context: Any = attrs.field(default=None, repr=False, validator=_check_ssl_context)
    proxy: str | Literal[False] | None = attrs.field(default=None, repr=False)
    allow_insecure: bool = attrs.field(default=False, validator=_check_flag)
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = _random
    dialer: Callable[..., Any] | None = None

    def __attrs_post_init__(self) -> None:
        reserved = {"authorization", "x-api-key"}
        if self.session is not None:
            reserved = {"authorization"} if self.session.ephemeral_token else set()
        for name in self.headers:
            if name.strip().lower() in reserved:
                raise ConfigError(
                    f"the header {name!r} is the client's own: give the key as api_key, or the token to direct()", code="invalid_header"
                )
