"""``qai-realtime report``: pictures, subtitles and a page to listen to, of a recorded conversation."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from qai_realtime_sync.cli.recorded import Recorded, find_recording, load
from qai_realtime_sync.cli.report_drawing import clock
from qai_realtime_sync.cli.report_lines import lines_of
from qai_realtime_sync.cli.report_numbers import delay_of, numbers
from qai_realtime_sync.cli.report_page import page
from qai_realtime_sync.cli.terminal import json_line, say, table
from qai_realtime_sync.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime report qai-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to report of, and where to."""
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="a recording, or a WAV file (default: the newest here)")
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: into the recording)")
    parser.add_argument("--no-pictures", action="store_true", help="the page and the subtitles only")
    parser.add_argument("--link-audio", action="store_true", help="leave the sound outside the page, which is smaller")
    parser.add_argument("--json", action="store_true", help="the numbers as a line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write the report; return 0, also for a recording that is not whole. Raises: `ConfigError` if there is nothing to report of."""
    folder = find_recording(arguments.folder)
    found = load(folder)
    target = _target(arguments.out, found.folder)
    summary = numbers(found)
    files, missing = _write(found, summary, target, arguments)
    if arguments.json:
        names = [str(path) for path in files]
        told = {"folder": str(folder), **summary, "files": names, "missing": missing, "problems": found.problems}
        json_line({"name": "result", "command": "report", "ok": True, "exit_code": 0, **told})
        return 0
    _tell(found, summary)
    for problem in found.problems:
        say(f"note: {problem}", "warning")
    for path in files:
        say(f"wrote {path}", "good")
    for line in missing:
        say(line, "warning")
    say(f"open {files[0].resolve().as_uri()} in a browser", "quiet")
    return 0


def _target(wanted: str | None, folder: pathlib.Path) -> pathlib.Path:
    target = pathlib.Path(wanted) if wanted is not None else folder
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {wanted}: no folder can be made there: {error.strerror or error}", code="invalid_path") from error
    return target


def _write(
    found: Recorded, summary: dict[str, Any], target: pathlib.Path, arguments: argparse.Namespace
) -> tuple[list[pathlib.Path], list[str]]:
    """Write everything; return the files, and what could not be made with its mend."""
    link = ""
    if arguments.link_audio and found.sound is not None:
        link = pathlib.Path(os.path.relpath(found.sound.path, target)).as_posix()
    files = [target / "report.html"]
    _text(files[0], page(found, summary, link=link))
    if found.turns:
        files.append(target / "conversation.srt")
        _text(files[1], found.turns.to_srt())
    if arguments.no_pictures:
        return files, []
    try:
        return [*files, *_pictures(found, target)], []
    except ConfigError as error:
        if error.code != "missing_dependency":
            raise
        return files, [f"no pictures: {error}"]


def _pictures(found: Recorded, target: pathlib.Path) -> Iterator[pathlib.Path]:
    from qai_realtime_sync.cli.report_pictures import latency_chart, timeline_picture

    delays = [delay for delay in map(delay_of, found.turns) if delay is not None]
    timeline_picture(found, lines_of(found.turns), delays, target / "timeline.png")
    yield target / "timeline.png"
    if delays:
        latency_chart(delays, target / "latency.png")
        yield target / "latency.png"


def _text(path: pathlib.Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror or error}", code="invalid_path") from error


def _tell(found: Recorded, summary: dict[str, Any]) -> None:
    counted = ", ".join(
        f"{summary[name]} {text if summary[name] != 1 else one}"
        for name, text, one in (
            ("turns", "turns", "turn"),
            ("interruptions", "interruptions", "interruption"),
            ("tool_calls", "tool calls", "tool call"),
            ("errors", "errors", "error"),
        )
    )
    say(f"{found.folder}{os.sep}: {clock(summary['seconds'])} minutes, {counted}", "strong")
    rows = []
    for turn in found.turns:
        delay = delay_of(turn)
        waited = "-" if delay is None else f"{delay.whole * 1000:.0f} ms"
        rows.append((str(turn.number), waited, _short(turn.user), _short(turn.heard + (" …" if turn.interrupted else ""))))
    if rows:
        table(("turn", "silence", "caller", "assistant"), rows, right=("turn", "silence"))
    sys.stdout.flush()


def _short(text: str, most: int = 48) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
