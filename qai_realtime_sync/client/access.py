"""Where a conversation connects and with what right: the gateway with a key, a service with a token, or a session minted for it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from qai_realtime_sync.client.options import DEFAULT_BASE_URL, Options
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.dialects import Dialect, by_address, choose
from qai_realtime_sync.errors import ApiError, ConfigError, RealtimeError

if TYPE_CHECKING:
    from qai_realtime_sync.client.billing import Billing

__all__ = ["Access"]

_LEAST_SECRET = 8  # characters: what is shorter is no secret, and may stand in any word


class Access:
    """Made at ``connect()``, in the caller's thread, so that what is missing is told there; `session` is asked before each dial.

    Reads ``QAI_API_KEY`` and ``QAI_BASE_URL`` from the environment where the program gave no value.

    Raises: `ConfigError` for a missing key, an unknown dialect, or a key that would travel unencrypted.
    """

    def __init__(self, options: Options, clock: Callable[[], float], after: Callable[[float, Callable[[], None]], Any]) -> None:
        self._options = options
        self.gateway = options.session is None and not options.mint
        self.api_key = ""
        self.billing: Billing | None = None
        self._minted = False
        if options.session is not None:
            self._session = options.session
        else:
            base_url = options.base_url or os.environ.get("QAI_BASE_URL") or DEFAULT_BASE_URL
            self._session = RealtimeSession(url=base_url.rstrip("/"), provider=options.provider)
            self.api_key = options.api_key or os.environ.get("QAI_API_KEY") or ""
            if not self.api_key:
                raise ConfigError(
                    "no API key was given: pass one to RealtimeClient(...), or set the environment variable QAI_API_KEY "
                    "(for a local server any text will do)",
                    code="invalid_api_key",
                )
        self._kind = self._choose()
        self._check_secure()
        if options.mint:
            self.billing = self._make_billing(clock, after)

    def obtain(self, timeout: float, config: RealtimeConfig) -> RealtimeSession:
        """Where to dial now; mints (for this configuration) or refreshes a session first where one is minted, in ``timeout`` seconds.

        Raises: `ApiError`, `ConnectError`, `RealtimeTimeoutError`; `ConfigError` for an address that is not encrypted.
        """
        if self.billing is not None:
            session = self.billing.obtain(timeout, self._kind(gateway=True).session_body(config))
            if not session.ws_url:
                raise ApiError("the gateway minted a session but named no address to connect to", status_code=200, code="invalid_response")
            self._session, self._minted = session, True
            self._kind = self._choose()
            self._check_secure()
        return self._session

    def may_repeat(self, error: RealtimeError) -> bool:
        """False where another attempt could charge a second time: a minting that failed in the middle."""
        return self.billing is None or self.billing.may_repeat(error)

    def dialect(self) -> Dialect:
        """A new instance for a new connection."""
        return self._kind(gateway=self.gateway)

    @property
    def token_key(self) -> str:
        """What the handshake may send as a key: never the gateway's own to another service."""
        return self.api_key if self.gateway else ""

    def cleaned(self, text: str) -> str:
        """Return the service's words without a key or token that it got from us: they are shown, logged and kept."""
        for secret in (self.api_key, self._session.ephemeral_token):
            if len(secret) >= _LEAST_SECRET:
                text = text.replace(secret, "<redacted>")
        return text

    def public_session(self) -> RealtimeSession:
        """What is not secret of the session in use."""
        session = (self.billing.session if self.billing is not None else None) or self._session
        return attrs.evolve(session, url=session.ws_url.split("?")[0], signed_url="", ephemeral_token="")

    def _choose(self) -> type[Dialect]:
        options, session = self._options, self._session
        url = session.ws_url if not options.mint or self._minted else ""  # until then it is the address of the REST calls
        provider = options.provider or session.provider
        if self._minted and by_address(url) is not None:
            provider = ""  # a provider that the gateway does not know mints a token for another (source: gateway REST)
        return choose(options.dialect, provider, url, options.config.model, gateway=self.gateway)

    def _make_billing(self, clock: Callable[[], float], after: Callable[[float, Callable[[], None]], Any]) -> Billing:
        from qai_realtime_sync.client.billing import Billing
        from qai_realtime_sync.rest import RestClient  # lazily: only who mints needs requests

        options, base_url = self._options, self._session.url

        def make_rest(wait: Callable[[float], object]) -> RestClient:
            return RestClient(
                self.api_key,
                base_url=base_url,
                headers=options.headers,
                proxy="" if options.proxy is False else options.proxy,
                ssl_context=options.ssl_context,
                allow_insecure=options.allow_insecure,
                wait=wait,
            )

        return Billing(make_rest, options.provider, clock=clock, after=after)

    def _check_secure(self) -> None:
        try:
            split = urlsplit(self._session.ws_url)
        except ValueError:  # not shown: what is so wrong may hold the key anywhere
            raise ConfigError(
                "the address cannot be read: it must look like wss://host/path, an IPv6 address goes in []", code="invalid_base_url"
            ) from None
        if split.scheme not in ("ws", "http") or self._options.allow_insecure or _is_loopback(split.hostname or ""):
            return
        raise ConfigError(
            f"the address {split.scheme}://{split.hostname} is not encrypted, and the key would be readable on the way; "
            "use wss:// or https://, or pass allow_insecure=True if that is what you want",
            code="insecure_url",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
