"""Calls and their results: each rule by itself, all of them against a model of the service, and the pool with real threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from qai_realtime_sync.commands import Command, CreateResponse, SendFunctionResult
from qai_realtime_sync.config import Tool
from qai_realtime_sync.conversation.tool_pool import ToolPool, error_output
from qai_realtime_sync.conversation.tools import ToolCalls
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import Event, FunctionCall, FunctionCallCancelled, Item, OutputItemDone, ResponseDone, SpeechStarted


def call(call_id: str, name: str = "look", response: str = "r1", **fields: Any) -> FunctionCall:
    return FunctionCall(name=name, call_id=call_id, arguments="{}", response_id=response, **fields)


def complete(call_id: str, status: str = "completed", kind: str = "function_call") -> OutputItemDone:
    return OutputItemDone(item=Item(type=kind, call_id=call_id, status=status))


def done(response: str = "r1", status: Any = "completed") -> ResponseDone:
    return ResponseDone(response_id=response, status=status)


def result(call_id: str, output: str = "ok") -> SendFunctionResult:
    return SendFunctionResult(call_id=call_id, output=output)


class Book:
    """The bookkeeping, with what it started and what the program claims."""

    def __init__(self, *tools: str, theirs: tuple[str, ...] = (), items: bool = True, asks: bool = True) -> None:
        self.started: list[str] = []
        self.theirs = theirs
        self.calls = ToolCalls(
            run=lambda event, tool: self.started.append(event.call_id), is_theirs=lambda name: name in self.theirs, items=items, asks=asks
        )
        for name in tools or ("look",):
            self.calls.add(Tool(name=name, function=lambda: None))

    def tell(self, *events: Event) -> list[Command]:
        return [command for event in events for command in self.calls.told(event)]

    def give(self, call_id: str, *, respond: bool = True) -> list[Command]:
        """A result, as the client gives it: what goes out, the result as its call id."""
        command = result(call_id)
        if not self.calls.answer(command):
            return []
        return [command, *self.calls.sent(call_id, respond=respond)]


def test_a_tool_starts_when_its_item_is_complete() -> None:
    """Arguments alone do not start a tool: the item may still become incomplete."""
    book = Book()
    book.tell(call("c1"))
    assert book.started == []
    assert book.calls.is_busy
    book.tell(complete("c1"))
    assert book.started == ["c1"]


def test_without_items_a_tool_starts_at_its_call() -> None:
    """A service that has no items tells a call once, complete."""
    book = Book(items=False)
    book.tell(call("c1"))
    assert book.started == ["c1"]


def test_the_service_decides_after_connecting() -> None:
    """What the dialect says of items and answers holds from then on."""
    book = Book()
    book.calls.serves(items=False, asks=False)
    book.tell(call("c1"), done())
    assert book.started == ["c1"]
    assert len(book.give("c1")) == 1


def test_a_call_that_names_no_answer_is_run_and_answered() -> None:
    """Nobody will tell the end of its answer: it starts at once, and the last result of such calls asks for the next answer."""
    book = Book()
    assert book.tell(call("a", response=""), call("b", response="")) == []
    assert book.started == ["a", "b"]
    assert book.give("b") == [result_of("b")]
    assert book.tell(done("r1")) == []
    assert book.give("a") == [result_of("a"), CreateResponse()]
    book.tell(call("c", response=""), complete("c"))
    assert book.started == ["a", "b", "c"]
    assert book.give("c") == [result_of("c"), CreateResponse()]
    assert book.give("a") == []


def test_an_incomplete_item_starts_nothing() -> None:
    """A call that was cut off, or an item that is no call, is not run."""
    book = Book()
    book.tell(call("c1"), complete("c1", "incomplete"), complete("c1", "completed", "message"), complete("c9"), SpeechStarted())
    assert book.started == []


def test_the_end_of_the_answer_starts_what_its_items_left_out() -> None:
    """Some services do not tell the end of an item: the end of the answer says that its calls are complete."""
    book = Book()
    book.tell(call("c1"), done())
    assert book.started == ["c1"]


@pytest.mark.parametrize(("status", "asked"), [("cancelled", []), ("failed", [CreateResponse()]), ("incomplete", [CreateResponse()])])
def test_an_unfinished_answer_starts_nothing(status: str, asked: list[Command]) -> None:
    """Calls an unfinished answer left open are not run; a complete one's result is sent, and asks again unless the answer was cancelled."""
    book = Book()
    book.tell(call("c1"), complete("c1"), call("c2"), done(status=status))
    assert book.started == ["c1"]
    assert book.calls.goes_on("r1") == bool(asked)
    assert book.give("c1") == [result_of("c1"), *asked]
    assert book.give("c2") == []
    assert not book.calls.is_busy


