"""Playing to a sink in a real conversation: the user speaks, the program interrupts, the end is told, a broken sink is survived."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.events import AudioDelta, Event, HandlerFailed, PlaybackStopped, Reconnected
from tests.servers import Talk, ready, service

MS = 48  # bytes of a millisecond at 24 kHz


class Speaker:
    """A sink whose clock the test turns."""

    def __init__(self) -> None:
        self.written = b""
        self.cleared = 0
        self.played_ms = 0.0
        self.breaks = ""

    def write(self, audio: bytes) -> None:
        if self.breaks == "write":
            raise OSError("no device")
        self.written += audio

    def clear(self) -> None:
        self.cleared += 1
        if self.breaks == "clear":
            raise OSError("no device")


class Clockless:
    def __init__(self) -> None:
        self.written = b""

    def write(self, audio: bytes) -> None:
        self.written += audio

    def clear(self) -> None:
        """Forget it."""


def sync(talk: Talk, client: RealtimeClient) -> None:
    """Wait until the client has heard all that the service has said."""
    talk.say("mark")
    client.wait_for("unknown", 20.0, where=lambda event: event.type == "mark")


def speak(talk: Talk, response: str = "r1", item: str = "i1", ms: int = 1000) -> None:
    talk.created(response)
    talk.audio(response, item, bytes(ms * MS))


def started(talk: Talk) -> None:
    talk.say("input_audio_buffer.speech_started", item_id="u1", audio_start_ms=0)


def stopped(talk: Talk) -> None:
    talk.say("input_audio_buffer.speech_stopped", item_id="u1", audio_end_ms=1)


def test_a_cancel_of_our_own_that_came_too_late_is_nobodys_error() -> None:
    """The service had stopped by itself; only an error that answers a cancel of the program is told."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.play_to(Speaker())
        errors: list[Any] = []
        client.on_error(errors.append)
        speak(talk)
        sync(talk, client)
        started(talk)
        ours = talk.expect("response.cancel")
        talk.error("response_cancel_not_active", ours["event_id"])
        theirs = client.cancel_response()
        talk.error("response_cancel_not_active", theirs)
        talk.error("response_cancel_not_active")
        sync(talk, client)
        assert [error.caused_by for error in errors] == [theirs, ""]


@pytest.mark.parametrize("heard", [0, 1, 420, 999])
def test_the_user_speaks_and_the_answer_is_cut_at_what_was_heard(heard: int) -> None:
    """The speaker is silenced, the answer cancelled and truncated; what still comes of it is nobody's to hear."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        deltas: list[Event] = []
        client.on_audio_delta(deltas.append)
        speak(talk)
        sync(talk, client)
        speaker.played_ms = heard
        started(talk)
        told = client.wait_for(PlaybackStopped, 20.0)
        assert (told.reason, told.item_id, told.heard_ms, told.received_ms) == ("barge_in", "i1", heard, 1000)
        talk.expect("response.cancel")
        cut = talk.expect("conversation.item.truncate")
        assert (cut["item_id"], cut["audio_end_ms"], cut["content_index"]) == ("i1", heard, 0)
        talk.audio("r1", "i1", bytes(480))
        talk.done("r1", status="cancelled")
        sync(talk, client)
        assert len(speaker.written) == 1000 * MS
        assert speaker.cleared == 1
        assert len(deltas) == 1
        speak(talk, "r2", "i2", 10)
        sync(talk, client)
        assert len(deltas) == 2


def test_an_answer_that_is_over_is_cut_but_not_cancelled() -> None:
    """Its sound still plays when the user speaks: there is nothing left to cancel."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        speak(talk)
        talk.done("r1")
        sync(talk, client)
        speaker.played_ms = 100
        started(talk)
        assert talk.expect("conversation.item.truncate")["audio_end_ms"] == 100
        client.wait_for(PlaybackStopped, 20.0)
        talk.fence(client)
        assert talk.count("response.cancel") == 0
        turn = client.conversation[0]
        assert (turn.interrupted, turn.heard_ms) == (True, 100)


