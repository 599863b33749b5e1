"""The page on scaling: its program runs as it stands, against the local server in a process of its own."""

from __future__ import annotations

import pathlib
import re
import sys

import pytest

from tests.test_readme import address as address, run

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "scaling.md"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_program_of_the_page_runs(address: str, tmp_path: pathlib.Path) -> None:
    """The one Python block of the page measures memory and CPU, and says so."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    printed = run(block, address, tmp_path)
    assert re.search(r"^memory: \d+ KB each$", printed, re.MULTILINE)
    assert re.search(r"^CPU: [\d.]+ % of a core", printed, re.MULTILINE)


def test_the_pages_it_names_are_there() -> None:
    """Every link to another page leads to one."""
    links = re.findall(r"\]\((\w+\.md)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