@pytest.mark.parametrize("status", ["failed", "incomplete"])
def test_an_unfinished_answer_whose_calls_were_cut_off_asks_for_nothing(status: str) -> None:
    """Without a result there is nothing to answer."""
    book = Book()
    assert book.tell(call("c1"), complete("c1", "incomplete"), done(status=status)) == []
    assert book.started == []
    assert not book.calls.goes_on("r1")


def result_of(call_id: str, name: str = "look") -> SendFunctionResult:
    return SendFunctionResult(call_id=call_id, output="ok", name=name)


def test_one_request_follows_the_last_of_three_results() -> None:
    """Three calls of one answer give three results and one request, whichever ends last."""
    book = Book()
    book.tell(*(call(c) for c in "abc"), *(complete(c) for c in "abc"), done())
    assert book.give("b") == [result_of("b")]
    assert book.give("c") == [result_of("c")]
    assert book.give("a") == [result_of("a"), CreateResponse()]
    assert not book.calls.is_busy


def test_the_request_waits_for_the_end_of_the_answer() -> None:
    """A tool that is faster than the rest of the answer does not ask into it."""
    book = Book()
    book.tell(call("c1"), complete("c1"))
    assert book.give("c1") == [result_of("c1")]
    assert book.tell(done()) == [CreateResponse()]
    assert book.tell(done()) == []


def test_the_request_waits_until_every_result_is_on_its_way() -> None:
    """A result that another thread holds in its hands is not overtaken by the request."""
    book = Book()
    book.tell(call("a"), call("b"), complete("a"), complete("b"), done())
    assert book.calls.answer(result("a"))
    assert book.calls.answer(result("b"))
    assert book.calls.sent("b") == []
    assert book.calls.sent("a") == [CreateResponse()]


def test_an_answer_without_calls_asks_for_nothing() -> None:
    """Most answers are the end of the exchange."""
    assert Book().tell(done("r9")) == []


def test_a_second_result_is_dropped() -> None:
    """A call is answered once, by whoever is first."""
    book = Book()
    book.tell(call("c1"), complete("c1"), done())
    assert len(book.give("c1")) == 2
    assert book.give("c1") == []


def test_a_call_told_twice_is_one_call() -> None:
    """Calls are told apart by their id."""
    book = Book()
    book.tell(call("c1"), call("c1"), complete("c1"), complete("c1"), done())
    assert book.started == ["c1"]


def test_a_result_that_could_not_be_sent_may_be_given_again() -> None:
    """A full outbox does not use the call up."""
    book = Book()
    book.tell(call("c1"), complete("c1"), done())
    assert book.calls.answer(result("c1"))
    book.calls.not_sent("c1")
    book.calls.not_sent("unknown")
    assert book.calls.is_busy
    assert len(book.give("c1")) == 2


