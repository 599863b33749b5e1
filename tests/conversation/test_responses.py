"""One request for an answer at a time: each rule by itself, and all of them against a small model of the service."""

from __future__ import annotations

import collections
import random

import attrs
import pytest

from qai_realtime_sync.commands import CancelResponse, Command, CreateResponse
from qai_realtime_sync.conversation.responses import BUSY, Responses
from qai_realtime_sync.events import ErrorReceived, Event, ResponseCreated, ResponseDone, SpeechStarted


def ask(event_id: str, **fields: object) -> CreateResponse:
    return CreateResponse(event_id=event_id, **fields)  # type: ignore[arg-type]


def created(response_id: str, **fields: object) -> ResponseCreated:
    return ResponseCreated(response_id=response_id, **fields)  # type: ignore[arg-type]


def done(response_id: str) -> ResponseDone:
    return ResponseDone(response_id=response_id)


def error(code: str, caused_by: str = "", *, benign: bool = False) -> ErrorReceived:
    return ErrorReceived(message="no", code=code, caused_by=caused_by, benign=benign)


def busy(caused_by: str = "") -> ErrorReceived:
    return error(BUSY, caused_by, benign=True)


def sent(responses: Responses, commands: list[Command], event_id: str = "") -> CreateResponse:
    """The one request that was returned, as the outbox writes it."""
    (command,) = commands
    assert isinstance(command, CreateResponse)
    command.event_id = command.event_id or event_id
    assert responses.may_leave(command)
    return command


def asked(event_id: str = "e1") -> tuple[Responses, CreateResponse]:
    responses = Responses()
    return responses, sent(responses, responses.request(ask(event_id)))


def test_the_first_request_goes_at_once_and_the_second_is_held_until_the_answer_ends() -> None:
    """Between request and end of the answer nothing else is asked for; then the held one goes as a fresh command."""
    responses, _ = asked()
    assert responses.is_busy
    assert responses.request(ask("e2", voice="eve")) == []
    assert responses.told(created("r1")) == []
    assert responses.active == "r1"
    (second,) = responses.told(done("r1"))
    assert second == CreateResponse(voice="eve")
    assert responses.active == ""
    assert responses.is_busy


def test_an_answer_without_an_id_is_active_but_has_no_name() -> None:
    """A service without ids still has one answer at a time."""
    responses, _ = asked()
    responses.told(created(""))
    assert responses.active == ""
    assert responses.request(ask("e2")) == []
    assert responses.told(done("")) == [CreateResponse()]


def test_an_old_answers_end_does_not_release_the_next_request() -> None:
    """Only the end of the answer that runs counts."""
    responses, _ = asked()
    responses.told(created("r1"))
    responses.request(ask("e2"))
    assert responses.told(done("r0")) == []
    assert len(responses.told(done("r1"))) == 1


def test_cancel_drops_what_is_held_for_the_end_of_that_answer() -> None:
    """Cancelling the running answer, by name or without, drops the held requests; cancelling another one does not."""
    for response_id, left in (("", 0), ("r1", 0), ("r9", 1)):
        responses, _ = asked()
        responses.told(created("r1"))
        responses.request(ask("e2"))
        assert responses.cancel(CancelResponse(response_id=response_id)) == [CancelResponse(response_id=response_id)]
        assert len(responses.told(done("r1"))) == left


def test_requests_outside_the_conversation_run_beside_it() -> None:
    """They are never held, their answer is told apart by its metadata, and its end releases nothing."""
    responses, _ = asked()
    beside = ask("e2", out_of_band=True, metadata={"for": "summary"})
    assert responses.request(beside) == [beside]
    assert responses.may_leave(beside)
    responses.told(created("r1"))
    responses.told(created("r2", metadata={"for": "summary"}))
    assert responses.active == "r1"
    responses.request(ask("e3"))
    assert responses.told(done("r2")) == []
    assert len(responses.told(done("r1"))) == 1


def test_a_request_with_the_same_metadata_in_the_conversation_wins() -> None:
    """If a request of the conversation carries the same metadata, the answer is taken for its own."""
    responses = Responses()
    responses.request(ask("e1", out_of_band=True, metadata={"a": "b"}))
    sent(responses, responses.request(ask("e2", metadata={"a": "b"})))
    responses.told(created("r1", metadata={"a": "b"}))
    assert responses.active == "r1"


