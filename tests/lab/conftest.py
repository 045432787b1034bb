# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for the tests of this directory: each test runs here and commands a guest.

A test takes the fixture ``guest`` and thereby runs once on each kernel of
MPTRACE_LAB_KERNELS (by default all series).  ``@pytest.mark.nodes("1G,1G,512M")``
asks for a topology, by default two nodes of 1G; ``@pytest.mark.multi`` for CPUs that really run at
once, ``@pytest.mark.counted`` for a guest that counts instructions.  A guest that can't boot is a
failure, never a skip.

With xdist (`-n 3 --dist loadgroup --no-loadscope-reorder`) the tests of one kernel and one
topology are a group, which one worker runs with one guest; those of the default topology are
a group for each file.  The groups that take longest come first, and tests without a guest
last: no core waits for the other one.
"""

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mptrace.lab.guest import Completed, Guest
from mptrace.lab.kernels import SERIES, find_kernel
from mptrace.lab.programs import SharedPrograms
from mptrace.lab.topology import parse_nodes

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
KERNELS = os.environ.get("MPTRACE_LAB_KERNELS", ",".join(SERIES)).split(",")
DEFAULT_NODES = "2"
#: Files by how long they take, as far as that matters for who begins first.
LONGEST = ("test_record", "test_outcomes", "test_run", "test_paths", "test_conform")
KHUGEPAGED = "/sys/kernel/mm/transparent_hugepage/khugepaged"


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of this directory."""
    config.addinivalue_line(
        "markers", "nodes(spec): the guest's nodes, as of `mptrace lab --nodes`"
    )
    config.addinivalue_line("markers", "multi: the guest's CPUs run at once, as of --threads multi")
    config.addinivalue_line("markers", "counted: the guest counts instructions, as of --count")
    config.addinivalue_line("markers", "one_kernel: does not depend on the kernel")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say where the tests are, unless this is one of xdist's workers."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and "PYTEST_XDIST_WORKER" not in os.environ:
        session.config.pluginmanager.register(Progress(terminal))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a guest runs on each kernel."""
    if "kernel" in metafunc.fixturenames:
        # what does not depend on the kernel runs on the last one only
        once = metafunc.definition.get_closest_marker("one_kernel")
        metafunc.parametrize("kernel", KERNELS[-1:] if once else KERNELS)


def _machine(item: pytest.Item) -> tuple[str, str]:
    """The nodes of the guest that a test asks for, and how its CPUs run."""
    marker = item.get_closest_marker("nodes")
    threads = next((way for way in ("multi", "counted") if item.get_closest_marker(way)), "single")
    return (marker.args[0] if marker else DEFAULT_NODES), threads


def _kernel(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("kernel") if callspec else None


def _group(item: pytest.Item) -> str:
    """Tests of one group share what they keep, in one worker."""
    nodes, threads = _machine(item)
    share = item.path.stem if (nodes, threads) == (DEFAULT_NODES, "single") else nodes
    return f"{_kernel(item)} {share} {threads}"


# before xdist's own, which writes the groups into the tests' names
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory and bring those that share a guest together."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("lab")
            if _kernel(item):
                item.add_marker(pytest.mark.xdist_group(_group(item)))

    def order(item: pytest.Item) -> tuple[int, int, str]:
        if not _kernel(item):
            return len(LONGEST) + 1, 0, ""
        name = item.path.stem
        place = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        return place, KERNELS.index(_kernel(item)), _group(item)

    items.sort(key=order)


class Progress:
    """Says where the tests are: a line for each that took a while, to whoever waits."""

    LONG_S = 10.0

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._began = time.monotonic()
        self._took: Counter[str] = Counter()
        self._lab, self._others = 0, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the time of a test's parts."""
        self._took[report.nodeid] += report.duration
        if report.when == "teardown":
            self._lab += "lab" in report.keywords
            self._others += "lab" not in report.keywords

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write the line."""
        took = self._took.pop(nodeid, 0.0)
        if took >= self.LONG_S:
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            name = nodeid.partition("@")[0].rpartition("/")[2]
            self._terminal.ensure_newline()
            self._terminal.write_line(
                f"{minutes}:{seconds:02} {name} took {took:.0f} s; "
                f"{self._lab} tests in guests and {self._others} others are done"
            )


class Pool:
    """The one guest that is alive, replaced when another is asked for or it died."""

    def __init__(self) -> None:
        self._key: tuple[str, str, str] | None = None
        self._guest: Guest | None = None
        self._programs: SharedPrograms | None = None

    def get(self, kernel: str, nodes: str, threads: str) -> Guest:
        """A booted guest with this ``kernel``, these ``nodes`` and these ``threads``."""
        key = kernel, nodes, threads
        if self._guest is None or self._key != key or not self._guest.alive:
            self.close()
            is_counted = threads == "counted"
            self._guest = Guest(
                find_kernel(kernel),
                parse_nodes(nodes),
                threads="single" if is_counted else threads,
                count=is_counted,
            )
            self._guest.boot()
            # it makes untouched pages present, between what a test does and what it checks
            still = f"echo 0 >{KHUGEPAGED}/max_ptes_none"
            assert self._guest.run(["sh", "-c", still]).returncode == 0
            self._programs = SharedPrograms(self._guest)
            self._programs.lend()
            self._key = key
        return self._guest

    def close(self) -> None:
        """End the guest."""
        if self._guest is not None:
            if self._programs is not None and self._guest.alive:
                self._programs.collect()
            self._guest.close()
            self._guest = self._programs = None


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """The pool of the session."""
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def guest(pool: Pool, kernel: str, request: pytest.FixtureRequest) -> Guest:
    """A booted guest; the state that a test leaves in it is the next test's too."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        # else each worker boots each kernel, and what is shared is done twice
        assert request.node.nodeid.endswith(f"@{_group(request.node)}"), "use --dist loadgroup"
    return pool.get(kernel, *_machine(request.node))


