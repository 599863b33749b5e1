"""``qai-realtime session`` as a script uses it: one line of JSON on standard output, secrets only when asked for, exit codes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.cli import main
from qai_realtime_sync.offline import RealtimeServer
from qai_realtime_sync.rest import RestClient

KEY = "qai_k_script"
MINUTE = 500_000_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RealtimeServer]:
    """A gateway that wants a key, which the environment names with it; there is money for three minutes."""
    with RealtimeServer(light=True, key=KEY, balance_ticks=3 * MINUTE) as server:
        monkeypatch.setenv("QAI_API_KEY", KEY)
        monkeypatch.setenv("QAI_BASE_URL", server.url)
        yield server


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Make a call that succeeds; return its line of JSON."""
    assert main(["session", *arguments]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    (line,) = output.out.splitlines()
    answer: dict[str, Any] = json.loads(line)
    return answer


def test_a_script_mints_talks_and_ends(server: RealtimeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """With --show-token the line is all that a program needs to connect; the ledger shows one session, ended once."""
    session = told(capsys, "create", "--show-token")
    RealtimeClient.direct(session["url"], session["ephemeral_token"], dialect="xai").connect().close()
    fresh = told(capsys, "refresh", session["session_id"], "--show-token")
    RealtimeClient.direct(session["url"], fresh["ephemeral_token"], dialect="xai").connect().close()
    assert told(capsys, "end", session["session_id"], "--seconds", "12.0")["status"] == "ended"
    (entry,) = server.ledger.sessions()
    assert (entry["refreshed"], entry["connections"], entry["ended"], entry["duration_seconds"]) == (1, 2, 1, 12)


def test_a_session_that_the_gateway_does_not_know(server: RealtimeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong id is told as what it is, and what was not told is null, not zero; a session that exists is ended, with its balance."""
    wrong = told(capsys, "end", "typo", "--seconds", "5")
    assert (wrong["status"], wrong["cost_ticks"], wrong["balance_after"]) == ("unknown to the gateway", None, None)
    session = told(capsys, "create")
    assert (session["cost_ticks"], session["balance_after"]) == (MINUTE, 2 * MINUTE)
    assert told(capsys, "end", session["session_id"], "--seconds", "5")["status"] == "ended"


def test_no_secret_is_printed_unless_asked_for(server: RealtimeServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a token, nor a signed address, nor the key, on either stream; the session's id is."""
    for arguments in (["create"], ["create", "--provider", "elevenlabs"]):
        assert main(["session", *arguments]) == 0
    ids = [one["id"] for one in server.ledger.sessions()]
    assert main(["session", "refresh", ids[0]]) == 0
    output = capfd.readouterr()
    for secret in [*server.ledger._secrets, KEY]:
        assert secret not in output.out + output.err
    assert all(session_id in output.out for session_id in ids)
    assert "use --show-token" in output.out


def test_a_signed_address_is_printed_when_asked_for(server: RealtimeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """ElevenLabs: the address is the right to connect."""
    session = told(capsys, "create", "--provider", "elevenlabs", "--show-token")
    assert "conversation_signature=" in session["signed_url"]
    assert session["provider"] == "elevenlabs"


def test_each_line_names_the_request(server: RealtimeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """What to quote to support stands in every answer, and what it cost."""
    session = told(capsys, "create")
    assert session["request_id"].startswith("req")
    assert session["cost_ticks"] == MINUTE
    assert session["balance_after"] == 2 * MINUTE
    ended = told(capsys, "end", session["session_id"], "--seconds", "100")
    assert (ended["cost_ticks"], ended["balance_after"]) == (MINUTE, MINUTE)


def test_ending_twice_is_no_error(server: RealtimeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A script may end what is over: it is no failure that the gateway does not know the session any more, and the line says so."""
    session_id = told(capsys, "create")["session_id"]
    for status in ("ended", "unknown to the gateway"):
        assert told(capsys, "end", session_id, "--seconds", "1")["status"] == status


def test_the_body_goes_out_as_it_is(server: RealtimeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Fields of --body stand beside the voice."""
    session = told(capsys, "create", "--voice", "eve", "--body", '{"model": "grok-4-voice"}')
    assert (session["voice"], session["model"]) == ("eve", "grok-4-voice")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["refresh", "vs_nobody"], "404"), (["create"], "402"), (["create", "--key", "qai_wrong"], "401")],
)
def test_a_refusal_is_one_line_and_exit_code_1(
    server: RealtimeServer, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """On standard error, with the request id and without the key; nothing on standard output."""
    with RestClient(KEY, base_url=server.url) as rest:
        for _ in range(3):
            rest.create_session()
    assert main(["session", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: qai: ")
    assert words in line
    assert "request_id=req" in line
    assert KEY not in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["refresh", ""],
        ["end", "vs_1", "--seconds", "-1"],
        ["end", "vs_1", "--seconds", "nan"],
        ["create", "--timeout", "0"],
        ["create", "--url", "http://example.com"],
        ["create", "--url", "ftp://x"],
        ["create", "--key", ""],
    ],
)
def test_what_cannot_work_is_wrong_usage(server: RealtimeServer, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Exit code 2, a word on standard error, and nothing was sent."""
    assert main(["session", *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.out == ""
    assert server.ledger.requests() == []


def test_a_gateway_that_is_away_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, within the timeout."""
    assert main(["session", "create", "--url", "http://127.0.0.1:9", "--key", KEY, "--timeout", "5"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_a_pipeline_reads_it(server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """As a process, in a shell's pipeline: the id is read from one command and handed to the next."""
    program = [sys.executable, "-m", "qai_realtime_sync", "session"]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    created = subprocess.run([*program, "create"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    session_id = json.loads(created.stdout)["session_id"]
    subprocess.run([*program, "end", session_id, "--seconds", "3"], env=environment, cwd=tmp_path, timeout=30, check=True)
    assert [one["ended"] for one in server.ledger.sessions()] == [1]