def test_several_items_are_cut_each_at_its_own_time() -> None:
    """What was heard whole is left alone, what was not heard at all is cut at 0."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        speak(talk, ms=100)
        talk.audio("r1", "i2", bytes(200 * MS))
        talk.audio("r1", "i3", bytes(300 * MS))
        talk.done("r1")
        sync(talk, client)
        speaker.played_ms = 150
        started(talk)
        cuts = [talk.expect("conversation.item.truncate") for _ in range(2)]
        assert [(cut["item_id"], cut["audio_end_ms"]) for cut in cuts] == [("i2", 50), ("i3", 0)]


@pytest.mark.parametrize("over", [True, False])
def test_an_answer_beside_the_conversation_is_cancelled_but_never_cut(over: bool) -> None:
    """The conversation does not have its item: to cut it would be an error of the service that nobody caused."""
    speaker = Speaker()
    with service() as peer, peer.client() as client:
        client.play_to(speaker)
        talk = peer.talk()
        client.create_response(out_of_band=True, instructions="Say: one moment.", metadata={"for": "wait"})
        talk.expect("response.create")
        talk.created("r1", metadata={"for": "wait"})
        talk.audio("r1", "i1", bytes(1000 * MS))
        if over:
            talk.done("r1", metadata={"for": "wait"})
        sync(talk, client)
        speaker.played_ms = 300.0
        talk.say("input_audio_buffer.speech_started", item_id="u1", audio_start_ms=0)
        client.wait_for("playback_stopped", 20.0)
        talk.fence(client)
        assert talk.count("conversation.item.truncate") == 0
        assert [v["response_id"] for v in talk.received if v["type"] == "response.cancel"] == ([] if over else ["r1"])


def test_speech_when_nothing_plays_touches_nothing() -> None:
    """No cut, no cancel, nothing told; also when the speaker has played everything."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        started(talk)
        stopped(talk)
        speak(talk, ms=100)
        talk.done("r1")
        sync(talk, client)
        speaker.played_ms = 100
        started(talk)
        started(talk)
        sync(talk, client)
        talk.fence(client)
        assert talk.kinds() == ["session.update", "fence"]
        assert speaker.cleared == 0


def test_without_a_sink_nobody_is_cut_off() -> None:
    """Nobody truncates what nobody was playing."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        speak(talk)
        started(talk)
        sync(talk, client)
        talk.fence(client)
        assert talk.kinds() == ["session.update", "fence"]


def test_barge_in_can_be_turned_off() -> None:
    """Then the sink plays on, whoever speaks; interrupt() still works."""
    with service() as peer, peer.client(barge_in=False) as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        speak(talk)
        started(talk)
        sync(talk, client)
        assert speaker.cleared == 0
        client.interrupt()
        assert client.wait_for(PlaybackStopped, 20.0).reason == "interrupt"
        assert speaker.cleared == 1


def test_a_short_noise_does_not_interrupt() -> None:
    """With min_speech only speech that lasts that long does; the event of its beginning is told at once all the same."""
    with service() as peer, peer.client(min_speech=1.0) as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        speak(talk)
        started(talk)
        stopped(talk)
        with pytest.raises(TimeoutError):
            client.wait_for(PlaybackStopped, 1.4)
        assert speaker.cleared == 0
        started(talk)
        started(talk)
        client.wait_for(PlaybackStopped, 20.0)
        assert speaker.cleared == 1
        talk.expect("response.cancel")


def test_the_service_says_that_the_user_cut_it_off() -> None:
    """What is queued for the speaker is void, also where no speech is told."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        speak(talk)
        sync(talk, client)
        talk.say("input_audio_buffer.speech_started", item_id="u1")
        talk.done("r1", status="cancelled", status_details={"type": "cancelled", "reason": "turn_detected"})
        client.wait_for("response_done", 20.0)
        assert speaker.cleared == 1


@pytest.mark.parametrize("where", ["main", "handler", "background", "tool"])
def test_the_program_interrupts_from_any_thread(where: str) -> None:
    """The sink is silenced before the call returns; PlaybackStopped says that it was the program."""
    with service() as peer:
        client = peer.client()
        speaker, cleared, acted = Speaker(), [], threading.Event()

        def act(*_: Any) -> None:
            client.interrupt()
            cleared.append(speaker.cleared)
            acted.set()

        client.play_to(speaker)
        client.tool(act_tool(act))
        client.on("unknown", lambda event: act() if event.type == "go" else None, background=where == "background")
        client.connect()
        talk = peer.talk()
        speak(talk)
        sync(talk, client)
        speaker.played_ms = 77
        if where == "main":
            act()
        elif where == "tool":
            talk.call("r1", "c1", "act")
        else:
            talk.say("go")
        told = client.wait_for(PlaybackStopped, 20.0)
        assert (told.reason, told.heard_ms) == ("interrupt", 77)
        talk.expect("response.cancel")
        assert talk.expect("conversation.item.truncate")["audio_end_ms"] == 77
        assert acted.wait(20.0)
        assert cleared == [1]
        client.close()


def act_tool(act: Any) -> Any:
    def tool() -> None:
        """Act."""
        act()

    tool.__name__ = "act"
    return tool


