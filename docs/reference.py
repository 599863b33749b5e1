"""What the public classes and functions say of themselves, as Markdown: ``python -m docs.reference > docs/reference.md``.

Read from the source, so that no extra has to be installed. With ``--endings`` the table of close codes of docs/errors.md.
"""

from __future__ import annotations

import ast
import functools
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator

import qai_realtime_sync
from qai_realtime_sync.dialects import DIALECTS

__all__ = ["endings", "main", "reference"]

PACKAGE = pathlib.Path(qai_realtime_sync.__file__).parent

# Chapter -> what stands in it: a module, and the names in it that a program uses. A class may have bases in other modules.
CHAPTERS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "The client": [("client.client", ("RealtimeClient",)), ("client.mutation", ("ContextMutation",))],
    "Configuration": [
        ("config", ("RealtimeConfig", "TurnDetection", "Transcription", "Tool", "Voice", "RealtimeSession")),
        ("client.lifecycle", ("ReconnectPolicy",)),
        ("audio", ("AudioFormat",)),
    ],
    "Events": [("events", ("Event",)), ("events", ("TokenUsage", "RateLimit", "ContentPart", "Item"))],
    "Commands": [("commands", ("Command",))],
    "Errors": [("errors", ("RealtimeError",))],
    "What was said, and what it took": [
        ("turns", ("Answer", "Turn", "ToolCall")),
        ("conversation.record", ("Conversation",)),
        ("conversation.metrics", ("Metrics", "TurnMetrics", "HandlerTime")),
        ("conversation.recorder", ("Recorder",)),
        ("conversation.telemetry", ("Telemetry",)),
        ("client.outbox", ("OutboxCounts",)),
    ],
    "Sound": [
        ("conversation.pacing", ("PacedSink",)),
        ("audio", ("silence", "duration", "level", "rms", "Converter", "Chunker", "b64encode", "b64decode")),
        ("devices.speaker", ("Speaker",)),
        ("devices.microphone", ("Microphone",)),
        ("devices.engine", ("Device", "list_devices")),
    ],
    "REST, and the process": [("rest.client", ("RestClient",)), ("client.signals", ("install_signal_handlers",))],
    "The local server": [
        ("offline.server", ("RealtimeServer",)),
        ("offline.script", ("Script", "Rule")),
        ("offline.voice", ("caller_voice",)),
    ],
    "Testing": [
        ("testing.server", ("ScriptedServer",)),
        ("testing.expectation", ("Expectation",)),
        ("testing.faults", ("Faults",)),
        ("testing.journal", ("Journal",)),
        ("testing.recording", ("RecordingServer",)),
        ("testing.replaying", ("ReplayServer",)),
        ("testing.telephone", ("FakeCaller",)),
    ],
    "Frameworks, telephone, many machines": [
        ("contrib.flask", ("Realtime",)),
        ("contrib.django", ("new_client", "keep", "find", "event_stream", "connect_on_commit", "own_connections")),
        ("contrib.twilio", ("bridge", "CallEnd", "CallStart", "is_from_twilio", "stream_twiml")),
        ("contrib.redis", ("share", "Owner", "Conversations", "Remote", "Outcome", "Cleaner", "clean")),
        ("contrib.sse", ("follow",)),
    ],
}
# A chapter with one of these holds every class of the module that descends from it.
FAMILIES = ("Event", "Command", "RealtimeError")
# Methods by which one part of the package tells another something; no program calls them.
INNER = frozenset({"adopt", "come_to", "converse", "follow", "refusal", "sent", "tap", "told"})
# Bases that are a part of the class rather than something of their own.
PARTS = ("Listening", "AudioIn", "Speaking")
_WIDTH = 110
INTRODUCTION = """# Reference

Written by `python -m docs.reference` from the docstrings; a test holds it against the code. What belongs together is explained on the other
[pages](README.md); which service has which event and command is told in [dialects.md](dialects.md). Everything without another address is
imported from `qai_realtime_sync`.
"""


