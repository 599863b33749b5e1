"""The server as a whole: who is let in, REST, TLS, several clients, large frames, the journal, and an end that leaves nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import simple_websocket
import websocket
from caller import Caller, silence, tone, types

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline import RealtimeServer

Dial = Callable[..., Caller]
UPGRADE = (
    "GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def plain_socket(caller: Caller) -> socket.socket:
    """The socket under a caller's WebSocket."""
    plain = caller.socket.sock
    assert plain is not None
    return plain


def offline_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("qai-offline")]


# -- keys --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def locked() -> Iterator[RealtimeServer]:
    with RealtimeServer(light=True, pace=1000, key="qai_right") as server:
        yield server


@pytest.mark.parametrize(
    "options",
    [
        {"header": ["Authorization: Bearer qai_right"]},
        {"header": ["X-API-Key: qai_right"]},
        {"header": ["X-API-Key: qai_right", "Authorization: Bearer mangled-by-a-proxy"]},
        {"path": "?token=qai_right"},
        {"subprotocols": ["realtime", "openai-insecure-api-key.qai_right"]},
        {"subprotocols": ["xai-client-secret.qai_right"]},
        {"subprotocols": ["realtime", "token-qai_right"]},
    ],
    ids=["bearer", "x-api-key", "both", "query", "openai browser", "xai browser", "gateway browser"],
)
def test_every_way_to_show_a_key(locked: RealtimeServer, dial: Dial, options: dict[str, Any]) -> None:
    """Headers, query and the subprotocols of browsers open the door; a requested subprotocol is answered."""
    path = options.pop("path", "")
    caller = dial(locked, path, **options)
    assert caller.receive()["type"] == "session.created"
    if "subprotocols" in options:
        assert caller.socket.getsubprotocol() in options["subprotocols"]


@pytest.mark.parametrize("headers", [[], ["Authorization: Bearer qai_wrong"], ["X-API-Key: qai_wrong", "Authorization: Bearer qai_right"]])
def test_a_wrong_key_refuses_the_upgrade(locked: RealtimeServer, dial: Dial, headers: list[str]) -> None:
    """Without the key the upgrade is refused with 401, the gateway's error body and a request id."""
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        dial(locked, header=headers)
    assert caught.value.status_code == 401
    assert json.loads(caught.value.resp_body)["error"]["code"] == "invalid_key"
    assert caught.value.resp_headers["x-qai-request-id"]


def test_any_key_by_default(xai: RealtimeServer, dial: Dial) -> None:
    """Without --key everybody is let in, with any key or none."""
    assert dial(xai).receive()["type"] == "session.created"
    assert dial(xai, header=["Authorization: Bearer whatever"]).receive()["type"] == "session.created"


# -- REST --------------------------------------------------------------------------------------------------------------------


def test_client_secrets_open_a_connection(locked: RealtimeServer, dial: Dial) -> None:
    """A minted secret opens a connection, several times; minting needs the real key."""
    url = locked.url + "/v1/realtime/client_secrets"
    assert requests.post(url, json={}, timeout=20).status_code == 401
    answer = requests.post(url, json={"expires_after": {"seconds": 60}}, headers={"Authorization": "Bearer qai_right"}, timeout=20)
    assert answer.status_code == 200
    secret = answer.json()
    assert abs(secret["expires_at"] - time.time() - 60) < 5
    for _ in range(2):
        assert dial(locked, header=[f"Authorization: Bearer {secret['value']}"]).receive()["type"] == "session.created"
    again = requests.post(url, json={}, headers={"Authorization": f"Bearer {secret['value']}"}, timeout=20)
    assert again.status_code == 401


def test_an_openai_secret_shows_its_session(openai: RealtimeServer) -> None:
    """OpenAI's answer holds the session that was asked for, with an id."""
    answer = requests.post(
        openai.url + "/v1/realtime/client_secrets", json={"session": {"type": "realtime", "model": "m"}}, timeout=5
    ).json()
    assert (answer["session"]["model"], answer["session"]["object"]) == ("m", "realtime.session")
    assert answer["value"].startswith("ek_")