def test_where_answers_name_their_conversation_the_same_metadata_confuses_nothing() -> None:
    """An answer that names none is the one beside it, and its end releases no request of the conversation."""
    responses = Responses()
    sent(responses, responses.request(ask("e1")))
    responses.told(created("r1", conversation_id="c"))
    responses.told(done("r1"))
    responses.request(ask("e2", out_of_band=True, metadata={"a": "b"}))
    sent(responses, responses.request(ask("e3", metadata={"a": "b"})))
    responses.told(created("r2", metadata={"a": "b"}))
    assert (responses.active, responses.beside, responses.cause_of("r2")) == ("", {"r2"}, "e2")
    responses.told(created("r3", metadata={"a": "b"}, conversation_id="c"))
    assert (responses.active, responses.beside, responses.cause_of("r3")) == ("r3", {"r2"}, "e3")
    responses.request(ask("e4"))
    assert responses.told(done("r2")) == []
    assert len(responses.told(done("r3"))) == 1


def test_answers_beside_the_conversation_are_known_when_they_are_over() -> None:
    """Their sound may be heard longer than they run; only the newest are remembered."""
    responses = Responses()
    for number in range(70):
        responses.request(ask(f"e{number}", out_of_band=True, metadata={"n": str(number)}))
        responses.told(created(f"r{number}", metadata={"n": str(number)}))
        assert responses.runs_beside(f"r{number}")
        responses.told(done(f"r{number}"))
        assert not responses.runs_beside(f"r{number}")
    assert responses.beside == {f"r{number}" for number in range(6, 70)}


def test_a_refused_request_beside_the_conversation_is_forgotten() -> None:
    """An error that names it concerns nothing else."""
    responses, first = asked()
    responses.request(ask("e2", out_of_band=True, metadata={"a": "b"}))
    assert responses.told(error("bad", "e2")) == []
    responses.told(created("r1", metadata={"a": "b"}))
    assert responses.active == "r1"
    assert first is not None


def test_a_refused_request_makes_room_for_the_held_one() -> None:
    """An error that names the request, or names nothing, ends the wait for its answer; one that names another does not."""
    for caused_by, released in (("e1", 1), ("", 1), ("e7", 0)):
        responses, _ = asked()
        responses.request(ask("e2"))
        assert len(responses.told(error("bad", caused_by))) == released


def test_a_harmless_error_does_not_end_the_wait() -> None:
    """A benign error without a name, such as that of a late cancel, is not the end of our request."""
    responses, _ = asked()
    responses.request(ask("e2"))
    assert responses.told(error("response_cancel_not_active", benign=True)) == []
    assert responses.is_busy


def test_an_error_when_nothing_was_asked_for_changes_nothing() -> None:
    """Errors of other commands pass by."""
    responses = Responses()
    assert responses.told(error("bad")) == []
    assert responses.told(busy("e1")) == []
    assert not responses.is_busy


def test_busy_before_we_know_of_the_other_answer_holds_the_request_again() -> None:
    """The service answers somebody else: ours is asked for again, as a fresh command, when that answer ends."""
    responses, _ = asked()
    assert responses.told(busy("e1")) == []
    assert responses.is_busy
    responses.told(created("vad"))
    assert responses.told(done("vad")) == [CreateResponse()]


def test_busy_with_a_dotted_code_is_busy_too() -> None:
    """Some services write the error's type before its code."""
    responses, _ = asked()
    assert responses.told(error(f"invalid_request_error.{BUSY}", "e1", benign=True)) == []
    responses.told(created("vad"))
    assert len(responses.told(done("vad"))) == 1


@pytest.mark.parametrize("caused_by", ["e1", ""])
def test_busy_after_the_other_answer_was_taken_for_ours_holds_the_request_again(caused_by: str) -> None:
    """The other answer was told first: the error reveals that it is not ours, and ours follows it."""
    responses, _ = asked()
    responses.told(created("vad"))
    assert responses.told(busy(caused_by)) == []
    assert responses.told(done("vad")) == [CreateResponse()]


def test_busy_after_the_other_answer_has_ended_asks_again_at_once() -> None:
    """Only an error that names our request can mean it then."""
    responses, _ = asked()
    responses.told(created("vad"))
    responses.told(done("vad"))
    assert responses.told(busy("")) == []
    assert responses.told(busy("e1")) == [CreateResponse()]