# -- reading the source ------------------------------------------------------------------------------------------------------


@functools.cache
def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def _found(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef]:
    """The definition of a name in a module, or where that imports it from."""
    for node in _tree(module).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return module, node
    for one in ast.walk(_tree(module)):
        if isinstance(one, ast.ImportFrom) and one.module and any(name == (alias.asname or alias.name) for alias in one.names):
            return _found(one.module.removeprefix("qai_realtime_sync."), name)
    raise LookupError(f"{module} has no {name}")


def _family(module: str, base: str) -> Iterator[str]:
    known = {base}
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and (node.name == base or known & {ast.unparse(one) for one in node.bases}):
            known.add(node.name)
            yield node.name


def _public(node: ast.FunctionDef) -> bool:
    marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
    return not node.name.startswith("_") and node.name not in INNER and not marks & {"overload", "validator", "setter"}


def _members(module: str, node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """The public methods and properties of a class, those of its parts too."""
    yield from (one for one in node.body if isinstance(one, ast.FunctionDef) and _public(one))
    for base in node.bases:
        if ast.unparse(base) in PARTS:
            where, part = _found(module, ast.unparse(base))
            assert isinstance(part, ast.ClassDef)
            yield from _members(where, part)


# -- writing ----------------------------------------------------------------------------------------------------------------


def _words(node: ast.ClassDef | ast.FunctionDef) -> str:
    """A docstring as Markdown: names in double or single backquotes become code."""
    return _markdown(inspect.cleandoc(ast.get_docstring(node) or ""))


def _markdown(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _signature(node: ast.FunctionDef, called: str, width: int = 10_000) -> str:
    """A call with its arguments and defaults, one in a line if it is wider than that."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments = ast.arguments(**{**{name: getattr(arguments, name) for name in arguments._fields}, "args": arguments.args[1:]})
    result = "" if node.returns is None or ast.unparse(node.returns) == "None" else f" -> {ast.unparse(node.returns)}"
    given = [one.replace("lambda : ", "lambda: ") for one in _arguments(arguments)]  # as older Pythons spell it
    line = f"{called}({', '.join(given)}){result}"
    if len(line) <= width:
        return line
    return "\n".join([f"{called}(", *(f"    {one}," for one in given), f"){result}"])


def _arguments(given: ast.arguments) -> list[str]:
    shown = []
    plain = [*given.posonlyargs, *given.args]
    values: list[ast.expr | None] = [*[None] * (len(plain) - len(given.defaults)), *given.defaults]
    for argument, value in zip(plain, values):
        shown.append(ast.unparse(argument) + (f" = {ast.unparse(value)}" if value is not None else ""))
    if given.vararg is not None:
        shown.append(f"*{ast.unparse(given.vararg)}")
    elif given.kwonlyargs:
        shown.append("*")
    for argument, value in zip(given.kwonlyargs, given.kw_defaults):
        shown.append(ast.unparse(argument) + (f" = {ast.unparse(value)}" if value is not None else ""))
    if given.kwarg is not None:
        shown.append(f"**{ast.unparse(given.kwarg)}")
    return shown


def _fields(node: ast.ClassDef) -> list[str]:
    """The fields of an attrs class with their types and defaults."""
    shown = []
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            kind = ast.unparse(one.annotation)
            if "ClassVar" not in kind:
                shown.append(f"{one.target.id}: {kind}{_default(one.value)}")
    return shown


def _default(value: ast.expr | None) -> str:
    if value is None:
        return ""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("attrs.field", "field"):
        given = {one.arg: ast.unparse(one.value) for one in value.keywords}
        factory = next((one.value for one in value.keywords if one.arg == "factory"), None)
        if isinstance(factory, ast.Lambda):
            return f" = {ast.unparse(factory.body)}"
        if "factory" in given:
            made = {"list": "[]", "dict": "{}", "set": "set()"}.get(given["factory"], f"{given['factory']}()")
            return f" = {made}"
        return f" = {given['default']}" if "default" in given else ""
    return f" = {ast.unparse(value)}"


def _code(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _class(module: str, node: ast.ClassDef) -> Iterator[str]:
    yield f"### {node.name}"
    init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    fields = _fields(node) if any("attrs" in ast.unparse(mark) for mark in node.decorator_list) else []
    if fields:
        yield _code(fields)
    elif init is not None and not any("Error" in ast.unparse(base) for base in node.bases):
        yield _code([_signature(init, node.name, _WIDTH)])
    yield _words(node)
    members = list(_members(module, node))
    told: set[str] = set()
    for one in members:
        if one.name in told or not ast.get_docstring(one):
            continue
        told.add(one.name)
        marks = {ast.unparse(mark) for mark in one.decorator_list}
        if marks & {"property", "functools.cached_property"}:
            kind = f": {ast.unparse(one.returns)}" if one.returns is not None else ""
            yield f"**`{one.name}{kind}`**\n\n{_words(one)}"
        else:
            yield f"**`{_signature(one, one.name)}`**\n\n{_words(one)}"


def _member(module: str, name: str) -> str:
    """An event, a command or an error in one paragraph: there are many."""
    _, node = _found(module, name)
    assert isinstance(node, ast.ClassDef)
    fields = ", ".join(f"`{field}`" for field in _fields(node))
    text = _words(node)
    return f"**`{name}`**{': ' + fields if fields else ''}\n\n{text}"


def _chapter(title: str) -> Iterator[str]:
    yield f"## {title}"
    if title in ("Events", "Commands", "Errors"):
        yield _markdown(inspect.cleandoc(ast.get_docstring(_tree(title.lower())) or ""))
    for module, names in CHAPTERS[title]:
        if module.split(".")[0] in ("devices", "offline", "testing", "contrib"):
            parts = module.split(".")
            yield f"From `qai_realtime_sync.{'.'.join(parts if parts[0] == 'contrib' else parts[:1])}`:"
        for name in names:
            if name in FAMILIES:
                yield from (_member(module, one) for one in _family(module, name))
                continue
            where, node = _found(module, name)
            if isinstance(node, ast.ClassDef):
                yield from _class(where, node)
            else:
                yield f"### {node.name}"
                yield _code([_signature(node, node.name, _WIDTH)])
                yield _words(node)


def reference() -> str:
    """Return the page."""
    parts = [INTRODUCTION.strip()]
    for title in CHAPTERS:
        last = ""
        for part in _chapter(title):
            if part and part != last:
                parts.append(part)
            last = part if part.startswith("From `") else last
    return "\n\n".join(parts) + "\n"


# -- close codes -------------------------------------------------------------------------------------------------------------

_CODES = (None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4001, 4300)
_REASONS = ("insufficient balance", "session duration limit reached", "token expired")


def endings() -> str:
    """Return what each dialect makes of the code, or of the words of the reason, with which a connection ends, as Markdown."""
    made = {name: kind(gateway=name == "gateway") for name, kind in DIALECTS.items()}
    lines = [f"| close | {' | '.join(made)} |", f"|---{'|---' * len(made)}|"]
    rows = [(f"`{code}`" if code else "none: it broke", code, "") for code in _CODES]
    rows += [(f"any, “{reason}”", 1008, reason) for reason in _REASONS]
    for title, code, reason in rows:
        ends = [dialect.ending(code, reason) for dialect in made.values()]
        lines.append(f"| {title} | {' | '.join(f'`{end.meaning}`' + (' ↻' if end.retry else '') for end in ends)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the reference, or with ``--endings`` the table of close codes."""
    sys.stdout.write(endings() if "--endings" in sys.argv[1:] else reference())


if __name__ == "__main__":
    main()