def test_a_function_that_nobody_has_is_refused_to_the_model() -> None:
    """The model reads which functions there are; the refusal is answered for like any other result."""
    book = Book("look", "listen")
    book.tell(call("c1", "fly"))
    (refusal,) = book.tell(complete("c1"))
    assert isinstance(refusal, SendFunctionResult)
    assert refusal.is_error
    assert refusal.output == error_output("there is no function named fly; known functions: listen, look")
    book.tell(done())
    assert len(book.give("c1")) == 2


def test_the_refusal_says_when_there_is_no_function_at_all() -> None:
    """With nothing registered the list is empty, and said to be."""
    book = Book()
    book.calls.use({})
    (refusal,) = book.tell(call("c1"), complete("c1"))
    assert isinstance(refusal, SendFunctionResult)
    assert "known functions: none" in refusal.output


def test_the_programs_own_calls_are_left_to_it() -> None:
    """What the program declared without a function, or listens for, is neither run nor refused."""
    book = Book(theirs=("fly",))
    book.calls.add(Tool(name="fly"))
    assert book.tell(call("c1", "fly"), complete("c1"), done()) == []
    assert book.started == []
    assert book.give("c1")[1:] == [CreateResponse()]


def test_a_call_that_expects_no_result_is_refused_to_nobody() -> None:
    """Without a result there is nothing to refuse and nothing to ask for."""
    book = Book()
    assert book.tell(call("c1", "fly", expects_result=False), complete("c1"), done()) == []
    assert not book.calls.is_busy
    assert book.give("c1") == []


def test_a_tool_that_expects_no_result_runs_and_asks_for_nothing() -> None:
    """It runs for its effect; what it returns is dropped."""
    book = Book()
    assert book.tell(call("c1", expects_result=False), complete("c1"), done()) == []
    assert book.started == ["c1"]
    assert book.calls.is_wanted("c1")


def test_results_that_want_no_answer_ask_for_none() -> None:
    """If every result of an answer was given with respond=False, the program asks for the next answer itself."""
    book = Book(theirs=("look",))
    book.tell(call("a"), call("b"), complete("a"), complete("b"), done())
    assert len(book.give("a", respond=False)) == 1
    assert len(book.give("b", respond=False)) == 1


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_one_result_that_wants_an_answer_is_enough(order: tuple[bool, bool]) -> None:
    """Whichever of the results it was, the answer is asked for after the last."""
    book = Book()
    book.tell(call("a"), call("b"), complete("a"), complete("b"), done())
    assert len(book.give("a", respond=order[0])) == 1
    assert len(book.give("b", respond=order[1])) == 2


def test_a_result_for_a_call_nobody_knows_asks_at_once() -> None:
    """Such as one of an earlier client; unless it wants no answer, or the service goes on by itself."""
    assert len(Book().give("old")) == 2
    assert len(Book().give("old", respond=False)) == 1
    assert len(Book(asks=False).give("old")) == 1


def test_a_service_that_goes_on_by_itself_is_not_asked() -> None:
    """Where a result is answered without a request, none is made."""
    book = Book(items=False, asks=False)
    assert book.tell(call("c1"), done()) == []
    assert len(book.give("c1")) == 1


def test_a_cancelled_call_is_neither_answered_nor_waited_for() -> None:
    """The others of the same answer still bring its request."""
    book = Book()
    book.tell(call("a"), call("b"), complete("a"), complete("b"), done(), FunctionCallCancelled(call_id="a"))
    book.tell(FunctionCallCancelled(call_id="unknown"))
    assert book.give("a") == []
    assert not book.calls.is_wanted("a")
    assert book.calls.is_wanted("b")
    assert len(book.give("b")) == 2
    assert not book.calls.is_wanted("b")


def test_after_a_loss_results_are_dropped() -> None:
    """The service has forgotten the calls."""
    book = Book()
    book.tell(call("c1"), complete("c1"))
    book.calls.reset()
    assert book.give("c1") == []
    assert not book.calls.is_busy
    assert book.tell(done()) == []


