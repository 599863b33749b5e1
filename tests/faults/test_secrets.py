"""Keys, tokens and signed addresses: in no text that we make, and on no way but the one they are for."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import ssl
import traceback
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import websocket

from qai_realtime_sync import (
    Closed,
    ConfigError,
    ConnectError,
    ConnectionClosedError,
    RealtimeClient,
    RealtimeConfig,
    RealtimeError,
    RealtimeSession,
    RealtimeTimeoutError,
    Reconnected,
    Reconnecting,
    RestClient,
)
from tests.faults.bad_server import NEVER_READY, redirects
from tests.faults.scene import FAST, Seen
from tests.servers import Service, Talk, ready, service
from tests.transport.peer import Certificates

KEY = "qai_0123456789secretKEY"
TOKEN = "ek_0123456789secretTOKEN"
SIGNED = "0123456789secretSIGNATURE"
HEADER = "0123456789secretHEADER"
SECRETS = (KEY, TOKEN, SIGNED, HEADER, "secretPASSWORD")


def _leaks(text: str) -> list[str]:
    """The secrets in a text, whole or the part that nobody could know."""
    return [secret for secret in SECRETS if secret[-12:] in text]


def _everything(error: BaseException) -> str:
    """What a crash reporter would send of an error: message, arguments, attributes, causes, and every local of every frame."""
    told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    return "\n".join([str(error), repr(error), repr(error.args), repr(vars(error)), told])


def _gateway(url: str, **options: Any) -> RealtimeClient:
    return RealtimeClient(KEY, base_url=url, headers={"X-Tenant-Token": HEADER}, **options)


def _direct(url: str, **options: Any) -> RealtimeClient:
    ws = url.replace("http", "ws", 1)
    return RealtimeClient.direct(
        f"{ws}/v1/realtime?token={SIGNED}", TOKEN, dialect="xai", headers={"X-Tenant-Token": HEADER}, **options
    )


MAKERS: dict[str, Callable[..., RealtimeClient]] = {"gateway": _gateway, "direct": _direct}


@pytest.mark.parametrize("make", MAKERS)
def test_repr(make: str) -> None:
    """No repr of a client, its options, session or configuration shows a secret, connected or not."""
    with service() as peer:
        client = MAKERS[make](peer.base_url)
        shown = [repr(client), str(client), repr(client.config), repr(client.session), repr(client._call.options), repr(vars(client))]
        client.connect()
        shown += [repr(client), repr(client.session), repr(vars(client._call)), repr(client._call.access), repr(client._call.dialect)]
        assert client._call.access is not None
        shown += [repr(vars(client._call.access)["_session"]), repr(client._call.connection)]
        client.close()
        assert not _leaks("\n".join(shown))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", [name for name, (_, expected) in NEVER_READY.items() if expected.error != "RealtimeTimeoutError"])
def test_errors(name: str, make: str, caplog: pytest.LogCaptureFixture) -> None:
    """What connect() raises holds no secret, even for a reporter that sends the locals of every frame, nor does the log at DEBUG."""
    caplog.set_level(logging.DEBUG)
    with service(NEVER_READY[name][0]) as bad:
        client = MAKERS[make](bad.base_url)
        seen = Seen(client)
        with pytest.raises(RealtimeError) as caught:
            client.connect(timeout=5.0)
        assert _behind_the_test(caught.value) is not None
        error = caught.value.with_traceback(_behind_the_test(caught.value))
        assert not _leaks(_everything(error))
        end = seen.until(Closed)
        assert end.error is None or not _leaks(_everything(end.error.with_traceback(_behind_the_test(end.error))))
        assert not _leaks(repr(end))
    assert not _leaks(caplog.text)


def _behind_the_test(error: BaseException) -> Any:
    """The traceback without the frames of the tests, whose locals are their own affair."""
    trace = error.__traceback__
    while trace is not None and "tests" in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return trace


@pytest.mark.parametrize("make", MAKERS)
def test_errors_of_the_constructor(make: str) -> None:
    """A wrong argument beside a right key is reported without the key, in the locals of any frame of ours too."""
    with pytest.raises(ConfigError) as caught:
        MAKERS[make]("http://127.0.0.1:1", on_handler_error="explode")
    error = caught.value.with_traceback(_behind_the_test(caught.value))
    assert error.__traceback__ is not None
    assert not _leaks(_everything(error))


@pytest.mark.parametrize("make", MAKERS)
def test_a_service_that_repeats_what_it_got(make: str) -> None:
    """A service that puts our credentials into its refusal does not bring them into our error."""

    def echo(talk: Talk) -> None:
        talk.peer.read_request()
        body = talk.peer.request
        talk.peer.sock.sendall(b"HTTP/1.1 401 No\r\nX-QAI-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body))
        raise EOFError

    with service(echo) as bad:
        client = MAKERS[make](bad.base_url)
        with pytest.raises(RealtimeError) as caught:
            client.connect()
        assert not _leaks(str(caught.value) + repr(caught.value) + repr(vars(caught.value)))


@pytest.mark.parametrize("make", MAKERS)
def test_log_of_a_whole_life(make: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log at DEBUG of a life with a loss, a reconnect, a failing handler and an end holds no secret; nor does the library's trace."""
    caplog.set_level(logging.DEBUG)
    websocket.enableTrace(True, handler=caplog.handler)
    try:
        with service() as peer:
            client = MAKERS[make](peer.base_url, reconnect=FAST)
            seen = Seen(client)
            client.on("session_ready", lambda event: 1 / 0)
            client.connect()
            peer.talk().reset()
            seen.until(Reconnected)
            peer.talk().error("invalid_value")
            client.close()
            lost = seen.of(Reconnecting)[0]
            assert not _leaks(_everything(lost.error))
            assert not _leaks("".join(map(repr, seen.events)))
    finally:
        websocket.enableTrace(False)
        logging.getLogger("websocket").removeHandler(caplog.handler)
        logging.getLogger("websocket").setLevel(logging.NOTSET)
    assert caplog.text
    assert not _leaks(caplog.text)


