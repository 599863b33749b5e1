"""The timeline of a report as SVG: waveforms of both sides, what was said when, tools, waits and interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from qai_realtime_sync.cli.recorded import Recorded
from qai_realtime_sync.cli.report_lines import Line
from qai_realtime_sync.cli.report_numbers import Delay

__all__ = ["bars", "clock", "timeline"]

_EDGE = 12.0
_WIDTH, _WIDEST = 1040.0, 30_000.0
_PER_SECOND = 13.0  # units, where the conversation is too long for one screen
_HEIGHT = 220
_LANES = {"user": (62.0, 40.0), "assistant": (158.0, 40.0)}  # middle and half height
_TOOLS = 110.0
_COLUMNS = 6000
_STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_LONGEST_LABEL = 24
_SILENT = 0.004  # of full scale
_SOFTER = 0.6  # as an exponent: quiet speech is seen too


def clock(seconds: float, digits: int = 0) -> str:
    """Return minutes and seconds, with hours if there are any."""
    units = 10**digits
    whole, part = divmod(round(max(0.0, seconds) * units), units)
    minutes, second = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    told = f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"
    return f"{told}.{part:0{digits}}" if digits else told


def timeline(found: Recorded, lines: Sequence[Line], delays: Sequence[Delay]) -> str:
    """Return the drawing; texts in it are escaped."""
    duration = max(found.duration, 0.5)
    width = min(max(_WIDTH, duration * _PER_SECOND), _WIDEST)
    scale = (width - 2 * _EDGE) / duration
    told = f"Timeline of {clock(duration)} minutes: caller above, assistant below. The transcript says the same in words."
    size = f'viewBox="0 0 {width:.0f} {_HEIGHT}" width="{width:.0f}" preserveAspectRatio="none"'
    parts = [f'<svg {size} role="img" aria-label="{escape(told)}" data-scale="{scale:.4f}" data-edge="{_EDGE:g}">']
    parts += _axis(duration, scale, width)
    parts += _spans(lines, scale)
    parts += _waves(found, scale, duration)
    parts += _tools(lines, scale)
    parts += _waits(delays, scale)
    parts += _cuts(lines, scale)
    parts += _names(found)
    parts.append(f'<line class="head" x1="{_EDGE:g}" x2="{_EDGE:g}" y1="16" y2="{_HEIGHT - 18}"/></svg>')
    return "".join(parts)


def bars(delay: Delay, longest: float) -> str:
    """Return one row of the latency chart."""
    parts, at = [], 0.0
    for name in ("noticing", "answering", "playing"):
        seconds = getattr(delay, name)
        if seconds > 0 and longest > 0:
            size = 100 * seconds / longest
            told = f"<title>{name} {seconds:.2f} s</title>"
            parts.append(f'<rect class="{name}" x="{at:.2f}" y="1" width="{size:.2f}" height="8">{told}</rect>')
            at += size
    return f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'


def _x(seconds: float, scale: float) -> float:
    return _EDGE + max(0.0, seconds) * scale


def _axis(duration: float, scale: float, width: float) -> Iterator[str]:
    step = next((step for step in _STEPS if step * scale >= 70), _STEPS[-1])
    for number in range(int(duration / step) + 1):
        x = _x(number * step, scale)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="16" y2="{_HEIGHT - 18}"/>'
        told, anchor = clock(number * step, 1 if step < 1 else 0), "middle" if number else "start"
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{told}</text>'
    for middle, _ in _LANES.values():
        yield f'<line class="axis" x1="{_EDGE:g}" x2="{width - _EDGE:.1f}" y1="{middle:g}" y2="{middle:g}"/>'


def _spans(lines: Sequence[Line], scale: float) -> Iterator[str]:
    for line in lines:
        if line.who in _LANES:
            middle, half = _LANES[line.who]
            x, end = _x(line.begins, scale), _x(line.ends, scale)
            told = escape(f"{clock(line.begins, 1)} {line.who}: {line.words}")
            yield (
                f'<rect class="span {line.who}" x="{x:.1f}" y="{middle - half:g}" width="{max(2.0, end - x):.1f}" '
                f'height="{2 * half:g}" rx="3"><title>{told}</title></rect>'
            )


def _waves(found: Recorded, scale: float, duration: float) -> Iterator[str]:
    if found.sound is None:
        return
    per_second = min(2 * scale, _COLUMNS / duration, 100.0)
    for who, peaks in zip(_LANES, found.sound.peaks(per_second)):
        middle, half = _LANES[who]
        step = scale * max(1, round(found.sound.rate / per_second)) / found.sound.rate
        path = []
        for number, peak in enumerate(peaks):
            if peak > _SILENT:
                high = max(0.6, peak**_SOFTER * half)
                path.append(f"M{_EDGE + number * step:.1f} {middle - high:.1f}h{step:.2f}v{2 * high:.1f}h{-step:.2f}z")
        if path:
            yield f'<path class="wave {who}" d="{"".join(path)}"/>'


def _tools(lines: Sequence[Line], scale: float) -> Iterator[str]:
    free = 0.0
    for line in lines:
        if line.who != "tool":
            continue
        x, end = _x(line.begins, scale), _x(line.ends, scale)
        name = line.words.partition("(")[0]
        label = name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"
        size = max(4.0, end - x if line.output is not None else 0.0)
        yield f'<rect class="tool" x="{x:.1f}" y="{_TOOLS - 5:g}" width="{size:.1f}" height="10" rx="2">'
        yield f"<title>{escape(line.words)}</title></rect>"
        if x >= free:
            yield f'<text class="tool" x="{x + 8:.1f}" y="{_TOOLS + 4:g}">{escape(label)}</text>'
            free = x + 16 + 7 * len(label)


def _waits(delays: Sequence[Delay], scale: float) -> Iterator[str]:
    for delay in delays:
        x, end = _x(delay.begins, scale), _x(delay.begins + delay.whole, scale)
        y = _LANES["assistant"][0] - _LANES["assistant"][1] - 2
        yield f'<line class="wait" x1="{x:.1f}" x2="{max(end, x + 2):.1f}" y1="{y:g}" y2="{y:g}"/>'
        yield f'<text class="wait" x="{(x + end) / 2:.1f}" y="{y + 13:g}" text-anchor="middle">{delay.whole:.1f} s</text>'


def _cuts(lines: Sequence[Line], scale: float) -> Iterator[str]:
    for line in lines:
        if line.interrupted:
            x = _x(line.ends, scale)
            yield f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{_HEIGHT - 20}"/>'
            yield f'<text class="cut" x="{x:.1f}" y="13" text-anchor="middle">interrupted</text>'


def _names(found: Recorded) -> Iterator[str]:
    one = found.sound is not None and found.sound.channels == 1 and not found.turns
    for who, (middle, half) in _LANES.items():
        if one and who == "assistant":
            continue
        label = "sound" if one else "caller" if who == "user" else "assistant"
        yield f'<text class="lane" x="{_EDGE + 2:g}" y="{middle - half - 6:g}">{label}</text>'
