"""Makes one answer: takes its steps, speaks or writes them piece by piece at the session's pace, and stops at once when told."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING

from qai_realtime_sync.audio import AudioFormat, alaw_encode, ulaw_encode
from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.items import Item, Response, Word, new_id
from qai_realtime_sync.offline.script import Call, Say, Step
from qai_realtime_sync.offline.speech import Sentence, sentences_of, timed_words

if TYPE_CHECKING:
    from qai_realtime_sync.offline.conversation import Conversation

__all__ = ["Reply"]

_PIECE_MS = 120
_log = logging.getLogger(__name__)


class Reply:
    """One answer and the thread that makes it."""

    def __init__(self, conversation: Conversation, response: Response, steps: list[Step]) -> None:
        self.response = response
        self._conversation = conversation
        self._steps = steps
        self._format = response.request.output_format or conversation.settings.output_format
        self._speed = conversation.settings.speed
        self._sent_ms = 0.0  # of this answer's sound
        self._samples = 0  # of the open item's sound
        self._started = 0.0
        self.thread = threading.Thread(target=self._run, name=f"qai-offline-reply-{conversation.name}", daemon=True)

    @property
    def alive(self) -> bool:
        """Its thread has not ended; one that was not started yet counts."""
        return self.thread.ident is None or self.thread.is_alive()

    def start(self) -> None:
        """Begin to make the answer."""
        self.thread.start()

    def _run(self) -> None:
        conversation = self._conversation
        try:
            self._started = conversation.clock()
            for step in self._steps:
                if not self._take(step):
                    break
            conversation.finish(self.response)
        except Exception as error:  # a voice part failed: the client is told, as by a service
            _log.exception("the answer %s could not be made", self.response.id)
            conversation.fail(self.response, f"The answer could not be made: {type(error).__name__}.")
        conversation.teller.flush()

    def _take(self, step: Step) -> bool:
        """Take one step; return whether the next one may follow."""
        if isinstance(step, Say):
            return self._say(step.text)
        if isinstance(step, Call):
            return self._call(step.name, json.dumps(dict(step.arguments)), step.call_id)
        return step.act(self._conversation, self.response)

    # -- messages ------------------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> bool:
        """Say or write one message; return whether it was not cut off."""
        spoken = self.response.spoken
        item = Item(
            new_id("item"),
            role="assistant",
            status="in_progress",
            content="audio" if spoken else "text",
            response_id=self.response.id,
            planned=" ".join(text.split()),
        )
        if not self._open(item):
            return False
        whole = self._speak(item, text) if spoken else self._write(item, text)
        return self._close() and whole

    def _open(self, item: Item) -> bool:
        conversation = self._conversation
        with conversation.lock:
            if not self.response.active:
                return False
            conversation.open_output(self.response, item)
        self._samples = 0
        conversation.teller.flush()
        return True

    def _close(self) -> bool:
        conversation = self._conversation
        with conversation.lock:
            if not self.response.active:
                return False
            conversation.close_output(self.response, "completed")
        conversation.teller.flush()
        return True

    def _write(self, item: Item, text: str) -> bool:
        for number, sentence in enumerate(sentences_of(text)):
            for word in timed_words(sentence, 0.0, number == 0):
                if not self._tell(item, [word], b"", 0):
                    return False
        return True

    def _speak(self, item: Item, text: str) -> bool:
        voice = self._conversation.voice
        sentences = voice.speech.speak(text, self._format.sample_rate, self._speed)
        return all(self._utter(item, sentence) for sentence in sentences)

    def _utter(self, item: Item, sentence: Sentence) -> bool:
        """Send one sentence in pieces of 120 ms, its words a little ahead of their sound."""
        start_ms = self._samples * 1000 / self._format.sample_rate
        size = self._format.sample_rate * _PIECE_MS // 1000 * 2
        words = [Word(word.text, word.start_ms + start_ms, word.end_ms + start_ms) for word in sentence.words]
        for at in range(0, len(sentence.pcm), size):
            pcm = sentence.pcm[at : at + size]
            until = start_ms + (at + size) / 2 * 1000 / self._format.sample_rate
            ready = [word for word in words if word.start_ms < until] if at + size < len(sentence.pcm) else words
            words = words[len(ready) :]
            if not self._wait_for_pace() or not self._tell(item, ready, _encoded(pcm, self._format), len(pcm) // 2):
                return False
        return True

    def _wait_for_pace(self) -> bool:
        """Wait until the next piece is due; the first is at once. Return whether the answer is still wanted."""
        conversation = self._conversation
        due = self._started + self._sent_ms / 1000 / conversation.pace
        left = conversation.seconds(due - conversation.clock())
        return not (self.response.stop.wait(left) if left > 0 else self.response.stop.is_set())

    def _tell(self, item: Item, words: list[Word], audio: bytes, samples: int) -> bool:
        conversation, response = self._conversation, self.response
        index = len(response.output) - 1
        with conversation.lock:
            if not response.active:
                return False
            if audio:
                duration_ms = round(samples * 1000 / self._format.sample_rate)
                self._sent_ms += samples * 1000 / self._format.sample_rate
                self._samples += samples
                item.generated_ms = -(-self._samples * 1000 // self._format.sample_rate)  # rounded up: nobody is refused for half a ms
                response.usage.audio_seconds = self._sent_ms / 1000
                response.usage.output_audio = round(self._sent_ms / 50)
                conversation.teller.tell(facts.AudioPiece(response, index, item, audio, duration_ms))
            for word in words:
                item.words.append(word)
                item.text += word.text
                response.usage.output_text += 1 + len(word.text) // 6
                conversation.teller.tell(facts.TextPiece(response, index, item, word.text, word.start_ms))
            if response.exhausted:
                conversation.exhaust(response)
        conversation.teller.flush()
        return True

    # -- calls ---------------------------------------------------------------------------------------------------------------

    def _call(self, name: str, arguments: str, call_id: str) -> bool:
        conversation, response = self._conversation, self.response
        call_id = call_id or new_id("call")
        item = Item(new_id("item"), kind="function_call", status="in_progress", name=name, call_id=call_id, response_id=response.id)
        if not self._open(item):
            return False
        with conversation.lock:
            if not response.active:
                return False
            item.arguments = arguments
            response.usage.output_text += len(arguments) // 4 + 1
            conversation.teller.tell(facts.CallWritten(response, len(response.output) - 1, item))
        return self._close()


def _encoded(pcm: bytes, audio_format: AudioFormat) -> bytes:
    if audio_format.encoding == "g711_ulaw":
        return ulaw_encode(pcm)
    return alaw_encode(pcm) if audio_format.encoding == "g711_alaw" else pcm
