"""The threads that run tools: every call is answered in time, whatever the tools do."""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from qai_realtime_sync.config import Tool
from qai_realtime_sync.conversation.schema import bind_arguments, plain_result
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import FunctionCall

__all__ = ["ToolFailed", "ToolPool", "error_output"]

ToolFailed: TypeAlias = Callable[[FunctionCall, str, BaseException], None]

_log = logging.getLogger("qai_realtime_sync")
_MOST_LOST = 16  # threads beyond the pool's size, in place of those whose tools do not return


def error_output(message: str) -> str:
    """The result a model can read when a tool did not work."""
    return json.dumps({"error": message}, ensure_ascii=False)


@attrs.define(eq=False, repr=False)
class _Job:
    """One call on its way through the pool; its fields are guarded by the pool's lock."""

    call: FunctionCall
    tool: Tool
    waiting: object = None  # the timer of its wait for a thread
    is_running: bool = False
    is_late: bool = False  # its time was up and its thread still in it


class ToolPool:
    """A few threads named ``qai-tool`` that run tools, started when needed; daemons, so that a tool that hangs cannot keep the process.

    Every call is answered. A tool has ``tool.timeout`` seconds from its start; then its thread is lost until it returns, and another takes
    its place, so that a tool that hangs does not stop the others. With 16 threads more than the size there is no other, and a call that
    no thread takes within its tool's timeout is answered by an error.

    ``answer(call, output, is_error)`` is called with each result; ``failed`` with each exception; ``after(seconds, fn)`` runs a timer.
    ``wanted(call_id)`` is asked before a tool is run: it may have waited for a thread longer than anybody waits for its result.
    """

    def __init__(
        self,
        *,
        size: int,
        answer: Callable[[FunctionCall, str, bool], None],
        failed: ToolFailed,
        after: Callable[[float, Callable[[], None]], object],
        wanted: Callable[[str], bool],
    ) -> None:
        self._size = size
        self._wanted = wanted
        self._answer = answer
        self._failed = failed
        self._after = after
        self._lock = threading.Lock()  # guards everything below
        self._work: threading.Condition | None = None  # over the lock; made with the first thread
        self._queue: list[_Job] = []
        self._idle = 0
        self._serving = 0  # threads that wait, or run a tool within its time
        self._lost = 0  # threads in a tool that is over its time
        self._stopping = False
        self.threads: list[threading.Thread] = []

    def run(self, call: FunctionCall, tool: Tool) -> None:
        """Run a tool as soon as a thread is free; never blocks."""
        job = _Job(call, tool)
        job.waiting = self._after(tool.timeout, lambda: self._waited(job))
        with self._lock:
            if self._stopping:
                _cancel(job.waiting)
                return
            if self._work is None:
                self._work = threading.Condition(self._lock)
            self._queue.append(job)
            self._work.notify()
        error = self._grow()
        if error is not None and self._is_stuck(job):
            _cancel(job.waiting)
            self._fail(job, error, f"{tool.name} could not be run: {error}")

    def stop(self) -> None:
        """End the threads once what they run has returned; what waits is not run. Never blocks."""
        with self._lock:
            self._stopping = True
            for job in self._queue:
                _cancel(job.waiting)
            self._queue.clear()
            if self._work is not None:
                self._work.notify_all()

    def _grow(self) -> RuntimeError | None:
        """Start a thread if more calls wait than threads are free and there may be another; return why it could not be started."""
        with self._lock:
            enough = self._idle >= len(self._queue) or self._serving >= self._size
            if self._stopping or enough or self._serving + self._lost >= self._size + _MOST_LOST:
                return None
            alive = [t for t in self.threads if t.is_alive()]
            names = {t.name for t in alive}
            name = next(name for name in map("qai-tool-{}".format, itertools.count()) if name not in names)
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the process may have no more threads
                return error
            self.threads = [*alive, thread]
            self._serving += 1
            return None

    def _is_stuck(self, job: _Job) -> bool | None:
        """True for a call that no thread will come for: it is out of the queue then; None for one that was taken before."""
        with self._lock:
            if job not in self._queue:
                return None
            if not self._serving:
                self._queue.remove(job)
            return not self._serving

    def _waited(self, job: _Job) -> None:
        """A call has waited for its tool's timeout: wait on if the tools before it are within their time."""
        stuck = self._is_stuck(job)
        if stuck:
            words = f"{job.tool.name} was not run: the tools before it do not return, and no thread was free within {job.tool.timeout:g} s"
            _log.warning("%s", words)
            self._answer(job.call, error_output(words), True)
        elif stuck is not None:
            job.waiting = self._after(job.tool.timeout, lambda: self._waited(job))

    def _late(self, job: _Job) -> None:
        """The tool is over its time: its call is answered, and its thread replaced."""
        with self._lock:
            if job.is_running and not job.is_late:
                job.is_late = True
                self._lost += 1
                self._serving -= 1
        error = self._grow()
        if error is not None:
            _log.warning("the thread of tool %s, which does not return, could not be replaced: %s", job.tool.name, error)
        self._answer(job.call, error_output(f"{job.tool.name} did not answer within {job.tool.timeout:g} s"), True)

    def _serve(self) -> None:
        assert self._work is not None
        while True:
            with self._lock:
                self._idle += 1
                self._work.wait_for(lambda: self._queue or self._stopping)
                self._idle -= 1
                if not self._queue:
                    return
                job = self._queue.pop(0)
                job.is_running = True
            _cancel(job.waiting)
            try:
                if self._wanted(job.call.call_id):
                    self._run(job)
            except BaseException:  # not the tool's own: the thread must go on all the same
                _log.exception("the result of tool %s could not be given", job.tool.name)
            with self._lock:
                job.is_running = False
                if job.is_late:
                    self._lost -= 1
                    self._serving += 1
                if self._serving > self._size:  # another has taken its place
                    self._serving -= 1
                    return

    def _run(self, job: _Job) -> None:
        call, tool = job.call, job.tool
        timer = self._after(tool.timeout, lambda: self._late(job))
        try:
            output = _result(call, tool)
        except _WrongArgumentsError as error:  # the model's mistake, which it can mend; the program has not failed
            _log.warning("tool %s was called with wrong arguments: %s", tool.name, error)
            self._answer(call, error_output(str(error)), True)
        except BaseException as error:  # a tool's SystemExit must not end the pool in silence either
            self._fail(job, error, _words(error))
        else:
            self._answer(call, output, False)
        finally:
            _cancel(timer)

    def _fail(self, job: _Job, error: BaseException, words: str) -> None:
        try:
            self._failed(job.call, job.tool.name, error)
        finally:
            self._answer(job.call, error_output(words), True)


class _WrongArgumentsError(ValueError):
    """What a model gave does not fit the function, in words it can act on."""


def _cancel(timer: object) -> None:
    cancel = getattr(timer, "cancel", None)
    if cancel is not None:
        cancel()


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as unspeakable:  # an exception of the program's whose own text cannot be made
        return f"{type(error).__name__} (its text cannot be read: {type(unspeakable).__name__})"


def _result(call: FunctionCall, tool: Tool) -> str:
    """Run a tool. Raises: `_WrongArgumentsError`; whatever the function or its annotations raise."""
    assert tool.function is not None
    try:
        given = _arguments(call, tool.function)
    except ConfigError:  # the function's annotations are wrong, and not what the model gave
        raise
    except ValueError as error:
        raise _WrongArgumentsError(str(error)) from None
    return plain_result(tool.function(**given))


def _arguments(call: FunctionCall, function: Callable[..., Any]) -> dict[str, Any]:
    """The values to call a function with. Raises: ValueError, with words a model can act on."""
    try:
        given = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the arguments are not JSON: {error}") from None
    if not isinstance(given, Mapping):
        raise ValueError("the arguments are not a JSON object")
    return bind_arguments(function, given)
