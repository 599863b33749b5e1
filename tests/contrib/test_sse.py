"""Server-Sent Events: numbering, coming back, what a page is told, and an end."""

from __future__ import annotations

import base64
import gc
import itertools
import json
import threading
import weakref
from typing import Any

import pytest

from qai_realtime_sync import (
    AudioDelta,
    Closed,
    ConfigError,
    ErrorReceived,
    Event,
    FunctionCall,
    RealtimeClient,
    SessionCreated,
    SpeechStarted,
    TranscriptDelta,
)
from qai_realtime_sync.commands import SendText
from qai_realtime_sync.contrib import sse
from qai_realtime_sync.events import EVENTS


def journal(*events: Event) -> sse.Journal:
    """A journal with these events."""
    made = sse.Journal()
    for event in events:
        made.add(event)
    return made


def parsed(pieces: Any) -> list[tuple[int, dict[str, Any]]]:
    """The messages of a stream: number and event."""
    found = []
    for piece in pieces:
        fields = dict(line.split(": ", 1) for line in piece.decode().splitlines() if ": " in line)
        if "data" in fields:
            assert set(fields) == {"id", "data"}
            assert piece.endswith(b"\n\n")
            found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


WORDS = [TranscriptDelta(delta=str(n)) for n in range(1, 6)]


def test_a_stream_tells_all_in_order_and_ends_with_the_conversation() -> None:
    """Every event has its number in the conversation, and after `closed` the stream is over."""
    told = parsed(sse.follow(journal(*WORDS, Closed())))
    assert [number for number, _ in told] == [1, 2, 3, 4, 5, 6]
    assert [event.get("delta") for _, event in told] == ["1", "2", "3", "4", "5", None]
    assert told[-1][1]["name"] == "closed"


def test_a_browser_that_comes_back_gets_the_rest() -> None:
    """After number 3 comes number 4, wherever the stream was cut."""
    kept = journal(*WORDS)
    first = parsed(itertools.islice(sse.follow(kept), 4))
    kept.add(Closed())
    rest = parsed(sse.follow(kept, after=first[-1][0]))
    assert [number for number, _ in first + rest] == [1, 2, 3, 4, 5, 6]


def test_a_number_of_another_conversation_counts_as_none() -> None:
    """Who comes with a number that was never given hears all from the beginning."""
    kept = journal(*WORDS, Closed())
    assert len(parsed(sse.follow(kept, after=99))) == 6
    assert len(parsed(sse.follow(kept, after=6))) == 0
    assert not kept.has_more(6)
    assert kept.has_more(5)


def test_a_browser_that_was_told_nothing_learns_of_the_end() -> None:
    """Where no event was one of those asked for, the stream still ends with a number, behind which nothing is left to tell."""
    kept = journal(*WORDS, Closed())
    *_, last = sse.follow(kept, events=["speech_started"])
    assert last == b"id: 6\n\n"
    assert not kept.has_more(6)


def test_what_was_passed_over_is_not_missed() -> None:
    """The heartbeat's number covers the events that were not asked for, so that a browser that comes back is not told that it lost them."""
    kept = journal(*[TranscriptDelta()] * 2000)
    heartbeat = list(itertools.islice(sse.follow(kept, events=["speech_started"], heartbeat=0.01), 3))[-1]
    assert heartbeat == b":\nid: 2000\n\n"


@pytest.mark.parametrize(("header", "number"), [(None, 0), ("", 0), ("17", 17), ("-1", 0), ("x", 0), ("²", 0), ("9" * 20, 0)])
def test_what_a_browser_sends_is_read(header: str | None, number: int) -> None:
    """A header that is no number of ours counts as none."""
    assert sse.last_seen(header) == number


def test_a_silent_stream_has_heartbeats() -> None:
    """The first piece comes at once; where nothing happens, empty comments follow."""
    stream = sse.follow(journal(), heartbeat=0.01)
    assert next(stream) == b"retry: 1000\n\n"
    assert next(stream) == b":\nid: 0\n\n"
    assert next(stream) == b":\nid: 0\n\n"


def test_events_that_are_not_told_do_not_keep_the_heartbeat_away() -> None:
    """What is filtered out is no sign of life for the browser."""
    kept = journal()
    stream = sse.follow(kept, heartbeat=0.2)
    next(stream)
    over = threading.Event()

    def talk() -> None:
        while not over.wait(0.02):
            kept.add(FunctionCall(name="x"))

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        assert next(stream).startswith(b":\nid: ")
    finally:
        over.set()
        talker.join()


def test_a_watcher_is_woken_by_an_event() -> None:
    """A stream that waits goes on with what comes, long before the heartbeat."""
    kept = journal()
    stream = sse.follow(kept, heartbeat=60)
    next(stream)
    threading.Timer(0.05, kept.add, [SpeechStarted(item_id="i1")]).start()
    assert parsed([next(stream)]) == [(1, {"name": "speech_started", "item_id": "i1"})]


