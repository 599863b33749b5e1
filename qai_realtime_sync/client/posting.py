"""How commands go out: with an id, requests for an answer one at a time, results of tools with their follow-up."""

from __future__ import annotations

import collections
import itertools
import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from qai_realtime_sync.client.waiting import GivenUp
from qai_realtime_sync.commands import (
    CancelResponse,
    Command,
    CommitAudio,
    Configure,
    CreateResponse,
    SendAudio,
    SendFunctionResult,
    SendImage,
    SendText,
)
from qai_realtime_sync.conversation.turns import NOTED_BEFORE
from qai_realtime_sync.errors import NotConnectedError, OutboxFullError, RealtimeError, UnsupportedCommandError
from qai_realtime_sync.events import Event

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["Posting"]

log = logging.getLogger("qai_realtime_sync")

_REMEMBERED = 256
_PICTURES = 2  # of the commands that are remembered, so many keep theirs: each may be megabytes
_OWN_CANCELS = 32


class Posting:
    """What stands between the methods that speak and the outbox; used from any thread."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.settling = 0  # results that are between "given" and "sent"; guarded by the call's lock
        self._ids = itertools.count(1)
        self._prefix = os.urandom(3).hex()
        self._own_cancels: list[str] = []  # the last ones
        self._commit_answered = False  # sound was committed, and the service answers that by itself
        self._commands: collections.OrderedDict[str, Command] = collections.OrderedDict()
        self._noted: collections.OrderedDict[str, None] = collections.OrderedDict()  # written by who holds the outbox' write token

    def reset(self) -> None:
        """The connection is gone, and what was said over it."""
        self._commit_answered = False

    def submit(self, command: Command) -> str:
        """Send a command, or hold it until it may be sent. Return its event id.

        Raises: `UnsupportedCommandError`, `OutboxFullError`, `NotConnectedError`.
        """
        if not isinstance(command, SendAudio):
            self.remember(command)
        if isinstance(command, CreateResponse):
            if not self._is_answered(command):
                self._request(command)
        elif isinstance(command, CancelResponse):
            pending = self._call.responses.pending
            self._post_all(self._call.responses.cancel(command))
            still = self._call.responses.pending
            self.tell_given_up([event_id for event_id in pending if event_id not in still])
        else:
            self._post(command)
            if isinstance(command, (CommitAudio, SendText)):
                answered = self._call.dialect.traits.answers_by_itself if self._call.dialect is not None else ()
                self._commit_answered = isinstance(command, CommitAudio) and CommitAudio in answered
        return command.event_id

    def _is_answered(self, command: CreateResponse) -> bool:
        """The service answers what was committed by itself; a request for the same answer would interrupt it."""
        answered, self._commit_answered = self._commit_answered, False
        return answered and not command.after_text and command == CreateResponse(event_id=command.event_id)

    def submit_quietly(self, commands: Iterable[Command]) -> None:
        """Send commands of the client's own; what cannot be sent is logged, because no caller is there to be told."""
        for command in commands:
            if isinstance(command, CancelResponse):
                self.remember(command)
                self._own_cancels = [*self._own_cancels[1 - _OWN_CANCELS :], command.event_id]
            try:
                self.submit(command)
            except (NotConnectedError, UnsupportedCommandError) as error:
                log.debug("%s was not sent: %s", command.command_name, error)
            except OutboxFullError as error:
                log.warning("%s was not sent: %s", command.command_name, error)

    def is_own_cancel(self, event_id: str) -> bool:
        """True if the client itself sent this, and not the program: it stopped an answer."""
        return bool(event_id) and event_id in self._own_cancels

    def abandon(self, event_id: str, response_ids: Iterable[str]) -> None:
        """Nobody waits for the answer to this request any more, nor for what follows the answers it has had."""
        call = self._call
        event_ids = [event_id]
        for response_id in response_ids:
            request = call.calls.follow_up(response_id)
            call.calls.abandon(response_id)
            if request is not None:
                event_ids.append(request.event_id)
        # A text that the service answers by itself is the request for its answer; held back, it would be answered later.
        call.outbox.forget(lambda command: isinstance(command, SendText) and command.event_id in event_ids)
        for one in event_ids:
            if one and not call.own_answers.give_up_answer_to(one):
                self.post_held(call.responses.abandon(one))

    def tell_given_up(self, event_ids: list[str], *, lost: bool = False) -> None:
        """These requests have no answer, as the program wished or because they are ``lost``: an ``ask`` does not wait any longer."""
        asked = self._call.asked
        if asked is not None and event_ids:
            asked.offer(GivenUp(request_ids=event_ids, lost=lost))

    def answer_call(self, command: SendFunctionResult, *, respond: bool) -> str:
        """Send a tool's result and, when it is the last one of its answer, the request for the next answer."""
        self.remember(command)
        with self._call.lock:
            self.settling += 1
        try:
            if self._call.calls.answer(command):
                self._give(command, respond)
        finally:
            with self._call.lock:
                self.settling -= 1
        self._call.settled()
        return command.event_id

    def _give(self, command: SendFunctionResult, respond: bool) -> None:
        try:
            self.submit(command)
        except RealtimeError:
            self._call.calls.not_sent(command.call_id)
            raise
        # Only now, and not with the result: the request must not overtake the result that another thread is about to give.
        for request in self._call.calls.sent(command.call_id, respond=respond):
            self.submit(request)

    def follow_tools(self, event: Event) -> None:
        """Let the tools see an event; what they answer by themselves goes out."""
        for command in self._call.calls.told(event):
            if isinstance(command, SendFunctionResult):
                self.answer_quietly(command)
            else:
                self.submit_quietly([command])

    def remember(self, command: Command) -> None:
        """Give a command its id and keep it for a while, so that an error that names it can be tied to it."""
        if not command.event_id:
            command.event_id = f"evt_{self._prefix}_{next(self._ids)}"
        self._commands[command.event_id] = command
        if isinstance(command, SendImage):
            remembered = list(self._commands.values())  # in one go: other threads send too
            pictures = [one for one in remembered if isinstance(one, SendImage) and one.image]
            for one in pictures[:-_PICTURES]:
                self._commands[one.event_id] = attrs.evolve(one, image=b"")
        while len(self._commands) > _REMEMBERED:
            self._commands.popitem(last=False)

    def command_of(self, event_id: str) -> Command | None:
        """The command that was sent with this id, if it is not long ago."""
        return self._commands.get(event_id) if event_id else None

    def _request(self, command: CreateResponse) -> None:
        for allowed in self._call.responses.request(command):
            try:
                self._post(allowed)
            except RealtimeError:
                self.post_held(self._call.responses.withdraw(command))
                raise

    def _post_all(self, commands: Iterable[Command]) -> None:
        for command in commands:
            self._post(command)

    def post_held(self, commands: Iterable[Command]) -> None:
        """Send requests whose turn has come; they were checked when they were made."""
        waiting = collections.deque(commands)
        while waiting:
            command = waiting.popleft()
            if isinstance(command, CancelResponse):
                self._stop_alone(command)
                continue
            try:
                self._post(command)
            except RealtimeError as error:
                log.warning("a held request for an answer was not sent: %s", error)
                if isinstance(command, CreateResponse):
                    waiting.extend(self._call.responses.withdraw(command))

    def _stop_alone(self, command: CancelResponse) -> None:
        """Stop an answer that nobody waits for, here too; requests that are held for its end are not touched."""
        if command.response_id:
            self._call.make_void([command.response_id])
            self._call.calls.abandon(command.response_id)
        self.remember(command)
        self._own_cancels = [*self._own_cancels[1 - _OWN_CANCELS :], command.event_id]
        try:
            self._post(command)
        except RealtimeError as error:
            log.debug("an answer that nobody waits for goes on: %s", error)

    def may_leave(self, command: Command) -> bool:
        """A command is about to be written; False drops it."""
        if isinstance(command, SendAudio):
            return True
        if isinstance(command, Configure):
            return self._call.mutations.revisions.may_leave(command)
        if isinstance(command, NOTED_BEFORE):
            self._note(command)
        if isinstance(command, (SendText, CommitAudio)):
            self._call.own_answers.expect(command)
        return not isinstance(command, CreateResponse) or self._call.responses.may_leave(command)

    def was_noted(self, command: Command) -> bool:
        """True if this command was about to leave once already, and stands in the conversation."""
        return command.event_id in self._noted

    def _note(self, command: Command) -> None:
        """What the user wrote and what a tool found is put down before it leaves: the answer may be faster than this thread."""
        call = self._call
        if call.replaying or command.event_id in self._noted:
            return  # it goes out once more because a connection was lost
        self._noted[command.event_id] = None
        if len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)
        call.turns.sent(command, call.clock() - call.connected_at)

    def _post(self, command: Command) -> None:
        if not isinstance(command, SendAudio):
            self.remember(command)
        self._call.outbox.put(command)

    def answer_quietly(self, command: SendFunctionResult) -> None:
        """As `answer`, for a result of the client's own; what cannot be sent is logged."""
        try:
            self.answer_call(command, respond=True)
        except RealtimeError as error:
            log.warning("the result of %s was not sent: %s", command.name, error)
