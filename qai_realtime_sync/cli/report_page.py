"""A report as one HTML page that needs nothing else: the sound, the transcript that follows it, the timeline and the numbers.

Everything that comes from a recording is escaped: who spoke may have said ``<script>``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import qai_realtime_sync
from qai_realtime_sync.cli.recorded import Recorded
from qai_realtime_sync.cli.report_drawing import bars, clock, timeline
from qai_realtime_sync.cli.report_lines import Line, lines_of
from qai_realtime_sync.cli.report_numbers import Delay, delay_of

__all__ = ["page"]

_WHO = {"user": "Caller", "assistant": "Assistant", "tool": "Tool"}
# What happens all the time, or stands elsewhere in the page.
_NOT_LISTED = frozenset(
    (
        "audio_delta audio_done send_audio transcript_delta text_delta function_call_delta ping pong turn_done "
        "content_part_added content_part_done"
    ).split()
)
_MOST_EVENTS = 500
_LONGEST_EVENT = 400


def page(found: Recorded, summary: Mapping[str, Any], *, link: str = "") -> str:
    """Return the page. ``link``: an address of the sound beside the page, instead of having it inside."""
    style, script = _part("report_page.css"), _part("report_page.js")
    lines = lines_of(found.turns)
    delays = [delay for delay in map(delay_of, found.turns) if delay is not None]
    player, quality = _player(found, link)
    notes = [*found.problems, *([quality] if quality else [])]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(_title(found))}</title><style>{style}</style></head><body>",
        f"<header><h1>{escape(_title(found))}</h1>",
        f'<p class="about">A recorded voice conversation of {clock(found.duration)} minutes.</p>',
        f"{_numbers(summary)}{_notes(notes)}</header>",
        f'<main><div class="player">{player}',
        f'<div class="timeline{" seekable" if player else ""}" tabindex="0" role="group" aria-label="Timeline">',
        f"{timeline(found, lines, delays)}</div>",
        _legend(bool(player)),
        "</div>",
        _transcript(lines, seekable=bool(player)),
        _latency(delays),
        _events(found.events),
        f"</main><footer>Made by qai-realtime report {escape(qai_realtime_sync.__version__)}.</footer>",
        f"<script>{script}</script></body></html>\n",
    ]
    return "\n".join(parts)


def _part(name: str) -> str:
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Nothing from anywhere, and no script but ours, should anything ever slip through."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = "default-src 'none'; media-src 'self' data: file:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return f"{rules}; script-src 'sha256-{digest}'"


def _title(found: Recorded) -> str:
    return f"Conversation {found.folder.resolve().name}"


def _player(found: Recorded, link: str) -> tuple[str, str]:
    """The audio element, and what is to be said about its sound."""
    if found.sound is None:
        return "", ""
    if link:
        return _audio(link), ""
    sound = found.sound.embedded()
    if sound is None:
        name = found.sound.path.name
        return _audio(found.sound.path.resolve().as_uri()), f"the sound is too long to stand in this page: it plays {name} from where it is"
    return _audio("data:audio/wav;base64," + base64.b64encode(sound.data).decode()), sound.quality


def _audio(source: str) -> str:
    return f'<audio controls preload="metadata" aria-label="The conversation" src="{escape(source)}"></audio>'


def _numbers(summary: Mapping[str, Any]) -> str:
    def seconds(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f} s"

    silence = summary["silence_before_answer"]
    cards = [
        ("Duration", clock(summary["seconds"]), ""),
        ("Turns", str(summary["turns"]), ""),
        ("Silence before an answer", seconds(silence["median"]), f"slowest {seconds(silence['slowest'])}" if silence["slowest"] else ""),
        ("Interruptions", str(summary["interruptions"]), ""),
        ("Tool calls", str(summary["tool_calls"]), ""),
        ("Tokens", f"{summary['tokens']:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"), ""),
        ("Errors", str(summary["errors"]), ""),
    ]
    told = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}{f' <small>{escape(more)}</small>' if more else ''}</dd></div>"
        for name, value, more in cards
    )
    return f'<dl class="numbers">{told}</dl>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    told = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section class="problems" aria-label="What to know of this recording"><ul>{told}</ul></section>'


def _legend(seekable: bool) -> str:
    names = {"user": "caller", "assistant": "assistant", "tool": "tool", "answering": "waiting for the answer", "bad": "interrupted"}
    told = "".join(f'<li style="--swatch: var(--{name})">{text}</li>' for name, text in names.items())
    keys = (
        '<p class="note">Space plays and pauses, ← and → go 5 seconds, a click on timeline or line goes there. '
        '<label><input type="checkbox" id="follow" checked> the transcript follows</label></p>'
        if seekable
        else ""
    )
    return f'<ul class="legend">{told}</ul>{keys}'


def _transcript(lines: Sequence[Line], *, seekable: bool) -> str:
    rows = "".join(f'<li class="{line.who}">{_line(line, seekable)}</li>' for line in lines)
    told = f'<ol class="lines">{rows}</ol>' if rows else '<p class="note">Nothing was said, or nobody wrote it down.</p>'
    return f'<section aria-labelledby="transcript"><h2 id="transcript">Transcript</h2>{told}</section>'


def _line(line: Line, seekable: bool) -> str:
    tag = "button" if seekable else "div"
    more = f' <span class="unheard" title="not heard">{escape(line.unheard)}</span>' if line.unheard else ""
    mark = ' <span class="mark">interrupted</span>' if line.interrupted else ""
    shown = (
        f'<{tag}{" type=button" if seekable else ""} class="line" data-from="{line.begins:.3f}" data-to="{line.ends:.3f}">'
        f'<span class="time">{clock(line.begins, 1)}</span><span class="who">{_WHO[line.who]}</span>'
        f'<span class="words" dir="auto">{escape(line.words)}{more}{mark}</span></{tag}>'
    )
    if line.who == "tool":
        result = "<p>no result</p>" if line.output is None else f'<pre dir="auto">{escape(line.output)}</pre>'
        shown += f"<details><summary>result</summary>{result}</details>"
    return shown


def _latency(delays: Sequence[Delay]) -> str:
    if not delays:
        return ""
    longest = max(delay.whole for delay in delays)
    names = (("noticing", "until the end of speech was noticed"), ("answering", "until sound came"), ("playing", "until it was heard"))
    legend = "".join(f'<li style="--swatch: var(--{name})">{text}</li>' for name, text in names)
    rows = "".join(
        f'<tr><td class="number">{delay.number}</td><td class="bar">{bars(delay, longest)}</td>'
        + "".join(
            f'<td class="number">{1000 * value:.0f} ms</td>' for value in (delay.noticing, delay.answering, delay.playing, delay.whole)
        )
        + "</tr>"
        for delay in delays
    )
    head = "".join(f'<th class="number" scope="col">{name}</th>' for name in ("noticed", "answered", "played", "in all"))
    return (
        '<section aria-labelledby="latency"><h2 id="latency">Silence before each answer</h2>'
        f'<ul class="legend">{legend}</ul><div class="wide"><table><thead><tr><th class="number" scope="col">turn</th>'
        f'<th scope="col"><span aria-hidden="true"></span></th>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _events(events: Sequence[Mapping[str, Any]]) -> str:
    listed = [event for event in events if event["name"] not in _NOT_LISTED]
    if not listed:
        return ""
    rows = "".join(_event_rows(listed[:_MOST_EVENTS]))
    rest = f"<p>and {len(listed) - _MOST_EVENTS} more in events.jsonl</p>" if len(listed) > _MOST_EVENTS else ""
    return (
        '<section class="events" aria-labelledby="events"><h2 id="events">Events</h2>'
        f"<details><summary>{len(listed)} events and commands, without sound and pieces of words</summary>"
        '<div class="wide"><table><thead><tr><th class="number" scope="col">at</th><th scope="col">way</th>'
        f'<th scope="col">name</th><th scope="col">what</th></tr></thead><tbody>{rows}</tbody></table></div>{rest}</details></section>'
    )


def _event_rows(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for event in events:
        told = {key: value for key, value in event.items() if key not in ("at", "direction", "name", "event_id")}
        text = json.dumps(told, ensure_ascii=False) if told else ""
        short = text if len(text) <= _LONGEST_EVENT else text[:_LONGEST_EVENT] + " …"
        yield (
            f'<tr><td class="number">{event["at"]:.2f}</td><td>{"→" if event["direction"] == "sent" else "←"}</td>'
            f'<td>{escape(str(event["name"]))}</td><td class="event">{escape(short)}</td></tr>'
        )
