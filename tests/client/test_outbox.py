"""The outbox: order, bounds, one outcome for each command, and a token that is never lost; the socket is a scripted writer."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qai_realtime_sync.client import outbox
from qai_realtime_sync.client.outbox import Outbox, OutboxCounts
from qai_realtime_sync.commands import CancelResponse, Command, CreateResponse, Pong, SendAudio, SendText, TruncateItem
from qai_realtime_sync.errors import ConnectionClosedError, NotConnectedError, OutboxFullError, UnsupportedCommandError
from qai_realtime_sync.seam import Frame


class Words:
    """A dialect whose spelling of a command says which dialect it was."""

    def __init__(self, name: str = "a") -> None:
        self.name = name

    def encode(self, command: Command) -> list[Frame]:
        if isinstance(command, CreateResponse):
            raise UnsupportedCommandError("no such word")
        body = command.text if isinstance(command, SendText) else command.command_name
        if isinstance(command, SendAudio):
            body = f"audio {command.audio.decode()}"
        return [Frame(f"{self.name}:{part}".encode()) for part in body.split("+")]


class Wire:
    """A connection that notes what it is given; ``room`` frames are taken at once, then it is full."""

    def __init__(self, room: int | None = None) -> None:
        self.got: list[str] = []
        self.room = room
        self.broken = False
        self.before: Callable[[], None] = lambda: None
        self.gave_all = False  # what it took in part was given as a whole in the end

    def try_send(self, frame: Frame) -> bool:
        self.before()
        if self.broken:
            raise ConnectionClosedError("gone")
        self.got.append(bytes(frame.payload).decode())
        return self.room is None or len(self.got) <= self.room


class Box:
    """An outbox with what its tests look at."""

    def __init__(self, *, max_commands: int = 1000, max_audio: float = 10.0, drop: bool = False, wanted: Any = lambda _: True) -> None:
        self.told: list[Command] = []
        self.blocked = 0
        self.box = Outbox(
            max_commands=max_commands,
            max_audio=max_audio,
            bytes_per_second=1,
            drop_oldest_audio=drop,
            sent=self.told.append,
            blocked=self._blocked,
            still_wanted=wanted,
        )
        self.box.speak(Words())
        self.puts = 0

    def _blocked(self) -> None:
        self.blocked += 1

    def put(self, *texts: str) -> None:
        for text in texts:
            self.box.put(SendText(text=text))
            self.puts += 1

    def hear(self, *pieces: str) -> None:
        for piece in pieces:
            self.box.put(SendAudio(audio=piece.encode()))
            self.puts += 1

    def adds_up(self) -> OutboxCounts:
        counts = self.box.counts
        assert counts.sent + counts.failed + counts.dropped + counts.waiting == self.puts
        return counts


def opened(wire: Wire, **options: Any) -> Box:
    box = Box(**options)
    box.box.open(wire)  # type: ignore[arg-type]
    return box


def test_commands_go_out_in_order_and_at_once() -> None:
    """An open outbox with nothing waiting writes in the caller's thread."""
    wire = Wire()
    box = opened(wire)
    box.put("1", "2")
    box.hear("x")
    assert wire.got == ["a:1", "a:2", "a:audio x"]
    assert box.adds_up() == OutboxCounts(sent=3)
    assert [c.command_name for c in box.told] == ["send_text", "send_text"]


def test_a_command_that_is_given_again_while_it_is_written_goes_out_once() -> None:
    """The connection is lost under a thread that writes, and the reader gives what was due to the next one."""
    wire = Wire()
    box = opened(wire)
    text = SendText(text="1")

    def lost() -> None:
        wire.broken = True
        box.box.lose()
        box.box.prepend([text])

    wire.before = lost
    box.box.put(text)
    again = Wire()
    box.box.open(again)  # type: ignore[arg-type]
    assert again.got == ["a:1"]
    assert box.box.held(SendText) == []
    box.box.put(SendText(text="2"))
    assert again.got == ["a:1", "a:2"]


def test_what_waits_already_is_not_given_again() -> None:
    """A text that was taken back from a lost connection waits; it is not put before itself."""
    box = Box()
    text = SendText(text="1")
    box.box.put(text)
    box.box.prepend([SendText(text="0"), text])
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:0", "a:1"]


def test_sound_is_told_only_to_who_records() -> None:
    """The way of sound is the shortest unless somebody keeps it."""
    box = opened(Wire())
    box.box.tells_audio = True
    box.hear("x")
    assert [c.command_name for c in box.told] == ["send_audio"]


