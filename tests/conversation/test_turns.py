"""Turns: joined by ids, however late a transcript comes, tool rounds and interruptions included."""

from __future__ import annotations

import pytest

from qai_realtime_sync.commands import Command, CommitAudio, CreateResponse, SendFunctionResult, SendText
from qai_realtime_sync.conversation.turns import Turns
from qai_realtime_sync.events import (
    AudioDelta,
    Event,
    FunctionCall,
    InputCommitted,
    Item,
    ItemTruncated,
    Ping,
    PlaybackStopped,
    ResponseCreated,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    TextDone,
    TranscriptCorrected,
    TranscriptDelta,
    TranscriptDone,
    TurnDone,
)
from qai_realtime_sync.turns import ToolCall, Turn


def user(text: str, item: str = "u1") -> TranscriptDone:
    return TranscriptDone(transcript=text, source="input", item_id=item)


def said(text: str, response: str = "r1", item: str = "a1") -> TranscriptDone:
    return TranscriptDone(transcript=text, source="output", response_id=response, item_id=item)


def created(response: str = "r1") -> ResponseCreated:
    return ResponseCreated(response_id=response)


def done(response: str = "r1", **fields: object) -> ResponseDone:
    return ResponseDone(response_id=response, **fields)  # type: ignore[arg-type]


def call(call_id: str = "c1", response: str = "r1") -> FunctionCall:
    return FunctionCall(name="look", call_id=call_id, arguments="{}", response_id=response)


def play(*happened: Event | Command) -> tuple[Turns, list[Turn]]:
    """Tell everything, one second apart; return the turns and those that were told as done."""
    turns, told = Turns(), []
    for at, what in enumerate(happened):
        if isinstance(what, Command):
            turns.sent(what, float(at))
        else:
            event = turns.told(what, float(at))
            if event is not None:
                assert isinstance(event, TurnDone)
                told.append(event.turn)
    return turns, told


def texts(turns: Turns) -> list[tuple[str, str]]:
    return [(turn.user, turn.assistant) for turn in turns.snapshot()]


def test_a_spoken_exchange_is_one_turn_with_its_times() -> None:
    """Speech, commit, transcript and answer are joined; the times are those at which they happened."""
    turns, told = play(
        SpeechStarted(item_id="u1"),
        SpeechStopped(item_id="u1"),
        InputCommitted(item_id="u1"),
        user(" Hello "),
        created(),
        AudioDelta(audio=b"", response_id="r1"),
        AudioDelta(audio=b"", response_id="r1"),
        said("Hi!"),
        done(),
    )
    (turn,) = turns.snapshot()
    assert turn == Turn(
        number=1,
        user="Hello",
        assistant="Hi!",
        response_ids=["r1"],
        speech_started_at=0.0,
        speech_stopped_at=1.0,
        first_audio_at=5.0,
        ended_at=8.0,
    )
    assert turn.latency == 4.0
    assert told == [turn]


def test_a_transcript_that_comes_after_the_answer_belongs_to_its_turn() -> None:
    """The user's words are often written down last; they are joined by the item, also into the next turn's time."""
    turns, told = play(
        SpeechStarted(item_id="u1"),
        InputCommitted(item_id="u1"),
        created("r1"),
        said("Hi!"),
        done("r1"),
        SpeechStarted(item_id="u2"),
        user("Hello", "u1"),
        created("r2"),
        said("Bye!", "r2", "a2"),
        done("r2"),
        user("Goodbye", "u2"),
    )
    assert texts(turns) == [("Hello", "Hi!"), ("Goodbye", "Bye!")]
    assert [turn.number for turn in told] == [1, 2]
    assert turns.snapshot()[0].speech_stopped_at == 1.0


def test_a_transcript_without_speech_events_opens_a_turn() -> None:
    """A service that tells no speech still has turns."""
    turns, _ = play(user("Hello", ""), created(), said("Hi!"), done(), user("Again", ""), created("r2"), said("Yes", "r2"), done("r2"))
    assert texts(turns) == [("Hello", "Hi!"), ("Again", "Yes")]


