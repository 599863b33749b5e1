"""Many calls at once in one gunicorn worker, with the script that measures them; bounds are five times what is promised."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flask_sock", reason="the calls need flask-sock")
pytest.importorskip("gunicorn", reason="the calls need gunicorn")

from benchmarks.calls import measure, shown


def check(result: dict[str, Any], calls: int) -> None:
    """Nothing failed, next to nothing was late, answers began at once and were cut where they were."""
    told = shown(result)
    assert result["failures"] == result["problems"] == [], told
    assert (result["reasons"], result["calls"]) == (["hung_up"], calls), told
    assert result["clears"] >= calls, told
    assert len(result["gaps"]) <= 0.1 * result["heard"], told
    assert result["behind"] <= 0.05 * result["heard"] + result["own_late"], told
    assert result["said_late"] <= 0.05 * result["said"] + result["own_late"], told
    assert result["first"][len(result["first"]) // 2] < 2.5, told
    assert result["cut"][len(result["cut"]) // 2] < 500, told


def test_three_calls_at_once() -> None:
    """Three callers who interrupt hear their answers on time."""
    check(measure(3, 4.0), 3)


@pytest.mark.long
def test_twenty_calls_at_once() -> None:
    """Twenty callers who interrupt hear their answers on time."""
    check(measure(20, 20.0), 20)
