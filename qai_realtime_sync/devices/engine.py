"""The sound cards of this computer, by miniaudio: which there are, and lines to and from them. The only importer of miniaudio.

miniaudio calls back in a thread of its own, which must neither wait nor raise, and its calls can wait for a sound server for ever: they
run in a thread that is waited for only so long. It does not tell when a device is gone, so whether blocks are asked for is watched.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from typing import Any, Final, Literal, TypeVar

import attrs

from qai_realtime_sync.devices.lines import Failed, lost
from qai_realtime_sync.errors import ConfigError, RealtimeError, RealtimeTimeoutError

__all__ = ["Device", "DeviceInput", "DeviceOutput", "list_devices"]

T = TypeVar("T")
_log = logging.getLogger("qai_realtime_sync")
_OPENS_WITHIN: Final = 8.0
_STOPS_WITHIN: Final = 1.0
_PERIODS: Final = 2  # blocks that a loudspeaker holds: each is heard later
_KEPT: Final = 10  # blocks that a microphone keeps for who is late; they cost nothing
_TICK: Final = 0.5
_QUIET_TICKS: Final = 4  # without a block: the device is lost
_FIRST_BLOCKS: Final = 5
_FIRST_QUIET_TICKS: Final = 10  # a virtual device may take two seconds to begin
_NAMES: Final = {"input": "microphone", "output": "loudspeaker"}


@attrs.frozen
class Device:
    """A device of this computer: ``kind`` is ``input`` (microphone) or ``output`` (loudspeaker)."""

    name: str
    kind: Literal["input", "output"]
    backend: str
    """What miniaudio reaches it by: PulseAudio, ALSA, WASAPI, Core Audio …"""
    rates: tuple[int, ...] = ()
    """Its own sample rates in Hz, where it tells them; any other is converted."""
    _id: Any = attrs.field(default=None, repr=False, eq=False, alias="id")


def list_devices(kind: Literal["input", "output"] | None = None, *, backend: str = "") -> list[Device]:
    """Return the devices there are; none where there is no sound card. ``backend`` asks only that one, like ``pulseaudio``.

    Raises: `ConfigError` without miniaudio, or for a backend that it does not have here, or another ``kind``.
    """
    if kind not in (None, "input", "output"):
        raise ConfigError(f"kind must be 'input', 'output' or None for both, not {kind!r}", code="invalid_device")
    miniaudio = _miniaudio()
    backends = _backends(miniaudio, backend)

    def ask() -> list[Device]:
        try:
            found = miniaudio.Devices(backends)
        except miniaudio.MiniaudioError:
            return []  # no backend answers
        answers: list[Device] = []
        for name, infos in (("input", found.get_captures), ("output", found.get_playbacks)):
            if kind in (None, name):
                try:
                    answers += [_device(info, name, found.backend) for info in infos()]
                except miniaudio.MiniaudioError:
                    continue  # ALSA without a card names a default device that it cannot describe
        return answers

    return _within(_OPENS_WITHIN, "asking for the devices", ask)


def _device(info: dict[str, Any], kind: Any, backend: str) -> Device:
    rates = sorted({form["samplerate"] for form in info["formats"] if form["samplerate"]})
    return Device(name=info["name"], kind=kind, backend=backend, rates=tuple(rates), id=info["id"])


def _miniaudio() -> Any:
    try:
        import miniaudio
    except ImportError as error:
        raise ConfigError(
            f"microphone and loudspeaker need miniaudio, which cannot be used here ({error}); "
            "pip install 'qai-realtime-sync[devices]', or use a file or a pipe",
            code="missing_dependency",
        ) from error
    return miniaudio


def _backends(miniaudio: Any, wanted: str) -> list[Any]:
    """All real ones in miniaudio's order; its null device would swallow everything silently."""
    real = [one for one in miniaudio.Backend if one.name not in ("NULL", "CUSTOM") and miniaudio.is_backend_enabled(one)]
    if not wanted:
        return real
    chosen = [one for one in real if one.name.lower() == wanted.lower()]
    if not chosen:
        names = ", ".join(one.name.lower() for one in real)
        raise ConfigError(f"there is no audio backend {wanted!r} here; there is: {names}", code="invalid_device")
    return chosen


