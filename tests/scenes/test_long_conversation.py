"""Many turns through reconnects and interruptions: one transcript, everywhere the same, and sound that stands where it says."""

from __future__ import annotations

import json
import pathlib
import re
import sys
import wave
from array import array

import attrs
import pytest

from qai_realtime_sync import AudioDelta, Event, PlaybackStopped, RealtimeClient, Reconnected, Turn, TurnDone
from qai_realtime_sync.conversation.record import Conversation
from qai_realtime_sync.conversation.recorder import Recorder
from tests.faults.scene import Seen
from tests.scenes.stage import DIALECT_NAMES, Room, Stage, Wire, speech, stage

_STORY = " ".join(["and so on and so on it goes"] * 30)
_ALIGNED = 0.05
_STARVED = 0.5  # on a busy machine there may be nothing to play in the moment an answer is interrupted
_PAUSE = 0.2 + 0.17 * 0.15  # what a sentence of tones ends with: silence
_LOUD = 500


def script(rules: object) -> None:
    rules.on_text(r"number (\d+)").say("Answer {1}.")  # type: ignore[attr-defined]
    rules.on_text(r"story (\d+)").say("Story {1} begins " + _STORY)  # type: ignore[attr-defined]
    rules.on_text(r"\(speech\)").say("I heard that.")  # type: ignore[attr-defined]


@attrs.define
class Talk:
    """One conversation as it is held; ``expected`` are the words of both sides, an interrupted answer's by its beginning."""

    client: RealtimeClient
    seen: Seen
    room: Room
    wire: Wire
    expected: list[tuple[str, str, bool]] = attrs.field(factory=list)
    reconnects: int = 0
    quiet: float = 0.5  # seconds of silence after speech: as much as the service wants before it answers

    def typed(self, words: str, answer: str) -> None:
        """Ask in writing and hear the answer out."""
        self.expected.append((words, answer, False))
        self.client.send_text(words)
        self._hear_out()

    def spoken(self) -> None:
        """Ask by voice and hear the answer out."""
        self.expected.append(("(speech)", "I heard that.", False))
        self.client.send_audio_from(speech(0.5, quiet=self.quiet), pace=True)
        self._hear_out()

    def interrupted(self, number: int) -> None:
        """Ask for a story, hear half a second of it, and speak."""
        self.expected.append((f"Tell me story {number}", f"Story {number} begins", True))
        before = len(self.seen.of(AudioDelta))
        self.client.send_text(f"Tell me story {number}")
        self.seen.until(AudioDelta, before + 1)
        self.room.listen(0.5)
        self.spoken()

    def cut(self) -> None:
        """Lose the connection and get another one."""
        self.reconnects += 1
        self.wire.cut()
        self.seen.until(Reconnected, self.reconnects)

    def _hear_out(self) -> None:
        self.seen.until(TurnDone, len(self.expected))
        self.seen.until(PlaybackStopped, len(self.expected))


def hold(one: Stage, folder: pathlib.Path, rounds: int, reconnects: int, interruptions: int) -> tuple[RealtimeClient, Talk]:
    """Hold a conversation: of each eight turns five are typed, one spoken, and two are a story and its interruption."""
    room, wire = Room(), Wire()
    client = one.client(dialer=wire)
    client.play_to(room)
    client.record_to(Recorder(folder))
    talk = Talk(client, Seen(client), room, wire, quiet=1.0 if one.dialect == "elevenlabs" else 0.5)
    with client:
        for number in range(rounds):
            if number < reconnects:
                talk.cut()
            for each in range(5):
                talk.typed(f"This is number {10 * number + each}", f"Answer {10 * number + each}.")
            talk.spoken()
            if number < interruptions:
                talk.interrupted(number)
    return client, talk