_numbers = itertools.count()


@pytest.fixture
def guest_dir(guest: Guest) -> str:
    """A directory of the guest's own for one test; not seen by the host."""
    path = f"/var/tmp/mptrace-test-{next(_numbers)}"
    assert guest.run(["mkdir", path]).returncode == 0
    return path


@pytest.fixture(scope="session")
def holder_program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """holder.c, compiled."""
    program = tmp_path_factory.mktemp("holder") / "holder"
    flags = "-static -O1 -Wall -Werror"
    subprocess.run(["gcc", *flags.split(), "-o", program, HERE / "holder.c"], check=True)
    return program.read_bytes()


@pytest.fixture
def holder(guest: Guest, guest_dir: str, holder_program: bytes) -> str:
    """Where holder.c is in the guest: a process that has pages, small and static."""
    guest.put(f"{guest_dir}/holder", holder_program, mode=0o755)
    return f"{guest_dir}/holder"


@pytest.fixture
def mptrace(guest: Guest, guest_dir: str) -> Callable[..., Completed]:
    """Call ``mptrace(*arguments, timeout=600)`` in the guest, in ``guest_dir``; a Completed."""

    def call(*arguments: str, timeout: float = 600.0) -> Completed:
        argv = [sys.executable, "-m", "mptrace", *arguments]
        return guest.run(argv, cwd=guest_dir, timeout=timeout)

    return call


@pytest.fixture
def refusals(guest: Guest, guest_dir: str) -> Callable[..., list[Completed]]:
    """Call mptrace with each list of arguments, in ``guest_dir``: see several.py."""

    def call(*arguments: list[str]) -> list[Completed]:
        argv = [sys.executable, str(HERE / "several.py"), json.dumps(arguments)]
        done = guest.run(argv, cwd=guest_dir, timeout=600)
        assert done.returncode == 0, done.errors
        return [
            Completed(status, out.encode(), err.encode())
            for status, out, err in json.loads(done.text)
        ]

    return call


@pytest.fixture
def fetch(guest: Guest, tmp_path: Path) -> Callable[[str], Path]:
    """Copy the directory or file ``path`` of the guest here; where it is now."""

    def copy(path: str) -> Path:
        done = guest.run(["tar", "-C", os.path.dirname(path), "-cf", "-", os.path.basename(path)])
        assert done.returncode == 0, done.errors
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            tar.extractall(tmp_path)
        return tmp_path / os.path.basename(path)

    return copy
