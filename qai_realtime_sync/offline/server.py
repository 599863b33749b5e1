"""The local realtime server: listens, gives every connection a conversation, and ends with no thread left."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pathlib
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.elevenlabs import ElevenLabsSpelling
from qai_realtime_sync.offline.front import Front
from qai_realtime_sync.offline.gemini import GeminiSpelling
from qai_realtime_sync.offline.http_server import HttpServer
from qai_realtime_sync.offline.items import Item
from qai_realtime_sync.offline.journal import Journal
from qai_realtime_sync.offline.ledger import Ledger, RateLimit, Tariff
from qai_realtime_sync.offline.line import Line
from qai_realtime_sync.offline.metering import Meter, meter
from qai_realtime_sync.offline.openai import OpenAISpelling
from qai_realtime_sync.offline.script import Script
from qai_realtime_sync.offline.spelling import Spelling, Terms
from qai_realtime_sync.offline.tap import Refusal, Tap
from qai_realtime_sync.offline.tls import server_context
from qai_realtime_sync.offline.voice import Voice, assemble
from qai_realtime_sync.offline.xai import XAISpelling

__all__ = ["DIALECTS", "RealtimeServer"]

DIALECTS: dict[str, type[Spelling]] = {
    "openai": OpenAISpelling,
    "xai": XAISpelling,
    "elevenlabs": ElevenLabsSpelling,
    "gemini": GeminiSpelling,
}
_USUAL_PATHS = {
    "openai": "/v1/realtime",
    "xai": "/qai/v1/realtime",
    "elevenlabs": "/v1/convai/conversation?agent_id=agent_local",
    "gemini": "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
}
_STOP_SECONDS = 3.0
_WARM_UP_RATE = 16000
_GOODBYE_SECONDS = 0.5  # for clients to answer the close frame
_MOST_REMEMBERED = 1000
_log = logging.getLogger(__name__)


class RealtimeServer:
    """A realtime voice service on this computer; also a context manager.

    ``light`` serves tones instead of speech and recognises no words; without the voice parts that happens by itself, and
    `description` says why. ``key`` is what clients must show (``None`` = anything). ``tls`` is ``False``, ``True`` (a certificate made
    on the fly) or the paths of a certificate and its key. ``pace`` is how much faster than it plays sound is sent; ``clock_speed`` is how
    much faster than really sound passes at all, so that a test need not wait until something was said or heard. ``session_cap``
    ends every session after so many seconds; ``rate_limit`` is how many answers there are in a minute. ``dialect`` is what the paths of
    the OpenAI family speak, and whose address `ws_url` is; the paths of ElevenLabs and Gemini are there always.

    The rest is about minted sessions and money, see `ledger.Tariff`: ``token_life`` in seconds; ``cut_expired`` ends a running call whose
    token was not refreshed in time (else only the next upgrade notices); ``balance_ticks`` runs out: then minting is refused with 402, and
    a running call closed with ``insufficient balance``; ``ticks_per_minute`` is the price, ``minute`` how long that is; ``mint_rate_limit``
    how many sessions may be minted in one. `ledger` tells what was minted, refreshed, connected and ended.

    Raises: `ConfigError` for a wrong option, from the constructor.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        light: bool = False,
        key: str | None = None,
        tls: bool | tuple[str | pathlib.Path, str | pathlib.Path] = False,
        dialect: str = "xai",
        script: Script | str | pathlib.Path | None = None,
        pace: float = 4.0,
        session_cap: float | None = None,
        rate_limit: int | None = None,
        voice: Voice | None = None,
        token_life: float = 300.0,
        cut_expired: bool = False,
        balance_ticks: int | None = None,
        ticks_per_minute: int = 500_000_000,
        minute: float = 60.0,
        mint_rate_limit: int | None = None,
        clock_speed: float = 1.0,
    ) -> None:
        if not isinstance(dialect, str) or dialect not in DIALECTS:
            raise ConfigError(
                f"there is no dialect {dialect!r} in the local server; use one of {', '.join(DIALECTS)}", code="invalid_dialect"
            )
        if not _is_number(pace) or not pace > 0:
            raise ConfigError(f"the pace must be a number above 0, not {pace!r}", code="invalid_pace")
        if not _is_number(clock_speed) or not 0 < clock_speed < math.inf:
            raise ConfigError(f"the clock's speed must be a number above 0, not {clock_speed!r}", code="invalid_clock_speed")
        if not isinstance(host, str):
            raise ConfigError(f"the host must be text, like '127.0.0.1', not {host!r}", code="invalid_host")
        if key is not None and not isinstance(key, str):  # not shown: it may be one
            raise ConfigError(f"the key must be text, or None for any, not {type(key).__name__}", code="invalid_api_key")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ConfigError(f"the port must be a whole number from 1 to 65535, or 0 for any free one, not {port!r}", code="invalid_port")
        for name, limit in (("rate_limit", rate_limit), ("mint_rate_limit", mint_rate_limit)):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0):
                raise ConfigError(
                    f"the {name} must be a whole number above 0, not {limit!r}; leave it out for no limit", code="invalid_rate_limit"
                )
        if session_cap is not None and not (_is_number(session_cap) and 0 < session_cap <= threading.TIMEOUT_MAX):
            raise ConfigError(
                f"the session cap must be a number of seconds above 0, not {session_cap!r}; leave it out for none",
                code="invalid_session_cap",
            )
        self.dialect, self._pace, self._cap = dialect, pace, session_cap
        self._clock_speed = clock_speed
        self._host, self._port = host, port
        self._script = _script_of(script)
        self._context, self.certificate = server_context(tls)
        self._light, self._voice = light, voice
        self._limit = RateLimit(rate_limit)
        self.ledger = Ledger(
            key,
            Tariff(
                token_life=token_life,
                cut_expired=cut_expired,
                balance_ticks=balance_ticks,
                ticks_per_minute=ticks_per_minute,
                minute=minute,
                mint_rate_limit=mint_rate_limit,
            ),
        )
        self.mints = RateLimit(mint_rate_limit, seconds=minute)
        self._journal = Journal()
        self._lock = threading.Lock()  # guards the four below
        self._lines: dict[int, tuple[Line, Conversation]] = {}
        self._kept: list[tuple[int, Conversation]] = []
        self._resumable: dict[str, Conversation] = {}
        self._connections = 0
        self._http: HttpServer | None = None
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None

    # -- life ----------------------------------------------------------------------------------------------------------------

    def start(self) -> RealtimeServer:
        """Load the voice, listen, and return; raises `ConfigError` if the address cannot be had, or when it is started twice."""
        if self._http is not None:
            raise ConfigError("this server was started before; make another one", code="already_started")
        if self._voice is None:
            self._voice = assemble(self._light)
            _warm_up(self._voice)
        self._http = HttpServer(self._host, self._port, Front(self), self._context)
        self._wake, wakened = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, args=(self._http, wakened), name="qai-offline-accept", daemon=True)
        self._thread.start()
        return self

    def _accept(self, http: HttpServer, wakened: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, wakened:
            selector.register(http, selectors.EVENT_READ)
            selector.register(wakened, selectors.EVENT_READ)
            while not any(ready.fileobj is wakened for ready, _ in selector.select()):
                http.handle_request()

    def stop(self) -> None:
        """Say goodbye to every client (close code 1001), end all threads, at most 3 s; does nothing the second time."""
        deadline = time.monotonic() + _STOP_SECONDS
        http, thread, wake = self._http, self._thread, self._wake
        if http is None or thread is None or wake is None:
            return
        self._thread = self._wake = None
        wake.close()
        thread.join(_STOP_SECONDS)
        http.server_close()
        with self._lock:
            lines = list(self._lines.values())
        goodbyes = []
        for line, conversation in lines:
            conversation.halt()
            line.hang_up(1001, "the server stops")
            # Each in a thread of its own: a client that reads nothing would hold up all others.
            goodbyes.append(threading.Thread(target=line.flush, name=f"qai-offline-goodbye-{line.name}", daemon=True))
            goodbyes[-1].start()
        http.wait_for_requests(min(deadline, time.monotonic() + _GOODBYE_SECONDS))
        http.abort_requests()
        http.wait_for_requests(deadline)
        for goodbye in goodbyes:
            goodbye.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> RealtimeServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # -- what others ask -----------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port it listens on. Raises: `ConfigError` before `start`."""
        if self._http is None:
            raise ConfigError("the server has not been started: call start(), or use it in a with statement", code="not_started")
        return int(self._http.port)

    @property
    def _address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL, such as ``http://127.0.0.1:8123``."""
        return f"{'https' if self._context else 'http'}://{self._address}"

    @property
    def base_ws_url(self) -> str:
        """The base URL for WebSockets, such as ``ws://127.0.0.1:8123``."""
        return f"{'wss' if self._context else 'ws'}://{self._address}"

    @property
    def ws_url(self) -> str:
        """The full address of the WebSocket, as the dialect's own clients dial it."""
        return self.base_ws_url + _USUAL_PATHS[self.dialect]

    @property
    def description(self) -> str:
        """How it hears and speaks, in one line: ``voice: …`` or ``light: …`` with the reason."""
        return self._voice.description if self._voice is not None else "not started"

    def dialect_of(self, path: str) -> str:
        """Return what is spoken at a path of WebSockets, ``""`` if there is none."""
        if path in ("/qai/v1/realtime", "/v1/realtime"):
            return "openai" if self.dialect == "openai" else "xai"
        if path in ("/v1/convai/conversation", "/qai/v1/realtime/elevenlabs"):
            return "elevenlabs"
        return "gemini" if path.startswith("/ws/google.") and "BidiGenerateContent" in path else ""

    @property
    def journal(self) -> list[dict[str, Any]]:
        """What was received and sent, oldest first; see `journal.Journal`."""
        return self._journal.entries()

    @property
    def conversations(self) -> list[dict[str, Any]]:
        """All conversations since the start, oldest first: their items with transcripts, and where each was truncated."""
        with self._lock:
            kept, live = list(self._kept), set(self._lines)
        return [_described(number, conversation, number not in live) for number, conversation in kept]

    # -- for a server that is made for tests -----------------------------------------------------------------------------------

    def refusal(self, path: str, query: Mapping[str, str]) -> Refusal | None:
        """Return what the next upgrade at this path is refused with, before its key is looked at; ``None`` to let it in."""
        return None

    def tap(self, number: int, path: str, query: Mapping[str, str]) -> Tap:
        """Return what stands between a new connection and its conversation."""
        return Tap()

    def _now(self) -> float:
        return time.monotonic() * self._clock_speed

    # -- connections ---------------------------------------------------------------------------------------------------------

    def converse(
        self,
        environ: dict[str, Any],
        *,
        path: str,
        model: str,
        conversation_id: str,
        subprotocol: str,
        admitted: bool,
        beta: bool,
        query: Mapping[str, str],
        session_id: str = "",
    ) -> None:
        """Serve one WebSocket until it is over; called in the thread of its request."""
        assert self._voice is not None
        with self._lock:
            self._connections += 1
            number = self._connections
            earlier = self._resumable.get(conversation_id)
        threading.current_thread().name = f"qai-offline-line-{number}"
        tap = self.tap(number, path, query)
        line = Line(environ, tap.socket(environ["werkzeug.socket"]), subprotocol=subprotocol, name=str(number))
        self._journal.note(number, "received", "connected", {"path": path, "model": model})
        terms = Terms(
            number,
            model,
            expires_at=int(time.time() + self._cap) if self._cap else None,
            earlier=tuple(earlier.items) if earlier is not None else (),
            rate_limits=self._limit.report,
            cap=self._cap,
            query=query,
            gateway=path.startswith("/qai/"),
            keep=self._keep,
            recall=self._recall,
        )
        dialect = self.dialect_of(path)
        spelling = DIALECTS[dialect](tap.outlet(line), self._journal, terms)
        conversation = Conversation(
            self._voice,
            self._script,
            spelling,
            pace=self._pace,
            name=str(number),
            conversation_id=conversation_id if earlier is not None else "",
            allow=self._limit.allow,
            clock=self._now,
            speed=self._clock_speed,
        )
        if not admitted or (beta and dialect == "openai"):
            spelling.turn_away(admitted)
            line.run(lambda message: None)
            return
        with self._lock:
            self._lines[number] = (line, conversation)
            self._kept = [*self._kept[1 - _MOST_REMEMBERED :], (number, conversation)]
        cap = self._cap_timer(spelling, number)
        self.ledger.connected(session_id)

        def hang_up(code: int, reason: str) -> None:
            spelling.hang_up(code, reason)
            spelling.flush()

        watch = meter(self.ledger, session_id, path, number, hang_up)
        try:
            tap.begin(spelling, conversation)
            spelling.begin(conversation)
            line.run(lambda message: tap.receive(message, spelling.receive))
        finally:
            code, reason = line.ending
            self._journal.note(number, "received", "closed", {"code": code, "reason": reason})
            self._part(number, conversation, spelling, cap, watch)
            tap.end(code, reason)

    def _keep(self, handle: str, conversation: Conversation) -> None:
        with self._lock:
            self._resumable[handle] = conversation
            while len(self._resumable) > _MOST_REMEMBERED:
                del self._resumable[next(iter(self._resumable))]

    def _recall(self, handle: str) -> Conversation | None:
        with self._lock:
            return self._resumable.get(handle)

    def _cap_timer(self, spelling: Spelling, number: int) -> threading.Timer | None:
        if self._cap is None:
            return None
        timer = threading.Timer(self._cap, spelling.expire, (self._cap,))
        timer.name = f"qai-offline-cap-{number}"
        timer.daemon = True
        timer.start()
        return timer

    def _part(
        self, number: int, conversation: Conversation, spelling: Spelling, cap: threading.Timer | None, watch: Meter | None
    ) -> None:
        if cap is not None:
            cap.cancel()
        watching = [watch.end()] if watch is not None else []
        for thread in [*spelling.end(), *conversation.close(), *([cap] if cap is not None else []), *watching]:
            with contextlib.suppress(RuntimeError):  # a thread that was never started cannot be joined
                thread.join(1.0)
        with self._lock:
            self._lines.pop(number, None)
        if spelling.resumable:
            self._keep(conversation.id, conversation)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _script_of(given: Script | str | pathlib.Path | None) -> Script:
    if given is None or isinstance(given, Script):
        return Script() if given is None else given
    if not isinstance(given, (str, os.PathLike)):
        raise ConfigError(f"the script must be a Script, or the path of a JSON file of rules, not {given!r}", code="invalid_script")
    return Script.load(given)


def _warm_up(voice: Voice) -> None:
    """Hear one spoken word, so that the first caller does not wait for what models load with their first utterance."""
    listener = voice.listener(_WARM_UP_RATE)
    if listener is None:
        return
    pcm = b"".join(sentence.pcm for sentence in voice.speech.speak("Hello.", _WARM_UP_RATE))
    detector = voice.detector(_WARM_UP_RATE)
    detector.likelihood(pcm[: detector.window * 2])
    voice.release(detector)
    listener.feed(pcm)
    listener.finish()


def _described(number: int, conversation: Conversation, closed: bool) -> dict[str, Any]:
    with conversation.lock:
        return {
            "id": conversation.id,
            "connection": number,
            "closed": closed,
            "items": [_item(item) for item in conversation.items],
        }


def _item(item: Item) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": item.id, "kind": item.kind, "role": item.role, "status": item.status, "text": item.text}
    if item.kind != "message":
        shown |= {"name": item.name, "call_id": item.call_id, "arguments": item.arguments, "output": item.output}
    if item.role == "assistant":
        shown |= {"generated_ms": item.generated_ms, "truncated_ms": item.truncated_ms}
    return shown
