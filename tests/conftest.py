"""Rules that hold for every test: nothing is left behind, what is skipped has a reason, random inputs are the same every time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pathlib
import select
import signal
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import hypothesis
import pytest

from tests.pulse import PulseServer, needs_pulse

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what it puts into the background so, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The programs that tests start are not measured: there are hundreds, and it would take the suite a third longer.
if "PYTEST_XDIST_WORKER" in os.environ:  # those are processes too, and are
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

REQUIRE_ALL = os.environ.get("REQUIRE_ALL") == "1"
_ENDING = 15.0  # seconds that what is ending already gets to be over

hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.register_profile("thorough", parent=hypothesis.settings.get_profile("fixed"), max_examples=20_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


# The files that take longest, the longest first: run side by side, they must not begin last.
_LONGEST = (
    "tests/cli/test_demo.py",
    "tests/test_examples.py",
    "tests/offline/test_offline_voice.py",
    "tests/contrib/test_redis_cleaner.py",
    "tests/faults/test_processes.py",
    "tests/client/test_billing.py",
    "tests/cli/test_program.py",
    "tests/cli/test_talk.py",
    "tests/transport/test_closing.py",
    "tests/testing/test_plugin.py",
    "tests/test_docs.py",
    "tests/scenes/test_dialects.py",
    "tests/contrib/test_twilio.py",
    "tests/client/test_closing.py",
    "tests/test_readme.py",
    "tests/scenes/test_long_conversation.py",
    "tests/contrib/test_many_machines.py",
    "tests/cli/test_report.py",
    "tests/test_layers.py",
    "tests/faults/test_in_flight.py",
    "tests/cli/test_record.py",
    "tests/scenes/test_ledger.py",
    "tests/scenes/test_barge_in.py",
    "tests/offline/test_offline_turns.py",
    "tests/testing/test_ears.py",
    "tests/faults/test_endurance.py",
    "tests/contrib/test_redis.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the order within a file stays."""
    place = {name: at for at, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.location[0].replace(os.sep, "/"), len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Under REQUIRE_ALL=1 a skipped test has failed: everything it needs should be there."""
    return _skip_is_failure((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """The same for a whole file that skips itself."""
    return _skip_is_failure((yield))


def _skip_is_failure(report: Any) -> Any:
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail") and not _wants_recordings(report):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, and REQUIRE_ALL=1 allows no skip: {report.longrepr}"
    return report


def _wants_recordings(report: Any) -> bool:
    """The recordings are no part of the project: where they are missing, their tests may skip."""
    return not os.environ.get("QAI_RECORDINGS") and ("QAI_RECORDINGS" in str(report.longrepr) or "recordings" in report.nodeid)


@pytest.fixture(scope="session")
def recordings() -> pathlib.Path:
    """The folder of public recordings of five services, named by QAI_RECORDINGS."""
    folder = os.environ.get("QAI_RECORDINGS", "")
    if not folder:
        pytest.skip("QAI_RECORDINGS does not name the folder of recordings")
    path = pathlib.Path(folder)
    assert path.is_dir(), f"QAI_RECORDINGS names {folder}, which is not a folder"
    return path


# -- nothing is left behind --------------------------------------------------------------------------------------------------


def _sockets() -> set[str]:
    """Return the inodes of this process's open sockets, where the system tells them (Linux)."""
    found = set()
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return set()
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


def _children() -> set[int]:
    """Return the process ids of running children, where the system tells them (Linux); multiprocessing reaps its own first."""
    multiprocessing.active_children()
    found = set()
    for thread in pathlib.Path("/proc/self/task").glob("*/children"):
        try:
            found |= {int(pid) for pid in thread.read_text().split()}
        except OSError:
            continue  # the thread ended while the list was read
    return {pid for pid in found if not _is_resource_tracker(pid)}


def _is_resource_tracker(pid: int) -> bool:
    """Tell whether this is multiprocessing's own helper, which lives as long as the process."""
    try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # over by now
    return b"multiprocessing" in command and (b"resource_tracker" in command or b"forkserver" in command)


def _wait_for_children(left: set[int], deadline: float) -> set[int]:
    """Return which of these processes still run at the deadline, or ended and were waited for by nobody."""
    for pid in left:
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            continue  # over by now
        try:
            select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(descriptor)
    return _children() & left


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread named ``qai-…``, a socket or a child process behind."""
    before, sockets, children = set(threading.enumerate()), _sockets(), _children()
    yield
    deadline = time.monotonic() + _ENDING
    problems = []
    for thread in [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("qai-")]:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            problems.append(f"the thread {thread.name}")
    if _sockets() - sockets:
        gc.collect()  # a socket in a reference cycle is forgotten, not left open
        for thread in set(threading.enumerate()) - before:
            thread.join(max(0.0, deadline - time.monotonic()))  # a server's thread that is ending closes its socket
        problems += [f"a socket ({name})" for name in sorted(_sockets() - sockets)]
    if running := _children() - children:
        problems += [f"the child process {pid}" for pid in sorted(_wait_for_children(running, deadline))]
    assert not problems, "the test left behind: " + ", ".join(problems)


# -- a sound server, for the tests of devices ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulseServer]:
    """A sound server for the tests of one file that leave it as it is."""
    needs_pulse()
    with PulseServer(tmp_path_factory.mktemp("pulse")) as server:
        yield server


@pytest.fixture
def pulse(sound_server: PulseServer, monkeypatch: pytest.MonkeyPatch) -> PulseServer:
    """The same, found by this process and the programs it starts."""
    for name, value in sound_server.variables.items():
        monkeypatch.setenv(name, value)
    return sound_server


@pytest.fixture
def own_pulse(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PulseServer]:
    """A sound server for one test, which may do to it what it likes; found by this process and the programs it starts."""
    needs_pulse()
    folder = tmp_path / "pulse"
    folder.mkdir()
    with PulseServer(folder) as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server
