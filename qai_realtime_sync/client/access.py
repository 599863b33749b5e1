"""Where a conversation connects and with what right: the gateway with a key, a service with a token, or a session minted for it."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from qai_realtime_sync.client.options import DEFAULT_BASE_URL, Options
from qai_realtime_sync.config import RealtimeSession
from qai_realtime_sync.dialects import Dialect, choose
from qai_realtime_sync.errors import ConfigError

__all__ = ["Access"]


class Access:
    """Made at ``connect()``, in the caller's thread, so that what is missing is told there; `session` is asked before each dial.

    Reads ``QAI_API_KEY`` and ``QAI_BASE_URL`` from the environment where the program gave no value.

    Raises: `ConfigError` for a missing key, an unknown dialect, or a key that would travel unencrypted.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.gateway = options.session is None and not options.mint
        self.api_key = ""
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
        self._kind = choose(options.dialect, options.provider or self._session.provider, self._session.ws_url, options.config.model)
        self._check_secure()

    def dialect(self) -> Dialect:
        """A new instance for a new connection."""
        return self._kind(gateway=self.gateway)

    def session(self) -> RealtimeSession:
        """Where to dial now."""
        return self._session

    def _check_secure(self) -> None:
        split = urlsplit(self._session.ws_url)
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
