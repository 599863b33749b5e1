"""Several calls in one answer, against the local server in every dialect."""

from __future__ import annotations

import json
import threading

import pytest

from qai_realtime_sync import HandlerFailed, ResponseCreated, ResponseDone, TurnDone
from qai_realtime_sync.commands import SendFunctionResult
from qai_realtime_sync.dialects import choose
from tests.faults.scene import Seen
from tests.scenes.stage import DIALECT_NAMES, PATIENCE, stage


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_three_calls_give_three_results_and_one_request(dialect: str) -> None:
    """One tool is slow, one raises, one does not exist: the model gets a result for each, once, and one answer follows them all."""
    calls = lambda script: script.on_text("all three").call_tool("slow", {"n": 7}).call_tool("broken").call_tool("unknown")  # noqa: E731
    with stage(dialect, calls, pace=1000) as one:
        client = one.client()
        seen = Seen(client)
        others_done = threading.Event()

        @client.tool
        def slow(n: int) -> str:
            """Take a while."""
            assert others_done.wait(PATIENCE)
            return f"slow {n}"

        @client.tool
        def broken() -> str:
            """Fail."""
            raise ValueError("it broke")

        client.on(HandlerFailed, lambda event: others_done.set())
        with client:
            client.send_text("Call all three")
            turn = seen.until(TurnDone).turn
            client.drain()
        outputs = {item["name"]: item["output"] for item in one.items(kind="function_call_output")}
        assert len(one.items(kind="function_call_output")) == 3
        assert len(one.items(kind="function_call")) == 3
        assert outputs["slow"] == "slow 7"
        assert "it broke" in outputs["broken"]
        assert "unknown" in outputs["unknown"]
        assert {call.name: call.output is not None for call in turn.tool_calls} == {"slow": True, "broken": True, "unknown": True}
        assert len(one.items(role="assistant")) == 1, "what follows the results is said once"
        assert {done.status for done in seen.of(ResponseDone)} == {"completed"}
        assert len(seen.of(ResponseDone)) == len(seen.of(ResponseCreated)) <= 2
        if SendFunctionResult not in choose(dialect).traits.answers_by_itself:
            assert one.received("response.create") == 2, "one request for the question, one for what follows the results"
        assert json.loads(outputs["broken"])["error"]