def test_what_was_sent_of_sound_is_counted_in_seconds() -> None:
    """Only what the kernel has, in the format of its time."""
    box = opened(Wire())
    box.hear("ab", "c")
    assert box.box.sent_audio == 3.0
    box.box.measure(2)
    box.hear("de")
    assert box.box.sent_audio == 4.0


def test_before_connect_nothing_is_taken() -> None:
    """A command before connect() raises and says what to do."""
    box = Outbox(max_commands=1, max_audio=1, bytes_per_second=1, drop_oldest_audio=False, sent=lambda _: None, blocked=lambda: None)
    with pytest.raises(NotConnectedError, match=r"call connect\(\) first"):
        box.put(SendText(text="x"))
    box.prepend([SendText(text="x")])
    assert box.counts == OutboxCounts()


def test_what_cannot_be_said_raises_in_the_caller_and_leaves_no_trace() -> None:
    """An unsupported command is nobody's outcome."""
    box = opened(Wire())
    with pytest.raises(UnsupportedCommandError):
        box.box.put(CreateResponse())
    assert box.adds_up() == OutboxCounts()


def test_everything_is_held_until_the_service_is_ready() -> None:
    """Commands and sound of the time before readiness go out in their order when it is there."""
    box = Box()
    box.put("1")
    box.hear("x")
    box.put("2")
    wire = Wire()
    assert box.adds_up().waiting == 3
    assert not box.box.is_open
    box.box.open(wire)  # type: ignore[arg-type]
    assert box.box.is_open
    assert wire.got == ["a:1", "a:audio x", "a:2"]


def test_a_pause_holds_everything_until_the_next_connection() -> None:
    """A planned change of connections loses neither words nor sound."""
    first, second = Wire(), Wire()
    box = opened(first)
    box.box.pause(second)  # type: ignore[arg-type]  # not the one in use: an order that came too late
    assert box.box.is_open
    box.box.pause(first)  # type: ignore[arg-type]
    box.put("1")
    box.hear("x")
    box.box.lose(keep_audio=True)
    box.hear("y")
    box.box.open(second)  # type: ignore[arg-type]
    assert (first.got, second.got) == ([], ["a:1", "a:audio x", "a:audio y"])
    assert box.adds_up() == OutboxCounts(sent=3)


def test_what_a_new_connection_must_hear_first_goes_first() -> None:
    """Prepended commands keep their order and stand before all that waits."""
    box = Box()
    box.put("old")
    box.box.prepend([SendText(text="h1"), SendText(text="h2")])
    box.puts += 2
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:h1", "a:h2", "a:old"]
    box.adds_up()


def test_nothing_is_prepended_to_an_outbox_that_is_over() -> None:
    """History of a client that is closing is not sent."""
    box = Box()
    box.box.close("over")
    box.box.prepend([SendText(text="h")])
    assert box.adds_up() == OutboxCounts()


def test_a_cancel_overtakes_sound_but_no_words() -> None:
    """Cancel and truncate pass the sound that waits at the end of the queue, and stop behind the last other command."""
    box = Box()
    box.put("1")
    box.hear("x", "y")
    box.box.put(CancelResponse())
    box.box.put(TruncateItem(item_id="i", audio_end_ms=1))
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:1", "a:cancel_response", "a:truncate_item", "a:audio x", "a:audio y"]


def test_a_pong_overtakes_everything() -> None:
    """The answer to a ping stands at the head of the queue."""
    box = Box()
    box.put("1")
    box.box.put(Pong(ping_id=1))
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:pong", "a:1"]


def test_too_many_commands_are_refused_to_the_caller() -> None:
    """The limit counts what waits; the error names it, and the command has no outcome."""
    box = Box(max_commands=2)
    box.put("1", "2")
    with pytest.raises(OutboxFullError, match="2 commands wait"):
        box.box.put(SendText(text="3"))
    assert box.adds_up().waiting == 2
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    box.put("4", "5", "6")
    assert box.adds_up().sent == 5


def test_too_much_sound_is_refused() -> None:
    """With overflow='error' the newest sound is refused, and what waits stays."""
    box = Box(max_audio=3.0)
    box.hear("abc")
    with pytest.raises(OutboxFullError, match="more than 3 s of sound"):
        box.box.put(SendAudio(audio=b"d"))
    assert box.adds_up() == OutboxCounts(waiting=1)