def test_a_billed_session_from_mint_to_end(locked: RealtimeServer, dial: Dial) -> None:
    """A session is minted, connected to, refreshed and ended once, in whole seconds; the journal shows it."""
    headers = {"X-API-Key": "qai_right"}
    base = locked.url + "/qai/v1/realtime"
    minted = requests.post(base + "/session", json={"voice": "Eve"}, headers=headers, timeout=20)
    assert minted.headers["X-QAI-Request-Id"]
    session = minted.json()
    assert session["url"].startswith("ws://127.0.0.1:")
    assert session["expires_in"] == 300
    with Caller(session["url"], header=[f"Authorization: Bearer {session['ephemeral_token']}"]) as caller:
        assert caller.receive()["type"] == "session.created"
    refreshed = requests.post(base + "/refresh", json={"session_id": session["session_id"]}, headers=headers, timeout=20).json()
    assert refreshed["ephemeral_token"] != session["ephemeral_token"]
    end = {"session_id": session["session_id"], "duration_seconds": 12.5}
    assert requests.post(base + "/end", json=end, headers=headers, timeout=20).status_code == 400
    end["duration_seconds"] = 13
    assert requests.post(base + "/end", json=end, headers=headers, timeout=20).json() == {"status": "ended"}
    assert requests.post(base + "/end", json=end, headers=headers, timeout=20).status_code == 404
    told = requests.get(locked.url + "/journal", headers=headers, timeout=20).json()["sessions"][0]
    assert (told["duration_seconds"], told["refreshed"], told["ended"]) == (13, 1, 2)  # twice asked, the first counted


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/qai/v1/realtime", None, 426),
        ("POST", "/qai/v1/realtime", "{}", 404),
        ("POST", "/qai/v1/realtime/session", "{broken", 400),
        ("POST", "/v1/realtime/client_secrets", '{"expires_after": {"seconds": 1}}', 400),
        ("POST", "/v1/realtime/client_secrets", "x" * 2_000_000, 413),
    ],
)
def test_what_rest_refuses(xai: RealtimeServer, method: str, path: str, body: str | None, status: int) -> None:
    """Every refusal is JSON in the gateway's nested envelope."""
    answer = requests.request(method, xai.url + path, data=body, timeout=20)
    assert answer.status_code == status
    assert answer.json()["error"]["code"]


def test_the_status_page_says_how_it_hears(xai: RealtimeServer) -> None:
    """GET / names the mode and the address in plain text."""
    text = requests.get(xai.url + "/", timeout=20).text
    assert "light" in text
    assert xai.ws_url in text


# -- the wire ----------------------------------------------------------------------------------------------------------------


def test_a_client_of_yet_another_maker(xai: RealtimeServer) -> None:
    """simple-websocket's own client talks to it too."""
    client = simple_websocket.Client.connect(xai.ws_url)
    try:
        # It looks at what came along with the handshake only when more comes.
        client.send(json.dumps({"type": "session.update", "session": {}}))
        assert json.loads(client.receive(timeout=20))["type"] == "session.created"
    finally:
        client.close()
        client.thread.join(5)


def test_a_frame_of_16_mib(xai: RealtimeServer, dial: Dial) -> None:
    """A text frame of 16 MiB is taken, whole or in fragments; one of 25 MiB ends the connection with 1009."""
    caller = dial(xai)
    caller.send("input_audio_buffer.clear", padding="x" * (16 * 1024 * 1024 - 200))
    assert caller.expect("input_audio_buffer.cleared")
    assert len(json.dumps(xai.journal)) < 100_000
    frame = json.dumps({"type": "session.update", "session": {"instructions": "y" * 100_000}}).encode()
    caller.socket.send_frame(websocket.ABNF.create_frame(frame[:50_000], websocket.ABNF.OPCODE_TEXT, 0))
    caller.socket.send_frame(websocket.ABNF.create_frame(frame[50_000:], websocket.ABNF.OPCODE_CONT, 1))
    assert len(caller.expect("session.updated")["session"]["instructions"]) == 100_000
    with contextlib.suppress(OSError):
        caller.socket.send("z" * (25 * 1024 * 1024))
    with contextlib.suppress(OSError, websocket.WebSocketException):
        assert caller.close_frame()[0] == 1009
    assert dial(xai).receive()["type"] == "session.created"


