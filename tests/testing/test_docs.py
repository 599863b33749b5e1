"""docs/testing.md: every Python block runs as it stands, as files of somebody's project."""

from __future__ import annotations

import pathlib
import re

from tests.testing.test_plugin import run

PAGE = pathlib.Path(__file__).parents[2].joinpath("docs", "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_block_runs(tmp_path: pathlib.Path) -> None:
    """The program and all its tests, as the page shows them, pass."""
    expected = 0
    for number, block in enumerate(BLOCKS):
        named = re.match(r"# (\w+\.py)\n", block)
        tmp_path.joinpath(named.group(1) if named else f"test_block{number}.py").write_text(block, encoding="utf-8")
        tests = len(re.findall(r"^ *def test_", block, re.MULTILINE))
        assert tests or named
        expected += tests + 3 * block.count('["xai", "openai", "elevenlabs", "gemini"]')
    code, output = run(tmp_path)
    assert code == 0, output
    assert f"{expected} passed" in output


def test_the_messages_are_those_of_the_program() -> None:
    """What the page shows of reports stands in the code that writes them."""
    package = pathlib.Path(__file__).parents[2] / "qai_realtime_sync" / "testing"
    if not package.is_dir():
        import qai_realtime_sync.testing

        package = pathlib.Path(str(qai_realtime_sync.testing.__file__)).parent
    code = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    for words in ("the conversation did not go as the test expects:", "the client has no tool ", "the recording has ", "; it declared: "):
        assert words in PAGE
        assert words in code


def test_every_method_is_on_the_page() -> None:
    """A method of the server, of an expectation or of the faults that is not on the page would not be found."""
    from qai_realtime_sync.testing import Expectation, Faults, ScriptedServer

    own = {"path", "step", "actions", "used_up", "sent", "bytes_left", "refusal", "barred", "problems"}  # for the server itself
    own |= {"start", "stop", "dialect", "certificate", "clients", "ledger", "url", "ws_url", "rate_limit"}
    names = {name for cls in (Expectation, Faults, ScriptedServer) for name in vars(cls) if not name.startswith("_")} - own
    assert {name for name in names if not re.search(rf"\b{name}\b", PAGE)} == set()
