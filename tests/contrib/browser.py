"""A real browser, whose microphone is a file."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import wave
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["chromium", "microphone", "wait_until"]


def microphone(path: pathlib.Path, *said: str | float) -> None:
    """Write what the microphone hears: sentences by the caller's voice, and pauses in seconds."""
    voice = pytest.importorskip("qai_realtime_sync.offline.voice")
    pytest.importorskip("hibari", reason="the caller's voice needs hibari-tts")
    pieces = [bytes(round(24000 * part) * 2) if isinstance(part, float) else voice.caller_voice(part)[0] for part in said]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(b"".join(pieces))


@contextlib.contextmanager
def chromium(folder: pathlib.Path) -> Iterator[Any]:
    """A browser whose microphone is ``microphone.wav`` in ``folder``, if there is one."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="a browser is driven by selenium")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
        "disable-sync disable-dev-shm-usage window-size=760,860 use-fake-device-for-media-stream use-fake-ui-for-media-stream "
        f"autoplay-policy=no-user-gesture-required user-data-dir={folder}/profile "
        f"use-file-for-fake-audio-capture={folder}/microphone.wav%noloop"
    ).split():
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield running
    finally:
        running.quit()


def wait_until(browser: Any, script: str, within: float = 60.0) -> Any:
    """Wait until a script gives something true, and return that; fails with what the page shows."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    try:
        return WebDriverWait(browser, within, 0.1).until(lambda _: browser.execute_script(f"return {script}"))
    except TimeoutException:
        shown = browser.execute_script("return document.body.innerText")
        raise AssertionError(f"within {within:g} s there was no {script}; the page shows:\n{shown}") from None
