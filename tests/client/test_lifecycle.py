"""States and backoff: every arrow of the table, every rule of the budget, with a fake clock and fake chance."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qai_realtime_sync.client.lifecycle import Backoff, Lifecycle, ReconnectPolicy, policy_of, worth_retrying
from qai_realtime_sync.errors import ApiError, ConfigError, ConnectError, ConnectionClosedError, RealtimeTimeoutError

STATES = ("idle", "connecting", "handshaking", "open", "backoff", "closing", "closed", "failed")
ARROWS = {
    "idle": {"connecting", "closed"},
    "connecting": {"handshaking", "backoff", "closing", "closed", "failed"},
    "handshaking": {"open", "backoff", "closing", "closed", "failed"},
    "open": {"backoff", "closing", "closed", "failed"},
    "backoff": {"connecting", "closing", "closed", "failed"},
    "closing": {"closed", "failed"},
    "closed": set(),
    "failed": set(),
}


@pytest.mark.parametrize("old", STATES)
@pytest.mark.parametrize("new", STATES)
def test_only_the_arrows_of_the_table_exist(old: str, new: str) -> None:
    """A transition happens exactly where the table has an arrow, and is told as an event; elsewhere nothing changes."""
    life = Lifecycle()
    life.state = old
    told = life.to(new)
    if new in ARROWS[old]:
        assert told is not None
        assert (told.old, told.new, life.state) == (old, new, new)
    else:
        assert told is None
        assert life.state == old


def test_transitions_are_numbered_without_gaps() -> None:
    """Each transition that happens has the next number; one that does not happen uses none up."""
    life = Lifecycle()
    numbers = [told.number for state in ("connecting", "idle", "handshaking", "open", "open", "closed") if (told := life.to(state))]
    assert numbers == [1, 2, 3, 4]


def test_only_the_last_states_are_the_end() -> None:
    """Closed and failed are over, every other state is not."""
    over = set()
    for state in STATES:
        life = Lifecycle()
        life.state = state
        if life.is_over:
            over.add(state)
    assert over == {"closed", "failed"}


def test_reconnect_takes_true_false_or_a_policy() -> None:
    """True is the usual policy, False none, a policy itself, and anything else a mistake that is named."""
    policy = ReconnectPolicy(attempts=3)
    assert policy_of(policy) is policy
    assert policy_of(True) == ReconnectPolicy()
    assert policy_of(False) is None
    with pytest.raises(ConfigError, match="True, False or a ReconnectPolicy, not int"):
        policy_of(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": -1}, {"attempts": 2.5}, {"attempts": True}, {"seconds": "60"}, {"seconds": math.nan}, {"base": math.inf},
        {"base": -0.1}, {"base": 10**400}, {"cap": None}, {"healthy": -1}, {"longest_retry_after": False},
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_followed_is_refused(wrong: dict[str, Any]) -> None:
    """At once and by the field's name, not at the first loss."""
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        ReconnectPolicy(**wrong)


def test_a_policy_may_have_no_limit() -> None:
    """Infinity is a count and a time that is never reached."""
    policy = ReconnectPolicy(attempts=math.inf, seconds=math.inf, cap=math.inf, healthy=math.inf, base=1)  # type: ignore[arg-type]
    backoff = Backoff(policy, lambda: 1.0)
    backoff.lost(0.0, None)
    assert [backoff.next_delay(1e9) for _ in range(4)] == [0.0, 1.0, 2.0, 4.0]


def lost(policy: ReconnectPolicy | None = None, chance: float = 1.0) -> Backoff:
    backoff = Backoff(policy or ReconnectPolicy(), lambda: chance)
    backoff.lost(0.0, 0.0)
    return backoff


def test_the_first_try_comes_at_once_and_the_later_ones_after_doubled_times_up_to_the_cap() -> None:
    """With chance at its highest the delays are 0, then 0.5 s doubled each time, never above 20 s."""
    backoff = lost()
    assert [backoff.next_delay(0.0) for _ in range(10)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0]


def test_the_delay_is_full_jitter() -> None:
    """Chance scales the whole delay, down to nothing."""
    assert [lost(chance=0.0).next_delay(0.0) for _ in range(1)] == [0.0]
    backoff = lost(chance=0.25)
    backoff.next_delay(0.0)
    assert backoff.next_delay(0.0) == 0.125
    assert backoff.next_delay(0.0) == 0.25


def test_the_budget_ends_with_its_tries() -> None:
    """After ten tries there is no eleventh."""
    backoff = lost()
    for _ in range(10):
        assert backoff.next_delay(0.0) is not None
    assert backoff.next_delay(0.0) is None


def test_the_budget_ends_with_its_time() -> None:
    """120 s after the loss nothing is tried any more, however few tries there were."""
    backoff = lost()
    assert backoff.next_delay(119.9) == 0.0
    assert backoff.next_delay(120.0) is None


def test_a_huge_number_of_tries_is_no_overflow() -> None:
    """The power in the delay is bounded."""
    backoff = lost(ReconnectPolicy(attempts=5000, seconds=1e9))
    delays = [backoff.next_delay(0.0) for _ in range(5000)]
    assert delays[-1] == 20.0


def test_ten_healthy_seconds_renew_the_budget_and_fewer_do_not() -> None:
    """A connection that was open for 10 s starts both counts anew; one that was open for 9.9 s goes on with them."""
    backoff = lost()
    for _ in range(3):
        backoff.next_delay(0.0)
    backoff.lost(100.0, 90.1)
    assert backoff.attempts == 3
    assert backoff.lost_at == 0.0
    backoff.lost(100.0, 90.0)
    assert backoff.attempts == 0
    assert backoff.lost_at == 100.0
    assert backoff.next_delay(100.0) == 0.0


def test_a_failed_dial_goes_on_with_the_count() -> None:
    """A try that never opened does not renew the budget."""
    backoff = lost()
    backoff.next_delay(0.0)
    backoff.lost(1.0, None)
    assert backoff.attempts == 1


def test_without_a_loss_no_time_has_passed() -> None:
    """Asked before any loss, the first try comes at once."""
    assert Backoff(ReconnectPolicy(), lambda: 1.0).next_delay(1e6) == 0.0


def test_retry_after_is_honoured_up_to_a_minute() -> None:
    """The service's wish is the least delay, but never more than 60 s."""
    assert lost().next_delay(0.0, retry_after=7.0) == 7.0
    assert lost().next_delay(0.0, retry_after=600.0) == 60.0
    backoff = lost()
    for _ in range(5):
        backoff.next_delay(0.0)
    assert backoff.next_delay(0.0, retry_after=1.0) == 8.0


@pytest.mark.parametrize(
    ("error", "again"),
    [
        *[(ApiError("no", status_code=status), True) for status in (408, 425, 429, 500, 502, 503, 504)],
        *[(ApiError("no", status_code=status), False) for status in (0, 301, 400, 401, 402, 403, 404, 410)],
        (ConnectError("no"), True),
        (ConnectError("no", code="tls_verification"), False),
        (ConnectError("no", code="cancelled"), False),
        (ConnectError("no", code="invalid_base_url"), False),
        (ConnectError("no", code="invalid_header"), False),
        (RealtimeTimeoutError("late"), True),
        (ConnectionClosedError("gone", code=1006), True),
        (ConfigError("wrong"), False),
        (OSError("foreign"), False),
    ],
    ids=str,
)
def test_what_is_worth_another_try(error: Exception, again: bool) -> None:
    """Overload, failure of the service and the network are tried again; refusals, certificates and mistakes are not."""
    assert worth_retrying(error) is again