def test_pickle_and_copy() -> None:
    """A client cannot be pickled; a session can, without what is secret."""
    client = _gateway("http://127.0.0.1:1")
    with pytest.raises((TypeError, RealtimeError)):
        pickle.dumps(client)
    session = RealtimeSession(url=f"wss://x/?token={SIGNED}", signed_url=f"wss://x/?sig={SIGNED}", ephemeral_token=TOKEN)
    assert not _leaks(repr(session))
    assert not _leaks(pickle.dumps(session, 0).decode("latin-1"))
    assert _leaks(copy.copy(session).ephemeral_token), "a copy in the same process is whole"


@pytest.mark.parametrize("error_class", [ConnectError, ConnectionClosedError, RealtimeTimeoutError, ConfigError])
def test_errors_survive_a_pickle(error_class: type[RealtimeError]) -> None:
    """An error crosses a process with its message and code, so that a Celery worker can report it."""
    error = error_class("what happened")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.code) == (error_class, str(error), error.code)


def test_rest_errors() -> None:
    """What RestClient raises, and its own repr, hold no key."""
    rest = RestClient(KEY, base_url="http://127.0.0.1:1")
    try:
        with pytest.raises(RealtimeError) as caught:
            rest.create_session()
        assert not _leaks(repr(rest) + str(caught.value) + repr(caught.value) + repr(vars(caught.value)))
        assert not _leaks(_everything(caught.value.with_traceback(_behind_the_test(caught.value))))
    finally:
        rest.close()


# -- on no other way ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_takes_nothing_along(status: int) -> None:
    """No redirect of the upgrade is followed, to this or another origin: nobody connects there."""
    with service() as other, service(redirects(status, f"ws://127.0.0.1:{other.server.port}/?a=b")) as bad:
        with pytest.raises(RealtimeError) as caught:
            bad.client().connect()
        assert other.server.accepted == 0
        assert len(bad.all) == 1
        assert "redirect" in str(caught.value).lower() or str(status) in str(caught.value)


BAD_TEXT = {"CR": "a\rb", "LF": "a\nb", "CR LF and a header": "a\r\nX-Evil: 1", "NUL": "a\0b"}


@pytest.mark.parametrize("where", ["value", "name", "key", "token", "url"])
@pytest.mark.parametrize("name", BAD_TEXT)
def test_header_injection(name: str, where: str) -> None:
    """CR, LF or NUL in a header, its name, the key, the token or the address is a ConfigError before anything is sent."""
    bad = BAD_TEXT[name]
    with service() as peer:
        url = peer.base_url
        ws = url.replace("http", "ws", 1)
        with pytest.raises(ConfigError) as caught:  # noqa: PT012
            client = {
                "value": lambda: RealtimeClient("k", base_url=url, headers={"X-A": bad}),
                "name": lambda: RealtimeClient("k", base_url=url, headers={bad: "x"}),
                "key": lambda: RealtimeClient(bad, base_url=url),
                "token": lambda: RealtimeClient.direct(ws, bad, dialect="xai"),
                "url": lambda: RealtimeClient.direct(f"{ws}/{bad}", "t", dialect="xai"),
            }[where]()
            client.connect()
        assert bad not in str(caught.value)
        assert not any(talk.peer.request for talk in peer.all)