def test_interrupting_what_has_no_sound_yet_cancels_the_answer() -> None:
    """The answer was asked for and has begun: nothing is played, but it is stopped, and what comes of it is void."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        talk.created("r1")
        sync(talk, client)
        client.interrupt()
        talk.expect("response.cancel")
        talk.audio("r1", "i1", bytes(480))
        sync(talk, client)
        assert speaker.written == b""


@pytest.mark.parametrize(("how", "held"), [("interrupt", False), ("interrupt", True), ("cancel", True), ("speech", True)])
def test_a_question_that_another_thread_gives_up_is_over_at_once(how: str, held: bool) -> None:
    """Its answer has not begun and never will: the thread that asked is told so, and does not wait for its timeout."""
    with service() as peer, peer.client() as client:
        talk, speaker, found = peer.talk(), Speaker(), list[Any]()
        client.play_to(speaker)
        if held:
            talk.created("r0")
            talk.audio("r0", "i0", bytes(480))
            sync(talk, client)
        asker = threading.Thread(target=lambda: found.append(client.ask("Well?", timeout=None)))
        asker.start()
        talk.expect("conversation.item.create" if held else "response.create")
        while asker.is_alive() and not client._call.responses.pending:
            asker.join(0.01)
        if how == "interrupt":
            client.interrupt()
        elif how == "cancel":
            client.cancel_response()
        else:
            started(talk)
        asker.join(10.0)
        assert [(answer.status, answer.text, answer.response_ids) for answer in found] == [("cancelled", "", [])]
        assert talk.count("response.create") == (0 if held else 1)


def test_interrupting_an_answer_that_has_not_begun_stops_it_as_soon_as_it_begins() -> None:
    """It is cancelled when it begins, nothing of it is heard, and what is asked for after the interruption is answered."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        heard: list[Event] = []
        client.on_audio_delta(heard.append)
        client.send_text("Tell me everything.")
        talk.expect("response.create")
        client.interrupt()
        client.interrupt()
        talk.fence(client)
        assert talk.count("response.cancel") == 0
        speak(talk)
        assert talk.expect("response.cancel")["response_id"] == "r1"
        client.send_text("Go on.")
        talk.done("r1", status="cancelled")
        talk.expect("response.create")
        speak(talk, "r2", "i2", 10)
        sync(talk, client)
        talk.fence(client)
        assert talk.count("response.cancel") == 1
        assert len(heard) == 1
        assert len(speaker.written) == 10 * MS


