"""Comparing and showing by fields is what attrs would have generated, for every class that does it."""

from __future__ import annotations

import typing

import attrs
import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync.commands import COMMANDS, RawEvent
from qai_realtime_sync.config import AudioFormat, RealtimeConfig, RealtimeSession, Tool, TurnDetection
from qai_realtime_sync.events import EVENTS, AudioDelta, Event, HandlerFailed, Item, McpStatus, SessionCreated
from qai_realtime_sync.fields import ByFields, FrozenByFields

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3) | st.lists(st.integers())
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys("abcd", VALUES))


@attrs.define(kw_only=True, eq=False, repr=False)
class Ours(ByFields):
    a: object = 1
    b: object = attrs.field(default=2, eq=False)
    c: object = attrs.field(default=3, repr=False)
    d: object = attrs.field(default=4, repr=lambda value: f"<{value}>")


@attrs.define(kw_only=True)
class Generated:
    a: object = 1
    b: object = attrs.field(default=2, eq=False)
    c: object = attrs.field(default=3, repr=False)
    d: object = attrs.field(default=4, repr=lambda value: f"<{value}>")


@attrs.frozen(eq=False, repr=False)
class OursFrozen(FrozenByFields):
    a: object = 1
    b: object = attrs.field(default=2, eq=False)


@given(FIELDS, FIELDS)
def test_they_compare_and_show_themselves_as_attrs_would(one: dict[str, object], other: dict[str, object]) -> None:
    """Equality, inequality and text form are those of the methods that attrs generates for the same fields."""
    ours, generated = Ours(**one), Generated(**one)
    assert repr(ours).replace("Ours", "Generated") == repr(generated)
    assert (ours == Ours(**other)) is (generated == Generated(**other))
    assert (ours != Ours(**other)) is (generated != Generated(**other))


def test_another_class_is_never_equal() -> None:
    """Neither another kind of event with the same fields, nor a subclass, nor anything else."""

    class Special(AudioDelta):
        pass

    assert AudioDelta(audio=b"x") != Special(audio=b"x")
    assert AudioDelta() != Event()
    assert AudioDelta() != "AudioDelta"
    assert AudioDelta().__eq__(3) is NotImplemented


def test_what_can_change_has_no_hash_and_what_is_frozen_has_the_hash_of_its_fields() -> None:
    """Events, commands and parts of events are unhashable; equal frozen objects have one hash, whatever their fields without equality."""
    for kind in (*EVENTS.values(), *COMMANDS.values(), Item):
        assert kind.__hash__ is None
    assert hash(OursFrozen(a=5, b=1)) == hash(OursFrozen(a=5, b=2))
    assert len({TurnDetection(), TurnDetection(), TurnDetection(threshold=0.5)}) == 2
    with pytest.raises(TypeError):
        hash(RealtimeConfig())  # it holds lists


def test_field_types_are_those_of_the_class() -> None:
    """The base adds no annotation of its own to what `typing.get_type_hints` finds."""
    assert "raw" in typing.get_type_hints(AudioDelta)
    assert typing.get_type_hints(ByFields) == {}


def test_an_event_that_contains_itself_can_be_shown() -> None:
    """The text form of a loop ends in dots, as that of a list does."""
    failed = HandlerFailed(handler="h")
    failed.event = failed
    assert repr(failed) == "HandlerFailed(event_id='', event=..., handler='h', error=None)"


def test_secrets_stay_out_of_the_text_form() -> None:
    """What a field's own spelling hides is hidden here too."""
    assert "s3cret" not in repr(RealtimeSession(url="wss://h/x?token=s3cret", ephemeral_token="s3cret", signed_url="s3cret"))
    assert "s3cret" not in repr(RealtimeConfig(tools=[{"type": "mcp", "authorization": "s3cret"}]))
    assert "s3cret" not in repr(SessionCreated(session={"client_secret": "s3cret"}))
    assert "s3cret" not in repr(RawEvent(value={"authorization": "s3cret"}))
    assert "s3cret" not in repr(McpStatus(servers=[{"label": "shown", "authorization": "s3cret"}]))


@pytest.mark.parametrize("kind", [*EVENTS.values(), *COMMANDS.values(), Item, AudioFormat, RealtimeConfig, RealtimeSession, Tool], ids=str)
def test_no_class_grew_a_dictionary(kind: type) -> None:
    """Each has slots only: an event costs its fields and nothing else."""
    assert not any("__dict__" in vars(base) for base in kind.__mro__[:-1])