def test_an_answer_that_was_given_up_before_its_calls_came_is_not_followed() -> None:
    """It calls a function before its cancel arrives: the result goes out, and no further answer is asked for."""
    book = Book()
    book.calls.abandon("r1")
    book.tell(call("c1"), complete("c1"), done())
    assert not book.calls.goes_on("r1")
    assert book.give("c1") == [result_of("c1")]
    book.tell(call("c2", response="r2"), complete("c2"), done("r2"))
    assert book.calls.goes_on("r2")
    assert book.give("c2")[1:] == [book.calls.follow_up("r2")]
    book.tell(call("c3", response="r3"), complete("c3"), done("r3"))
    book.calls.abandon("r3")
    assert book.give("c3") == [result_of("c3")]
    assert not book.calls.goes_on("r3")


def test_only_the_newest_answers_that_were_given_up_are_remembered() -> None:
    """Most of them never call anything."""
    book = Book()
    for number in range(1000):
        book.calls.abandon(f"r{number}")
    assert len(book.calls._given_up) == 64
    book.calls.reset()
    assert len(book.calls._given_up) == 0


def test_a_name_is_taken_once() -> None:
    """Two functions of one name would leave the model's choice to chance."""
    book = Book()
    assert set(book.calls.tools) == {"look"}
    with pytest.raises(ConfigError, match="there already is a tool named 'look'"):
        book.calls.add(Tool(name="look"))


def test_tools_are_replaced_as_a_whole() -> None:
    """Functions of the new configuration run, those that went are refused; a definition that nobody answers is an error."""
    book = Book("look", "listen", theirs=("mine",))
    functions = book.calls.functions_of(
        [{"type": "function", "name": "listen"}, {"type": "web_search"}, Tool(name="mine"), Tool(name="fly", function=print)]
    )
    assert set(book.calls.tools) == {"look", "listen"}, "they are not in force before they are used"
    assert set(book.calls.use(functions)) == {"look", "listen"}
    assert set(book.calls.tools) == {"listen", "fly"}
    with pytest.raises(ConfigError, match="nobody answers the tool 'swim'"):
        book.calls.functions_of([{"type": "function", "name": "swim"}])
    assert set(book.calls.tools) == {"listen", "fly"}


def test_only_the_newest_calls_are_remembered() -> None:
    """A conversation of a day does not grow: the 513th call drops the first."""
    book = Book(items=False)
    for number in range(513):
        book.tell(call(f"c{number}", response=f"r{number // 2}"))
    assert len(book.give("c0")) == 2  # unknown by now: it is answered and asked for at once
    assert len(book.give("c2")) == 1  # known: the answer is not over
    for number in range(513, 2000):
        book.tell(call(f"c{number}", response=f"r{number}"))
    assert len(book.calls._rounds) <= 512


# -- against a model of the service --------------------------------------------------------------------------------------------