def test_too_much_sound_drops_the_oldest_and_counts_it() -> None:
    """With overflow='drop_oldest' the newest sound is kept; commands are never dropped for it."""
    box = Box(max_audio=3.0, drop=True)
    box.hear("a", "b")
    box.put("word")
    box.hear("c", "de")
    counts = box.adds_up()
    assert (counts.dropped, counts.dropped_audio) == (2, 2.0)
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:word", "a:audio c", "a:audio de"]


@pytest.mark.parametrize("drop", [True, False])
def test_a_piece_longer_than_the_limit_is_refused_and_drops_nothing(drop: bool) -> None:
    """One huge piece can never wait; the message says to send it in pieces."""
    box = Box(max_audio=3.0, drop=drop)
    box.hear("ab")
    with pytest.raises(OutboxFullError, match="lasts 4 s.*in pieces"):
        box.box.put(SendAudio(audio=b"abcd"))
    assert box.adds_up() == OutboxCounts(waiting=1)


def test_seconds_are_counted_in_the_format_that_is_sent() -> None:
    """After a conversion to twice the bytes the same bytes are half the seconds."""
    box = Box(max_audio=3.0)
    box.box.measure(2)
    box.hear("abcdef")
    box.box.lose()
    assert box.adds_up().dropped_audio == 3.0


def test_a_full_socket_leaves_the_rest_to_the_sender() -> None:
    """The caller never waits: it wakes the sender once, and later commands wait behind."""
    wire = Wire(room=1)
    box = opened(wire)
    box.put("1", "2", "3")
    assert wire.got == ["a:1", "a:2"]
    assert box.blocked == 1
    assert box.adds_up() == OutboxCounts(sent=1, waiting=2)
    assert not box.box.drain(0.01)
    wire.room = None
    box.box.flushed()
    assert wire.got == ["a:1", "a:2", "a:3"]
    assert box.adds_up() == OutboxCounts(sent=3)
    assert box.box.drain(0.0)


def test_a_flush_does_not_take_what_another_thread_is_just_writing() -> None:
    """The sender, woken for something else, leaves a command alone that its writer has not given yet."""
    wire = Wire()
    box = opened(wire)
    wire.before = lambda: (setattr(wire, "before", lambda: None), box.box.flushed(), box.put("2"))[0]
    box.put("1")
    assert wire.got == ["a:1", "a:2"]
    assert box.adds_up() == OutboxCounts(sent=2)


def test_sound_is_dropped_and_words_are_held_when_the_connection_is_lost() -> None:
    """After a loss sound is dropped and counted until a new connection is prepared; commands wait for it."""
    first = Wire()
    box = opened(first)
    box.box.pause(first)  # type: ignore[arg-type]
    box.put("1")
    box.hear("ab")
    box.box.lose()
    box.hear("cd")
    assert box.adds_up() == OutboxCounts(dropped=2, dropped_audio=4.0, waiting=1)
    box.box.hold_audio()
    box.hear("e")
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:1", "a:audio e"]
    box.adds_up()


def test_what_was_queued_for_an_earlier_connection_is_spelled_anew() -> None:
    """A new connection has a new dialect instance, which may spell it otherwise."""
    box = Box()
    box.put("1")
    box.box.speak(Words("b"))
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["b:1"]


def test_half_a_command_goes_out_again_and_half_a_sound_does_not() -> None:
    """What the socket took in part cannot have been read: words are said again over the next connection, sound has failed."""
    wire = Wire(room=0)
    box = opened(wire)
    box.put("1")
    box.box.lose()
    second = Wire(room=0)
    box.box.open(second)  # type: ignore[arg-type]
    assert second.got == ["a:1"]
    box.box.flushed()
    box.hear("x")
    box.box.lose()
    assert box.adds_up() == OutboxCounts(sent=1, failed=1)


def test_half_a_command_that_an_orderly_end_let_out_is_not_said_twice() -> None:
    """The close frame of a planned change goes behind the frame that was half given: the service has read it."""
    wire = Wire(room=0)
    box = opened(wire)
    box.put("1")
    wire.gave_all = True
    box.box.lose(keep_audio=True)
    second = Wire()
    box.box.open(second)  # type: ignore[arg-type]
    assert second.got == []
    assert box.adds_up() == OutboxCounts(sent=1)


def test_a_command_that_was_being_written_when_the_connection_went_is_said_again() -> None:
    """A loss does not decide over another thread's write: what it finds broken, or full, waits for the next connection."""
    for ending in ("broken", "full"):
        wire, second = Wire(room=0), Wire()
        box = opened(wire)

        def lost(wire: Wire = wire, box: Box = box, second: Wire = second, ending: str = ending) -> None:
            box.box.lose()
            wire.broken = ending == "broken"
            box.box.open(second)  # type: ignore[arg-type]

        wire.before = lost
        box.put("1")
        assert second.got == ["a:1"]
        assert box.adds_up() == OutboxCounts(sent=1)


