"""Promises with a figure that no other file of this folder measures, and a check that the table in README.md tells the truth."""

from __future__ import annotations

import ast
import json
import pathlib
import re
import threading
import time

import pytest

from qai_realtime_sync import (
    Closed,
    NotConnectedError,
    OutboxFullError,
    RealtimeClient,
    RealtimeConfig,
    RealtimeError,
    Reconnected,
    StateChanged,
)
from qai_realtime_sync.offline import RealtimeServer
from tests.faults.proxy import HOLE, FaultProxy, cut
from tests.faults.scene import FAST, LATE, Scene, Seen
from tests.servers import Talk, ready, service

HERE = pathlib.Path(__file__).parent


def test_close_of_nothing() -> None:
    """close() of a client that never connected, or is closed already, takes no time: 50 ms are promised."""
    fastest = 10.0
    for _ in range(5):
        client = RealtimeClient("k")
        began = time.monotonic()
        client.close()
        client.close()
        fastest = min(fastest, time.monotonic() - began)
    assert fastest < 0.05


def test_close_takes_milliseconds(plain: Scene) -> None:
    """close() of a healthy conversation takes as long as the service's answer to the close frame, not as long as a timeout."""
    fastest = 10.0
    for _ in range(5):
        client, _ = plain.open()
        began = time.monotonic()
        client.close()
        fastest = min(fastest, time.monotonic() - began)
    assert fastest < 0.25


def test_abort_takes_milliseconds(scene: Scene) -> None:
    """abort() wakes a thread that waits for an event within 100 ms, even in a black hole with sound waiting."""
    fastest = 10.0
    for _ in range(5):
        client, _ = scene.open(overflow="drop_oldest")
        scene.proxy.link().stall()
        for _ in range(20):
            client.send_audio(bytes(48_000))
        woken: list[float] = []
        waiter = threading.Thread(target=_wait, args=(client, woken))
        waiter.start()
        began = time.monotonic()
        client.abort()
        waiter.join()
        fastest = min(fastest, woken[0] - began)
    assert fastest < 0.1


def _wait(client: RealtimeClient, woken: list[float]) -> None:
    with pytest.raises(RealtimeError):
        client.wait_for("response_done")
    woken.append(time.monotonic())


def test_close_when_the_bill_is_not_settled() -> None:
    """close() returns within its 3 s although the gateway does not answer the call that ends the session."""
    with RealtimeServer(light=True, pace=1000) as server, FaultProxy(server.port) as proxy:
        client = RealtimeClient("k", base_url=proxy.url(), mint=True, provider="xai")
        seen = Seen(client)
        client.connect()
        proxy.plan(up=[cut(0, HOLE)])
        for link in proxy.links:
            link.stall()
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 3.0 + LATE
        seen.check_life()


def test_minted_session_is_ended_once() -> None:
    """Every session that was minted is ended exactly once, also after a loss and a reconnect, and also when the program aborts."""
    with RealtimeServer(light=True, pace=1000) as server:
        for leave in ("close", "abort"):
            client = RealtimeClient("k", base_url=server.url, mint=True, provider="xai", reconnect=FAST)
            seen = Seen(client)
            client.connect()
            assert client._call.connection is not None
            client._call.connection.abort()  # a minted session goes straight to the service, past any proxy
            seen.until(Reconnected)
            getattr(client, leave)()
            client.close()
        ended = [int(entry["ended"]) for entry in server.ledger.sessions()]
        assert len(ended) >= 2
        assert set(ended) == {1}


def test_nothing_after_the_close_frame() -> None:
    """While four threads send, close() ends the stream of frames: the close frame is the last, and later calls raise."""
    with service() as peer:
        client = peer.client()
        client.connect()
        talk = peer.talk()
        talk.answers_close = False
        accepted, stop = [0] * 4, threading.Event()

        def send(number: int) -> None:
            while not stop.is_set():
                try:
                    client.send_event({"type": "piece", "number": accepted[number], "thread": number})
                except OutboxFullError:
                    continue  # four threads say more than one socket takes
                except NotConnectedError:
                    return
                accepted[number] += 1

        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while min(accepted) < 50:
            talk.over.wait(0.001)
        client.close(timeout=3.0)
        stop.set()
        for thread in threads:
            thread.join()
        assert talk.over.wait(20.0)
        assert talk.closed_with == (1000, "")
        for number in range(4):
            heard = [v["number"] for v in talk.received if v["type"] == "piece" and v["thread"] == number]
            assert heard == list(range(len(heard))), "out of order"
        counts = client.outbox
        assert sum(accepted) == counts.sent + counts.failed + counts.dropped
        assert counts.waiting == 0


