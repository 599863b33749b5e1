"""The report's page in a browser: it plays, the transcript follows, keys and clicks go where they say, and what was said never runs."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync.cli import main
from tests.cli.browser import chromium
from tests.cli.recordings import EVIL, make

READY = """
const done = arguments[0], audio = document.querySelector("audio");
const tell = () => done([audio.duration, audio.error && audio.error.message]);
if (audio.readyState >= 1 || audio.error) tell();
else { audio.addEventListener("loadedmetadata", tell); audio.addEventListener("error", tell); }
"""
SEEK = """
const done = arguments[1], audio = document.querySelector("audio");
const current = () => [...document.querySelectorAll("[aria-current]")].map((line) => line.querySelector(".words").innerText.slice(0, 20));
audio.addEventListener("seeked", () => requestAnimationFrame(() => done(current())), { once: true });
audio.currentTime = arguments[0];
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all of these tests."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report of a conversation whose caller says HTML."""
    folder = make(tmp_path_factory.mktemp("recordings") / "a <b>bold call", said=EVIL)
    assert main(["report", str(folder), "--no-pictures"]) == 0
    return (folder / "report.html").as_uri()


def opened(driver: Any, page: str) -> Any:
    """Open the page and wait until its sound is ready."""
    driver.get(page)
    duration, error = driver.execute_async_script(READY)
    assert error is None
    return duration


def complaints(driver: Any) -> list[str]:
    """What the browser's console says is wrong."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_it_loads_from_a_file_and_plays(driver: Any, page: str) -> None:
    """The sound stands in the page and has its length; the console says nothing, and nothing was fetched from anywhere."""
    assert opened(driver, page) == pytest.approx(6.5, abs=0.05)
    fetched = driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name.slice(0, 5))")
    assert [name for name in fetched if name != "data:"] == []
    assert complaints(driver) == []


def test_what_was_said_is_text(driver: Any, page: str) -> None:
    """HTML in transcripts, tools, results and the folder's name is shown as it was said; none of it runs or becomes an element."""
    opened(driver, page)
    assert driver.execute_script("return typeof window.hacked") == "undefined"
    counted = "return [document.scripts.length, document.images.length, document.querySelectorAll('h1 b').length]"
    assert driver.execute_script(counted) == [1, 0, 0]
    words = driver.execute_script("return [...document.querySelectorAll('.line .words')].map((one) => one.textContent)")
    assert words[0] == EVIL
    assert driver.execute_script("return document.querySelector('.tool pre').textContent") == f"result: {EVIL}"
    assert "<b>bold" in driver.title
    assert complaints(driver) == []


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [(0.5, [EVIL[:20]]), (1.92, ['look_up({"what": "it']), (2.5, ["one two three four f"]), (4.6, ["All right."]), (5.3, [])],
)
def test_the_transcript_follows_the_sound(driver: Any, page: str, seconds: float, lines: list[str]) -> None:
    """Where the sound is, that line is marked; where nobody speaks, none is."""
    opened(driver, page)
    found = driver.execute_async_script(SEEK, seconds)
    assert len(found) == len(lines)
    assert all(shown.startswith(line[:15]) for shown, line in zip(found, lines))


def test_a_line_and_the_timeline_are_places_to_go_to(driver: Any, page: str) -> None:
    """A click on a line, or Enter on it, plays from there; a click on the timeline goes there; the arrows go five seconds."""
    from selenium.webdriver.common.keys import Keys

    opened(driver, page)
    lines = driver.find_elements("css selector", "button.line.line")
    answer = next(line for line in lines if "one two" in line.text)
    answer.click()
    assert driver.execute_script("return document.querySelector('audio').paused") is False
    assert 1.9 <= driver.execute_script("const a = document.querySelector('audio'); a.pause(); return a.currentTime") < 6.5
    lines[0].send_keys(Keys.ENTER)
    driver.execute_script("document.querySelector('audio').pause()")
    body = driver.find_element("css selector", "body")
    driver.execute_script("document.activeElement.blur(); document.querySelector('audio').currentTime = 0")
    body.send_keys(Keys.ARROW_RIGHT)
    assert driver.execute_script("return document.querySelector('audio').currentTime") == pytest.approx(5.0, abs=0.3)
    body.send_keys(Keys.ARROW_LEFT)
    assert driver.execute_script("return document.querySelector('audio').currentTime") == pytest.approx(0.0, abs=0.3)
    body.send_keys(" ")
    assert driver.execute_script("const a = document.querySelector('audio'), paused = a.paused; a.pause(); return paused") is False
    driver.find_element("css selector", ".timeline svg").click()  # in the middle
    assert driver.execute_script("return document.querySelector('audio').currentTime") == pytest.approx(3.25, abs=0.3)
    assert complaints(driver) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(driver: Any, page: str, scheme: str) -> None:
    """The words of every line have a contrast of 4.5 to 1 or more against what is behind them, marked or not."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened(driver, page)
    driver.execute_async_script(SEEK, 2.5)
    pairs = driver.execute_script(
        """const behind = (one) => { for (; one; one = one.parentElement) {
             const colour = getComputedStyle(one).backgroundColor;
             if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour; } return "rgb(0,0,0)"; };
           return [...document.querySelectorAll(".words, .who, .time, .unheard, .mark, .note, dt, dd, th, td.number")]
             .map((one) => [getComputedStyle(one).color, behind(one), one.className])"""
    )
    assert len(pairs) > 20
    low = [(text, ground, name) for text, ground, name in pairs if contrast(text, ground) < 4.5]
    assert low == []


def contrast(one: str, other: str) -> float:
    """The ratio of the luminances of two colours (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_sound_beside_the_page_and_small_sound_play_too(driver: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to the WAV file plays from a file, and so does what was made smaller for the page."""
    from qai_realtime_sync.cli import recorded_sound

    folder = make(tmp_path / "call")
    assert main(["report", str(folder), "--no-pictures", "--link-audio"]) == 0
    assert opened(driver, (folder / "report.html").as_uri()) == pytest.approx(6.5, abs=0.05)
    assert (folder / "report.html").stat().st_size < 150_000
    monkeypatch.setattr(recorded_sound, "_WHOLE", 400_000)
    assert main(["report", str(folder), "--no-pictures"]) == 0
    assert "8 bits" in (folder / "report.html").read_text(encoding="utf-8")
    assert opened(driver, (folder / "report.html").as_uri()) == pytest.approx(6.5, abs=0.05)
    assert complaints(driver) == []