@attrs.define
class Story:
    """One answer with some calls, told in an order that could happen."""

    chance: random.Random
    book: Book = attrs.field(init=False)
    sent: list[str] = attrs.field(factory=list)
    given: list[str] = attrs.field(factory=list)
    requests: int = 0
    ending: str = ""

    def play(self) -> None:
        calls = [f"c{n}" for n in range(self.chance.randint(1, 4))]
        kinds = {c: self.chance.choice(["tool", "unknown", "theirs"]) for c in calls}
        self.book = Book("tool", theirs=("theirs",))
        events: list[Event] = []
        for c in calls:
            events.append(call(c, kinds[c]))
        for c in calls:
            if self.chance.random() < 0.8:
                events.insert(self.chance.randint(calls.index(c) + 1, len(events)), complete(c))
        self.ending = self.chance.choice(["completed"] * 3 + ["cancelled"])
        events.append(done(status=self.ending))
        if self.chance.random() < 0.3:
            events.append(call(calls[0], kinds[calls[0]]))
        cancelled = {c for c in calls if self.chance.random() < 0.15}
        for c in cancelled:
            events.insert(self.chance.randint(len(calls), len(events)), FunctionCallCancelled(call_id=c))
        running: list[str] = []
        waiting = [c for c in calls if kinds[c] == "theirs"]
        known: set[str] = set()
        while events or running or waiting or self.given:
            moves: list[Callable[[], None]] = []
            if events:
                moves.append(lambda: self.tell(events.pop(0), running, known))
            if running:
                moves.append(lambda: self.answer(running.pop(self.chance.randrange(len(running)))))
            if waiting and known & set(waiting):
                moves.append(lambda: self.answer_theirs(waiting, known))
            if self.given:
                moves.append(self.pass_on)
            if not moves:
                break
            self.chance.choice(moves)()
        assert len(set(self.sent)) == len(self.sent), "a call was answered twice"
        if self.ending == "completed":
            assert set(self.sent) >= set(calls) - cancelled, "a call was not answered"
            assert self.requests == (1 if self.sent else 0), "one request follows"
        else:
            assert self.requests == 0, "a cancelled answer is not followed"
        assert not self.book.calls.is_busy or self.ending != "completed"

    def tell(self, event: Event, running: list[str], known: set[str]) -> None:
        if isinstance(event, FunctionCall):
            known.add(event.call_id)
        for command in self.book.calls.told(event):
            if isinstance(command, SendFunctionResult):
                self.answer(command.call_id)
            else:
                self.ask()
        running += self.book.started
        self.book.started.clear()

    def answer_theirs(self, waiting: list[str], known: set[str]) -> None:
        c = self.chance.choice(sorted(known & set(waiting)))
        waiting.remove(c)
        self.answer(c)

    def answer(self, c: str) -> None:
        if self.book.calls.answer(result(c)):
            self.given.append(c)

    def pass_on(self) -> None:
        c = self.given.pop(self.chance.randrange(len(self.given)))
        self.sent.append(c)
        for _ in self.book.calls.sent(c):
            self.ask()

    def ask(self) -> None:
        assert not self.given or self.requests == 0
        self.requests += 1


def test_every_call_is_answered_once_and_followed_once_whatever_the_order() -> None:
    """However calls, ends, results and cancellations interleave: one result per call, and one request after the last of them."""
    for seed in range(1500):
        try:
            Story(random.Random(seed)).play()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


# -- the pool ------------------------------------------------------------------------------------------------------------------


class Pool:
    """The pool with a log of what came of each call."""

    def __init__(self, size: int = 4) -> None:
        self.answers: list[tuple[str, str, bool]] = []
        self.failures: list[tuple[str, BaseException]] = []
        self.timers: list[Timer] = []
        self.unwanted: set[str] = set()
        self._came = threading.Condition()
        self.pool = ToolPool(
            size=size, answer=self._answered, failed=self._failed, after=self._after, wanted=lambda c: c not in self.unwanted
        )

    def _answered(self, event: FunctionCall, output: str, is_error: bool) -> None:
        with self._came:
            self.answers.append((event.call_id, output, is_error))
            self._came.notify_all()

    def _failed(self, event: FunctionCall, name: str, error: BaseException) -> None:
        self.failures.append((name, error))

    def _after(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(seconds, action)
        self.timers.append(timer)
        return timer

    def run(self, call_id: str, function: Callable[..., Any], arguments: str = "{}", timeout: float = 30.0) -> None:
        event = FunctionCall(name="tool", call_id=call_id, arguments=arguments, response_id="r1")
        self.pool.run(event, Tool(name="tool", function=function, timeout=timeout))

    def wait(self, count: int) -> list[tuple[str, str, bool]]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.answers) >= count, 20.0), self.answers
            return self.answers

    def end(self) -> None:
        self.pool.stop()
        for thread in self.pool.threads:
            thread.join(20.0)


