"""The default answers: friendly, short, and about what was said; a long story when one is asked for."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from typing import Any

from qai_realtime_sync.offline.script import Call, Say, Situation, Step
from qai_realtime_sync.offline.tooluse import Wish, fill, question_for, wish

__all__ = ["default_answer"]

STORY = (
    "Of course, here is a long story. Once upon a time there was a lighthouse keeper who lived alone on a small island in the north. "
    "Every evening he climbed the two hundred steps, lit the lamp, and talked to the ships that passed in the dark. "
    "One winter the storm was so strong that no ship came for three weeks, and he began to talk to the sea instead. "
    "The sea listened for a long time, and one night, very quietly, it answered him with the sound of a bell. "
    "He followed the bell down to the beach and found a little boat with a lantern, and nobody in it. "
    "From that night on the boat came back every winter, and the keeper was never alone again."
)
_NAME = re.compile(r"\b(?:my name is|i am called|call me|this is|i'm|i am)\s+([a-z][a-z'-]+)", re.IGNORECASE)
_NO_NAMES = frozenset(
    "a an the not so very here sorry fine good happy looking trying calling in on it and just going glad sure all ok okay".split()
)


def default_answer(situation: Situation) -> list[Step]:
    """Return what to say or call: for a tool's result, a tool that is asked for, a small rule, or else an echo."""
    if situation.results:
        return [Say(_result_sentence(situation.results))]
    text = situation.text.strip()
    if not text:
        return [Say(_unasked(situation))]
    called = _tool_steps(text, situation)
    if called is not None:
        return called
    if situation.wordless:
        return [Say("I heard you speak, but this server is in light mode and does not recognise words.")]
    for pattern, answer in _RULES:
        match = pattern.search(text)
        if match:
            return [Say(answer(situation, match))]
    return [Say(f"You said: {_sentence(text)} Tell me more, or ask me what I can do.")]


def _tool_steps(text: str, situation: Situation) -> list[Step] | None:
    pending: Wish | None = situation.memory.pop("pending_tool", None)
    found = None if situation.wordless and situation.tool_choice == "auto" else wish(text, situation.tools, situation.tool_choice)
    if (
        found is None
        and pending is not None
        and not situation.wordless
        and not re.search(r"\b(cancel|never mind|forget it|stop)\b", text, re.I)
    ):
        again = fill(pending.tool, text, bare=pending.missing[0])
        found = Wish(
            pending.tool,
            {**pending.arguments, **again.arguments},
            [name for name in pending.missing if name not in again.arguments],
        )
    if found is None:
        return None
    if found.missing:
        situation.memory["pending_tool"] = found
        return [Say(question_for(found))]
    return [Call(found.name, found.arguments)]


def _unasked(situation: Situation) -> str:
    """Return what to say when an answer is asked for and nobody said anything: by the instructions, else a greeting."""
    if situation.own_instructions:
        verbatim = re.search(
            r"\bsay(?:\s+(?:exactly|this|the following))*\s*[:,]?\s*[\"“'‘]?(.+?)[\"”'’]?\s*$",
            situation.instructions,
            re.I | re.S,
        )
        if verbatim:
            return _sentence(verbatim.group(1))
    return "Hello! How can I help you today?"


def _result_sentence(results: list[tuple[str, str]]) -> str:
    sentences = []
    for name, output in results:
        try:
            value: Any = json.loads(output)
        except ValueError:
            value = output
        spoken = _spoken(value)
        about = " ".join(name.replace("_", " ").split()) or "tool"
        sentences.append(
            _sentence(spoken)
            if spoken and not isinstance(value, (dict, list))
            else f"Here is what I found: {_sentence(spoken or about + ' is done')}"
        )
    return " ".join(sentences)


def _spoken(value: Any) -> str:
    """Return JSON as words."""
    if isinstance(value, dict):
        pairs = [(str(key).replace("_", " "), _spoken(one)) for key, one in value.items()]
        return ", ".join(f"{key} is {one}" for key, one in pairs if one)
    if isinstance(value, list):
        return ", ".join(filter(None, map(_spoken, value)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?…" else text + "."


def _greeting(situation: Situation, match: re.Match[str]) -> str:
    name = _NAME.search(situation.text)
    if name and name.group(1).lower() not in _NO_NAMES:
        situation.memory["name"] = name.group(1).capitalize()
    known = situation.memory.get("name")
    return f"Hello {known}, nice to meet you! How can I help you today?" if known else "Hello! How can I help you today?"


def _goodbye(situation: Situation, match: re.Match[str]) -> str:
    known = situation.memory.get("name")
    return f"Goodbye {known}, have a nice day!" if known else "Goodbye, have a nice day!"


def _time(situation: Situation, match: re.Match[str]) -> str:
    now = datetime.datetime.now()
    return f"It is {now.strftime('%I:%M %p').lstrip('0')} by my clock."


def _date(situation: Situation, match: re.Match[str]) -> str:
    today = datetime.date.today()
    return f"Today is {today.strftime('%A, %B')} {today.day}."


def _abilities(situation: Situation, match: re.Match[str]) -> str:
    names = [" ".join(str(tool.get("name")).replace("_", " ").split()) for tool in situation.tools if tool.get("name")]
    tools = f", and use your tools: {', '.join(names)}" if names else ""
    return (
        f"I can answer small questions, tell you the time, tell you a long story{tools}. I run on your own computer, without any network."
    )


def _name(situation: Situation, match: re.Match[str]) -> str:
    known = situation.memory.get("name")
    return f"Your name is {known}." if known else "You have not told me your name yet."


def _fixed(sentence: str) -> Callable[[Situation, re.Match[str]], str]:
    return lambda situation, match: sentence


_RULES: list[tuple[re.Pattern[str], Callable[[Situation, re.Match[str]], str]]] = [
    (re.compile(pattern, re.IGNORECASE), answer)
    for pattern, answer in (
        (r"\b(stop|enough|be quiet|never mind)\b", _fixed("All right, I will stop here. What else can I do for you?")),
        (r"\b(story|long answer|long text|talk for a while|tell me everything)\b", _fixed(STORY)),
        (r"\b(good ?bye|bye|see you|hang up|end the call)\b", _goodbye),
        (r"\bwhat('s| is) my name\b", _name),
        (r"\b(your name|who are you)\b", _fixed("I am the local voice of this package, running on your own computer.")),
        (r"\b(my name is|call me|i am called)\b", _greeting),
        (r"\b(what can you do|can you help|how can you help|abilities|need (some|your)? ?help)\b", _abilities),
        (r"\bwhat('s| is)? ?(the )?time|\btime is it\b", _time),
        (r"\bwhat (day|date)|\b(date|day) (is it )?today|\btoday's date\b", _date),
        (r"\bhow are you\b", _fixed("I am fine, thank you. How can I help you today?")),
        (r"\b(thanks|thank you)\b", _fixed("You are welcome! Is there anything else I can do for you?")),
        (r"\b(hello|hi|hey|good (morning|afternoon|evening))\b", _greeting),
    )
]