def test_no_cookie_jar() -> None:
    """A cookie that a service sets for one client is sent by no other, nor by the same one when it comes back."""

    def sets_a_cookie(talk: Talk) -> None:
        send, talk.peer.sock = talk.peer.acceptance, talk.peer.sock
        talk.peer.acceptance = lambda *extra: send("Set-Cookie: tenant=one; Path=/", *extra)  # type: ignore[method-assign]
        ready(talk)

    with service(sets_a_cookie) as peer:
        first, second = peer.client(reconnect=FAST), peer.client()
        seen = Seen(first)
        first.connect()
        peer.talk().drop()
        seen.until(Reconnected)
        second.connect()
        requests = [talk.peer.request for talk in peer.all]
        assert len(requests) == 3
        assert not any(b"cookie" in request.lower() for request in requests)
        first.close()


@pytest.mark.parametrize("url", ["http://192.0.2.1", "http://example.com", "ws://10.0.0.1/x", "http://127.0.0.1.example.com", "http://localhost.example.com"])
def test_key_in_the_clear(url: str) -> None:
    """A key over a plain connection that leaves this computer is refused before anything is looked up or sent."""
    dialed = []

    def dial(*args: Any, **options: Any) -> Any:
        dialed.append(args)
        raise ConnectError("not here")

    client = RealtimeClient(KEY, base_url=url, dialer=dial)
    with pytest.raises(ConfigError) as caught:
        client.connect()
    assert caught.value.code == "insecure_url"
    assert not dialed
    insisting = RealtimeClient(KEY, base_url=url, dialer=dial, allow_insecure=True)
    with pytest.raises(ConnectError):
        insisting.connect()
    assert dialed


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.1"])
def test_loopback_is_no_way(host: str) -> None:
    """A plain connection within this computer needs no insisting."""
    client = RealtimeClient(KEY, base_url=f"http://{host}:1", reconnect=False)
    with pytest.raises(ConnectError):
        client.connect()


# -- certificates ------------------------------------------------------------------------------------------------------------


def _secure(certificates: Certificates, context: ssl.SSLContext | None) -> tuple[Service, RealtimeClient]:
    peer = Service(context=certificates.server)
    return peer, RealtimeClient(KEY, base_url=peer.base_url, ssl_context=context, reconnect=False)


def test_own_authority(certificates: Certificates) -> None:
    """A service with an authority of its own is refused by default, never tried again, and accepted by a context that trusts it."""
    for context, accepted in ((None, False), (certificates.client, True)):
        peer, client = _secure(certificates, context)
        try:
            if accepted:
                assert client.connect().is_connected
                client.close()
            else:
                with pytest.raises(ConnectError) as caught:
                    client.connect()
                assert caught.value.code == "tls_verification"
                assert not any(talk.peer.request for talk in peer.all)
        finally:
            peer.stop()


def test_authority_named_in_the_environment(certificates: Certificates, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE names an authority for all clients of the process."""
    bundle = tmp_path / "authority.pem"
    bundle.write_bytes(certificates.authority.cert_pem.bytes())
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    peer, client = _secure(certificates, None)
    try:
        assert client.connect().is_connected
        client.close()
    finally:
        peer.stop()


def test_client_certificate(certificates: Certificates) -> None:
    """A service that wants a certificate of the client gets the one of the client's context, and refuses a client without."""
    demanding = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert("127.0.0.1").configure_cert(demanding)
    certificates.authority.configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    mine = ssl.create_default_context()
    certificates.authority.configure_trust(mine)
    certificates.authority.issue_cert("client@example.org").configure_cert(mine)
    for context, accepted in ((certificates.client, False), (mine, True)):
        peer = Service(context=demanding)
        client = RealtimeClient(KEY, base_url=peer.base_url, ssl_context=context, reconnect=False)
        try:
            if accepted:
                assert client.connect().is_connected
            else:
                with pytest.raises((ConnectError, ConnectionClosedError)):
                    client.connect()
        finally:
            client.close()
            peer.server.failures.clear()
            peer.stop()


def test_pinned_certificate(certificates: Certificates) -> None:
    """A context that trusts one authority alone refuses a certificate of another one, however valid that is elsewhere."""
    other = Certificates()
    peer, client = _secure(certificates, other.client)
    try:
        with pytest.raises(ConnectError) as caught:
            client.connect()
        assert caught.value.code == "tls_verification"
    finally:
        peer.stop()


def test_name_is_checked(certificates: Certificates) -> None:
    """A certificate for another name is refused."""
    elsewhere = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert("elsewhere.example").configure_cert(elsewhere)
    peer = Service(context=elsewhere)
    client = RealtimeClient(KEY, base_url=peer.base_url, ssl_context=certificates.client, reconnect=False)
    try:
        with pytest.raises(ConnectError) as caught:
            client.connect()
        assert caught.value.code == "tls_verification"
    finally:
        peer.stop()


def test_config_holds_no_key() -> None:
    """A RealtimeConfig has no field for a key: it can be stored and logged as it is."""
    names = [field.name for field in attrs.fields(RealtimeConfig)]
    assert not [name for name in names if "key" in name or "secret" in name]
    assert "token" not in json.dumps([name for name in names if name != "max_output_tokens"])
