"""A PulseAudio server of our own with two loudspeakers that nobody hears: one to play to, one whose monitor is a microphone.

Needs the programs of the Debian packages pulseaudio and pulseaudio-utils, and the libpulse0 that they bring.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import shutil
import subprocess
import threading
import time
from array import array
from collections.abc import Iterator

import pytest

__all__ = ["LOUD", "RATE", "Capture", "PulseServer", "needs_pulse"]

RATE = 24000
LOUD = 300
_RAW = ["--raw", "--format=s16le", f"--rate={RATE}", "--channels=1", "--latency-msec=20"]


def needs_pulse() -> None:
    """Skip without the programs or miniaudio."""
    pytest.importorskip("miniaudio", reason="sound devices need miniaudio")
    missing = [name for name in ("pulseaudio", "pactl", "pacat", "parec") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no sound server without {', '.join(missing)} (Debian: pulseaudio, pulseaudio-utils)")


class PulseServer:
    """Runs as a child with a folder of its own; ``room`` is the loudspeaker, what is played to ``lips`` comes from ``Monitor of Lips``."""

    sinks = ("room", "lips")

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        run = folder / "run"
        run.mkdir(mode=0o700)
        self.socket = folder / "native"
        self.variables = {"PULSE_SERVER": f"unix:{self.socket}", "XDG_RUNTIME_DIR": str(run), "HOME": str(folder)}
        self._process: subprocess.Popen[bytes] | None = None
        self._hums: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> PulseServer:
        modules = [f"module-native-protocol-unix socket={self.socket} auth-anonymous=1"]
        for name in self.sinks:
            modules.append(f"module-null-sink sink_name={name} rate=48000 sink_properties=device.description={name.title()}")
        loads = [part for module in modules for part in ("-L", module)]
        with open(self.folder / "pulseaudio.log", "wb") as log:
            self._process = subprocess.Popen(
                ["pulseaudio", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes", "-n", *loads],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._wait_until_it_answers()
            # A null sink that nobody uses wakes every two seconds; while something plays, other streams begin at once.
            for name in self.sinks:
                self._hums.append(self._start("pacat", "-p", "-d", name, *_RAW, "/dev/zero"))
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def environment(self) -> dict[str, str]:
        """The variables for whoever should find this server."""
        return os.environ | self.variables

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def _wait_until_it_answers(self) -> None:
        pause = threading.Event()
        deadline = time.monotonic() + 20
        while self.control("info", check=False).returncode:
            log = (self.folder / "pulseaudio.log").read_text(errors="replace")
            assert self._process is not None
            assert self._process.poll() is None, f"PulseAudio has ended: {log}"
            assert time.monotonic() < deadline, f"PulseAudio does not answer: {log}"
            pause.wait(0.05)  # a program that starts tells nobody when it has

    def control(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run pactl."""
        return subprocess.run(["pactl", *arguments], env=self.environment, capture_output=True, text=True, timeout=20, check=check)

    def _start(self, *command: str, **more: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command], env=self.environment, stderr=subprocess.DEVNULL, **more)  # type: ignore[call-overload,no-any-return]

    def kill(self) -> None:
        """End the server and everything that plays to it."""
        for process in (*self._hums, *([self._process] if self._process else [])):
            process.kill()
            process.wait(10)
        self._hums.clear()
        self._process = None

    def say(self, pcm: bytes, sink: str = "lips") -> None:
        """Play PCM16 at 24000 Hz to a sink and return when it is played."""
        player = self._start("pacat", "-p", "-d", sink, *_RAW[:-1], "--latency-msec=200", stdin=subprocess.PIPE)
        try:
            player.communicate(pcm, timeout=len(pcm) / 2 / RATE + 20)
        finally:
            player.kill()
            player.wait(10)

    def wait_for_listener(self, source: str = "lips.monitor", within: float = 30.0) -> None:
        """Wait until somebody records from a source."""
        pause, deadline = threading.Event(), time.monotonic() + within
        while source.removesuffix(".monitor") not in self._sources_in_use():
            assert time.monotonic() < deadline, f"nobody listens to {source}"
            pause.wait(0.05)  # the sound server tells only who asks

    def _sources_in_use(self) -> set[str]:
        """The sinks whose monitors are recorded."""
        names = dict(line.split("\t")[:2] for line in self.control("list", "short", "sources").stdout.splitlines())
        outputs = self.control("list", "short", "source-outputs").stdout.splitlines()
        return {names.get(line.split("\t")[1], "").removesuffix(".monitor") for line in outputs}

    @contextlib.contextmanager
    def capture(self, source: str = "room.monitor") -> Iterator[Capture]:
        """Record what a sink plays while the block runs; it has begun when the block begins."""
        recorder = self._start("parec", "-d", source, *_RAW, stdout=subprocess.PIPE)
        capture = Capture(recorder)
        try:
            capture.wait_for(0.1)
            yield capture
        finally:
            recorder.kill()
            recorder.wait(10)
            capture.end()