def test_two_pieces_of_speech_before_an_answer_are_one_turn() -> None:
    """The user paused, and went on."""
    turns, _ = play(SpeechStarted(item_id="u1"), user("So", "u1"), SpeechStarted(item_id="u2"), user("what?", "u2"), created(), done())
    assert texts(turns) == [("So what?", "")]
    assert turns.snapshot()[0].speech_started_at == 0.0


def test_written_questions_open_a_turn_when_they_leave() -> None:
    """What the user typed is joined with what it was answered; two texts before an answer are two lines."""
    turns, told = play(
        SendText(text="One"),
        SendText(text="two"),
        created(),
        TextDone(text="Three.", response_id="r1", item_id="a1"),
        done(),
        CommitAudio(),
    )
    assert texts(turns) == [("One\ntwo", "Three.")]
    assert told[0].speech_stopped_at == 0.0


def test_a_greeting_is_a_turn_without_a_user() -> None:
    """The assistant may begin."""
    turns, told = play(created(), said("Welcome"), done())
    assert texts(turns) == [("", "Welcome")]
    assert len(told) == 1


def test_an_answer_out_of_band_is_no_part_of_the_conversation() -> None:
    """What the program asked for beside the conversation nobody said to the user; the answer around it is one."""
    aside = CreateResponse(out_of_band=True, metadata={"for": "form"})
    turns, told = play(
        SendText(text="Hello."),
        created("r1"),
        aside,
        ResponseCreated(response_id="r2", metadata={"for": "form"}),
        said("A form.", "r2", "a2"),
        done("r2"),
        said("Good day.", "r1", "a1"),
        done("r1"),
    )
    (turn,) = turns.snapshot()
    assert (turn.user, turn.assistant, turn.response_ids) == ("Hello.", "Good day.", ["r1"])
    assert len(told) == 1


@pytest.mark.parametrize("conversation", ["", "c"])
def test_the_same_metadata_later_is_an_answer_of_the_conversation(conversation: str) -> None:
    """A program may mark all its answers alike: one out of band takes none of the others along."""
    same = {"call": "42"}
    turns, _ = play(
        CreateResponse(out_of_band=True, metadata=same),
        ResponseCreated(response_id="r1", metadata=same),
        said("A form.", "r1", "a1"),
        done("r1"),
        SendText(text="Hello."),
        CreateResponse(metadata=same),
        ResponseCreated(response_id="r2", metadata=same, conversation_id=conversation),
        said("Good day.", "r2", "a2"),
        done("r2"),
    )
    assert texts(turns) == [("Hello.", "Good day.")]


def test_an_answer_that_names_its_conversation_is_one_of_it() -> None:
    """Even while one out of band with the same metadata is due."""
    turns, _ = play(
        CreateResponse(out_of_band=True, metadata={"call": "42"}),
        ResponseCreated(response_id="r1", metadata={"call": "42"}, conversation_id="c"),
        said("Good day.", "r1", "a1"),
        done("r1"),
    )
    assert texts(turns) == [("", "Good day.")]


def test_a_tool_round_is_part_of_its_turn() -> None:
    """The turn is over with the answer after the results, and keeps calls and outputs."""
    turns, told = play(
        SendText(text="Rain?"),
        created("r1"),
        call("c1"),
        call("c2"),
        done("r1"),
        SendFunctionResult(call_id="c2", output="no"),
        SendFunctionResult(call_id="c1", output="yes"),
        created("r2"),
        said("It rains.", "r2"),
        done("r2"),
    )
    (turn,) = turns.snapshot()
    assert told == [turn]
    assert turn.response_ids == ["r1", "r2"]
    assert turn.tool_calls == [
        ToolCall(name="look", call_id="c1", arguments="{}", output="yes", called_at=2.0, answered_at=6.0),
        ToolCall(name="look", call_id="c2", arguments="{}", output="no", called_at=3.0, answered_at=5.0),
    ]


def test_a_result_for_a_call_nobody_knows_changes_nothing() -> None:
    """Such as one of an earlier client."""
    turns, _ = play(SendText(text="Rain?"), SendFunctionResult(call_id="c9", output="yes"))
    assert turns.snapshot()[0].tool_calls == []


