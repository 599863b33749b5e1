"""What the end of a connection means, and whether a new one is worth trying."""

from __future__ import annotations

import pytest

from qai_realtime_sync import dialects
from qai_realtime_sync.events import ErrorReceived


@pytest.mark.parametrize("name", dialects.names())
@pytest.mark.parametrize(
    ("code", "reason", "meaning", "retry"),
    [
        (None, "", "lost", True),
        (1000, "", "normal", False),
        (1001, "", "going_away", True),
        (1003, "", "bad_request", False),
        (1005, "", "lost", True),
        (1006, "", "lost", True),
        (1007, "bad argument", "bad_request", False),
        (1008, "", "policy", False),
        (1009, "", "bad_request", False),
        (1010, "", "bad_request", False),
        (1011, "", "lost", True),
        (1012, "", "going_away", True),
        (1013, "", "lost", True),
        (1014, "", "lost", True),
        (1015, "", "lost", True),
        (1099, "", "lost", True),
        (3000, "", "auth", False),
        (4999, "", "bad_request", False),
        (1011, "You exceeded your current quota, please check your plan", "quota", False),
        (1007, "API key expired. Please renew the API key.", "auth", False),
        (1000, "insufficient balance", "quota", False),
        (1008, "Insufficient Balance", "quota", False),
    ],
)
def test_a_close_means_the_same_everywhere(name: str, code: int | None, reason: str, meaning: str, retry: bool) -> None:
    """The words of the reason count first, then the code."""
    ending = dialects.choose(name)().ending(code, reason)
    assert (ending.meaning, ending.retry) == (meaning, retry)


def test_a_session_that_became_too_old_is_begun_anew_only_straight_to_the_service() -> None:
    """The gateway ended it for money; a service just ends every session after its cap."""
    for made, gateway, retry in (("xai", True, False), ("xai", False, True), ("openai", False, True)):
        dialect = dialects.choose(made)(gateway=gateway)
        ending = dialect.ending(1000, "session duration limit reached")
        assert (ending.meaning, ending.retry) == ("session_cap", retry)


@pytest.mark.parametrize("name", ["xai", "openai", "gemini"])
def test_a_protocol_error_is_our_fault(name: str) -> None:
    """1002 of a service that means RFC 6455 by it is not tried again."""
    ending = dialects.choose(name)().ending(1002, "")
    assert (ending.meaning, ending.retry) == ("bad_request", False)


def test_openai_says_why_it_refused() -> None:
    """A bad key and the refused beta come as closes after an accepted upgrade."""
    dialect = dialects.choose("openai")()
    assert dialect.ending(3000, "invalid_request_error.invalid_api_key").meaning == "auth"
    assert dialect.ending(4000, "invalid_request_error.beta_api_shape_disabled").meaning == "bad_request"
    assert not dialect.ending(4000, "invalid_request_error.beta_api_shape_disabled").retry


@pytest.mark.parametrize(
    ("code", "kind", "meaning", "retry"),
    [
        ("session_expired", "invalid_request_error", "session_cap", True),
        ("", "max_duration", "session_cap", True),
        ("invalid_request_error.invalid_api_key", "", "auth", False),
        ("beta_api_shape_disabled", "", "bad_request", False),
        ("something_new", "", "bad_request", False),
    ],
)
def test_a_fatal_error_tells_more_than_the_close_after_it(code: str, kind: str, meaning: str, retry: bool) -> None:
    """An error that is not fatal says nothing about an end."""
    dialect = dialects.choose("xai")()
    ending = dialect.error_ending(ErrorReceived(code=code, type=kind, fatal=True))
    assert ending is not None
    assert (ending.meaning, ending.retry) == (meaning, retry)
    assert dialect.error_ending(ErrorReceived(code=code, type=kind)) is None


@pytest.mark.parametrize(
    ("code", "number", "meaning", "retry"),
    [
        ("max_duration_exceeded", "1000", "normal", False),
        ("override_error", "1008", "bad_request", False),
        ("safety_violation", "1002", "policy", False),
        ("transport_receive_timeout", "1002", "going_away", False),
        ("llm_timeout", "1002", "lost", True),
        ("unknown", "1008", "policy", False),
        ("unknown", "1000", "normal", False),
        ("quota_exceeded", "1008", "quota", False),
    ],
)
def test_elevenlabs_says_why_in_the_error_before_the_close(code: str, number: str, meaning: str, retry: bool) -> None:
    """Its close codes are few; the error's word counts first, its number second."""
    dialect = dialects.choose("elevenlabs")()
    ending = dialect.error_ending(ErrorReceived(code=code, type=number, fatal=True))
    assert ending is not None
    assert (ending.meaning, ending.retry) == (meaning, retry)
    assert dialect.error_ending(ErrorReceived(code=code)) is None
    assert dialect.ending(4300, "").retry
    assert (dialect.ending(1002, "").meaning, dialect.ending(1002, "").retry) == ("lost", False)
    assert dialect.ending(1002, "quota exceeded").meaning == "quota"


def test_gemini_says_why_in_the_close_only() -> None:
    """An unknown model comes as a policy violation, and no event of it is an error."""
    dialect = dialects.choose("gemini")()
    assert dialect.ending(1008, "models/x is not found for API version v1beta").meaning == "bad_request"
    assert dialect.ending(1008, "blocked").meaning == "policy"
    assert dialect.error_ending(ErrorReceived(fatal=True)) is None
