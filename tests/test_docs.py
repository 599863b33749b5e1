"""The pages of docs/: every Python block runs as it stands, prints what stands below it, and every link leads somewhere."""

from __future__ import annotations

import contextlib
import io
import pathlib
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from docs.reference import endings, reference
from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.cli.program import parser_of
from qai_realtime_sync.events import EVENTS
from tests.test_readme import run, served

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}

OWN = ("billing.md", "coming_from.md", "errors.md", "quick_start.md", "reconnect.md", "recipes.md", "threads.md")
ELSEWHERE = {
    "command_line.md": "cli/test_command_line_page.py",
    "devices.md": "test_devices_page.py",
    "django.md": "contrib/test_django.py",
    "flask.md": "contrib/test_flask.py",
    "many_machines.md": "contrib/test_many_machines.py",
    "scaling.md": "test_scaling_page.py",
    "telephone.md": "contrib/test_twilio_docs.py",
    "testing.md": "testing/test_docs.py",
    "workers.md": "contrib/test_workers_docs.py",
}

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n+^```text\n(?P<prints>.*?)^```$)?", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that `qai-realtime serve` runs in a process of its own."""
    with served(tmp_path_factory.mktemp("serve")) as found:
        yield found


def missing_lines(printed: str, promised: str) -> list[str]:
    """Return the promised lines that were not printed, in their order; ``…`` in them stands for anything."""
    lines = iter(printed.splitlines())
    patterns = [(line, re.compile(".*".join(map(re.escape, line.split("…"))))) for line in promised.splitlines()]
    return [line for line, pattern in patterns if not any(pattern.fullmatch(given) for given in lines)]


@pytest.mark.parametrize("name", OWN)
def test_every_block_runs(name: str, address: str, tmp_path: pathlib.Path) -> None:
    """Each block is a program that runs without an error or a warning, and prints the lines that the page shows below it."""

    def tried(found: tuple[int, re.Match[str]]) -> str:
        number, block = found
        folder = tmp_path / str(number)
        folder.mkdir()
        head = f"block {number} of {name}, {block['code'].splitlines()[0]!r}: "
        try:
            printed = run(block["code"], address, folder)
        except AssertionError as error:
            return f"{head}{error}"
        missing = missing_lines(printed, block["prints"] or "")
        return f"{head}it did not print {missing}, but:\n{printed}" if missing else ""

    blocks = list(enumerate(_BLOCK.finditer(PAGES[name]), 1))
    assert len(blocks) == PAGES[name].count("```python\n")
    with ThreadPoolExecutor(4) as pool:
        problems = [problem for problem in pool.map(tried, blocks) if problem]
    assert not problems, "\n\n".join(problems)


def test_every_page_with_programs_is_run() -> None:
    """A page whose Python blocks nobody runs would rot."""
    assert {name for name, page in PAGES.items() if "```python" in page} <= {*OWN, *ELSEWHERE}
    for name, where in ELSEWHERE.items():
        assert (name in PAGES) <= (name in (ROOT / "tests" / where).read_text(encoding="utf-8"))


def test_lines_that_were_not_printed_are_found() -> None:
    """The comparison sees a line that is missing, and one that comes too early; the ellipsis stands for anything."""
    assert missing_lines("a\nb 12 s\nc\n", "a\nb … s\nc") == []
    assert missing_lines("a\nc\n", "a\nb\n") == ["b"]
    assert missing_lines("b\na\n", "a\nb\n") == ["b"]


# -- what is written by programs ---------------------------------------------------------------------------------------------


def test_the_reference_is_up_to_date() -> None:
    """docs/reference.md is what ``python -m docs.reference`` prints, word by word."""
    assert PAGES["reference.md"] == reference()


def test_the_endings_are_those_of_the_dialects() -> None:
    """The table of docs/errors.md is what the dialects make of each close code."""
    written = PAGES["errors.md"].partition("<!-- endings -->\n")[2].partition("<!-- end of endings -->")[0]
    assert written == endings()


# -- links and commands ------------------------------------------------------------------------------------------------------


def headings(page: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    page = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_every_link_leads_somewhere(name: str) -> None:
    """What a page links within the project is there, the heading too."""
    here = ROOT / name
    broken = []
    for link in _LINK.findall(re.sub(r"^```.*?^```$", "", here.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = (here.parent / target).resolve() if target else here
        if not path.exists() or (anchor and anchor not in headings(path.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_every_method_that_is_named_exists(name: str) -> None:
    """What a page says of a client, in a table or in a sentence, is something that a client has."""
    known = set(dir(RealtimeClient)) | {"base", "audio", "v1", "realtime", "responses"}  # of other makers' clients
    assert set(re.findall(r"(?<![\w.])client\.([a-z]\w*)", PAGES[name])) <= known


@pytest.mark.parametrize("name", OWN)
def test_every_event_that_is_registered_exists(name: str) -> None:
    """An event that a page listens to, or waits for, is one of ours."""
    named = re.findall(r"client\.(?:on|once|wait_for)\(\"(\w+)\"", PAGES[name])
    assert set(named) <= set(EVENTS)


def test_the_index_names_every_page() -> None:
    """docs/README.md leads to each page, so that none is forgotten."""
    assert {name for name in PAGES if name != "README.md" and f"]({name})" not in PAGES["README.md"]} == set()


def commands(page: str) -> Iterator[list[str]]:
    """The calls of ``qai-realtime`` in the shell blocks of a page, as arguments."""
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            at = next((at for at, word in enumerate(words) if word.endswith("qai-realtime")), None)
            if at is not None:
                end = next((n for n, word in enumerate(words) if n > at and word in ("|", "&", "&&", ">", ";")), len(words))
                yield words[at + 1 : end]


@pytest.mark.parametrize("name", ["../README.md", *OWN])
def test_every_command_line_is_right(name: str) -> None:
    """Each command that a page shows exists, and takes the arguments that are shown."""
    for words in commands((DOCS / name).read_text(encoding="utf-8")):
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                parser_of(words).parse_args(words)
            except SystemExit:
                raise AssertionError(f"{shlex.join(words)}: {said.getvalue()}") from None
