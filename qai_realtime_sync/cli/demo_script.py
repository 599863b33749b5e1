"""What is said in the demo: the caller's three sentences, and the tool whose long answer is interrupted."""

from __future__ import annotations

from typing import Final

__all__ = ["GREETING", "INTERRUPTION", "QUESTION", "get_weather", "words", "wrong_words"]

# Sentences that the small recogniser gets right.
GREETING: Final = "Hello there, good morning, how are you today?"
QUESTION: Final = "What is the weather like in London today?"
INTERRUPTION: Final = "Stop, that is enough for today, thank you."


def get_weather(city: str) -> str:
    """Current weather and the forecast for a city."""
    return (
        f"In {city.title()} it is fourteen degrees just now, with light rain and a little wind from the west. "
        "This afternoon the rain will stop, and the sun may come out for an hour or two. "
        "In the evening it gets colder, so take a warm coat if you want to go out. "
        "Tomorrow starts with thick fog along the river, and it will be cloudy for most of the day. "
        "At the weekend it will be dry and much warmer, with up to twenty degrees on Sunday."
    )


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    kept = "".join(letter if letter.isalnum() or letter in "' " else " " for letter in text.lower())
    return kept.split()


def wrong_words(said: str, heard: str) -> float:
    """The word error rate: replaced, missing and added words, per word that was said."""
    wanted, got = words(said), words(heard)
    row = list(range(len(got) + 1))
    for number, word in enumerate(wanted, 1):
        previous, row = row, [number]
        for at, other in enumerate(got, 1):
            row.append(min(previous[at] + 1, row[-1] + 1, previous[at - 1] + (word != other)))
    return row[-1] / len(wanted) if wanted else float(bool(got))
