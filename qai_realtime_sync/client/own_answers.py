"""Answers that a service gives by itself, unasked, to what the user wrote or committed: due, given up, begun, lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from qai_realtime_sync.commands import CommitAudio, SendText

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["OwnAnswers"]

_MOST = 64
_LONGEST_WAIT = 30.0  # seconds until such an answer begins; what is not answered by then is waited for no longer


class OwnAnswers:
    """What of the conversation is not answered yet where no answer is asked for; told by who sends, who hears and who gives up."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = threading.Lock()  # guards everything below
        # What left and the service answers by itself, since it began to answer last; the newest is what it will answer.
        self._unanswered: list[SendText | CommitAudio] = []
        self._unwanted = False  # nobody wants that answer any more
        self._worked_on = False  # a tool was called since, perhaps for that answer
        self._repeated: frozenset[str] = frozenset()  # texts that went out again after the last loss

    @property
    def is_asked(self) -> bool:
        """True while an answer is due that the service gives by itself."""
        return bool(self._unanswered) and not self._unwanted

    @property
    def is_due(self) -> bool:
        """True while such an answer is due, wanted or not."""
        return bool(self._unanswered)

    # -- sent, given up --------------------------------------------------------------------------------------------------------

    def expect(self, command: SendText | CommitAudio) -> None:
        """A command is about to leave that the service may answer by itself."""
        call = self._call
        if call.dialect is None or type(command) not in call.dialect.traits.answers_by_itself:
            return
        if isinstance(command, CommitAudio) and call.config.turn_detection is not None:
            return  # the microphone pauses; perhaps nothing was said
        with self._lock:
            earlier = [] if self._unwanted or self._worked_on else self._unanswered[1 - _MOST :]
            self._unanswered = [*(one for one in earlier if one is not command), command]
            self._unwanted = self._worked_on = False
        call.sender.after(_LONGEST_WAIT, lambda: self._overdue(command))

    def give_up(self) -> None:
        """Nobody wants the answer that is due any more: nothing of it will be heard."""
        with self._lock:
            due = self._unanswered
            self._unwanted = bool(due)
        self._call.posting.tell_given_up([one.event_id for one in due])

    def give_up_answer_to(self, event_id: str) -> bool:
        """Give up the answer that is due if it is the one to this text; whether it was."""
        with self._lock:
            found = event_id in [command.event_id for command in self._unanswered[-1:]]
            self._unwanted = self._unwanted or found
            return found

    # -- heard -----------------------------------------------------------------------------------------------------------------

    def begins(self) -> bool:
        """What was due has come, or something else has taken its place; False if it was given up."""
        with self._lock:
            unwanted = self._unwanted
            self._nothing_due()
        return not unwanted

    def user_said(self, words: str) -> None:
        """Where pieces of it are not told, this is the first that is heard of the user's speech: its answer is wanted."""
        with self._lock:
            typed = [one.text.strip() for one in self._unanswered if isinstance(one, SendText)]
            if self._unwanted and words.strip() not in typed:  # which a service may tell as if it had been said
                self._nothing_due()

    def work_begins(self) -> None:
        """A tool was called; some services say so before they say that the answer begins."""
        with self._lock:
            self._worked_on = bool(self._unanswered)

    def lost(self) -> None:
        """The connection is gone: what was due will not come. A text that nothing was heard about goes out again.

        Once: one that the service breaks off at each time would end the conversation with the last attempt.
        """
        with self._lock:
            due, worked_on = [] if self._unwanted else self._unanswered, self._worked_on
            self._nothing_due()
        again = [one for one in due if isinstance(one, SendText) and one.event_id not in self._repeated]
        if worked_on:
            again = []  # a second time might book the table twice
        if due:
            self._repeated = frozenset(one.event_id for one in again)
        self._call.posting.tell_given_up([one.event_id for one in due if one not in again], lost=True)
        self._call.outbox.prepend(again)

    def _overdue(self, command: SendText | CommitAudio) -> None:
        with self._lock:
            if self._unanswered[-1:] == [command]:
                self._nothing_due()
        self._call.settled()  # also if something took its place that had no answer

    def _nothing_due(self) -> None:
        self._unanswered, self._unwanted, self._worked_on = [], False, False