def test_a_result_that_was_faster_than_the_news_of_its_call_is_kept() -> None:
    """A call that is refused at once is answered before the turn knows of it."""
    turns, _ = play(created("r1"), SendFunctionResult(call_id="c1", output="no"), call("c1"))
    assert turns.snapshot()[0].tool_calls[0].output == "no"
    assert turns.snapshot()[0].tool_calls[0].answered_at == 1.0
    many = [SendFunctionResult(call_id=f"x{number}", output="no") for number in range(200)]
    assert len(play(*many)[0]._early) < 100


def test_a_service_that_goes_on_in_the_same_answer_ends_the_turn_with_it() -> None:
    """Where results are followed by words of the same answer, no other answer follows its end."""
    turns, told = play(
        SendText(text="Rain?"),
        created("r1"),
        call("c1"),
        SendFunctionResult(call_id="c1", output="yes"),
        said("It rains.", "r1"),
        done("r1"),
    )
    assert told == turns.snapshot()
    assert turns.snapshot()[0].ended_at == 5.0


def test_calls_that_are_only_in_the_answers_output_keep_the_turn_open() -> None:
    """Some services tell a call in response.done alone."""
    _, told = play(created(), done(output=[Item(type="function_call")]), created("r2"), done("r2"))
    assert len(told) == 1
    assert told[0].response_ids == ["r1", "r2"]


def test_a_tool_that_was_faster_than_its_answer_keeps_the_turn_open() -> None:
    """The result left before response.done; the next answer still belongs to this turn, which is told once."""
    _, told = play(
        created("r1"),
        call("c1"),
        SendFunctionResult(call_id="c1", output="yes"),
        done("r1"),
        created("r2"),
        said("It rains.", "r2"),
        done("r2"),
    )
    assert [turn.response_ids for turn in told] == [["r1", "r2"]]


def test_an_answer_that_failed_ends_the_turn_in_spite_of_its_calls() -> None:
    """No results follow an answer that was cut off."""
    _, told = play(created(), call(), done(status="cancelled"))
    assert len(told) == 1
    assert told[0].interrupted


def test_what_was_heard_of_an_interrupted_answer_is_kept() -> None:
    """The turn knows how much was played, and what the service kept of the words."""
    turns, _ = play(
        created(),
        said("One two three four"),
        PlaybackStopped(response_id="r1", item_id="a1", heard_ms=500, received_ms=1000, reason="barge_in"),
        done(status="cancelled"),
    )
    (turn,) = turns.snapshot()
    assert (turn.interrupted, turn.heard_ms, turn.audio_ms, turn.heard) == (True, 500, 1000, "One two")
    turns.told(ItemTruncated(item_id="a9", transcript="x"), 9.0)
    turns.told(ItemTruncated(item_id="a1", transcript=""), 9.0)
    assert turns.snapshot()[0].heard_text is None
    turns.told(ItemTruncated(item_id="a1", transcript=" One two three "), 9.0)
    assert turns.snapshot()[0].heard == "One two three"


@pytest.mark.parametrize("response", ["r1", "r9"])
def test_sound_that_was_played_to_its_end_interrupts_nothing(response: str) -> None:
    """Neither does the end of sound that belongs to no turn."""
    turns, _ = play(
        created(), PlaybackStopped(response_id=response, heard_ms=5, reason="finished"), AudioDelta(audio=b"", response_id="r9")
    )
    assert turns.snapshot()[0].interrupted is False
    assert turns.snapshot()[0].heard_ms is None


def test_a_correction_replaces_what_was_said() -> None:
    """What was really heard stands in the turn."""
    turns, _ = play(created(), said("One two three"), TranscriptCorrected(corrected="One", original="One two three", response_id="r1"))
    assert texts(turns) == [("", "One")]


def test_a_correction_changes_only_its_own_answer() -> None:
    """The other answers of the turn stay."""
    turns, _ = play(
        created("r1"), said("One", "r1"), created("r2"), said("two", "r2"), TranscriptCorrected(corrected="three", response_id="r2")
    )
    assert texts(turns) == [("", "One three")]