def test_ping_is_answered_while_an_answer_is_sent(dial: Dial) -> None:
    """A WebSocket ping gets its pong between the deltas."""
    with RealtimeServer(light=True, pace=1.0) as server:
        caller = dial(server)
        caller.write("Tell me a long story")
        caller.send("response.create")
        caller.expect("response.output_audio.delta")
        caller.socket.ping("still there?")
        while True:
            opcode, frame = caller.socket.recv_data_frame(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_PONG:
                break
        assert frame.data == b"still there?"


def test_compression_is_not_negotiated(xai: RealtimeServer) -> None:
    """A client's offer of permessage-deflate is left alone."""
    with socket.create_connection(("127.0.0.1", xai.port), timeout=20) as plain:
        plain.sendall((UPGRADE + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n").encode())
        head = plain.recv(4096).split(b"\r\n\r\n")[0]
    assert b" 101 " in head
    assert b"extensions" not in head.lower()


@pytest.mark.parametrize("bad", [UPGRADE.replace("Version: 13", "Version: 8"), UPGRADE.replace("Connection: Upgrade\r\n", "")])
def test_a_broken_upgrade_is_a_400(xai: RealtimeServer, bad: str) -> None:
    """What only looks like an upgrade is refused, and the server goes on."""
    with socket.create_connection(("127.0.0.1", xai.port), timeout=20) as plain:
        plain.sendall((bad + "\r\n").encode())
        assert b" 400 " in plain.recv(4096)


def test_garbage_and_lost_connections_hurt_nobody(xai: RealtimeServer, dial: Dial) -> None:
    """Bytes that are no HTTP, frames that are no WebSocket, and a reset leave a running call alone."""
    caller = dial(xai)
    with socket.create_connection(("127.0.0.1", xai.port), timeout=20) as plain:
        plain.sendall(b"\x16\x03\x01\x00\xff" * 100)
    with socket.create_connection(("127.0.0.1", xai.port), timeout=20) as plain:
        plain.sendall((UPGRADE + "\r\n").encode())
        plain.recv(65536)
        plain.sendall(b"\xff" * 1000)
    with socket.create_connection(("127.0.0.1", xai.port), timeout=20) as plain:
        plain.sendall((UPGRADE + "\r\n").encode())
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    assert caller.ask("Hello")[-1]["response"]["status"] == "completed"


def test_a_message_too_large_is_told_while_it_is_being_sent(xai: RealtimeServer, dial: Dial) -> None:
    """A client that is still writing reads 1009 all the same, and no reset; then its connection ends."""
    caller = dial(xai)
    caller.socket.send("x" * (40 * 1024 * 1024))  # the server has had enough at 24 MiB
    assert caller.close_frame()[0] == 1009
    assert plain_socket(caller).recv(1) == b""


def test_a_client_that_writes_for_ever_is_cut_off(xai: RealtimeServer, dial: Dial) -> None:
    """What follows a close frame is thrown away for a while only."""
    client = plain_socket(dial(xai))
    client.sendall(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4))
    deadline = time.monotonic() + 30

    def write_on() -> None:
        while time.monotonic() < deadline:
            client.sendall(b"y" * 1_000_000)

    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        write_on()
    assert dial(xai).ask("Hello")[-1]["response"]["status"] == "completed"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(UPGRADE.encode() + b"\r\n", id="frame"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n\n", id="tls"),
        pytest.param(b"GET / " + b"x" * 70_000 + b"\r\n", id="garbage"),
    ],
)
def test_what_is_no_http_is_not_printed(xai: RealtimeServer, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    """TLS at a plain port, garbage, and what follows a WebSocket that is over, leave the terminal of the server's user clean."""
    with socket.create_connection(("127.0.0.1", xai.port), timeout=30) as plain, contextlib.suppress(OSError):
        plain.sendall(sent)
        plain.recv(65536)
        plain.sendall(b"\x88\x82" + bytes(4) + b"\x03\xe8" + b"z" * 70_000 + b"\r\n")  # a close frame, and more
        while plain.recv(65536):
            pass
    xai.stop()
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_twenty_calls_at_once(xai: RealtimeServer) -> None:
    """Each of twenty clients gets its own answer and nobody else's."""

    def call(number: int) -> str:
        with Caller(xai.ws_url) as caller:
            caller.configure(turn_detection={"type": "server_vad"})
            caller.ask(f"My name is Caller{'abcdefghijklmnopqrst'[number]}")
            caller.append(silence(0.2) + tone(0.5) + silence(0.8))
            caller.expect("response.done")
            answer: str = caller.ask("What is my name?")[-1]["response"]["output"][0]["content"][0]["transcript"]
            return answer

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(20)))
    assert answers == [f"Your name is Caller{letter}." for letter in "abcdefghijklmnopqrst"]


