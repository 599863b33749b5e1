"""The pytest plugin, as a project of somebody else uses it: in a folder of its own, by a pytest of its own."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

import qai_realtime_sync
from qai_realtime_sync import ConfigError, testing
from qai_realtime_sync.testing import ScriptedServer
from qai_realtime_sync.testing.plugin import _cassette_path

PATIENCE = 120.0
ROOT = pathlib.Path(str(qai_realtime_sync.__file__)).parents[1]
INSTALLED = any(entry.name == "qai_realtime_sync" for entry in importlib.metadata.entry_points(group="pytest11"))

needs_plugin = pytest.mark.skipif(not INSTALLED, reason="the package is not installed with its entry points")

BOT = '''
from qai_realtime_sync import PacedSink, RealtimeClient, RealtimeConfig


class PizzaBot:
    """Takes orders; what it was told is in `orders`, what callers heard in `said`."""

    def __init__(self):
        self.orders, self.said = [], []
        self.client = RealtimeClient(config=RealtimeConfig(instructions="You sell pizza."))
        self.client.tool(self.order)
        self.client.on("transcript_done", self.keep)
        self.client.play_to(PacedSink())

    def keep(self, event):
        if event.source == "output":
            self.said.append(event.transcript)

    def order(self, size: str) -> dict:
        """Order a pizza of this size."""
        self.orders.append(size)
        return {"ordered": size}
'''

TESTS = '''
import pytest

from bot import PizzaBot


@pytest.fixture
def bot(realtime_server, monkeypatch):
    for name, value in realtime_server.environ.items():
        monkeypatch.setenv(name, value)
    bot = PizzaBot()
    with bot.client:
        yield bot


def test_orders_in_writing(realtime_server, bot):
    realtime_server.on_text("pizza").call_tool("order", {"size": "large"}, result={"ordered": "large"}).then_say("Ordered!")
    assert bot.client.ask("I want a pizza", timeout=30).text == "Ordered!"
    assert bot.orders == ["large"]


def test_orders_by_voice(realtime_server, bot):
    realtime_server.on_audio(seconds=1, words="pizza").call_tool("order", {"size": "small"}).then_say("One small pizza, coming.")
    bot.client.send_audio(realtime_server.speech("I want a small pizza, please."))
    bot.client.wait_for("turn_done", timeout=30)
    assert bot.orders == ["small"]
    assert bot.said == ["One small pizza, coming."]


def test_is_interrupted(realtime_server, bot):
    realtime_server.on_text("menu").say("We have a great many pizzas.").until_interrupted()
    realtime_server.on_audio(words="stop").say("All right.")
    bot.client.send_text("Read me the menu")
    bot.client.wait_for("audio_delta", timeout=30)
    bot.client.send_audio(realtime_server.speech("please stop"))
    bot.client.wait_for("playback_stopped", timeout=30)
    realtime_server.journal.wait_for("truncate_item", timeout=30)
    bot.client.wait_for("response_done", timeout=30, where=lambda event: event.status == "completed")


def test_survives_a_loss(realtime_server, bot):
    realtime_server.on_text("hello").say("Hello again.")
    realtime_server.drop()
    bot.client.wait_for("reconnected", timeout=30)
    assert bot.client.ask("hello", timeout=30).text == "Hello again."


def test_stops_without_money(realtime_server, bot):
    realtime_server.on_text("pizza").close(1008, "insufficient balance")
    bot.client.send_text("pizza")
    assert bot.client.wait_for("closed", timeout=30).meaning == "quota"
'''


def run(folder: pathlib.Path, *arguments: str) -> tuple[int, str]:
    """Run pytest in the folder; return its exit code and output."""
    plugin = [] if INSTALLED else ["-p", "qai_realtime_sync.testing.plugin"]
    # In CI pytest does not shorten its summary; the same is wanted everywhere.
    environment = {n: value for n, value in os.environ.items() if not n.startswith("PYTEST_") and n not in ("CI", "BUILD_NUMBER")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-q", "--strict-markers", "-W", "error", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout + done.stderr


def project(folder: pathlib.Path, tests: str, bot: str = BOT) -> pathlib.Path:
    """Write a project with a bot and its tests."""
    folder.joinpath("bot.py").write_text(bot, encoding="utf-8")
    folder.joinpath("test_bot.py").write_text(textwrap.dedent(tests), encoding="utf-8")
    return folder


# -- a voice bot and its five tests -------------------------------------------------------------------------------------------


def test_a_voice_bot_with_five_tests(tmp_path: pathlib.Path) -> None:
    """Five tests of a bot with tools, speech, an interruption, a loss and an empty account pass in a few seconds."""
    code, output = run(project(tmp_path, TESTS))
    assert code == 0, output
    passed = re.search(r"5 passed in ([\d.]+)s", output)
    assert passed, output
    assert float(passed.group(1)) < 60  # 2 to 4 s where nothing else runs


# What is wrong with the bot, and what the report must say.
BUGS = {
    "a misspelt tool": (
        ("self.client.tool(self.order)", "self.client.tool(self.order, name='oder')"),
        'step 2 of 3, on_text("pizza") -> call_tool("order"): the client has no tool "order"; it declared: oder; the client sent: ',
    ),
    "a wrong result": (
        ('return {"ordered": size}', 'return {"orderd": size}'),
        "step 2 of 3, on_text(\"pizza\") -> call_tool(\"order\"): the tool's result was {'orderd': 'large'}, not {'ordered': 'large'}",
    ),
    "a broken tool": (
        ("self.orders.append(size)", "self.orders.add(size)"),
        'step 2 of 3, on_text("pizza") -> call_tool("order"): the tool failed: {"error": "AttributeError: ',
    ),
    "a tool that hangs up": (
        ("self.orders.append(size)", "self.client.close()"),
        'step 2 of 3, on_text("pizza") -> call_tool("order"): the tool\'s result never came back; the client sent: configure, send_text(',
    ),
}


def test_a_bug_is_named_by_its_step(tmp_path: pathlib.Path) -> None:
    """With a bug in the bot its test fails, whatever it fails of, and the report says in words which step was not met."""
    for number, ((right, wrong), _) in enumerate(BUGS.values()):
        assert right in BOT
        tmp_path.joinpath(f"bot{number}.py").write_text(BOT.replace(right, wrong), encoding="utf-8")
        own = TESTS[: TESTS.index("def test_orders_by_voice")].replace("from bot import", f"from bot{number} import")
        tmp_path.joinpath(f"test_bug{number}.py").write_text(own, encoding="utf-8")
    tmp_path.joinpath("test_more.py").write_text(
        textwrap.dedent(
            """
            def test_fails_by_itself(realtime_server):
                realtime_server.on_text("pasta").say("Yes.")
                assert 1 == 2

            def test_asks_nothing(realtime_server):
                realtime_server.on_text("salad").say("Yes.")
            """
        ),
        encoding="utf-8",
    )
    code, output = run(tmp_path)
    assert code == 1, output
    for _, message in BUGS.values():
        assert message in output
    assert "assert 1 == 2" in output
    assert re.search(r'-- Captured realtime service call -+\nthe conversation did not go as .*\n.*on_text\("pasta"\)', output)
    assert 'step 1 of 2, on_text("salad"): nobody said that; the client sent: nothing, for no client connected' in output
    assert "6 failed in" in output  # failures of the tests, not errors beside tests that passed


# -- the fixtures, in this very run -------------------------------------------------------------------------------------------


@needs_plugin
@pytest.mark.realtime(dialect="openai", light=True)
def test_the_fixture(realtime_server: ScriptedServer) -> None:
    """The plugin gives this test a server as its marker says, and checks it when the test has passed."""
    realtime_server.on_text("pizza").say("Yes.")
    assert realtime_server.dialect == "openai"
    assert realtime_server.client().ask("pizza", timeout=30).text == "Yes."


@needs_plugin
@pytest.mark.realtime(light=True, must_complete=False)
@pytest.mark.parametrize("realtime_server", ["gemini", {"dialect": "elevenlabs"}], indirect=True)
def test_the_fixture_with_a_parameter(realtime_server: ScriptedServer) -> None:
    """A parameter stands above the marker, and the check is off where the marker says so."""
    realtime_server.on_text("never").say("Nothing.")
    assert realtime_server.dialect in ("gemini", "elevenlabs")
    assert "nobody said that" in realtime_server.report()


# -- options ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_options_by_marker_and_parameter(tmp_path: pathlib.Path) -> None:
    """A marker gives options, the nearest counts most, and so does a parameter; strict markers know it; a wrong option is told."""
    code, output = run(
        project(
            tmp_path,
            """
            import pytest

            pytestmark = pytest.mark.realtime(light=True, dialect="openai")

            def test_module(realtime_server):
                assert realtime_server.dialect == "openai"

            @pytest.mark.realtime(dialect="gemini", must_complete=False)
            def test_function(realtime_server):
                realtime_server.on_text("never")
                assert realtime_server.dialect == "gemini"

            @pytest.mark.parametrize("realtime_server", ["xai", {"dialect": "elevenlabs", "strict": False}], indirect=True)
            def test_parameter(realtime_server):
                assert realtime_server.dialect in ("xai", "elevenlabs")

            def test_switched_off(realtime_server):
                realtime_server.must_complete = False
                realtime_server.on_text("never")

            def test_skipped(realtime_server):
                realtime_server.on_text("never")
                pytest.skip("not today")

            class TestSome:
                @pytest.mark.realtime(strict=False)
                def test_method(self, realtime_server):
                    assert realtime_server.client().ask("hello", timeout=30).text

            @pytest.mark.realtime(colour="red")
            def test_colour(realtime_server):
                pass

            @pytest.mark.realtime("openai")
            def test_bare(realtime_server):
                pass
            """,
        )
    )
    assert code == 1, output
    assert "6 passed, 1 skipped, 2 errors" in output
    assert "colour" in output
    assert "named options only, like dialect='openai'" in output


def test_a_unittest_method_that_fails_has_the_report_too(tmp_path: pathlib.Path) -> None:
    """The fixture in a `unittest.TestCase`: its own failure is what is reported, at once, with what the service was not asked."""
    tests = """
        import unittest

        import pytest


        class TestBot(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def served(self, realtime_server):
                self.server = realtime_server

            def test_fails(self):
                self.server.on_text("pizza").say("Ordered!")
                self.assertEqual(1, 2)

            def test_forgets(self):
                self.server.on_text("pizza").say("Ordered!")

            def test_is_skipped(self):
                self.server.on_text("pizza").say("Ordered!")
                self.skipTest("not today")
    """
    code, output = run(project(tmp_path, tests))
    assert code == 1, output
    assert "2 failed, 1 skipped" in output
    assert "AssertionError: 1 != 2" in output
    assert output.count('on_text("pizza"): nobody said that') == 2
    assert "Captured realtime service call" in output


def test_an_option_that_there_is_not_is_named_with_those_there_are() -> None:
    """A misspelt option is told by its name beside the right ones, not as a Python function's."""
    with pytest.raises(ConfigError, match=r"there is no option 'dialekt'; there are: .*\bdialect\b.*\bstrict\b.*\btls\b"):
        ScriptedServer(dialekt="openai")


# -- cassettes ----------------------------------------------------------------------------------------------------------------------

CASSETTE_TESTS = """
import pytest


@pytest.mark.parametrize("word", ["hello"])
def test_answer(realtime_cassette, word):
    client = realtime_cassette.client()
    assert client.ask(f"{word} there", timeout=30).text == "Hi!"


@pytest.mark.realtime(cassette="named.jsonl", ignore=["text"])
def test_named(realtime_cassette):
    assert realtime_cassette.client().ask("hello again", timeout=30).text == "Hi!"
"""


@pytest.mark.long
def test_a_cassette_is_recorded_and_replayed(tmp_path: pathlib.Path) -> None:
    """`--realtime-record` writes a file for each test, beside it; without it the file answers, and a changed question fails."""
    project(tmp_path, CASSETTE_TESTS)
    with ScriptedServer(light=True, key="qai_secret_of_this_test") as service:
        service.on_text("hello", times=2).say("Hi!")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QAI_API_KEY", service.key)
            code, output = run(tmp_path, "--realtime-record", service.url)
    assert code == 0, output
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert files == ["cassettes/test_bot.test_answer_hello.jsonl", "named.jsonl"]
    assert not any("qai_secret" in path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.jsonl"))
    changed = "\ndef test_changed(realtime_cassette):\n    realtime_cassette.client().ask('hello you', timeout=30)\n"
    project(tmp_path, CASSETTE_TESTS + "\n@pytest.mark.realtime(cassette='named.jsonl')" + changed)
    code, output = run(tmp_path)
    assert "2 passed" in output
    assert "1 failed" in output
    assert 'the recording has send_text(text="hello again"), the client sent send_text(text="hello you")' in output


class TestNames:
    """A class whose name is in the name of a cassette."""

    def test_a_cassette(self, request: pytest.FixtureRequest) -> None:
        """The class stands before the method, and the marker's name goes before both."""
        folder = request.path.parent
        assert _cassette_path(request, None) == folder / "cassettes" / "test_plugin.TestNames.test_a_cassette.jsonl"
        assert _cassette_path(request, "named.jsonl") == folder / "named.jsonl"


@pytest.mark.long
def test_methods_of_one_name_have_cassettes_of_their_own(tmp_path: pathlib.Path) -> None:
    """Two methods of one name record two files, no file twice in a run, and options for the other fixture disturb neither fixture."""
    tests = """
        import pytest

        pytestmark = pytest.mark.realtime(light=True, strict=False, ignore=["no_such_field"])

        class TestOne:
            def test_answer(self, realtime_cassette):
                assert realtime_cassette.client().ask("hello one", timeout=30).text == "Hi!"

        class TestTwo:
            def test_answer(self, realtime_cassette):
                assert realtime_cassette.client().ask("hello two", timeout=30).text == "Hi!"

        def test_scripted(realtime_server):
            assert realtime_server.client().ask("hello", timeout=30).text
    """
    same = """
        @pytest.mark.parametrize("mark", ["!", "?"])
        def test_same(realtime_cassette, mark):
            assert realtime_cassette.client().ask("hello", timeout=30).text == "Hi!"

        @pytest.mark.realtime(colour="red")
        def test_colour(realtime_cassette):
            pass
    """
    with ScriptedServer(light=True) as service, pytest.MonkeyPatch.context() as patch:
        service.on_text("hello", times=3).say("Hi!")
        patch.setenv("QAI_API_KEY", service.key)
        code, output = run(project(tmp_path, tests + same), "--realtime-record", service.url)
    assert code == 1
    assert "4 passed, 2 errors" in output
    assert "was just recorded by test_bot.py::test_same[!]" in output
    assert "realtime_cassette has no option 'colour'; there are: cassette, " in output
    files = sorted(path.name for path in (tmp_path / "cassettes").iterdir())
    assert files == ["test_bot.TestOne.test_answer.jsonl", "test_bot.TestTwo.test_answer.jsonl", "test_bot.test_same.jsonl"]
    code, output = run(project(tmp_path, tests))
    assert code == 0, output
    assert "3 passed" in output


# -- as a guest in every run of pytest ----------------------------------------------------------------------------------------


def test_the_plugin_is_cheap() -> None:
    """A run of pytest that uses nothing of it loads three small modules of the package and no library but pytest."""
    code = (
        "import pytest, sys\nbefore = set(sys.modules)\nimport qai_realtime_sync.testing.plugin\n"
        "print(*sorted(name for name in set(sys.modules) - before if name.split('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.split() == ["qai_realtime_sync", "qai_realtime_sync.testing", "qai_realtime_sync.testing.plugin"]


@pytest.mark.long
@needs_plugin
def test_the_plugin_can_be_turned_off(tmp_path: pathlib.Path) -> None:
    """`-p no:qai_realtime_sync` leaves nothing of it, and other tests do not notice."""
    project(tmp_path, "def test_nothing():\n    pass\n\ndef test_server(realtime_server):\n    pass\n")
    code, output = run(tmp_path, "-p", "no:qai_realtime_sync")
    assert code == 1
    assert "fixture 'realtime_server' not found" in output
    assert "1 passed, 1 error" in output


def test_the_package_lists_its_names() -> None:
    """Every public name is there, lazily, and an unknown one is refused."""
    assert list(testing.__all__) == sorted(testing.__all__)
    for name in testing.__all__:
        assert getattr(testing, name).__doc__
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError, match="no_such_name"):
        testing.no_such_name  # noqa: B018