def test_a_page_is_not_told_what_it_must_not_know() -> None:
    """Instructions, tools, their arguments and unsent commands stay on the server, unless all is asked for."""
    secret = "the secret instructions"
    events = [
        SessionCreated(session={"instructions": secret}),
        FunctionCall(name="look_up", arguments=secret),
        ErrorReceived(message="wrong", command=SendText(text=secret)),
        Closed(unsent=(SendText(text=secret),), error=ValueError(secret)),
    ]
    page = b"".join(sse.follow(journal(*events))).decode()
    assert secret not in page
    assert '"message": "wrong"' in page
    assert b"".join(sse.follow(journal(*events), events="all")).decode().count(secret) == 5


def test_events_can_be_chosen_by_name() -> None:
    """Only the named events are told, with all their fields."""
    told = parsed(sse.follow(journal(FunctionCall(name="look_up", arguments="{}"), *WORDS, Closed()), events=["function_call"]))
    assert [(number, event["tool_name"], event["arguments"]) for number, event in told] == [(1, "look_up", "{}")]


def test_an_error_is_no_error_of_the_stream() -> None:
    """No message has a type of its own: one called `error` would look to a browser like a lost connection."""
    assert b"event:" not in b"".join(sse.follow(journal(ErrorReceived(message="wrong"), Closed())))


def test_sound_is_told_as_its_length() -> None:
    """No sound in the stream, and none kept, where nobody asked for it."""
    kept = journal(AudioDelta(audio=b"\1\2\3\4", raw={"delta": "AQIDBA=="}), Closed())
    assert parsed(sse.follow(kept))[0][1]["audio"] == 4
    assert not any(isinstance(event, AudioDelta) for _, event in kept.after(0, 0) or ())


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_can_be_kept_and_told(name: str) -> None:
    """No event is lost for its kind; what is kept of it is not the wire's text."""
    event = EVENTS[name](event_id="e1", raw={"type": "x"})
    kept = journal(event)
    ((_, one),) = kept.after(0, 0) or ()
    assert isinstance(one, dict) or one.raw is None
    kept.end()
    assert parsed(sse.follow(kept, events="all")) == [(1, json.loads(json.dumps(event.to_dict())))]
    assert event.raw == {"type": "x"}


def test_sound_can_be_watched_live() -> None:
    """Who asks for sound gets it as base64 from then on, and the length of what came before; and is forgotten when gone."""
    kept = journal(AudioDelta(audio=b"early"))
    stream = sse.follow(kept, audio=True)
    next(stream)
    kept.add(AudioDelta(audio=b"live", raw={"delta": "again"}))
    assert [event["audio"] for _, event in parsed(itertools.islice(stream, 2))] == [5, base64.b64encode(b"live").decode()]
    stream.close()  # type: ignore[attr-defined]
    kept.add(AudioDelta(audio=b"late"))
    assert isinstance((kept.after(2, 0) or [])[0][1], dict)


def test_who_was_away_too_long_is_told() -> None:
    """A thousand events are kept; what was lost before them is told as a number."""
    kept = journal(*(TranscriptDelta(delta=str(n)) for n in range(1010)), Closed())
    stream = sse.follow(kept, after=5)
    next(stream)
    assert next(stream) == b"event: missed\ndata: 6\n\n"
    assert parsed(stream)[0][0] == 12


def test_text_that_no_encoding_has_arrives_as_json() -> None:
    """A lone surrogate and a line feed in the words do not break the stream."""
    (number, event), _ = parsed(sse.follow(journal(TranscriptDelta(delta="a\ud800\nb"), Closed())))
    assert (number, event["delta"]) == (1, "a\ud800\nb")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"events": ["transcript_don"]}, "did you mean"),
        ({"events": "transcript_done"}, "a list of names"),
        ({"heartbeat": 0}, "above 0"),
        ({"heartbeat": True}, "above 0"),
    ],
)
def test_a_wrong_argument_raises_at_once(wrong: dict[str, Any], words: str) -> None:
    """What cannot be followed is refused where it is asked for, not in the middle of an answer."""
    with pytest.raises(ConfigError, match=words):
        sse.follow(journal(), **wrong)


def test_a_client_has_one_journal() -> None:
    """All watchers of a client see the same numbers; it is a handler like others, and told of what happens."""
    client = RealtimeClient("key")
    kept = sse.journal_of(client)
    assert sse.journal_of(client) is kept
    client.close()
    assert [event["name"] for _, event in parsed(sse.follow(kept))] == ["state_changed", "closed"]


def test_a_conversation_that_was_over_is_not_waited_for() -> None:
    """The first watcher of a closed client gets an end, not heartbeats for ever."""
    client = RealtimeClient("key")
    client.close()
    assert list(sse.follow(sse.journal_of(client), heartbeat=60)) == [b"retry: 1000\n\n", b"id: 0\n\n"]


def test_watching_keeps_no_client_alive() -> None:
    """A client that the program has forgotten is collected, though somebody follows it."""
    client = RealtimeClient("key")
    stream = sse.follow(sse.journal_of(client))
    next(stream)
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
