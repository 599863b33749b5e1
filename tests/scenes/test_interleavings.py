"""Results, ends, speech, cancels, errors and losses in every order: a real client against a model of the service.

What must hold whatever happens: never two answers at once, every call answered exactly once, exactly one request after the results of an
answer, nothing lost and nothing held for ever.
"""

from __future__ import annotations

import itertools
import random

import pytest

from tests.scenes.model import Model

DISTURBANCES = ("speech", "cancel", "error", "loss", "another question")
ORDERS = list(itertools.permutations(("first result", "second result", "end", "disturbance")))


def give(model: Model, call_id: str) -> None:
    """The program gives a result, twice, as a careless one does."""
    model.client.send_function_result(call_id, "there")
    model.client.send_function_result(call_id, "again")


def disturb(model: Model, kind: str) -> None:
    if kind == "speech":
        model.speech()
    elif kind == "cancel":
        model.client.cancel_response()
    elif kind == "error":
        model.error()
    elif kind == "loss":
        model.lose()
    else:
        model.client.send_text("And another thing")


def finish(model: Model) -> None:
    """Let everything that waits arrive, and every answer come to its end."""
    for _ in range(200):
        model.settle()
        if model.up:
            model.serve()
        elif model.down:
            model.hear()
        elif model.active is not None:
            model.end()
        else:
            return
    raise AssertionError("it never comes to rest")


def check_rest(model: Model) -> None:
    """Nothing waits, and no call was answered twice or on the wrong connection."""
    call = model.client._call
    assert not call.responses.is_busy, "an answer is waited for that will not come"
    assert not call.is_busy, "a result is waited for that nobody gives"
    assert call.responses.next() == [], "a request is held for ever"
    assert model.strange == [], "a result was given to a conversation that does not know its call"
    assert all(count <= 1 for answer in model.answers for count in answer.calls.values()), "a call was answered twice"
    assert model.client.outbox.waiting == 0


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("order", ORDERS, ids=[" - ".join(order) for order in ORDERS])
def test_two_results_an_end_and_a_disturbance_in_any_order(order: tuple[str, ...], disturbance: str) -> None:
    """In each of 120 orders each call of an answer that came to its end is answered once and followed by one request."""
    model = Model()
    with model.client:
        model.settle()
        model.client.send_text("Look twice")
        asking = model.active
        assert asking is not None
        calls = {"first result": model.call(), "second result": model.call()}
        model.settle()
        questions = 1
        for move in order:
            if move == "disturbance":
                disturb(model, disturbance)
                questions += disturbance == "another question"
            elif move == "end":
                if model.active is asking:
                    model.end()
            else:
                give(model, calls[move])
            model.settle()
        finish(model)
        check_rest(model)
        survived = asking.status == "completed" and asking.connection is model.connection
        if survived:
            assert set(asking.calls.values()) == {1}, "a call has no answer"
        followed = model.accepted - questions
        whole = asking.status == "completed" and disturbance not in ("cancel", "loss")
        if whole:
            assert followed == 1, "one request follows the results"
        elif asking.status == "cancelled":
            assert followed == 0, "an answer that was cancelled is not continued"
        else:
            assert followed in (0, 1), "a request follows at most once"
        assert "Look twice" in model.items
        assert disturbance != "another question" or "And another thing" in model.items


@pytest.mark.parametrize("seed", range(60))
def test_any_story_over_slow_wires_comes_to_rest(seed: int) -> None:
    """With delays in both directions and everything by chance, answers, calls and requests add up at the end."""
    chance = random.Random(seed)
    model = Model(delayed=True)
    questions = cancels = losses = 0
    heard: list[str] = []  # calls that the program knows of and has not answered
    model.client.on_function_call(lambda event: heard.append(event.call_id))

    def wanted() -> list[str]:
        return [call_id for call_id in heard if model.client._call.calls.is_wanted(call_id)]

    def answer(call_id: str) -> None:
        heard.remove(call_id)
        model.client.send_function_result(call_id, "there")

    with model.client:
        model.settle()
        for _ in range(chance.randint(15, 60)):
            moves = ["ask"] * (questions < 4) + ["error"]
            moves += ["serve"] * 3 * bool(model.up) + ["hear"] * 4 * bool(model.down)
            moves += ["speech"] if len(model.answers) < 8 else []
            moves += ["call", "call", "end"] if model.active is not None else []
            moves += ["result"] * 3 * bool(wanted())
            moves += ["cancel"] * (cancels < 1 and seed % 3 == 0) + ["loss"] * (losses < 2 and seed % 4 == 0)
            move = chance.choice(moves)
            if move == "ask":
                questions += 1
                model.client.send_text(f"question {questions}")
            elif move == "serve":
                model.serve()
            elif move == "hear":
                model.hear()
            elif move == "call":
                model.call()
            elif move == "end":
                model.end()
            elif move == "result":
                answer(chance.choice(wanted()))
            elif move == "cancel":
                cancels += 1
                model.client.cancel_response()
            elif move == "loss":
                losses += 1
                model.lose()
            elif move == "error":
                model.error(named=chance.random() < 0.5)
            else:
                disturb(model, move)
            model.settle()
        for _ in range(50):  # what is still wanted is given, and may lead to more
            finish(model)
            left = wanted()
            if not left:
                break
            for call_id in left:
                answer(call_id)
        check_rest(model)
        if not losses:
            completed = [answer for answer in model.answers if answer.calls and answer.status == "completed"]
            assert all(set(answer.calls.values()) == {1} for answer in completed), "a call has no answer"
            expected = questions + len(completed)
            if cancels:
                assert model.accepted <= expected
            else:
                assert model.accepted == expected
            assert model.items == [f"question {number}" for number in range(1, questions + 1)]