def test_two_items_of_one_answer_are_joined() -> None:
    """In the order in which they began."""
    turns, _ = play(created(), said("One", item="a1"), said("two", item="a2"), said(" ", item="a3"))
    assert texts(turns) == [("", "One two")]


def test_the_end_of_an_unknown_answer_is_no_turn() -> None:
    """Nothing is told for an answer that was never begun; other events pass by."""
    turns, told = play(done("r9"), Ping())
    assert told == []
    assert turns.snapshot() == []


def test_a_turn_is_told_once_and_again_if_it_goes_on() -> None:
    """A second end of the same answer says nothing new; an answer that is added unasked ends it again."""
    _, told = play(created("r1"), done("r1"), done("r1"), created("r2"), done("r2"))
    assert len(told) == 2


def test_an_answer_within_an_answer_ends_the_turn_with_the_last() -> None:
    """While another answer of the turn runs, it is not over."""
    _, told = play(created("r1"), created("r2"), done("r1"), done("r2"))
    assert len(told) == 1


def test_a_snapshot_is_a_copy() -> None:
    """Changing it changes nothing here."""
    turns, _ = play(created(), call())
    snapshot = turns.snapshot()[0]
    snapshot.tool_calls[0].output = "changed"
    snapshot.response_ids.append("changed")
    snapshot.user = "changed"
    assert turns.snapshot()[0].tool_calls[0].output is None
    assert turns.snapshot()[0].response_ids == ["r1"]
    assert turns.snapshot()[0].user == ""


def test_only_the_last_thousand_turns_are_kept() -> None:
    """A conversation of a day does not grow; a late transcript of a forgotten turn opens a new one."""
    turns = Turns()
    for number in range(1003):
        turns.told(SpeechStarted(item_id=f"u{number}"), 0.0)
        turns.told(created(f"r{number}"), 0.0)
        turns.told(done(f"r{number}"), 0.0)
    assert [turn.number for turn in turns.snapshot()][::999] == [4, 1003]
    assert len(turns._by_item) == len(turns._by_response) == 1000
    turns.told(user("late", "u0"), 0.0)
    assert turns.snapshot()[-1].user == "late"


def test_words_of_the_user_open_a_turn_where_nothing_else_does() -> None:
    """Without items and speech events the first words of the next sentence begin the next turn, and more of them no other."""
    turns = Turns()
    for number, words in ((1, "first"), (2, "second")):
        for _ in range(2):
            turns.told(TranscriptDelta(delta=words, source="input", response_id=f"t{number}"), 0.0)
        turns.told(created(f"t{number}"), 0.0)
        turns.told(said(words.upper(), f"t{number}", ""), 0.0)
        turns.told(TranscriptDone(transcript=words, source="input", response_id=f"t{number}"), 0.0)
        turns.told(done(f"t{number}"), 0.0)
    assert [(turn.user, turn.assistant) for turn in turns.snapshot()] == [("first", "FIRST"), ("second", "SECOND")]


def test_a_transcript_that_names_its_answer_goes_to_its_turn() -> None:
    """Where what the user said is known only when it was answered, it belongs to that answer's turn, and opens none."""
    turns = Turns()
    for number in (1, 2):
        turns.sent(SendText(text=f"typed {number}"), 0.0)
        turns.told(created(f"t{number}"), 0.0)
        turns.told(done(f"t{number}"), 0.0)
    turns.told(TranscriptDone(transcript="spoken", source="input", response_id="t1"), 0.0)
    assert [turn.user for turn in turns.snapshot()] == ["spoken\ntyped 1", "typed 2"]


def test_what_was_typed_stays_when_a_transcript_comes_behind_it() -> None:
    """Sound and text may belong to one turn, and the words of the sound come when it was understood: neither replaces the other."""
    turns = Turns()
    turns.sent(SendText(text="The order number is 17."), 0.0)
    turns.told(TranscriptDone(transcript="where is it", source="input", item_id="u1", final=False), 0.1)
    turns.sent(SendText(text="Please."), 0.2)
    turns.told(TranscriptDone(transcript="Where is it?", source="input", item_id="u1"), 0.3)
    assert [turn.user for turn in turns.snapshot()] == ["Where is it?\nThe order number is 17.\nPlease."]