@attrs.define
class Timer:
    seconds: float
    action: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def pool() -> Any:
    pool = Pool()
    yield pool
    pool.end()


def test_a_tools_result_is_text_or_json(pool: Pool) -> None:
    """Text goes as it is, everything else as JSON; the time limit is forgotten when it is there."""
    pool.run("a", lambda: "hello")
    pool.wait(1)
    pool.run("b", lambda x: {"x": x}, '{"x": 1}')
    assert pool.wait(2) == [("a", "hello", False), ("b", '{"x": 1}', False)]
    pool.end()
    assert all(timer.cancelled for timer in pool.timers)


def test_a_tool_that_raises_answers_with_the_error(pool: Pool) -> None:
    """The model reads kind and words of the exception; the program is told of it."""

    def broken() -> None:
        raise LookupError("no such city")

    pool.run("a", broken)
    assert pool.wait(1) == [("a", error_output("LookupError: no such city"), True)]
    assert isinstance(pool.failures[0][1], LookupError)


def test_a_tool_that_wants_to_exit_does_not_end_the_pool(pool: Pool) -> None:
    """sys.exit in a tool is a failure of that call; the next tool runs."""
    pool.run("a", lambda: exit_with(3))
    pool.wait(1)
    pool.run("b", lambda: "alive")
    assert pool.wait(2)[1] == ("b", "alive", False)
    assert isinstance(pool.failures[0][1], SystemExit)


def exit_with(code: int) -> None:
    raise SystemExit(code)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("{", "the arguments are not JSON"),
        ("[1]", "the arguments are not a JSON object"),
        ('{"city": 5}', "argument 'city' must be str, not 5"),
        ("{}", "argument 'city' is missing"),
        ('{"town": "Oslo"}', "there is no argument 'town'; arguments: city"),
        ("[" * 100_000, "the arguments are not JSON"),
    ],
    ids=["broken", "list", "kind", "missing", "unknown", "deep"],
)
def test_wrong_arguments_are_told_to_the_model_and_the_tool_does_not_run(pool: Pool, arguments: str, words: str) -> None:
    """The model's mistake is answered in words it can act on; the program has not failed."""
    ran: list[str] = []

    def look(city: str) -> None:
        ran.append(city)

    pool.run("a", look, arguments)
    ((_, output, is_error),) = pool.wait(1)
    assert words in output
    assert is_error
    assert ran == []
    assert pool.failures == []


def test_no_arguments_at_all_is_an_empty_object(pool: Pool) -> None:
    """Some services send an empty text for a function without parameters."""
    pool.run("a", lambda: "ok", "")
    assert pool.wait(1) == [("a", "ok", False)]


def test_a_result_without_a_text_form_is_a_failure(pool: Pool) -> None:
    """Bytes and NaN cannot be told to a model."""
    pool.run("a", lambda: b"x")
    pool.run("b", lambda: float("nan"))
    answers = {c: (output, is_error) for c, output, is_error in pool.wait(2)}
    assert "the tool returned bytes" in answers["a"][0]
    assert "no JSON form" in answers["b"][0]
    assert len(pool.failures) == 2


def test_a_tool_that_is_too_slow_is_answered_for(pool: Pool) -> None:
    """At its time limit the call is answered by an error; its own result comes second, and is the bookkeeping's to drop."""
    started, leave = threading.Event(), threading.Event()
    pool.run("a", lambda: (started.set(), leave.wait(20.0))[1], timeout=0.5)
    assert started.wait(20.0)
    waiting, running = pool.timers
    assert waiting.cancelled
    assert running.seconds == 0.5
    running.action()
    assert pool.answers == [("a", error_output("tool did not answer within 0.5 s"), True)]
    leave.set()
    assert pool.wait(2)[1] == ("a", "true", False)