def test_what_is_of_no_use_to_a_new_conversation_is_dropped() -> None:
    """Commands of the kinds named are dropped and counted, the others keep their order."""
    box = Box()
    box.put("1")
    box.box.put(CancelResponse())
    box.box.put(TruncateItem(item_id="i", audio_end_ms=1))
    box.puts += 2
    box.put("2")
    box.box.forget(lambda command: isinstance(command, (CancelResponse, TruncateItem)))
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:1", "a:2"]
    assert box.adds_up() == OutboxCounts(sent=2, dropped=2)


def test_a_part_of_several_frames_has_failed() -> None:
    """A command of several messages may have been read in part: it is not said twice."""
    wire = Wire(room=1)
    box = opened(wire)
    box.put("1+2")
    box.box.lose()
    assert box.adds_up() == OutboxCounts(failed=1)


def test_a_connection_that_broke_under_the_writer_keeps_the_words() -> None:
    """The command that met the broken connection waits for the next one, in its place; the writer does not raise."""
    wire = Wire()
    box = opened(wire)
    wire.broken = True
    box.put("1", "2")
    box.hear("x")
    assert box.adds_up().waiting == 3
    box.box.lose()
    second = Wire()
    box.box.open(second)  # type: ignore[arg-type]
    assert second.got == ["a:1", "a:2"]
    assert box.adds_up() == OutboxCounts(sent=2, dropped=1, dropped_audio=1.0)


def test_a_writer_that_was_overtaken_by_a_loss_touches_nothing() -> None:
    """If the connection was lost while a thread was in its write, the write says what became of the command."""
    wire = Wire()
    box = opened(wire)
    wire.before = box.box.lose
    box.hear("x")
    assert box.adds_up() == OutboxCounts(sent=1)
    wire.before = lambda: (box.box.lose(), setattr(wire, "broken", True))[0]
    box.box.open(wire)  # type: ignore[arg-type]
    box.hear("y")
    assert box.adds_up() == OutboxCounts(sent=1, failed=1)
    wire.broken, wire.room = False, 0
    box.box.open(wire)  # type: ignore[arg-type]
    wire.before = box.box.lose
    box.hear("z")
    assert box.adds_up() == OutboxCounts(sent=1, failed=2)
    second = Wire()
    wire.before = lambda: None
    box.box.open(second)  # type: ignore[arg-type]
    box.put("1")
    assert second.got == ["a:1"]


def test_an_interruption_while_writing_gives_the_token_back() -> None:
    """Ctrl-C in the program's thread must not silence the client for ever."""
    wire = Wire()
    box = opened(wire)

    def interrupt() -> None:
        wire.before = lambda: None
        raise KeyboardInterrupt

    wire.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        box.box.put(SendText(text="1"))
    box.puts += 1
    box.put("2")
    assert wire.got == ["a:2"]
    assert box.adds_up() == OutboxCounts(sent=1, failed=1)


def test_an_interruption_after_a_loss_touches_nothing() -> None:
    """The token then belongs to the next connection."""
    wire = Wire()
    box = opened(wire)

    def interrupt() -> None:
        box.box.lose()
        raise KeyboardInterrupt

    wire.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        box.box.put(SendAudio(audio=b"x"))
    box.puts += 1
    assert box.adds_up() == OutboxCounts(failed=1)


def test_what_is_not_wanted_any_more_is_dropped_when_its_turn_comes() -> None:
    """The last word before writing belongs to who asked for it; the next command follows at once."""
    box = Box(wanted=lambda command: command.text != "1")
    box.put("1", "2")
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:2"]
    assert box.adds_up() == OutboxCounts(sent=1, dropped=1)


def test_a_drop_that_was_overtaken_by_a_loss_touches_nothing() -> None:
    """If the connection is lost while the question is asked, the answer decides."""
    holder: list[Box] = []

    def unwanted(command: Command) -> bool:
        holder[0].box.lose()
        return False

    box = Box(wanted=unwanted)
    holder.append(box)
    box.box.open(Wire())  # type: ignore[arg-type]
    box.put("1")
    assert box.adds_up() == OutboxCounts(dropped=1)