def test_busy_of_a_request_long_gone_changes_nothing() -> None:
    """A second error for the same request does not ask twice."""
    responses, _ = asked()
    responses.told(busy("e1"))
    responses.told(created("vad"))
    again = sent(responses, responses.told(done("vad")), "e2")
    assert responses.told(busy("e1")) == []
    assert again.event_id == "e2"


def test_an_answer_that_begins_before_our_request_left_is_not_ours() -> None:
    """The request that still waits to be written must not be written any more, and follows that answer."""
    responses = Responses()
    (command,) = responses.request(ask("e1"))
    responses.told(created("vad"))
    assert not responses.may_leave(command)  # type: ignore[arg-type]
    assert len(responses.told(done("vad"))) == 1


def test_an_unknown_answer_that_never_shows_is_not_waited_for() -> None:
    """When the answer the service said it was giving shows no sign, the held request goes; a known one is waited for."""
    responses, _ = asked()
    responses.told(busy("e1"))
    assert len(responses.unblock()) == 1
    responses, _ = asked()
    responses.told(created("r1"))
    responses.request(ask("e2"))
    assert responses.unblock() == []


def test_a_request_that_could_not_be_sent_makes_room() -> None:
    """Its place is taken by the held one; withdrawing something else changes nothing."""
    responses = Responses()
    first = ask("e1")
    responses.request(first)
    responses.request(ask("e2"))
    assert responses.withdraw(ask("e9")) == []
    assert len(responses.withdraw(first)) == 1
    beside = ask("e3", out_of_band=True)
    responses.request(beside)
    assert responses.withdraw(beside) == []


def test_after_a_loss_what_was_asked_for_and_not_answered_is_asked_for_again() -> None:
    """A request that had left is held for the new connection; one that still waits in the outbox goes by itself."""
    responses, _ = asked()
    responses.reset()
    assert not responses.is_busy
    assert responses.request(ask("e2")) == []
    assert len(responses.next()) == 1
    waiting = Responses()
    (command,) = waiting.request(ask("e1"))
    waiting.reset()
    assert waiting.next() == []
    assert waiting.may_leave(command)  # type: ignore[arg-type]


def test_an_answer_that_had_begun_is_not_asked_for_again() -> None:
    """What the loss cut off was being given; asking again is the program's decision."""
    responses, _ = asked()
    responses.told(created("r1"))
    responses.reset()
    assert responses.next() == []
    assert not responses.is_busy


def test_other_events_change_nothing() -> None:
    """Speech is no answer."""
    responses, _ = asked()
    assert responses.told(SpeechStarted()) == []
    assert responses.is_busy


# -- against a model of the service ------------------------------------------------------------------------------------------


@attrs.define
class Model:
    """A service with one answer at a time, two wires with delay, and a user who may begin an answer by speaking."""

    chance: random.Random
    responses: Responses = attrs.field(factory=Responses)
    up: collections.deque[CreateResponse] = attrs.field(factory=collections.deque)
    down: collections.deque[Event] = attrs.field(factory=collections.deque)
    queued: collections.deque[CreateResponse] = attrs.field(factory=collections.deque)
    active: str = ""
    number: int = 0
    answered: int = 0
    names_causes: bool = True

    def post(self, commands: list[Command]) -> None:
        for command in commands:
            assert isinstance(command, CreateResponse)
            self.number += 1
            command.event_id = command.event_id or f"e{self.number}"
            self.queued.append(command)

    def write(self) -> None:
        command = self.queued.popleft()
        if self.responses.may_leave(command):
            self.up.append(command)

    def serve(self) -> None:
        command = self.up.popleft()
        if self.active:
            self.down.append(busy(command.event_id if self.names_causes else ""))
        else:
            self.answered += 1
            self.begin()

    def begin(self) -> None:
        assert not self.active, "two answers at once"
        self.number += 1
        self.active = f"r{self.number}"
        self.down.append(created(self.active))

    def end(self) -> None:
        self.down.append(done(self.active))
        self.active = ""

    def hear(self) -> None:
        self.post(self.responses.told(self.down.popleft()))

    def moves(self) -> list[object]:
        found: list[object] = []
        if self.queued:
            found.append(self.write)
        if self.up:
            found.append(self.serve)
        if self.down:
            found.append(self.hear)
        if self.active:
            found.append(self.end)
        return found


