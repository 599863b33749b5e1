"""A text that comes under two names is told once, however its pieces follow each other."""

from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st

from qai_realtime_sync import dialects

frames = st.one_of(
    st.builds(
        lambda tag, response, item, index: {
            "type": f"response.{tag}", "response_id": response, "item_id": item, "content_index": index, "delta": "d", "text": "t",
        },
        st.sampled_from(["output_text.delta", "text.delta", "output_text.done", "text.done"]),
        st.sampled_from(["r1", "r2", None, 5]),
        st.sampled_from(["i1", "i2", None, []]),
        st.sampled_from([0, 1, None, "0", {}]),
    ),
    st.builds(lambda response: {"type": "response.done", "response": {"id": response}}, st.sampled_from(["r1", "r2"])),
)  # fmt: skip


@given(st.lists(frames, max_size=20))
def test_the_shortcut_for_the_latest_part_changes_nothing(sequence: list[dict[str, Any]]) -> None:
    """Remembering which part came last gives the same events as looking every piece up."""
    remembers, looks_up = dialects.choose("openai")(), dialects.choose("openai")()
    for frame in sequence:
        looks_up.latest_part = ("", "", 0, "")  # type: ignore[attr-defined]
        assert remembers.understand(dict(frame)) == looks_up.understand(dict(frame))