def check(client: RealtimeClient, talk: Talk, folder: pathlib.Path) -> None:
    """Hold all records of the conversation against what was said and against each other."""
    conversation = client.conversation
    assert [turn.user for turn in conversation] == [user for user, _, _ in talk.expected]
    for turn, (_, answer, cut) in zip(conversation, talk.expected):
        assert turn.interrupted is cut, f"turn {turn.number}: {turn}"
        if cut:
            assert turn.heard_ms is not None
            assert 0 < len(turn.heard) < 200
            assert turn.heard.startswith(answer[:5])
        else:
            assert turn.assistant == turn.heard == answer
    assert [turn.number for turn in conversation] == list(range(1, len(talk.expected) + 1))
    assert len(talk.seen.of(Reconnected)) == talk.reconnects == client.metrics.reconnects
    assert Conversation.from_json(conversation.to_json()) == conversation
    assert Conversation.from_json((folder / "transcript.json").read_text()) == conversation
    lines = [line for line in (folder / "events.jsonl").read_text().splitlines() if json.loads(line)["direction"] == "received"]
    assert len(lines) == len(talk.seen.of(Event))
    check_subtitles(conversation)
    check_sound(conversation, folder / "conversation.wav")


def check_subtitles(conversation: Conversation) -> None:
    """Every side of every turn once, in order, at the times of the conversation."""
    cues = re.findall(r"(\d+)\n(\S+) --> (\S+)\n(\w+): (.*)\n", conversation.to_srt())
    wanted = [(name, words) for turn in conversation for name, words in (("User", turn.user), ("Assistant", turn.heard)) if words]
    assert [(name, words) for _, _, _, name, words in cues] == wanted
    assert [int(number) for number, *_ in cues] == list(range(1, len(cues) + 1))
    begins = [seconds(begin) for _, begin, _, _, _ in cues]
    assert begins == sorted(begins)
    heard = [begin for begin, (_, _, _, name, _) in zip(begins, cues) if name == "Assistant"]
    assert heard == pytest.approx([turn.first_sound_at for turn in conversation], abs=0.001)


def seconds(text: str) -> float:
    hours, minutes, rest = text.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


class Channel:
    """One side of the recording."""

    def __init__(self, samples: array[int], rate: int) -> None:
        self._loud = [at / rate for at in range(0, len(samples), 24) if max(map(abs, samples[at : at + 24])) > _LOUD]  # each millisecond

    def begins(self, near: float) -> float:
        """Where sound begins that is told to begin ``near``."""
        return next((at for at in self._loud if at > near - 0.15), -1.0) - near

    def ends(self, near: float) -> float:
        """Where sound ends that is told to end ``near``."""
        return next((at for at in reversed(self._loud) if at < near + 0.1), -1.0) - near


def check_sound(conversation: list[Turn], path: pathlib.Path) -> None:
    """Both channels begin and end where the turns say."""
    with wave.open(str(path), "rb") as file:
        rate, frames = file.getframerate(), array("h", file.readframes(file.getnframes()))
    left, right = (Channel(frames[side::2], rate) for side in (0, 1))
    off = {}
    for turn in conversation:
        assert turn.first_sound_at is not None
        assert turn.sound_ended_at is not None
        off[turn.number, "answer begins"] = right.begins(turn.first_sound_at)
        # Between two syllables is a pause of 25 ms.
        ends = right.ends(turn.sound_ended_at - (0.01 if turn.interrupted else _PAUSE))
        off[turn.number, "answer ends"] = min(0.0, ends + _STARVED) if turn.interrupted and ends < 0 else ends
        if turn.spoke_from is not None and turn.spoke_until is not None:
            off[turn.number, "user begins"] = left.begins(turn.spoke_from)
            off[turn.number, "user ends"] = left.ends(turn.spoke_until)
    if "--figures" in sys.argv:
        sys.stdout.write(f"{len(off)} ends, at most {max(map(abs, off.values())) * 1000:.0f} ms off\n")
    assert {where: round(by, 3) for where, by in off.items() if abs(by) > _ALIGNED} == {}


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_a_conversation_is_one_in_all_its_records(dialect: str, tmp_path: pathlib.Path) -> None:
    """Eight turns through a reconnect and an interruption are told once and in order, the same everywhere."""
    with stage(dialect, script) as one:
        client, talk = hold(one, tmp_path, 1, 1, 1)
    assert len(talk.expected) == 8
    check(client, talk, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_forty_turns_are_one_conversation(dialect: str, tmp_path: pathlib.Path) -> None:
    """Forty turns through two reconnects and five interruptions are told once and in order, the same everywhere."""
    with stage(dialect, script) as one:
        client, talk = hold(one, tmp_path, 5, 2, 5)
    assert len(talk.expected) == 40
    check(client, talk, tmp_path)
