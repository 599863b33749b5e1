"""The journal: both sides in our words and on the wire, and a way to wait for the client."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from qai_realtime_sync import RealtimeTimeoutError
from qai_realtime_sync.testing import ScriptedServer
from qai_realtime_sync.testing.journal import plain_wire

PATIENCE = 20.0


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server with tones."""
    with ScriptedServer(light=True) as made:
        yield made


@pytest.mark.parametrize("dialect", ["xai", "openai", "elevenlabs", "gemini"])
def test_both_sides_in_our_words(dialect: str) -> None:
    """The same names stand in the journal whatever the wire is."""
    with ScriptedServer(dialect=dialect, light=True) as server:
        server.on_text("hello").say("Hi there.")
        server.client().ask("hello", timeout=PATIENCE)
        sent = [one["name"] for one in server.journal.sent()]
        assert sent[0] == "configure"
        assert server.journal.sent("send_text")[0]["text"] == "hello"
        received = [one["name"] for one in server.journal.received()]
        assert "audio_delta" in received
        assert "session_ready" in received or "session_created" in received
        told = "".join(str(one.get("transcript", "")) for one in server.journal.received())
        assert "Hi" in told


def test_the_wire_as_it_was(server: ScriptedServer) -> None:
    """What was written is there too, sound as its length."""
    client = server.client()
    client.send_audio(bytes(4800))
    client.drain(PATIENCE)
    server.journal.wait_for("send_audio")
    assert {"type": "input_audio_buffer.append", "audio": 4800} in server.journal.wire()
    assert server.journal.wire("server")[0]["type"] == "session.created"


def test_a_configuration_stands_as_it_was_written(server: ScriptedServer) -> None:
    """`configure` shows the session of the wire, not a guess of the configuration behind it."""
    server.client()
    (configured,) = server.journal.sent("configure")
    assert "config" not in configured
    assert configured["changes"]["voice"] == "Sal"


def test_it_is_a_sequence_with_beginnings_and_ends(server: ScriptedServer) -> None:
    """Connections begin and end in it, and each entry has its time, side and spelling."""
    with server.client():
        pass
    while (seen := len(server.journal)) and "closed" not in [entry.name for entry in server.journal]:
        assert server.journal.wait_for_more(seen, PATIENCE)
    entries = list(server.journal)
    assert (entries[0].name, entries[0].by) == ("connected", "client")
    assert "closed" in [entry.name for entry in entries]
    assert entries[0].to_dict() == {"at": round(entries[0].at, 3), "connection": 1, "by": "client", "name": "connected"}
    assert server.journal[1].to_dict()["name"] == entries[1].name
    assert server.journal[:2] == entries[:2]
    assert len(server.journal) == len(entries)
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)


def test_waiting_for_the_client(server: ScriptedServer) -> None:
    """`wait_for` returns what comes later, counts, and looks at fields."""
    client = server.client()
    later = threading.Thread(target=lambda: [client.send_text(word, respond=False) for word in ("one", "two", "three")])
    later.start()
    assert server.journal.wait_for("send_text", PATIENCE, count=3)["text"] == "three"
    assert server.journal.wait_for("send_text", PATIENCE, where=lambda said: said["text"] == "two")["text"] == "two"
    later.join()


def test_waiting_in_vain(server: ScriptedServer) -> None:
    """The error tells what the client sent instead."""
    server.client().send_text("one", respond=False)
    server.journal.wait_for("send_text")
    with pytest.raises(RealtimeTimeoutError, match=r'did not send commit_audio within 0.05 s; it sent: configure, send_text\("one"\)'):
        server.journal.wait_for("commit_audio", 0.05)


def test_a_summary_adds_up_sound(server: ScriptedServer) -> None:
    """A hundred pieces of sound are one entry of the summary."""
    client = server.client()
    for _ in range(100):
        client.send_audio(bytes(960))
    client.send_text("x" * 100, respond=False)
    server.journal.wait_for("send_text", PATIENCE)
    assert server.journal.summary().startswith("configure, send_audio ×100 (96000 bytes), send_text(\"xxx")
    assert server.journal.summary(connection=7) == "nothing"


def test_no_secret_in_the_wire() -> None:
    """Fields that hold credentials are not shown."""
    shown = plain_wire('{"session": {"tools": [{"type": "mcp", "authorization": "very secret"}]}}')
    assert shown == {"session": {"tools": [{"type": "mcp", "authorization": "<redacted>"}]}}
    assert plain_wire(b"\xff") == b"\xff"
