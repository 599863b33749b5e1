"""``qai-realtime doctor``: each step to a service is looked at, and a failure names its mend and what could not be looked at."""

from __future__ import annotations

import json
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the key, address or proxy of whoever runs it."""
    for name in ("QAI_API_KEY", "QAI_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def findings(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that asks the doctor about an address, and returns the code and its findings about the way there."""
    from qai_realtime_sync.cli import doctor

    monkeypatch.setattr(doctor, "_local", lambda arguments: iter(()))  # the local conversation has its own test

    def ask(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
        code = main(["doctor", *arguments, "--json"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert (lines[-1]["name"], lines[-1]["exit_code"], lines[-1]["ok"]) == ("result", code, code == 0)
        return code, {line["what"]: line for line in lines[:-1]}

    return ask


def test_the_way_to_a_server(serving: None, findings: Any) -> None:
    """Every step is ok: proxy, DNS, TCP, clock, key and a real answer."""
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, key="secret") as server:
        code, found = findings("--url", server.url, "--key", "secret")
        assert code == 0
        assert all(found[what]["state"] == "ok" for what in ("proxy", "DNS", "TCP", "TLS", "clock", "key", "round trip"))
        assert "Hello!" in found["round trip"]["text"]
        code, found = findings("--url", server.url, "--key", "wrong")
        assert (code, found["key"]["state"], found["key"]["mend"]) == (1, "failed", "is the key right, and for this service?")
        code, found = findings("--url", server.url)
        assert (code, found["key"]["state"], found["key"]["mend"]) == (1, "failed", "set QAI_API_KEY, or give --key")


def test_nobody_listens(findings: Any) -> None:
    """A closed port fails at TCP, and the rest is named as not looked at."""
    code, found = findings("--url", "http://127.0.0.1:1", "--key", "k")
    assert code == 1
    assert found["TCP"]["state"] == "failed"
    assert "firewall" in found["TCP"]["mend"]
    assert found["TLS"]["state"] == "skipped"
    assert "round trip" in found["TLS"]["text"]


def test_no_name(findings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, or with a wrong name, DNS fails, and everything after it is named."""

    def refuse(*_: object, **__: object) -> Any:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    code, found = findings("--online", "--key", "k")
    assert code == 1
    assert "Temporary failure" in found["DNS"]["text"]
    assert all(word in found["TCP"]["text"] for word in ("TCP", "TLS", "clock", "round trip"))


def test_a_proxy_is_named(findings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy is set it is said, without its password, and that it hides what lies behind it."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hidden@127.0.0.1:1")
    code, found = findings("--url", "https://service.example", "--key", "k")
    assert code == 1
    assert "127.0.0.1:1" in found["proxy"]["text"]
    assert "hidden" not in json.dumps(found)
    assert found["DNS"]["state"] == "skipped"


@pytest.fixture
def stranger(tmp_path: pathlib.Path) -> Iterator[int]:
    """The port of a TLS server with a certificate that nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("a certificate is made with openssl")
    made = subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 2 -subj /CN=localhost".split(),
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            with listening.accept()[0] as peer, context.wrap_socket(peer, server_side=True):
                return
        except OSError:
            return  # the client does not trust us, or nobody came

    thread = threading.Thread(target=serve)
    thread.start()
    yield listening.getsockname()[1]
    with socket.socket() as last:  # lets the thread go if nobody came
        last.settimeout(1)
        last.connect_ex(listening.getsockname())
    thread.join(20)
    listening.close()


def test_a_certificate_that_is_not_trusted(findings: Any, stranger: int) -> None:
    """It fails at TLS and asks for clock and proxy."""
    code, found = findings("--url", f"https://127.0.0.1:{stranger}", "--key", "k")
    assert code == 1
    assert found["TLS"]["state"] == "failed"
    assert "not trusted" in found["TLS"]["text"]
    assert "clock" in found["TLS"]["mend"]


@pytest.mark.parametrize(("key", "state"), [("qai_good", "ok"), ("qai_with_a_line_break\n", "failed"), (" sk_x", "failed")])
def test_the_shape_of_the_key(findings: Any, monkeypatch: pytest.MonkeyPatch, key: str, state: str) -> None:
    """A key with a line break, as copying leaves it, is found before anything is sent; no finding shows the key."""
    monkeypatch.setenv("QAI_API_KEY", key)
    code, found = findings()
    assert found["key"]["state"] == state
    assert key.strip() not in json.dumps(found)
    assert code == (0 if state == "ok" else 1)
    assert found["network"]["state"] == "skipped"
    assert "--online" in found["network"]["mend"]


@pytest.mark.parametrize("url", ["ftp://x", "https://a b", "http://"])
def test_no_address(findings: Any, url: str) -> None:
    """What is no address is said, with what one looks like."""
    code, found = findings("--url", url, "--key", "k")
    assert (code, found["address"]["state"]) == (1, "failed")