def play(seed: int, names_causes: bool) -> tuple[int, int]:
    """One conversation by chance: how many answers were asked for, and how many there were."""
    chance = random.Random(seed)
    model = Model(chance, names_causes=names_causes)
    requests = chance.randint(1, 4)
    speech = chance.randint(0, 3)
    asked_for = 0
    for _ in range(400):
        moves = model.moves()
        if asked_for < requests:
            moves.append("ask")
        if speech and not model.active:
            moves.append("speak")
        if not moves:
            break
        move = chance.choice(moves)
        if move == "ask":
            asked_for += 1
            model.post(model.responses.request(CreateResponse()))
        elif move == "speak":
            speech -= 1
            model.begin()
        else:
            move()  # type: ignore[operator]
    assert not model.moves(), f"seed {seed}: it never came to rest"
    assert not model.responses.is_busy, f"seed {seed}: it still waits for an answer"
    return requests, model.answered


def test_every_request_is_answered_once_whatever_the_order() -> None:
    """However requests, speech, answers and errors interleave, each request gets exactly one answer and nothing stays held."""
    for seed in range(300):
        requests, answered = play(seed, names_causes=True)
        assert answered == requests, f"seed {seed}"


def test_a_service_that_names_no_causes_leaves_nothing_held() -> None:
    """Without the cause of an error an answer may be taken for another's, but nothing waits for ever."""
    for seed in range(300):
        play(seed, names_causes=False)


def test_an_answered_request_is_not_asked_for_again_by_a_later_error() -> None:
    """An error without a cause can only mean the answer that runs."""
    responses, _ = asked()
    responses.told(created("r1"))
    responses.told(done("r1"))
    responses.told(created("vad"))
    assert responses.told(busy("")) == []
    assert responses.told(done("vad")) == []


def test_only_the_newest_answered_requests_are_remembered() -> None:
    """A long conversation does not grow: an error about a request from twenty answers ago is ignored."""
    responses = Responses()
    for number in range(20):
        sent(responses, responses.request(ask(f"e{number}")))
        responses.told(created(f"r{number}"))
        responses.told(done(f"r{number}"))
    assert responses.told(busy("e3")) == []
    assert responses.told(busy("e4")) == [CreateResponse()]


def test_pending_are_the_requests_without_an_answer_the_oldest_first() -> None:
    """By the ids of their first tries; what was answered, and what runs beside the conversation, is not among them."""
    responses, first = asked("e1")
    responses.request(ask("e2"))
    responses.request(ask("e3", out_of_band=True))
    assert responses.pending == ["e1", "e2"]
    responses.told(created("r1"))
    assert responses.pending == ["e2"]
    sent(responses, responses.told(done("r1")), "e2_again")
    assert responses.pending == ["e2"]
    responses.told(created("r2"))
    assert responses.pending == []
    assert first.event_id == "e1"


@pytest.mark.parametrize("end", ["overdue", "created", "failed"])
def test_requests_that_were_given_up_are_not_remembered_for_ever(end: str) -> None:
    """However they end."""
    responses = Responses()
    for number in range(1000):
        request = sent(responses, responses.request(ask(f"e{number}")))
        assert responses.abandon(request.event_id) == []
        if end == "overdue":
            responses.overdue(request)
        elif end == "created":
            assert responses.told(created(f"r{number}")) == [CancelResponse(response_id=f"r{number}")]
            responses.told(done(f"r{number}"))
        else:
            responses.told(error("no", request.event_id))
        assert not responses.is_busy
    assert len(responses._abandoned) <= (0 if end == "overdue" else 64)


@pytest.mark.parametrize("caused_by", ["e1", ""])
def test_a_request_that_was_given_up_is_not_asked_again_when_the_answer_was_anothers(caused_by: str) -> None:
    """The answer that was taken for its answer was stopped, and the error that tells the truth does not bring the request back."""
    responses, _ = asked("e1")
    responses.abandon("e1")
    assert responses.told(created("r1")) == [CancelResponse(response_id="r1")]
    assert responses.told(busy(caused_by)) == []
    assert responses.told(done("r1")) == []
    assert not responses.is_busy
