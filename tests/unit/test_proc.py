# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of a process is read as the kernel writes it."""

import mmap
import os
import threading
from pathlib import Path

import pytest

from mptrace import driver
from mptrace.host import proc

MAPS = b"""\
559f00000000-559f00002000 r-xp 00003000 08:01 1234                       /usr/bin/a program
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 
7fff00000000-7fff00004000 rw-p 00000000 00:00 0                          [stack]
"""  # noqa: W291
#: Inside the first mapping and after the last.
SMAPS = MAPS.replace(b"program\n", b"program\nRss:     12 kB\nVmFlags: rd ex \n") + b"Rss: 4 kB\n"
KTHREAD = "2 (k)worker (x)) S 0 0 0 0 -1 2129984 0 0\n"


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    for pid, name, text in (
        (7, "maps", MAPS.decode()),
        (7, "smaps", SMAPS.decode()),
        (7, "cgroup", "5:cpuset:/x\n0::/work.slice/a:b\n"),
        (7, "status", "Name:\ta: b\\n\nTgid:\t5\nState:\tD (disk sleep)\n"),
        (7, "stack", "[<0>] folio_wait_bit+0x1/0x2\n[<0>] do_pages_move+0x3/0x4 [mod]\n"),
        (2, "stat", KTHREAD),
        (2, "cgroup", "5:cpuset:/x\n"),
        (2, "maps", ""),
        (2, "smaps", ""),
    ):
        (tmp_path / f"proc/{pid}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"proc/{pid}/{name}").write_text(text)
    (tmp_path / "proc/sys").mkdir()
    return tmp_path


def test_a_line_of_maps(root: Path) -> None:
    """Names have blanks, or are not there; a kernel thread has no mapping."""
    found = list(proc.mapped(proc.maps(7, root)))
    first = proc.Mapped(
        0x559F00000000, 0x559F00002000, "r-xp", 0x3000, b"08:01 1234", b"/usr/bin/a program"
    )
    assert found[0] == first
    assert [one.name for one in found[1:]] == [b"", b"[stack]"]
    assert [one.file.endswith(b" 0") for one in found] == [False, True, True]
    assert not list(proc.mapped(proc.maps(2, root)))
    assert not proc.smaps(2, root)


def test_smaps_are_maps_with_fields(root: Path) -> None:
    """Each mapping has those that follow it; a size that is not there is 0."""
    found = proc.smaps(7, root)
    assert [one for one, _ in found] == list(proc.mapped(MAPS))
    assert [proc.smaps_bytes(fields, "Rss") for _, fields in found] == [12 << 10, 0, 4 << 10]
    assert found[0][1]["VmFlags"] == "rd ex"


def test_a_name_with_parentheses(root: Path) -> None:
    """The last one ends it; PF_KTHREAD tells the kernel's threads."""
    assert proc.stat(2, root=root) == proc.Stat(b"k)worker (x)", True)


def test_fields_of_status(root: Path) -> None:
    """The kernel escapes a line feed in the name, and no colon."""
    assert proc.status(7, root)["Name"] == "a: b\\n"
    assert proc.status(7, root)["State"].startswith("D")
    assert proc.tgid(7, root) == 5


def test_the_cgroup_is_that_of_the_unified_hierarchy(root: Path) -> None:
    """Its path may have colons; without one there is none."""
    assert proc.cgroup(7, root) == "/work.slice/a:b"
    assert proc.cgroup(2, root) is None


def test_the_kernel_functions_a_thread_sleeps_in(root: Path) -> None:
    """Innermost first, without offsets."""
    assert proc.kernel_stack(7, root) == ["folio_wait_bit", "do_pages_move"]


def test_processes_are_the_numbers(root: Path) -> None:
    """The rest of /proc is about the system."""
    assert sorted(proc.pids(root)) == [2, 7]
    assert (proc.is_there(7, root), proc.is_there(3, root)) == (True, False)


def test_a_process_that_is_gone_is_an_error_of_the_system(root: Path) -> None:
    """Whoever asks says what that means; of this process alone nothing is an answer."""
    for ask in (proc.comm, proc.owner, proc.stat, proc.status, proc.cgroup, proc.maps, proc.smaps):
        with pytest.raises(FileNotFoundError):
            ask(3, root=root)  # type: ignore[operator]
    assert proc.own_status(root) == {}


def test_this_process_and_its_threads() -> None:
    """The running kernel's own files, by what this process knows of itself."""
    pid, done = os.getpid(), threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert {pid, thread.native_id} <= set(proc.tids(pid))
        assert proc.tgid(thread.native_id or 0) == pid
        assert not proc.stat(pid, thread.native_id).is_kthread
    finally:
        done.set()
        thread.join()
    assert pid in proc.pids()
    assert proc.comm(pid) == proc.stat(pid).comm
    assert proc.owner("self") == os.geteuid()
    assert proc.pid_namespace("self").startswith("pid:[")
    base = driver.map_memory(23 * mmap.PAGESIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    (own,) = [one for one in proc.mapped(proc.maps("self")) if one.start == base]
    assert (own.end - base, own.perms) == (23 * mmap.PAGESIZE, "rw-s")
    driver.unmap(base, 23 * mmap.PAGESIZE)
