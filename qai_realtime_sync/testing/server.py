"""`ScriptedServer`: a realtime service for one test, which says what the test expects and reports what did not happen."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

from qai_realtime_sync.audio import AudioFormat, silence
from qai_realtime_sync.errors import ConfigError, RealtimeTimeoutError
from qai_realtime_sync.offline.items import RefusedError, Request
from qai_realtime_sync.offline.ledger import Ledger
from qai_realtime_sync.offline.script import Say
from qai_realtime_sync.offline.server import RealtimeServer
from qai_realtime_sync.testing.cassette import scrubbed
from qai_realtime_sync.testing.ears import Ears
from qai_realtime_sync.testing.expectation import Expectation, check_close, raw_message
from qai_realtime_sync.testing.faults import Faults
from qai_realtime_sync.testing.journal import Journal
from qai_realtime_sync.testing.loopback import KEY, Loopback
from qai_realtime_sync.testing.story import Story
from qai_realtime_sync.testing.tapped import TappedServer

__all__ = ["ScriptedServer", "option_names"]

_FAST = 1000.0


class ScriptedServer(Loopback):
    """A loopback server that plays the service in a test; a context manager.

    | argument | default | meaning |
    |---|---|---|
    | ``dialect`` | ``"xai"`` | whose wire it speaks: also ``"openai"``, ``"elevenlabs"``, ``"gemini"`` |
    | ``key`` | ``"qai_test_key"`` | what clients must show; ``None`` = anything |
    | ``strict`` | ``True`` | once something is expected, everything else is answered by an error and reported |
    | ``in_order`` | ``False`` | expectations must be met in the order in which they were written |
    | ``must_complete`` | ``True`` | the fixture, and the end of a ``with`` block, call `assert_complete` |
    | ``fast`` | ``True`` | what it says takes no time; ``False``: sound comes at ``pace`` times its speed |
    | ``light`` | ``False`` | tones, even where a voice is installed |
    | ``recognise`` | ``False`` | speech that `speech` did not make is recognised by pocketsphinx (extra ``offline``) |

    Further arguments are those of `offline.RealtimeServer`: ``tls``, ``session_cap``, ``balance_ticks``, ``token_life`` …

    Raises: `ConfigError` for a wrong argument, and without the extra ``testing``.
    """

    def __init__(
        self,
        *,
        dialect: str = "xai",
        key: str | None = KEY,
        strict: bool = True,
        in_order: bool = False,
        must_complete: bool = True,
        fast: bool = True,
        light: bool = False,
        recognise: bool = False,
        **options: Any,
    ) -> None:
        self.must_complete = must_complete
        self.journal = Journal()
        self.fault = Faults()
        self._story = Story(strict, in_order)
        self._story.knows_tools = dialect != "elevenlabs"  # an agent's tools are not declared by its client
        self._ears = Ears(light=light, recognise=recognise)
        self._story.load_voice = self._ears.load
        if fast:
            options.setdefault("clock_speed", _FAST)
        try:
            self._server = TappedServer(
                self._story, self.journal, self.fault, key=key, dialect=dialect, voice=self._ears, light=light, **options
            )
        except TypeError as error:
            unknown = sorted(set(options) - set(inspect.signature(RealtimeServer.__init__).parameters))
            told = f"there is no option {', '.join(map(repr, unknown))}; there are: {', '.join(option_names())}" if unknown else str(error)
            raise ConfigError(f"ScriptedServer: {told}", code="invalid_option") from None
        super().__init__(self._server, key)

    def __repr__(self) -> str:
        return f"<ScriptedServer of {self._server.dialect}, {len(self._story.expectations)} expectations>"

    @property
    def dialect(self) -> str:
        """Whose wire it speaks."""
        return self._server.dialect

    # -- what is expected -----------------------------------------------------------------------------------------------------

    def on_text(self, pattern: Any, times: int | None = 1) -> Expectation:
        """Expect that the user says or writes something that fits a pattern, so often; ``times=None``: any number, none too.

        The pattern is a regular expression, searched without regard to case. The first expectation that fits and is not used up counts.
        """
        return self._story.expect(self._story.text_trigger(pattern), times)

    def on_audio(self, seconds: float | None = None, words: Any = None, times: int | None = 1) -> Expectation:
        """Expect that the user has spoken: at least so many seconds, at least so many words, or words that fit a pattern."""
        return self._story.expect(self._story.audio_trigger(seconds, words), times)

    def on_connect(self, times: int | None = 1) -> Expectation:
        """Expect a client that becomes ready; what follows is said without being asked."""
        return self._story.expect(self._story.connect_trigger(), times)

    def on_request(self, instructions: Any = "", times: int | None = 1) -> Expectation:
        """Expect that an answer is asked for though nobody said anything, with instructions that fit a pattern."""
        return self._story.expect(self._story.request_trigger(instructions), times)

    def speech(self, text: str, *, sample_rate: int = 24000, silence_after: float = 1.0) -> bytes:
        """Return text as a caller says it, PCM16, by a voice if one is installed, else as tones; give it to `RealtimeClient.send_audio`.

        The server understands it word by word. The silence behind it lets the service notice its end.
        """
        return self._ears.spoken(text, sample_rate) + silence(silence_after, AudioFormat("pcm16", sample_rate))

    # -- what it does at once -------------------------------------------------------------------------------------------------

    def say(self, text: str, timeout: float = 10.0) -> None:
        """Say something to every connected client, unasked, when the running answer is over.

        Raises: `ConfigError` if nobody is connected, or for no text; `RealtimeTimeoutError` if an answer does not end.
        """
        if not isinstance(text, str):
            raise ConfigError(f"say() takes text, not {text!r}", code="invalid_script")
        taps = self._server.taps()
        if not taps:
            raise ConfigError("nobody is connected: to greet whoever comes, use on_connect().say(…)", code="not_connected")
        deadline = time.monotonic() + timeout
        for tap in taps:
            while True:
                seen = len(self.journal)
                try:
                    tap.conversation.respond(Request(steps=[Say(text)]))
                except RefusedError:  # an answer is being made
                    if not self.journal.wait_for_more(seen, deadline - time.monotonic()):
                        raise RealtimeTimeoutError(f"an answer was still being made after {timeout:g} s") from None
                    continue
                tap.flush()
                break

    def send(self, message: Mapping[str, Any] | str | bytes) -> None:
        """Send every connected client this message as it is, a dict as JSON."""
        raw = raw_message(message)
        for tap in self._server.taps():
            tap.send(raw)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close every connection with this code and reason."""
        check_close(code, reason)
        for tap in self._server.taps():
            tap.close(code, reason)

    def drop(self) -> None:
        """Lose every connection, without a close frame."""
        for tap in self._server.taps():
            tap.drop()

    def rate_limit(self, retry_after: float | None = 1, *, times: int | None = 1) -> None:
        """Refuse the next connections with 429, see `Faults.rate_limit`; ``on_text(…).rate_limit()`` refuses an answer."""
        self.fault.rate_limit(retry_after, times=times)

    def refuse_auth(self, code: str = "invalid_key") -> None:
        """From now on no key is right, see `Faults.refuse_auth`."""
        self.fault.refuse_auth(code)

    def slow(self, seconds: float) -> None:
        """Let every answer from now on begin so many real seconds later; 0 for at once."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            raise ConfigError(f"slow() needs a number of seconds, not {seconds!r}", code="invalid_fault")
        self._story.delay = seconds

    # -- what became of it ----------------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """What was minted, refreshed, ended and paid."""
        return self._server.ledger

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The minted sessions, oldest first: id, refreshed, ended, duration_seconds, connections, paid_minutes …"""
        return self._server.ledger.sessions()

    @property
    def conversations(self) -> list[dict[str, Any]]:
        """All conversations, oldest first: their items with texts, tool calls and results, and where each answer was cut."""
        return self._server.conversations

    def report(self) -> str:
        """Return in words what was expected and did not happen, and what happened unexpectedly; ``""`` if all went well."""
        found = [*self._story.problems(self._summary), *self.fault.problems()]
        if not found:
            return ""
        text = "\n".join(["the conversation did not go as the test expects:", *(f"  - {one}" for one in found)])
        return str(scrubbed(text, ()))  # it goes into logs of other machines

    def _summary(self, connection: str) -> str:
        return self.journal.summary(int(connection) if connection else None)

    def assert_complete(self, timeout: float = 2.0) -> None:
        """Wait a moment for what is under way; then raise AssertionError if something expected did not happen, or something else did."""
        self._story.wait(timeout, lambda: not self._server.taps())
        super().assert_complete()


def option_names() -> list[str]:
    """The options that there are, by their names."""
    own, more = (inspect.signature(one.__init__).parameters for one in (ScriptedServer, RealtimeServer))
    given = {"self", "options", "script", "voice"}
    return sorted({*own, *more} - given)
