"""The tables of the documentation are those of the code."""

from __future__ import annotations

import pathlib

from qai_realtime_sync.commands import COMMANDS
from qai_realtime_sync.dialects.table import command_table, reasons, tables

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "dialects.md"


def test_the_page_is_up_to_date() -> None:
    """docs/dialects.md holds what ``python -m qai_realtime_sync.dialects.table`` prints, word by word."""
    written = PAGE.read_text(encoding="utf-8").partition("<!-- tables -->\n")[2].partition("<!-- end of tables -->")[0]
    assert written == tables()


def test_what_has_no_word_has_advice() -> None:
    """Every command that a dialect refuses has a line that says what to do instead, and no other has one."""
    refused = {(name, dialect) for name, row in command_table().items() for dialect, word in row.items() if word == "-"}
    assert refused == {(name, dialect) for name, row in reasons().items() for dialect in row}
    assert all(len(reason) > 10 for row in reasons().values() for reason in row.values())
    assert set(command_table()) == set(COMMANDS)
