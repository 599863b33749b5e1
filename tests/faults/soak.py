"""Many conversations at once through random faults, and at the end a ledger in which every command and every session is accounted for.

    python -m tests.faults.soak --minutes 10 --conversations 20

Each conversation speaks, sends sound, calls tools and is interrupted by what a network can do: cuts, resets, black holes, stalls, slow
and chopped lines, a server that refuses, dies by kill -9, stands still, and comes back. The seed makes a run repeatable as far as
time allows.

The ledger: per client, every command that was accepted has exactly one outcome (sent, failed, dropped) and none waits; every life has
one end, which is its last event; every loss is followed by one reconnect or by the end. Over REST, every session that was minted was
ended. Afterwards no thread, no descriptor and no memory is left.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import gc
import json
import os
import pathlib
import random
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from qai_realtime_sync import (
    Closed,
    Command,
    NotConnectedError,
    OutboxFullError,
    RealtimeClient,
    RealtimeConfig,
    RealtimeError,
    Reconnected,
    Reconnecting,
    ReconnectPolicy,
    StateChanged,
)
from tests.faults.proxy import FIN, HALF, HOLE, RST, Fault, FaultProxy, cut, delay, one_byte_at_a_time, rechunk, throttle
from tests.faults.scene import Seen, ours
from tests.faults.server_process import ServerProcess

_POLICY = ReconnectPolicy(attempts=400, seconds=60.0, base=0.05, cap=0.5)
_LIVES = {"ping_interval": 1.0, "pong_timeout": 2.0, "connect_timeout": 8.0, "close_timeout": 3.0, "overflow": "drop_oldest"}
_OUTCOMES = ("accepted", "sent", "failed", "dropped", "waiting", "refused")
_BLOCKS_LEFT = 30_000  # objects, more or less: the ledger's own rows, and what is cached
_ROOM_LEFT = 128 * 2**20  # bytes: the allocator keeps pages that a few objects share, so the blocks say more


@attrs.define
class Account:
    """One client's row of the ledger."""

    accepted: int = 0
    refused: int = 0
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0
    answers: int = 0
    losses: int = 0
    reconnects: int = 0
    ended: str = ""
    complaints: list[str] = attrs.field(factory=list)