def test_a_client_that_does_not_read_holds_up_nobody(dial: Dial) -> None:
    """While one client reads nothing of a flood, another is answered, and stop() stays within its bound."""
    with RealtimeServer(light=True, pace=100_000) as server:
        deaf = dial(server)
        deaf.configure(audio={"output": {"format": {"type": "audio/pcm", "rate": 48000}}})
        for _ in range(20):
            deaf.send("response.create", response={"conversation": "none", "input": [], "instructions": "Say: " + "word " * 300})
        assert dial(server).ask("Hello")[-1]["response"]["status"] == "completed"
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5.0  # promised: 3 s


# -- what the server remembers -----------------------------------------------------------------------------------------------


def test_the_journal_has_everything_by_name(xai: RealtimeServer, dial: Dial) -> None:
    """Received and sent events are there in order with times; sound is a length, not text."""
    caller = dial(xai, header=["Authorization: Bearer qai_secret"])
    caller.configure(turn_detection=None)
    caller.append(tone(0.5))
    caller.send("input_audio_buffer.commit")
    caller.send("response.create")
    caller.until("response.done")
    journal = xai.journal
    received = [entry["name"] for entry in journal if entry["direction"] == "received"]
    assert received == ["connected", "session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "response.create"]
    sound = next(entry for entry in journal if entry["name"] == "input_audio_buffer.append")
    assert (sound["audio"], sound["count"]) == (24000, 25)
    delta = next(entry for entry in journal if entry["name"] == "response.output_audio.delta")
    assert isinstance(delta["delta"], int)
    assert [entry["at"] for entry in journal] == sorted(entry["at"] for entry in journal)
    assert "qai_secret" not in json.dumps(journal)
    sent = [entry["name"] for entry in journal if entry["direction"] == "sent"]
    assert sent == [event["type"] for event in caller.seen]


def test_conversations_are_remembered_after_their_end(xai: RealtimeServer, dial: Dial) -> None:
    """conversations, and /journal for other processes, show the items of open and closed calls."""
    caller = dial(xai)
    caller.configure()
    caller.ask("Hello")
    assert xai.conversations[0]["closed"] is False
    caller.close()
    deadline = time.monotonic() + 20
    while not xai.conversations[0]["closed"] and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    shown = requests.get(xai.url + "/journal", timeout=20).json()["conversations"][0]
    assert shown == xai.conversations[0]
    assert [(item["role"], item["text"]) for item in shown["items"]] == [
        ("user", "Hello"),
        ("assistant", "Hello! How can I help you today?"),
    ]
    assert shown["closed"] is True
    assert xai.journal[-1]["name"] == "closed"


# -- the end -----------------------------------------------------------------------------------------------------------------


def test_stop_says_goodbye_and_leaves_no_thread(dial: Dial) -> None:
    """Every client gets close 1001, in mid-answer too; afterwards no thread is left and the port is free."""
    before = set(offline_threads())
    server = RealtimeServer(light=True, pace=1.0).start()
    callers = [dial(server) for _ in range(3)]
    callers[0].write("Tell me a long story")
    callers[0].send("response.create")
    callers[0].expect("response.output_audio.delta")
    stopper = threading.Thread(target=server.stop)
    began = time.monotonic()
    stopper.start()
    assert [caller.close_frame()[0] for caller in callers] == [1001, 1001, 1001]
    for caller in callers:
        caller.close()
    stopper.join(5)
    assert time.monotonic() - began < 5.0  # promised: 3 s
    assert set(offline_threads()) <= before
    server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_stop_with_clients_that_never_answer() -> None:
    """Sockets that said nothing, half a request, or ignore the close frame are cut; stop() takes less than 3 s."""
    server = RealtimeServer(light=True).start()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(3)]
        sockets[1].sendall(b"GET / HT")
        sockets[2].sendall((UPGRADE + "\r\n").encode())
        assert b"101" in sockets[2].recv(65536)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5.0  # promised: 3 s
    assert offline_threads() == []


