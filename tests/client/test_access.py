"""Where a client connects and with what right, decided before anything is dialled."""

from __future__ import annotations

import pytest

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.errors import ConfigError
from tests.servers import service


@pytest.mark.parametrize("url", ["ws://example.com/x", "http://10.0.0.1", "ws://localhost.example.com"])
def test_only_loopback_may_be_reached_in_the_clear(url: str) -> None:
    """A name that merely looks local is not."""
    client = RealtimeClient.direct(url, "token", dialect="xai")
    with pytest.raises(ConfigError, match="allow_insecure=True") as caught:
        client.connect()
    assert caught.value.code == "insecure_url"
    assert "token" not in str(caught.value)


@pytest.mark.parametrize(
    "client",
    [
        RealtimeClient("k", base_url="http://[::1?token=s3cret"),
        RealtimeClient("k", base_url="http://[::1?token=s3cret", mint=True),
        RealtimeClient.direct("ws://[::1?token=s3cret", "k"),
    ],
    ids=["gateway", "minted", "direct"],
)
def test_an_address_that_cannot_be_read_is_told(client: RealtimeClient) -> None:
    """Half an IPv6 address is a ConfigError that says how one is written, and shows nothing that may be secret."""
    with pytest.raises(ConfigError, match=r"wss://host/path, an IPv6 address goes in \[\]") as caught:
        client.connect()
    assert caught.value.code == "invalid_base_url"
    assert "s3cret" not in str(caught.value)


def test_a_direct_connection_needs_no_gateway_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its token is its right; nothing of the environment is used."""
    monkeypatch.setenv("QAI_API_KEY", "qai_from_env")
    with service() as peer:
        client = RealtimeClient.direct(f"ws://127.0.0.1:{peer.server.port}/v1/realtime", "minted", dialect="xai")
        with client:
            talk = peer.talk()
            assert talk.peer.header("authorization") == "Bearer minted"
            assert talk.peer.header("x-api-key") is None
            assert b"GET /v1/realtime" in talk.peer.request


def test_an_address_alone_may_be_enough() -> None:
    """A signed URL carries its right in itself."""
    with service() as peer:
        client = RealtimeClient.direct(f"ws://127.0.0.1:{peer.server.port}/v1/realtime?signature=abc", dialect="xai")
        with client:
            talk = peer.talk()
            assert talk.peer.header("authorization") is None
            assert b"signature=abc" in talk.peer.request