class Totals:
    """The sum of all rows; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self.rows: list[Account] = []
        self.faults: collections.Counter[str] = collections.Counter()
        self.never_connected: collections.Counter[str] = collections.Counter()
        self.errors: list[str] = []

    def row(self, account: Account) -> None:
        with self._lock:
            self.rows.append(account)

    def fault(self, name: str) -> None:
        with self._lock:
            self.faults[name] += 1

    def unconnected(self, error: RealtimeError) -> None:
        with self._lock:
            self.never_connected[type(error).__name__] += 1

    def error(self, what: str) -> None:
        with self._lock:
            self.errors.append(what)


class _Speaker:
    """One conversation after the other, until the time is over."""

    def __init__(self, number: int, address: str, until: float, seed: int, totals: Totals) -> None:
        self._address, self._until, self._totals = address, until, totals
        self._random = random.Random(seed)
        self._number = number
        self._never = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"soak-speaker-{number}")
        self.thread.start()

    def _run(self) -> None:
        try:
            while time.monotonic() < self._until:
                self._life()
        except BaseException as error:
            self._totals.error(f"speaker {self._number}: {type(error).__name__}: {error}")
            raise

    def _life(self) -> None:
        tool = {"type": "function", "name": "get_weather", "description": "Weather.", "parameters": {"type": "object", "properties": {}}}
        client = RealtimeClient("qai_soak", RealtimeConfig(tools=[tool]), base_url=self._address, reconnect=_POLICY, **_LIVES)
        client.on_function_call(lambda event: client.send_function_result(event.call_id, "sunny"))
        seen, accepted = Seen(client), _count_accepted(client)
        account = Account()
        try:
            client.connect()
        except RealtimeError as error:
            self._totals.unconnected(error)
            self._settle(client, seen, account, accepted())
            return
        end = min(self._until, time.monotonic() + self._random.uniform(5.0, 30.0))
        while time.monotonic() < end and client.state not in ("closed", "failed"):
            self._say_something(client, account)
            self._never.wait(self._random.uniform(0.0, 0.3))
        (client.abort if self._random.random() < 0.2 else client.close)()
        client.close()
        self._settle(client, seen, account, accepted())

    def _say_something(self, client: RealtimeClient, account: Account) -> None:
        what = self._random.choice(("sound", "sound", "sound", "text", "context", "ask", "cancel", "wait"))
        try:
            if what == "sound":
                for _ in range(self._random.randint(1, 25)):
                    client.send_audio(bytes(960))
            elif what == "text":
                client.send_text("what is the weather like?")
            elif what == "context":
                client.send_context("it is late")
            elif what == "cancel":
                client.cancel_response()
            elif what == "wait":
                client.wait_for("response_done", 0.2)
            else:
                client.ask("hello", timeout=self._random.uniform(0.5, 5.0))
                account.answers += 1
        except OutboxFullError:
            account.refused += 1
        except NotConnectedError:
            account.refused += 1
        except RealtimeError:
            pass  # a question without an answer, because the line was cut: what counts is the ledger

    def _settle(self, client: RealtimeClient, seen: Seen, account: Account, accepted: int) -> None:
        counts = client.outbox
        account.sent, account.failed, account.dropped, account.waiting = counts.sent, counts.failed, counts.dropped, counts.waiting
        account.accepted = accepted
        account.losses = sum(1 for e in seen.of(StateChanged) if (e.old, e.new) == ("open", "backoff"))
        account.reconnects = len(seen.of(Reconnected))
        ends = seen.of(Closed)
        account.ended = f"{ends[-1].by}/{ends[-1].meaning}" if ends else "never"
        try:
            seen.check_life()
        except AssertionError as error:
            account.complaints.append(str(error))
        if account.waiting:
            account.complaints.append(f"{account.waiting} commands have no outcome")
        if account.accepted != account.sent + account.failed + account.dropped:
            account.complaints.append(
                f"{account.accepted} commands accepted, but {account.sent} sent, {account.failed} failed, {account.dropped} dropped"
            )
        if account.losses - account.reconnects not in (0, 1):
            account.complaints.append(f"{account.losses} losses, but {account.reconnects} reconnects")
        if len(seen.of(Reconnecting)) < account.losses:
            account.complaints.append("a loss was not told")
        self._totals.row(account)


def _count_accepted(client: RealtimeClient) -> Callable[[], int]:
    """Count what the outbox takes at its door: its own counters are what is checked."""
    outbox = client._call.outbox
    put, prepend, lock = outbox.put, outbox.prepend, threading.Lock()
    accepted = 0

    def counting_put(command: Command) -> None:
        nonlocal accepted
        put(command)
        with lock:
            accepted += 1

    def counting_prepend(commands: Iterable[Command]) -> None:
        nonlocal accepted
        given = list(commands)
        with lock:
            accepted += len(given)
        prepend(given)

    outbox.put, outbox.prepend = counting_put, counting_prepend  # type: ignore[method-assign]
    return lambda: accepted


class _Minter:
    """Mints sessions over REST, speaks a little, and leaves in every way there is; straight to the server, whose ledger counts."""

    def __init__(self, url: str, until: float, seed: int, totals: Totals) -> None:
        self._url, self._until, self._totals = url, until, totals
        self._random = random.Random(seed)
        self.lives = 0
        self._never = threading.Event()
        self.thread = threading.Thread(target=self._run, name="soak-minter")
        self.thread.start()

    def _run(self) -> None:
        try:
            while time.monotonic() < self._until:
                client = RealtimeClient("qai_soak", base_url=self._url, mint=True, provider="xai", reconnect=_POLICY, **_LIVES)
                client.connect()
                if self._random.random() < 0.5:
                    client.ask("hello", timeout=10)
                if self._random.random() < 0.5 and client._call.connection is not None:
                    client._call.connection.abort()
                    client.wait_for("reconnected", 20)
                (client.abort if self._random.random() < 0.3 else client.close)()
                client.close()
                self.lives += 1
                self._never.wait(self._random.uniform(0.0, 0.5))
        except BaseException as error:
            self._totals.error(f"minter: {type(error).__name__}: {error}")
            raise


_LINES: dict[str, tuple[list[Fault], list[Fault]]] = {
    "straight": ([], []),
    "slow": ([throttle(100_000)], [throttle(300_000)]),
    "far": ([delay(0.03)], [delay(0.03)]),
    "chopped": ([rechunk(1)], [rechunk(2)]),
    "byte by byte upwards": ([one_byte_at_a_time], []),
}


class _Saboteur:
    """Breaks a random connection every so often, decides what the next ones meet, and sometimes takes the server away."""

    def __init__(self, proxy: FaultProxy, server: ServerProcess, until: float, seed: int, totals: Totals) -> None:
        self._proxy, self.server, self._until, self._totals = proxy, server, until, totals
        self._random = random.Random(seed)
        self._never = threading.Event()
        self.thread = threading.Thread(target=self._run, name="soak-saboteur")
        self.thread.start()

    def _run(self) -> None:
        try:
            next_outage = time.monotonic() + 20.0
            while time.monotonic() < self._until:
                self._never.wait(self._random.uniform(0.1, 0.8))
                self._plan()
                if time.monotonic() >= next_outage:
                    self._outage()
                    next_outage = time.monotonic() + self._random.uniform(20.0, 40.0)
                else:
                    self._break_one()
        except BaseException as error:
            self._totals.error(f"saboteur: {type(error).__name__}: {error}")
            raise

    def _plan(self) -> None:
        name = self._random.choice(list(_LINES))
        up, down = (list(way) for way in _LINES[name])
        if self._random.random() < 0.3:
            how, at = self._random.choice((FIN, RST, HALF, HOLE)), self._random.randint(0, 20_000)
            (up if self._random.random() < 0.5 else down).append(cut(at, how))
            name = f"{name}, cut by {how.value}"
        self._proxy.plan(up=up, down=down)
        self._totals.fault(f"line: {name}")

    def _break_one(self) -> None:
        living = [link for link in self._proxy.links if not link.over.is_set()]
        if not living:
            return
        link = self._random.choice(living)
        what = self._random.choice(("fin", "rst", "hole", "stall"))
        if what == "fin":
            link.end(FIN)
        elif what == "rst":
            link.end(RST)
        else:
            link.stall()
            if what == "stall":
                self._never.wait(self._random.uniform(0.1, 1.0))
                link.resume()
        self._totals.fault(f"broken: {what}")

    def _outage(self) -> None:
        what = self._random.choice(("refused", "killed", "stopped"))
        self._totals.fault(f"outage: {what}")
        if what == "refused":
            self._proxy.refuse()
            self._never.wait(self._random.uniform(0.5, 2.0))
            self._proxy.accept()
        elif what == "killed":
            self.server.signal(signal.SIGKILL)
            self.server.end()
            self.server = ServerProcess()
            self._proxy.target = self.server.port
        else:
            self.server.signal(signal.SIGSTOP)
            self._never.wait(self._random.uniform(1.0, 5.0))
            self.server.signal(signal.SIGCONT)


def _resident() -> int:
    """Bytes of memory in use, without what the allocator only keeps for later."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone can be asked
        ctypes.CDLL(None).malloc_trim(0)
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _warm_up() -> None:
    """Load what is loaded on first use, so that it is not taken for a leak."""
    with ServerProcess() as server:
        for options in ({}, {"mint": True, "provider": "xai"}):
            with RealtimeClient("qai_soak", base_url=server.url, **options) as client:
                client.ask("hello")