def test_after_close_nothing_is_taken_and_what_waits_still_goes() -> None:
    """Closing refuses new commands by its reason, and lets the queue drain; the first reason stays."""
    box = Box()
    box.put("1")
    box.box.close("the client was closed")
    box.box.close("later")
    with pytest.raises(NotConnectedError, match="the client was closed"):
        box.box.put(SendText(text="2"))
    wire = Wire()
    box.box.open(wire)  # type: ignore[arg-type]
    assert wire.got == ["a:1"]


def test_the_end_gives_back_what_never_left() -> None:
    """Commands come back in order and count as dropped; sound is only counted; what was half given has failed."""
    wire = Wire(room=0)
    box = opened(wire)
    box.put("half", "1")
    box.hear("xy")
    box.put("2")
    unsent = box.box.end()
    assert [c.text for c in unsent if isinstance(c, SendText)] == ["1", "2"]
    assert box.adds_up() == OutboxCounts(failed=1, dropped=3, dropped_audio=2.0)
    assert box.box.is_empty
    assert box.box.drain(0.0)
    with pytest.raises(NotConnectedError, match="the conversation is over"):
        box.box.put(SendText(text="3"))
    box.box.flushed()
    assert wire.got == ["a:half"]


def test_drain_wakes_when_everything_has_an_outcome() -> None:
    """A thread in drain returns as soon as the sender has flushed, not at its deadline."""
    wire = Wire(room=0)
    box = opened(wire)
    box.put("1")
    done: list[bool] = []
    waiter = threading.Thread(target=lambda: done.append(box.box.drain(10.0)))
    waiter.start()
    box.box.flushed()
    waiter.join(20.0)
    assert done == [True]


def test_many_threads_keep_their_own_order_and_nothing_is_lost() -> None:
    """Eight threads put 200 commands each while the connection changes: each has one outcome, and each thread's order holds."""
    wires = [Wire() for _ in range(4)]
    box = opened(wires[0], max_commands=10_000)
    start = threading.Barrier(9)

    def work(name: int) -> None:
        start.wait(5.0)
        for number in range(200):
            box.box.put(SendText(text=f"{name}.{number:03}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    start.wait(5.0)
    for old, wire in zip(wires, wires[1:], strict=False):
        box.box.pause(old)  # type: ignore[arg-type]
        box.box.lose()
        box.box.open(wire)  # type: ignore[arg-type]
    for thread in threads:
        thread.join(10.0)
    box.puts = 1600
    assert box.box.drain(20.0)
    counts = box.adds_up()
    assert counts.waiting == 0
    got = [text for wire in wires for text in wire.got]
    assert len(set(got)) == len(got)
    for name in range(8):
        mine = [text for text in got if text.startswith(f"a:{name}.")]
        assert mine == sorted(mine)


class Struck(BaseException):
    """What the handler of a signal raises."""


def strikes(at: int, action: Callable[..., None], argument: Any) -> bool:
    """Run ``action(argument)`` and raise where Python looks for signals for the ``at``-th time in the outbox; false if it did not."""
    left = at

    def look(frame: Any, event: str, _: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename == outbox.__file__:
            left -= 1
            if not left:
                sys.setprofile(None)
                raise Struck

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        action(argument)
    except Struck:
        return True
    finally:
        sys.setprofile(before)
    return False


@pytest.mark.parametrize("what", ["sound", "words", "sound to a full socket", "words to a full socket", "sound and words that wait"])
def test_wherever_a_signal_strikes_the_outbox_goes_on(what: str) -> None:
    """After an exception between any two steps of a put the next command goes out, and none has two outcomes or stays for ever."""
    for at in itertools.count(1):
        wire = Wire(room=0 if "full" in what else None)
        box = Box() if "wait" in what else opened(wire)
        if "wait" in what:
            box.put("1")
            box.hear("x")
            struck = strikes(at, box.box.open, wire)
        elif "sound" in what:
            struck = strikes(at, box.hear, "x")
        else:
            struck = strikes(at, box.put, "1")
        if not box.box.is_open:
            box.box.open(wire)  # type: ignore[arg-type]
        wire.room = None
        if box.blocked:
            box.box.flushed()
        accepted = box.puts
        box.put("after")
        assert wire.got[-1] == "a:after", at
        assert len(wire.got) == len(set(wire.got)), at
        assert box.box.drain(0), at
        counts = box.box.counts
        assert counts.waiting == 0, at
        assert accepted + 1 <= counts.sent + counts.failed + counts.dropped <= accepted + 2, at  # whoever was struck may call it again
        if not struck:
            return