def test_end_tells_everything() -> None:
    """The last event has code, reason, who closed, what it means, the cause, what was never sent, and how much sound was dropped."""
    with service() as peer:
        client = peer.client(RealtimeConfig(), reconnect=False)
        seen = Seen(client)
        client.connect()
        talk = peer.talk()
        talk.stall()
        sent = [client.send_text("x" * 200_000, respond=False) for _ in range(60)]
        client.send_audio(bytes(48_000))
        talk.drop()
        end = seen.until(Closed)
        assert (end.code, end.reason, end.clean, end.by, end.meaning) == (None, "", False, "network", "lost")
        assert end.error is not None
        unsent = [command.event_id for command in end.unsent]
        assert unsent == sent[-len(unsent) :], "the last ones, in order"
        assert end.dropped_audio == pytest.approx(1.0)
        counts = client.outbox
        assert counts.sent + counts.failed + counts.dropped == 61
        assert counts.dropped == len(unsent) + 1


def test_states_are_told_in_the_order_they_were_made() -> None:
    """Two threads that change the state one after the other may tell it in any order: the program hears each once, in order."""
    client = RealtimeClient("k")
    seen = Seen(client)
    call = client._call
    made = [call.to_state(state) for state in ("connecting", "handshaking", "open")]
    assert None not in made
    for event in (made[1], made[0], made[2]):
        call.deliver([event])  # type: ignore[list-item]
    assert [event.number for event in seen.of(StateChanged)] == [1, 2, 3]
    call.lifecycle.state = "idle"
    client.close()


def test_ready_within_the_deadline_of_connect() -> None:
    """The deadline of connect() spans everything: what the upgrade has used is missing for the service's readiness."""

    def slow(talk: Talk) -> None:
        talk.peer.read_request()
        talk.over.wait(0.3)
        talk.peer.sock.sendall(talk.peer.acceptance())
        talk.over.wait(0.5)
        ready(talk)

    with service(slow) as peer:
        client = peer.client()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            client.connect(timeout=0.5)
        assert time.monotonic() - began < 0.5 + LATE


# -- the table ---------------------------------------------------------------------------------------------------------------


def _rows() -> list[tuple[str, str, str]]:
    """Fault, promise and test of each row of the tables in README.md."""
    rows = []
    for line in (HERE / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and "`" in cells[2]:
            rows.append((cells[0], cells[1], cells[2]))
    return rows


def test_table_has_sixty_faults() -> None:
    """The table names at least sixty faults, each once."""
    faults = [fault for fault, _, _ in _rows()]
    assert len(faults) >= 60
    assert len(set(faults)) == len(faults)


def test_table_names_tests_that_exist() -> None:
    """Every test that the table names is there, in this folder or in the one it says."""
    known = set()
    for file in HERE.parent.glob("*/test_*.py"):
        where = file.name if file.parent == HERE else f"../{file.parent.name}/{file.name}"
        tree = ast.parse(file.read_text())
        known |= {f"{where}::{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    for fault, _, cell in _rows():
        named = re.findall(r"`((?:\.\./\w+/)?test_\w+\.py::test_\w+)`", cell)
        assert named, f"{fault}: no test is named"
        for one in named:
            assert one in known, f"{fault}: there is no {one}"


def test_table_is_complete() -> None:
    """Every scripted fault of bad_server.py stands in the table by its name."""
    from tests.faults.bad_server import NEVER_READY, NONSENSE, VIOLATIONS

    text = (HERE / "README.md").read_text()
    missing = [name for table in (NEVER_READY, VIOLATIONS, NONSENSE) for name in table if f"{name}" not in text]
    assert not missing, json.dumps(missing)