def _left_behind(before: dict[str, int]) -> list[str]:
    gc.collect()
    never = threading.Event()
    for _ in range(300):
        if not ours() and len(os.listdir("/proc/self/fd")) <= before["descriptors"]:
            break
        never.wait(0.02)
    found = [f"the thread {name}" for name in ours()]
    descriptors = len(os.listdir("/proc/self/fd"))
    if descriptors > before["descriptors"]:
        found.append(f"{descriptors - before['descriptors']} descriptors")
    clients = sum(1 for one in gc.get_objects() if isinstance(one, RealtimeClient))
    if clients:
        found.append(f"{clients} clients in memory")
    if sys.getallocatedblocks() - before["blocks"] > _BLOCKS_LEFT:
        found.append(f"{sys.getallocatedblocks() - before['blocks']} blocks of Python's memory")
    if _resident() - before["memory"] > _ROOM_LEFT:
        found.append(f"{(_resident() - before['memory']) / 2**20:.0f} MiB of memory")
    return found


def _sessions(url: str) -> list[dict[str, Any]]:
    """Every session that the server has minted."""
    with urllib.request.urlopen(f"{url}/journal", timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["sessions"]
    return found


def _run(minutes: float, conversations: int, seed: int, totals: Totals) -> tuple[int, int, list[dict[str, Any]]]:
    """Everything that lives: how many connections there were, how many minted lives, and what the gateway says of their sessions."""
    until = time.monotonic() + minutes * 60
    server = ServerProcess()
    with ServerProcess() as gateway:
        with FaultProxy(server.port) as proxy:
            saboteur = _Saboteur(proxy, server, until, seed, totals)
            speakers = [_Speaker(n, proxy.url(), until, seed * 1000 + n, totals) for n in range(conversations)]
            minter = _Minter(gateway.url, until, seed, totals)
            for thread in (saboteur.thread, minter.thread, *(speaker.thread for speaker in speakers)):
                thread.join()
            connections = len(proxy.links)
        saboteur.server.end()
        return connections, minter.lives, _sessions(gateway.url)


def soak(minutes: float, conversations: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Run it. Return the ledger, and what is wrong with it."""
    totals = Totals()
    _warm_up()
    before = {"descriptors": len(os.listdir("/proc/self/fd")), "memory": _resident(), "blocks": sys.getallocatedblocks()}
    began = time.monotonic()
    connections, minted, sessions = _run(minutes, conversations, seed, totals)
    gc.collect()
    rows = totals.rows
    ledger = {
        "seconds": round(time.monotonic() - began, 1),
        "conversations at once": conversations,
        "lives": len(rows),
        "connections": connections,
        "commands": {name: sum(getattr(row, name) for row in rows) for name in _OUTCOMES},
        "answers heard to the end": sum(row.answers for row in rows),
        "blocks of memory more than before": sys.getallocatedblocks() - before["blocks"],
        "losses": sum(row.losses for row in rows),
        "reconnects": sum(row.reconnects for row in rows),
        "ends": dict(collections.Counter(row.ended for row in rows)),
        "first connects that failed": dict(totals.never_connected),
        "sessions": {"minted": len(sessions), "ended": sum(1 for session in sessions if int(session["ended"]) == 1), "lives": minted},
        "faults": dict(sorted(totals.faults.items())),
    }
    wrong = totals.errors + [complaint for row in rows for complaint in row.complaints]
    if ledger["sessions"]["minted"] != ledger["sessions"]["ended"]:
        wrong.append("a session was minted and not ended exactly once")
    wrong += [f"left behind: {what}" for what in _left_behind(before)]
    return ledger, wrong


def main() -> int:
    """Run, print the ledger as JSON, and return 1 if anything is not accounted for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    ledger, wrong = soak(given.minutes, given.conversations, given.seed)
    sys.stdout.write(json.dumps({**ledger, "not accounted for": wrong}, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