def test_four_tools_run_at_once_and_the_fifth_waits(pool: Pool) -> None:
    """The pool has four threads, started when needed, and uses them again."""
    gate = threading.Barrier(5)
    for number in range(4):
        pool.run(f"c{number}", lambda: gate.wait(20.0))
    fifth = threading.Event()
    pool.run("c4", fifth.set)
    assert not fifth.is_set()
    gate.wait(20.0)
    assert fifth.wait(20.0)
    pool.wait(5)
    assert len(pool.pool.threads) == 4
    pool.run("c5", lambda: "again")
    pool.wait(6)
    assert len(pool.pool.threads) == 4


def test_a_call_that_nobody_waits_for_any_more_is_not_run(pool: Pool) -> None:
    """A cancelled call that still waits for a thread has no effect."""
    pool.unwanted.add("a")
    ran = threading.Event()
    pool.run("a", ran.set)
    pool.run("b", lambda: "ok")
    assert [a[0] for a in pool.wait(1)] == ["b"]
    assert not ran.is_set()


class Hangs:
    """A tool that does not return until it is let go."""

    def __init__(self) -> None:
        self.runs = threading.Semaphore(0)
        self.leave = threading.Event()

    def __call__(self) -> str:
        self.runs.release()
        self.leave.wait(30.0)
        return "late"

    def run_in(self, pool: Pool, call_id: str) -> Timer:
        """Run it, wait until it does, and return the timer of its time limit."""
        before = len(pool.timers)
        pool.run(call_id, self)
        assert self.runs.acquire(timeout=10.0)
        return pool.timers[before + 1]


def test_a_tool_that_hangs_does_not_stop_the_tools_after_it() -> None:
    """When its time is up another thread takes over, also for what waits already; when it returns there is one thread too many."""
    pool, hangs = Pool(size=1), Hangs()
    limit = hangs.run_in(pool, "a")
    pool.run("b", lambda: "fine")
    assert pool.answers == []
    limit.action()
    assert pool.wait(2) == [("a", error_output("tool did not answer within 30 s"), True), ("b", "fine", False)]
    lost, other = pool.pool.threads
    assert [lost.name, other.name] == ["qai-tool-0", "qai-tool-1"]
    hangs.leave.set()
    lost.join(10.0)
    assert not lost.is_alive()
    pool.run("c", lambda: "again")
    assert pool.wait(4)[-1] == ("c", "again", False)
    assert pool.pool.threads == [lost, other]
    pool.end()


def test_where_no_other_thread_may_be_started_the_calls_are_answered_all_the_same() -> None:
    """Sixteen threads are replaced; then a call that waits is answered by an error at its time limit, and its tool not run."""
    pool, hangs, ran = Pool(size=1), Hangs(), threading.Event()
    for number in range(17):
        hangs.run_in(pool, f"h{number}").action()
    pool.run("b", ran.set)
    pool.timers[-1].action()
    ((call_id, output, is_error),) = pool.answers[17:]
    assert (call_id, is_error) == ("b", True)
    assert "tool was not run: the tools before it do not return, and no thread was free within 30 s" in output
    assert len(pool.pool.threads) == 17
    hangs.leave.set()
    pool.wait(17 + 1 + 17)
    pool.run("c", lambda: "again")
    assert pool.wait(36)[-1] == ("c", "again", False)
    assert not ran.is_set()
    pool.end()


def test_a_call_waits_for_tools_that_are_within_their_time() -> None:
    """Its own time limit does not end the wait for a thread that will come free."""
    pool, hangs = Pool(size=1), Hangs()
    hangs.run_in(pool, "a")
    pool.run("b", lambda: "fine", timeout=0.5)
    pool.timers[-1].action()
    assert pool.answers == []
    assert pool.timers[-1].seconds == 0.5
    hangs.leave.set()
    assert pool.wait(2) == [("a", "late", False), ("b", "fine", False)]
    pool.end()
    assert all(timer.cancelled for timer in pool.timers if timer.seconds == 30.0)
    assert pool.timers[-1].cancelled
    count = len(pool.timers)
    for timer in pool.timers:
        timer.action()  # as if they had run out at the last moment
    assert len(pool.timers) == count


