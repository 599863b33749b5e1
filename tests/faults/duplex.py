"""Voice in both directions at the cadence of a call, inside TLS, with new keys in between: every message is numbered and looked for.

    python -m tests.faults.duplex --minutes 10 --busy        # what the promise says; without arguments a short run
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import multiprocessing
import os
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs

from qai_realtime_sync import AudioDelta, Closed, RealtimeClient, Reconnecting
from tests.faults.tls_front import TlsFront
from tests.servers import Service
from tests.transport.peer import Certificates

__all__ = ["Ledger", "converse"]

_PIECE = 960  # 20 ms of PCM16 at 24 kHz
_STEP = 0.02
_PATIENCE = 30.0


@attrs.define
class Ledger:
    """What was said and heard in one conversation; `complaints` says what is wrong with it."""

    said_up: int = 0
    said_down: int = 0
    heard_up: list[int] = attrs.field(factory=list)
    heard_down: list[int] = attrs.field(factory=list)
    losses: int = 0

    def complaints(self) -> list[str]:
        """Every message once, in order, in both directions, over one connection."""
        found = []
        for name, said, heard in (("up", self.said_up, self.heard_up), ("down", self.said_down, self.heard_down)):
            if heard != list(range(said)):
                wrong = next((at for at, number in enumerate(heard) if at != number), len(heard))
                found.append(f"{name}: {said} said, {len(heard)} heard, the first difference at {wrong}")
        if self.losses:
            found.append(f"{self.losses} lost connections")
        return found


def _piece(number: int) -> bytes:
    return struct.pack("<I", number) + bytes(_PIECE - 4)


class _Conversation:
    def __init__(self, service: Service, front: TlsFront, context: ssl.SSLContext) -> None:
        self.ledger = Ledger()
        self.client = RealtimeClient("qai_k", base_url=f"https://127.0.0.1:{front.port}", ssl_context=context)
        self.client.on(AudioDelta, self._heard)
        self.client.on(Reconnecting, self._lost)
        self.client.on(Closed, self._lost)
        self._all_heard = threading.Event()
        self.client.connect()
        self.talk = service.talk()

    def _heard(self, event: AudioDelta) -> None:
        (number,) = struct.unpack("<I", event.audio[:4])
        if number == 2**32 - 1:
            self._all_heard.set()
        else:
            self.ledger.heard_down.append(number)

    def _lost(self, event: object) -> None:
        self.ledger.losses += 1
        self._all_heard.set()

    def tick(self) -> None:
        """Say one piece each way."""
        ledger = self.ledger
        self.client.send_audio(_piece(ledger.said_up))
        ledger.said_up += 1
        self._say(_piece(ledger.said_down))
        ledger.said_down += 1

    def _say(self, pcm: bytes) -> None:
        with contextlib.suppress(OSError):  # counted as a loss by the client
            self.talk.audio("r", "i", pcm)

    def finish(self) -> Ledger:
        """Wait until everything has arrived."""
        self._say(struct.pack("<I", 2**32 - 1) + bytes(4))
        self._all_heard.wait(_PATIENCE)
        with contextlib.suppress(AssertionError):
            self.talk.fence(self.client)
        self.client.off(Closed)
        self.client.close()
        for value in self.talk.received:
            if value["type"] == "input_audio_buffer.append":
                data = base64.b64decode(value["audio"])
                self.ledger.heard_up += [struct.unpack("<I", data[at : at + 4])[0] for at in range(0, len(data), _PIECE)]
        return self.ledger


def converse(
    seconds: float, *, conversations: int, key_updates: int, busy: bool, certificates: Certificates | None = None
) -> list[Ledger]:
    """Run so many conversations at once for so long; ``busy`` keeps every core at work meanwhile."""
    certificates = certificates or Certificates()
    service = Service()
    try:
        with _burners(busy), TlsFront(service.server.port, certificates.server) as front:
            running = [_Conversation(service, front, certificates.client) for _ in range(conversations)]
            _run(running, front, seconds, key_updates)
            return [one.finish() for one in running]
    finally:
        service.stop()


def _run(running: list[_Conversation], front: TlsFront, seconds: float, key_updates: int) -> None:
    never = threading.Event()
    began = time.monotonic()
    due_updates = [began + seconds * (number + 1) / (key_updates + 1) for number in range(key_updates)]
    for step in range(int(seconds / _STEP)):
        for one in running:
            one.tick()
        if due_updates and time.monotonic() >= due_updates[0]:
            due_updates.pop(0)
            front.key_update()
        never.wait(max(0.0, began + (step + 1) * _STEP - time.monotonic()))
    for _ in due_updates:
        front.key_update()


def _burn(stop: Any) -> None:
    while not stop.is_set():
        sum(range(20_000))


@contextlib.contextmanager
def _burners(wanted: bool) -> Iterator[None]:
    """One process per core that does nothing but work."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = [context.Process(target=_burn, args=(stop,), daemon=True) for _ in range(os.cpu_count() or 2)] if wanted else []
    for process in processes:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in processes:
            process.join()
            process.close()


def main() -> int:
    """Run, print the ledger as JSON, and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.1)
    parser.add_argument("--conversations", type=int, default=4)
    parser.add_argument("--key-updates", type=int, default=4)
    parser.add_argument("--busy", action="store_true", help="keep every core at work meanwhile")
    given = parser.parse_args()
    began = time.monotonic()
    ledgers = converse(
        given.minutes * 60, conversations=given.conversations, key_updates=given.key_updates, busy=given.busy
    )
    complaints = [complaint for ledger in ledgers for complaint in ledger.complaints()]
    report = {
        "seconds": round(time.monotonic() - began, 1),
        "conversations": len(ledgers),
        "key updates on each": given.key_updates,
        "messages up": sum(ledger.said_up for ledger in ledgers),
        "messages down": sum(ledger.said_down for ledger in ledgers),
        "complaints": complaints,
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