def test_interrupting_drops_every_request_that_waits() -> None:
    """Of two questions the first is on the wire and the second held: neither is heard, and the second is not asked."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        client.send_text("One?")
        client.send_text("Two?")
        talk.expect("response.create")
        client.interrupt()
        speak(talk)
        talk.expect("response.cancel")
        talk.done("r1", status="cancelled")
        sync(talk, client)
        talk.fence(client)
        assert talk.count("response.create") == 1
        assert speaker.written == b""


def test_an_interrupted_answer_that_calls_a_function_is_not_followed_by_another() -> None:
    """It was over before its cancel came: the result goes back, and the model is not asked to speak about it."""
    with service() as peer:
        client = peer.client()
        client.tool(act_tool(lambda: None))
        with client:
            talk = peer.talk()
            client.send_text("Book it.")
            talk.expect("response.create")
            client.interrupt()
            talk.created("r1")
            talk.call("r1", "c1", "act")
            talk.done("r1")
            while not talk.outputs():
                talk.expect("conversation.item.create")
            sync(talk, client)
            talk.fence(client)
            assert talk.count("response.create") == 1


def test_interrupting_before_a_request_has_left_takes_it_back() -> None:
    """While a lost connection is replaced, what was asked for waits here; interrupted, it is never asked."""
    held = threading.Event()

    def late(talk: Talk) -> None:
        assert held.wait(20.0)
        ready(talk)

    with service(ready, late) as peer, peer.client(reconnect=ReconnectPolicy(base=0.01, cap=0.01)) as client:
        talk = peer.talk()
        talk.drop()
        client.wait_for("reconnecting", 10.0)
        client.send_text("Tell me everything.")
        client.interrupt()
        held.set()
        talk = peer.talk(20.0)
        talk.expect("conversation.item.create")
        talk.fence(client)
        assert talk.count("response.create") == 0


def test_interrupting_nothing_does_nothing() -> None:
    """Neither before the connection, nor while it is quiet, nor after its end."""
    client = RealtimeClient("qai_x")
    client.interrupt()
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.interrupt()
        talk.fence(client)
        assert talk.kinds() == ["session.update", "fence"]
        client.close()
        client.interrupt()


def test_ten_threads_interrupt_at_once() -> None:
    """There is one cut, one cancel and one PlaybackStopped."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        told: list[Event] = []
        client.on_playback_stopped(told.append)
        speak(talk)
        sync(talk, client)
        start = threading.Barrier(10)
        threads = [threading.Thread(target=lambda: (start.wait(5.0), client.interrupt())) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        client.wait_for(PlaybackStopped, 20.0)
        sync(talk, client)
        talk.fence(client)
        assert talk.count("conversation.item.truncate") == 1
        assert talk.count("response.cancel") >= 1
        assert len(told) == 1


def test_the_end_of_the_sound_is_told_when_it_was_heard() -> None:
    """Reason finished, once, after the answer is over and the sink has played it."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        speak(talk, ms=120)
        talk.done("r1")
        sync(talk, client)
        with pytest.raises(TimeoutError):
            client.wait_for(PlaybackStopped, 0.3)
        speaker.played_ms = 120
        told = client.wait_for(PlaybackStopped, 20.0)
        assert (told.reason, told.heard_ms) == ("finished", 120)
        assert client.conversation[0].interrupted is False


def test_a_sink_without_a_clock_finishes_in_real_time() -> None:
    """It is taken to play as fast as one hears."""
    with service() as peer, peer.client() as client:
        talk, sink = peer.talk(), Clockless()
        client.play_to(sink)
        speak(talk, ms=200)
        talk.done("r1")
        told = client.wait_for(PlaybackStopped, 20.0)
        assert (told.reason, told.heard_ms) == ("finished", 200)


def test_the_end_of_a_short_answer_is_told_in_time_after_a_long_one_was_cut() -> None:
    """The look that was planned for the end of the long one does not hold up that of the short one."""
    with service() as peer, peer.client() as client:
        talk, sink = peer.talk(), Clockless()
        client.play_to(sink)
        speak(talk, ms=30_000)
        talk.done("r1")
        sync(talk, client)
        started(talk)
        assert client.wait_for(PlaybackStopped, 20.0).reason == "barge_in"
        speak(talk, "r2", "i2", 50)
        talk.done("r2")
        assert client.wait_for(PlaybackStopped, 15.0).reason == "finished"


@pytest.mark.parametrize("breaks", ["write", "clear"])
def test_a_sink_that_raises_is_told_like_a_handler(breaks: str, caplog: pytest.LogCaptureFixture) -> None:
    """HandlerFailed names play_to, handlers still hear the event, and the answer is cut all the same."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        heard: list[Event] = []
        client.on_audio_delta(heard.append)
        client.on_speech_started(heard.append)
        failures: list[HandlerFailed] = []
        client.on_handler_failed(failures.append)
        if breaks == "write":
            speaker.breaks = breaks
        speak(talk)
        sync(talk, client)
        speaker.breaks = breaks
        speaker.played_ms = 50
        started(talk)
        sync(talk, client)
        (failed,) = failures
        assert failed.handler == "play_to"
        assert isinstance(failed.error, OSError)
        assert [event.event_name for event in heard] == ["audio_delta", "speech_started"]
        if breaks == "clear":
            assert talk.expect("conversation.item.truncate")["audio_end_ms"] == 50
        assert client.is_connected
    assert any(record.message == "the sink of play_to failed" for record in caplog.records)


def test_after_a_loss_nothing_is_cut_that_the_new_service_does_not_know() -> None:
    """What came plays on; speech silences it here, without a word to the new connection."""
    config = RealtimeConfig(resumption=False)
    with service() as peer, peer.client(config, reconnect=ReconnectPolicy(base=0.01, cap=0.01)) as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        speak(talk)
        sync(talk, client)
        talk.drop()
        client.wait_for(Reconnected, 20.0)
        talk = peer.talk()
        started(talk)
        assert client.wait_for(PlaybackStopped, 20.0).reason == "barge_in"
        sync(talk, client)
        talk.fence(client)
        assert talk.count("conversation.item.truncate") == 0
        assert talk.count("response.cancel") == 0


def test_sound_reaches_the_sink_before_any_handler() -> None:
    """What is heard does not wait for the program."""
    with service() as peer, peer.client() as client:
        talk, speaker = peer.talk(), Speaker()
        client.play_to(speaker)
        seen: list[int] = []
        client.on(AudioDelta, lambda event: seen.append(len(speaker.written)))
        speak(talk, ms=10)
        sync(talk, client)
        assert seen == [10 * MS]


def test_the_stop_is_told_before_what_the_service_answers() -> None:
    """However fast the service ends the cancelled answer, `playback_stopped` comes before `turn_done`."""
    with service() as peer:
        client = peer.client()
        client.play_to(Speaker())
        told: list[str] = []
        client.on("playback_stopped", lambda event: told.append("stopped"))
        client.on("turn_done", lambda event: told.append("done"))
        with client:
            talk = peer.talk()
            for number in range(20):
                response = f"r{number}"
                speak(talk, response, f"i{number}")
                sync(talk, client)
                interrupting = threading.Thread(target=client.interrupt)
                interrupting.start()
                talk.expect("response.cancel")
                talk.done(response, "cancelled")
                interrupting.join(10.0)
                sync(talk, client)
    assert told == ["stopped", "done"] * 20