def choose(kind: Literal["input", "output"], part: str, devices: list[Device]) -> Device:
    """Return the one device that ``part`` means: its name, else its beginning, else a part of it, in any case of letters.

    Raises: `ConfigError` that lists what is there, code ``no_device`` if nothing is, else ``invalid_device``.
    """
    if not devices:
        raise _nothing(kind)
    wanted = part.casefold()
    tests: list[Callable[[str], bool]] = [lambda name: name == wanted, lambda name: name.startswith(wanted), lambda name: wanted in name]
    for fits in tests:
        found = [device for device in devices if fits(device.name.casefold())]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{part!r} can be several: {_listed(found)}; give more of the name", code="invalid_device")
    raise ConfigError(f"there is no {_NAMES[kind]} {part!r}; there is: {_listed(devices)}", code="invalid_device")


def _nothing(kind: str) -> ConfigError:
    return ConfigError(f"there is no {_NAMES[kind]} here: no sound card or sound server answers", code="no_device")


def _listed(devices: list[Device]) -> str:
    return ", ".join(repr(device.name) for device in devices)


def _within(seconds: float, what: str, call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Return what ``call()`` returns in a thread of its own; what it returns too late is given to ``undo``.

    Raises: what it raises; `RealtimeTimeoutError` if it does not return in time.
    """
    lock = threading.Lock()  # guards the three below
    outcome: list[T] = []
    failure: list[BaseException] = []
    given_up = False

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # raised by whoever waits
            failure.append(error)
            return
        with lock:
            if not given_up:
                outcome.append(result)
                return
        if undo is not None:
            undo(result)

    thread = threading.Thread(target=run, name="qai-device-call", daemon=True)
    thread.start()
    thread.join(seconds)
    with lock:
        given_up = not outcome
    if failure:
        raise failure[0]
    if not outcome:
        raise RealtimeTimeoutError(f"{what} took longer than {seconds:g} s: the sound server does not answer", code="device_failed")
    return outcome[0]


class _DeviceLine:
    """What both directions share: opening, watching and closing a device."""

    _kind: Literal["input", "output"]

    def __init__(self, part: str, rate: int, block_ms: int, backend: str) -> None:
        self._part, self._rate, self._block_ms, self._backend = part, rate, block_ms, backend
        self._opened: Any = None
        self._blocks = 0  # counted by the callback alone
        self._callback_thread = 0
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards _opened, _watch and _failed
        self._failed: Failed | None = None
        self._watch: threading.Thread | None = None
        self.name = ""
        self.said = threading.Event()  # a microphone never ends by itself

    def _start(self, generator: Generator[Any, Any, None], failed: Failed) -> None:
        miniaudio = _miniaudio()
        self._failed = failed
        next(generator)
        what = f"opening the {_NAMES[self._kind]}"
        opened = _within(_OPENS_WITHIN, what, lambda: self._open(miniaudio, generator), lambda late: _close(miniaudio, late))
        with self._lock:
            if not self._stopping.is_set():
                self._opened, opened = opened, None
                self._watch = threading.Thread(target=self._look, name="qai-device-watch", daemon=True)
                self._watch.start()
        if opened is not None:  # stopped by what it called back, before it was known here
            self._close(opened)

    def _open(self, miniaudio: Any, generator: Generator[Any, Any, None]) -> Any:
        backends = _backends(miniaudio, self._backend)
        devices = list_devices(self._kind, backend=self._backend)
        device = choose(self._kind, self._part, devices) if self._part else None
        options = {
            "nchannels": 1,
            "sample_rate": self._rate,
            "buffersize_msec": self._block_ms,
            "callback_periods": _PERIODS if self._kind == "output" else _KEPT,
            "device_id": device._id if device is not None else None,
            "backends": backends,
            "app_name": "qai-realtime-sync",
        }
        try:
            opened = miniaudio.PlaybackDevice(**options) if self._kind == "output" else miniaudio.CaptureDevice(**options)
            try:
                opened.start(generator)
            except BaseException:
                _close(miniaudio, opened)
                raise
        except miniaudio.MiniaudioError as error:
            if not devices:
                raise _nothing(self._kind) from error
            name = repr(device.name) if device is not None else "(default)"
            why = " ".join(map(str, error.args))
            raise RealtimeError(f"the {_NAMES[self._kind]} {name} cannot be opened: {why}", code="device_failed") from error
        self.name = device.name if device is not None else f"the default {_NAMES[self._kind]} ({opened.backend})"
        return opened

    def _look(self) -> None:
        """Notice that the device is gone: nothing is asked for any more. Ticks are counted, so that a suspended process loses nothing."""
        seen = quiet = 0
        while not self._stopping.wait(_TICK):
            blocks = self._blocks
            quiet = 0 if blocks != seen else quiet + 1
            seen = blocks
            if quiet >= (_QUIET_TICKS if blocks >= _FIRST_BLOCKS else _FIRST_QUIET_TICKS):
                self._fail(lost(f"the {_NAMES[self._kind]} {self.name}", "it takes and gives no more sound; is it plugged in?"))
                return

    def _fail(self, error: RealtimeError) -> None:
        with self._lock:
            failed, self._failed = self._failed, None
        if failed is not None and not self._stopping.is_set():
            failed(error)

    def _entered(self) -> None:
        """Of the callback: a block was asked for or came."""
        self._blocks += 1
        self._callback_thread = threading.get_ident()

    def stop(self) -> None:
        """Close the device. In its own callback that would wait for itself: there it is only begun."""
        self._stopping.set()
        with self._lock:
            opened, self._opened = self._opened, None
            watch = self._watch
        if opened is not None:
            self._close(opened)
        if watch is not None and watch is not threading.current_thread():
            watch.join(_STOPS_WITHIN)

    def _close(self, opened: Any) -> None:
        closing = threading.Thread(target=_close, args=(_miniaudio(), opened), name="qai-device-close", daemon=True)
        closing.start()
        if threading.get_ident() != self._callback_thread:
            closing.join(_STOPS_WITHIN)
            if closing.is_alive():
                _log.warning("the %s %s does not close: the sound server does not answer", _NAMES[self._kind], self.name)


def _close(miniaudio: Any, opened: Any) -> None:
    """Close a device and what it was reached by, which miniaudio's own close leaves connected."""
    context = getattr(opened, "_context", None)
    opened.close()
    if context is not None:
        opened._context = None
        miniaudio.lib.ma_context_uninit(context)


class DeviceOutput(_DeviceLine):
    """A line to a loudspeaker."""

    _kind = "output"

    @property
    def latency(self) -> float:
        """A block that is asked for stands behind those that the device holds."""
        return (_PERIODS - 1) * self._block_ms / 1000

    def start(self, take: Callable[[int], bytes], failed: Failed) -> None:
        """Open the device and begin to play. Raises: `ConfigError`, `RealtimeError`."""
        self._start(self._play(take), failed)

    def _play(self, take: Callable[[int], bytes]) -> Generator[bytes, int, None]:
        frames = yield b""
        while True:
            self._entered()
            try:
                block = take(2 * frames)
            except Exception as error:  # nobody hears an exception of this thread
                _log.error("the sound for the loudspeaker could not be made", exc_info=error)
                self._fail(lost(f"the loudspeaker {self.name}", f"{type(error).__name__}: {error}"))
                block = bytes(2 * frames)
            frames = yield block


class DeviceInput(_DeviceLine):
    """A line from a microphone."""

    _kind = "input"

    def start(self, give: Callable[[bytes], None], ended: Callable[[], None], failed: Failed) -> None:
        """Open the device and begin to listen; it never ends by itself. Raises: `ConfigError`, `RealtimeError`."""
        self._start(self._listen(give), failed)

    def _listen(self, give: Callable[[bytes], None]) -> Generator[None, bytes, None]:
        block = yield None
        while True:
            self._entered()
            try:
                give(bytes(block))
            except Exception as error:  # nobody hears an exception of this thread
                _log.error("the sound of the microphone could not be taken", exc_info=error)
                self._fail(lost(f"the microphone {self.name}", f"{type(error).__name__}: {error}"))
            block = yield None