def test_whatever_a_tool_or_its_annotations_raise_is_an_error_result_and_the_thread_lives() -> None:
    """Annotations that cannot be read, an exception without a text, a log that fails: each call is answered, by one and the same thread."""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise LookupError("no words")

    def unreadable(x: str) -> str:
        return x

    def unspeakable() -> None:
        raise Unspeakable

    unreadable.__annotations__["x"] = "threading.Missing"
    pool = Pool(size=1)
    pool.run("a", unreadable, '{"x": "1"}')
    pool.run("b", unspeakable)
    assert [(call_id, is_error) for call_id, _, is_error in pool.wait(2)] == [("a", True), ("b", True)]
    assert "ConfigError: the annotations of unreadable cannot be read: module 'threading' has no attribute 'Missing'" in pool.answers[0][1]
    assert "Unspeakable" in pool.answers[1][1]
    assert [type(error) for _, error in pool.failures] == [ConfigError, Unspeakable]
    pool.failures = None  # type: ignore[assignment]  # telling of a failure fails too
    pool.run("c", unspeakable)
    pool.run("d", lambda: "fine")
    assert [answer[0] for answer in pool.wait(4)] == ["a", "b", "c", "d"]
    assert len(pool.pool.threads) == 1
    pool.end()


def test_a_thread_that_cannot_be_started_is_an_error_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may have no more threads: the call is answered at once, unless another thread will come for it."""
    start, refused = threading.Thread.start, True

    def limited(thread: threading.Thread) -> None:
        if refused:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    pool, hangs = Pool(size=2), Hangs()
    pool.run("a", lambda: "never")
    assert pool.answers == [("a", error_output("tool could not be run: can't start new thread"), True)]
    assert isinstance(pool.failures[0][1], RuntimeError)
    refused = False
    limit = hangs.run_in(pool, "b")
    refused = True
    pool.run("c", lambda: "fine")
    assert len(pool.answers) == 1
    limit.action()
    assert pool.answers[1:] == [("b", error_output("tool did not answer within 30 s"), True)]
    hangs.leave.set()
    assert [answer[0] for answer in pool.wait(4)] == ["a", "b", "b", "c"]
    pool.end()


def test_after_stop_nothing_is_run(pool: Pool) -> None:
    """What waits is not run, what runs ends by itself, and its thread with it."""
    gate, started = threading.Event(), threading.Event()
    small = Pool(size=1)
    small.run("a", lambda: (started.set(), gate.wait(20.0))[1])
    assert started.wait(20.0)
    small.run("b", lambda: "never")
    small.pool.stop()
    gate.set()
    small.end()
    small.run("c", lambda: "never")
    assert [a[0] for a in small.answers] == ["a"]
    assert not any(thread.is_alive() for thread in small.pool.threads)


def test_a_timer_that_cannot_be_cancelled_is_left_alone() -> None:
    """The pool needs nothing of a timer but that it calls."""
    done_with = threading.Event()
    pool = ToolPool(
        size=1,
        answer=lambda *_: done_with.set(),
        failed=lambda *_: None,
        after=lambda *_: None,
        wanted=lambda _: True,
    )
    pool.run(call("a"), Tool(name="look", function=lambda: "ok"))
    assert done_with.wait(20.0)
    pool.stop()
    for thread in pool.threads:
        thread.join(20.0)


def test_an_answer_that_ends_with_its_connection_is_not_followed_by_another() -> None:
    """Its result was sent, and the service has forgotten it: asked again it would call the function a second time."""
    book = Book()
    book.tell(call("c1"), complete("c1"))
    assert len(book.give("c1")) == 1
    book.calls.reset()
    assert book.tell(done(status="failed")) == []
    assert not book.calls.goes_on("r1")
