"""The errors: their places in the tree, their codes, and that they survive a pickle."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from qai_realtime_sync import errors
from qai_realtime_sync.errors import ApiError, ConfigError, ConnectionClosedError, RealtimeError, RealtimeTimeoutError

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_one_of_ours_and_ends_in_error(kind: type[RealtimeError]) -> None:
    """One `except RealtimeError` catches everything; names end in Error."""
    assert issubclass(kind, RealtimeError)
    assert kind.__name__.endswith("Error")


def test_some_errors_are_pythons_too() -> None:
    """A wrong value is a ValueError, a missed deadline a TimeoutError, for code that knows neither."""
    assert issubclass(ConfigError, ValueError)
    assert issubclass(RealtimeTimeoutError, TimeoutError)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("RealtimeError", "error"),
        ("ConfigError", "invalid_config"),
        ("UnsupportedCommandError", "unsupported_command"),
        ("OutboxFullError", "outbox_full"),
        ("NotConnectedError", "not_connected"),
        ("ForkedClientError", "forked_client"),
        ("ApiError", "api_error"),
        ("ConnectError", "connect_failed"),
        ("ConnectionClosedError", None),
        ("RealtimeTimeoutError", "timeout"),
    ],
)
def test_every_error_has_a_code(name: str, code: str | None) -> None:
    """Each class has a machine-readable word of its own; `timeout` is the reference's."""
    assert getattr(errors, name)("what happened").code == code
    assert len(ALL) == 10


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not ConnectionClosedError])
def test_a_code_can_be_given_and_is_kept_by_a_pickle(kind: Any) -> None:
    """A more exact code replaces the class's; a pickle keeps message and code."""
    error = kind("what happened", code="exact")
    assert (error.message, error.code) == ("what happened", "exact")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.code) == (kind, str(error), "exact")


def test_a_message_may_be_empty() -> None:
    """An error without a message has the empty one."""
    assert RealtimeError().message == ""
    error = RealtimeError()
    error.args = ()
    assert error.message == ""


def test_the_close_of_a_connection() -> None:
    """The code is the close code, or None; all parts survive a pickle."""
    error = ConnectionClosedError("over", code=1008, reason="insufficient balance", clean=True)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.reason, copy.clean, copy.message) == (1008, "insufficient balance", True, "over")
    assert ConnectionClosedError().code is None


def test_the_text_of_an_api_error() -> None:
    """The reference's text form, with the request id only if there is one."""
    error = ApiError("model is required", status_code=400, code="invalid_request", request_id="req_1")
    assert str(error) == "qai: 400 invalid_request: model is required (request_id=req_1)"
    assert str(ApiError("m", status_code=500, code="x")) == "qai: 500 x: m"
    assert str(ApiError("m", code="x")) == "qai: x: m", "an error told during the conversation has no HTTP status"
    assert ApiError("m").retry_after is None


@pytest.mark.parametrize(
    ("status", "code", "true"),
    [
        (429, "x", {"is_rate_limit"}),
        (400, "RATE_LIMITED_PER_KEY", {"is_rate_limit"}),
        (400, "RATE_LIMITED_PER_IP", {"is_rate_limit"}),
        (400, "QUOTA_EXCEEDED", {"is_rate_limit"}),
        (400, "rate_limit_exceeded", {"is_rate_limit"}),
        (400, "rate_limited", {"is_rate_limit"}),
        (400, "rate_limit", {"is_rate_limit"}),
        (401, "x", {"is_auth"}),
        (403, "x", {"is_auth"}),
        (404, "x", {"is_not_found"}),
        (402, "x", {"is_insufficient_balance"}),
        (400, "INSUFFICIENT_BALANCE", {"is_insufficient_balance"}),
        (400, "balance_zero", {"is_insufficient_balance"}),
        (400, "insufficient_funds", {"is_insufficient_balance"}),
        (400, "insufficient_balance", {"is_insufficient_balance"}),
        (500, "x", set()),
        (400, "Rate_Limited", set()),
    ],
)
def test_the_predicates(status: int, code: str, true: set[str]) -> None:
    """Each predicate looks at status and code as the reference does; case counts."""
    error = ApiError("m", status_code=status, code=code)
    names = {"is_rate_limit", "is_auth", "is_not_found", "is_insufficient_balance"}
    assert {name for name in names if getattr(error, name)} == true