def test_the_session_cap_closes_as_the_gateway_does(dial: Dial) -> None:
    """At the cap comes an error max_duration and a close whose reason is the gateway's."""
    with RealtimeServer(light=True, session_cap=0.2) as server:
        caller = dial(server)
        assert caller.error()["type"] == "max_duration"
        assert caller.close_frame() == (1001, "session duration limit reached")


def test_wrong_options_are_refused_at_once() -> None:
    """What cannot be is a ConfigError from the constructor or from start, and names the remedy."""
    for options, said in (
        ({"dialect": "klingon"}, "openai"),
        ({"dialect": ["xai"]}, "openai"),
        ({"pace": 0}, "pace"),
        ({"pace": "x"}, "pace must be a number above 0, not 'x'"),
        ({"clock_speed": "x"}, "clock's speed must be a number above 0, not 'x'"),
        ({"session_cap": -1}, "cap"),
        ({"session_cap": "x"}, "session cap must be a number of seconds above 0, not 'x'"),
        ({"session_cap": float("inf")}, "session cap must be a number of seconds above 0, not inf; leave it out"),
        ({"host": 5}, "host must be text"),
        ({"key": 5}, "key must be text"),
        ({"script": 5}, "script must be a Script, or the path"),
        ({"tls": "a"}, "tls must be True, False, or the paths"),
        ({"tls": None}, "tls must be True, False, or the paths"),
        ({"tls": ("/no/cert",)}, "tls must be True, False, or the paths"),
        ({"port": 99999}, "65535"),
        ({"port": "8765"}, "'8765'"),
        ({"rate_limit": 0}, "rate_limit"),
        ({"mint_rate_limit": -1}, "mint_rate_limit"),
        ({"script": "/no/such/file"}, "cannot be read"),
        ({"tls": ("/no/cert", "/no/key")}, "/no/cert"),
    ):
        with pytest.raises(ConfigError, match=said):
            RealtimeServer(light=True, **options)  # type: ignore[arg-type]
    with RealtimeServer(light=True) as server, pytest.raises(ConfigError, match="another port"):
        RealtimeServer(light=True, port=server.port).start()
    with pytest.raises(ConfigError, match="start"):
        _ = RealtimeServer(light=True).url


# -- TLS ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            + ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
            + ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
            check=True,
            capture_output=True,
            timeout=30,
        )
    except OSError:
        pytest.skip("the openssl command is not here")
    return folder / "cert.pem", folder / "key.pem"


def test_tls_with_ones_own_certificate(certificate: tuple[pathlib.Path, pathlib.Path]) -> None:
    """wss and https work on one port, with sound in both directions at once and frames larger than a TLS record."""
    with RealtimeServer(light=True, pace=50, tls=certificate) as server:
        assert server.ws_url.startswith("wss://")
        assert requests.get(server.url + "/", verify=str(certificate[0]), timeout=20).status_code == 200
        with Caller(server.ws_url, sslopt={"ca_certs": str(certificate[0])}) as caller:
            caller.configure(turn_detection=None)
            caller.write("Tell me a long story")
            caller.send("response.create")
            caller.expect("response.output_audio.delta")
            caller.append(tone(2.0))
            caller.write("long " * 100_000)
            assert caller.expect("response.done")["response"]["status"] == "completed"
            assert any(
                event["type"] == "conversation.item.added" and len(event["item"]["content"]) and "long " in str(event)
                for event in caller.seen
            )