def test_sentences_without_items_are_joined() -> None:
    """Where nothing tells one sentence of the user from the next, with or without the answer's name, none replaces another."""
    turns = Turns()
    for words in ("My order is 1234.", "And my name is Bob."):
        turns.told(TranscriptDone(transcript=words, source="input", response_id="t1"), 0.0)
    turns.told(created("t1"), 0.0)
    turns.told(TranscriptDone(transcript="Hello?", source="input", response_id="t1"), 0.0)
    turns.told(TranscriptDone(transcript="My order is 1234. And my name is Bob. Hello?", source="input", response_id="t1"), 0.0)
    turns.told(done("t1"), 0.0)
    for words in ("Yes.", " ", "Yes."):
        turns.told(user(words, ""), 0.0)
    assert [turn.user for turn in turns.snapshot()] == ["My order is 1234. And my name is Bob. Hello?", "Yes. Yes."]


def test_an_item_that_is_told_again_replaces_what_it_was() -> None:
    """With items the newest text of each counts."""
    turns, _ = play(user("Helo", "u1"), user("Hello", "u1"), created(), said("Hi"), said("Hi!"))
    assert texts(turns) == [("Hello", "Hi!")]


def test_pieces_of_an_answer_without_items_are_joined() -> None:
    """What was said before a tool and after it in one answer is all in the turn, of transcripts and of written text."""
    turns, _ = play(created(), said("Let me check.", item=""), call(), said(" It rains.", item=""), done())
    assert texts(turns) == [("", "Let me check. It rains.")]
    pieces = [TextDone(text=text, response_id="r1") for text in ("One", "two ")]
    assert texts(play(created(), *pieces)[0]) == [("", "One two")]


def whole(text: str) -> TranscriptDone:
    return TranscriptDone(transcript=text, final=False, response_id="r1")


def test_a_text_that_is_not_final_may_come_again() -> None:
    """The same text, or a longer one, replaces what it repeats; another one of the same answer follows it."""
    turns, _ = play(created(), whole("Once"), whole("Once upon a time"), whole("Once upon a time "), whole("The end."))
    assert texts(turns) == [("", "Once upon a time The end.")]


def test_what_is_written_beside_the_transcript_is_not_joined_to_it() -> None:
    """Some services write down what they also say: the answer is told once."""
    turns, _ = play(created(), whole("It is noon."), TextDone(text="It's noon.", response_id="r1"))
    assert texts(turns) == [("", "It's noon.")]


def test_a_correction_of_the_last_piece_keeps_the_ones_before() -> None:
    """What was said before the piece that was cut was heard; what follows a correction is joined to it."""
    corrected = TranscriptCorrected(original="Two three.", corrected="Two", response_id="r1")
    turns, _ = play(created(), whole("One."), whole("Two three."), corrected)
    assert texts(turns) == [("", "One. Two")]
    assert turns.snapshot()[0].heard == "One. Two"
    turns.told(whole("Four."), 9.0)
    assert texts(turns) == [("", "One. Two Four.")]


@pytest.mark.parametrize("position", [10**400, -(10**400), 10**13], ids=["beyond a float", "before one", "some centuries"])
def test_a_position_that_cannot_be_one_is_passed_over(position: int) -> None:
    """The turn is told as if nothing had been said of it, and nothing raises."""
    turns = Turns()
    turns.spoke(0.0, 100.0)
    turns.told(SpeechStarted(item_id="u1", audio_start_ms=position), 1.0)
    turns.told(SpeechStopped(item_id="u1", audio_end_ms=position), 2.0)
    (turn,) = turns.snapshot()
    assert (turn.speech_started_at, turn.spoke_from, turn.speech_stopped_at, turn.spoke_until) == (1.0, None, 2.0, None)
    turns.told(SpeechStarted(item_id="u1", audio_start_ms=1000), 1.0)
    turns.told(SpeechStopped(item_id="u1", audio_end_ms=3000), 2.0)
    (turn,) = turns.snapshot()
    assert (turn.spoke_from, turn.spoke_until) == (pytest.approx(1.3), pytest.approx(2.5))