class Capture:
    """What a recorder has heard so far: PCM16 at 24000 Hz."""

    def __init__(self, recorder: subprocess.Popen[bytes]) -> None:
        assert recorder.stdout is not None
        self._output = recorder.stdout
        self._grew = threading.Condition()  # guards the two below
        self._sound = bytearray()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="qai-test-capture", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        descriptor = self._output.fileno()
        while select.select([descriptor], [], [], 60)[0] and (piece := os.read(descriptor, 65536)):
            with self._grew:
                self._sound += piece
                self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()

    def end(self) -> None:
        """Wait for the last of it."""
        self._thread.join(10)
        self._output.close()

    @property
    def seconds(self) -> float:
        """How much there is."""
        with self._grew:
            return len(self._sound) / 2 / RATE

    def samples(self, begin: float = 0.0, end: float | None = None) -> array[int]:
        """The samples between two times, in seconds."""
        with self._grew:
            sound = bytes(self._sound[round(begin * RATE) * 2 : None if end is None else round(end * RATE) * 2])
        return array("h", sound[: len(sound) // 2 * 2])

    def loud(self, begin: float = 0.0, end: float | None = None) -> list[float]:
        """When there is sound, in steps of 10 ms."""
        samples, step = self.samples(begin, end), RATE // 100
        return [begin + at / RATE for at in range(0, len(samples), step) if max(map(abs, samples[at : at + step])) > LOUD]

    def wait_for(self, seconds: float, within: float = 20.0) -> None:
        """Wait until there is so much."""
        with self._grew:
            came = self._grew.wait_for(lambda: self._ended or len(self._sound) >= seconds * 2 * RATE, within)
            assert came, f"{len(self._sound) / 2 / RATE:.1f} s were recorded within {within:g} s"
            assert not self._ended, "the recorder has ended"

    def wait_for_sound(self, seconds: float, begin: float = 0.0, within: float = 30.0) -> float:
        """Wait until so many seconds after ``begin`` are not silent; return when the first of them is."""
        deadline = time.monotonic() + within
        while len(heard := self.loud(begin)) < seconds * 100:
            self.wait_for(self.seconds + 0.1, max(0.1, deadline - time.monotonic()))
        return heard[0]

    def hears(self, seconds: float, within: float) -> bool:
        """Whether so many seconds are not silent before ``within`` seconds have passed."""
        deadline = time.monotonic() + within
        while len(self.loud()) < seconds * 100:
            if time.monotonic() >= deadline:
                return False
            self.wait_for(self.seconds + 0.1)
        return True

    def wait_for_silence(self, seconds: float, within: float = 60.0) -> float:
        """Wait until so many seconds in a row are silent; return when the silence began."""
        deadline = time.monotonic() + within
        while True:
            now = self.seconds
            heard = self.loud(max(0.0, now - seconds - 0.02))
            if now > seconds and not heard:
                return now - seconds
            self.wait_for((heard[-1] + seconds if heard else seconds) + 0.05, max(0.1, deadline - time.monotonic()))