def test_a_plain_client_at_a_tls_port_hurts_nobody(certificate: tuple[pathlib.Path, pathlib.Path]) -> None:
    """A client without TLS, and one that says nothing, leave the others alone."""
    with RealtimeServer(light=True, tls=certificate) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as quiet:
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with contextlib.suppress(OSError):
                    plain.recv(1000)
            context = ssl.create_default_context(cafile=str(certificate[0]))
            with Caller(server.ws_url, sslopt={"context": context}) as caller:
                assert caller.receive()["type"] == "session.created"
            quiet.close()


def test_tls_made_on_the_fly() -> None:
    """tls=True makes a certificate whose authority the client can trust, or says which package is missing."""
    try:
        import trustme  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="trustme"):
            RealtimeServer(light=True, tls=True)
        return
    with RealtimeServer(light=True, tls=True) as server:
        context = ssl.create_default_context(cadata=server.certificate)
        with Caller(server.ws_url, sslopt={"context": context}) as caller:
            assert caller.receive()["type"] == "session.created"


# -- a process of its own ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the server as a process; give it and its first lines, up to the address."""
    root = pathlib.Path(__file__).resolve().parents[2]
    started = subprocess.Popen(
        [sys.executable, "-m", "qai_realtime_sync.offline", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert started.stdout is not None
    assert started.stderr is not None
    watch = threading.Timer(60, started.kill)
    watch.start()
    try:
        lines: list[str] = []
        while not lines or not lines[-1].startswith("listening on "):
            line = started.stdout.readline()
            if not line:
                break
            lines.append(line.strip())
        yield started, lines
    finally:
        watch.cancel()
        started.kill()
        started.wait(5)
        started.stdout.close()
        started.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_says_where_it_is_and_ends_on_a_signal(number: signal.Signals) -> None:
    """It prints its mode and its address, serves, and ends within 2 s with code 0 while a call is open."""
    with process("--light", "--port", "0") as (started, lines):
        assert lines[0].startswith("light: ")
        url = lines[-1].removeprefix("listening on ")
        with Caller(url.replace("http", "ws") + "/qai/v1/realtime") as caller:
            assert types([caller.receive()]) == ["session.created"]
            began = time.monotonic()
            started.send_signal(number)
            assert started.wait(10) == 0
            assert time.monotonic() - began < 5.0  # promised: 2 s
        assert started.stderr is not None
        assert started.stderr.read() == ""


def test_a_process_with_wrong_options_says_so_in_a_line() -> None:
    """A port that is taken, or half of a certificate, ends the process with code 2 and one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments in (["--port", str(taken.getsockname()[1])], ["--tls-cert", "x.pem"]):
            with process("--light", *arguments) as (started, lines):
                assert lines == []
                assert started.wait(20) == 2
                assert started.stderr is not None
                assert started.stderr.read().startswith("error: ")


def test_missing_packages_are_named() -> None:
    """Without werkzeug or simple-websocket the import says what to install."""
    for name in ("werkzeug", "simple_websocket"):
        code = (
            f"import sys; sys.modules[{name!r}] = None\n"
            "try:\n    import qai_realtime_sync.offline\n"
            "except Exception as error:\n    print(type(error).__name__, error)"
        )
        root = str(pathlib.Path(__file__).resolve().parents[2])
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, env={**os.environ, "PYTHONPATH": root}
        )
        assert run.stdout.startswith("ConfigError")
        assert "pip install 'qai-realtime-sync[serve]'" in run.stdout


@pytest.mark.parametrize("name", ["hibari", "pocketsphinx", "numpy"])
def test_without_a_voice_part_it_is_light_and_says_why(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A missing voice package is no failure: the server is light, and its description names the package."""
    monkeypatch.setitem(sys.modules, name, None)
    with RealtimeServer() as server:
        assert server.description.startswith("light: no voice because")
        assert "pip install" in server.description
        with Caller(server.ws_url) as caller:
            assert caller.receive()["type"] == "session.created"
