# SPDX-License-Identifier: GPL-2.0-or-later
"""Driver, workloads, worker and where on a real NUMA kernel; run by test_driver.py in a guest.

The judge is the kernel through other ways than mptrace's: move_pages(2) called
by this process with ctypes, numa_maps, smaps, /proc/vmstat, strace.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mptrace.driving.worker_client import RoundReply, TargetGone, Worker
from mptrace.driving.workloads import HOLE, UNMAPPED, Explicit, Workload
from mptrace.errors import HostError

PAGE = 4096
PAGES = 509
SENTINEL = 0x7EAD0000
KINDS = ("4k", "thp", "hugetlb", "shmem", "file")
MPTRACE = str(Path(sys.executable).parent / "mptrace")
_libc = ctypes.CDLL(None, use_errno=True)


def oracle(pid: int, addresses: np.ndarray) -> np.ndarray:
    """The node or -errno of each address, asked by this process."""
    pages = (ctypes.c_ulong * len(addresses))(*addresses.tolist())
    status = (ctypes.c_int * len(addresses))()
    number = ctypes.c_long(279)
    ret = _libc.syscall(
        number, ctypes.c_long(pid), ctypes.c_ulong(len(addresses)), pages, None, status, 0
    )
    assert ret == 0, os.strerror(ctypes.get_errno())
    return np.array(status)


def numa_maps(pid: int) -> dict[int, dict[int, int]]:
    """Start of each mapping -> node -> base pages."""
    found = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        size = int(re.search(r"kernelpagesize_kB=(\d+)", line)[1]) // 4 if "N" in line else 1
        counts = re.findall(r" N(\d+)=(\d+)", line)
        found[int(line.split()[0], 16)] = {int(nid): int(n) * size for nid, n in counts}
    return found


def smaps_at(pid: int, address: int) -> str:
    """The paragraph of smaps of the mapping that holds ``address``."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    for paragraph in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
        start, end = (int(part, 16) for part in paragraph.split()[0].split("-"))
        if start <= address < end:
            return paragraph
    raise AssertionError(f"{address:x} is not mapped")


def vmstat(name: str) -> int:
    """A counter of /proc/vmstat."""
    return int(re.search(rf"^{name} (\d+)$", Path("/proc/vmstat").read_text(), re.M)[1])


@pytest.fixture(scope="session", autouse=True)
def _huge_pages() -> Iterator[None]:
    """Eight hugetlb pages on node 0; the pools as they were afterwards."""
    pools = [
        Path(f"/sys/devices/system/node/node{nid}/hugepages/hugepages-2048kB/nr_hugepages")
        for nid in (0, 1)
    ]
    before = [pool.read_text() for pool in pools]
    pools[0].write_text("8")
    assert int(pools[0].read_text()) == 8
    yield
    for pool, text in zip(pools, before, strict=True):
        pool.write_text(text)


@pytest.fixture(scope="session", name="disk")
def _disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on ext4; the guest's own files are in RAM."""
    image = tmp_path_factory.mktemp("image") / "ext4"
    point = tmp_path_factory.mktemp("disk")
    with image.open("wb") as file:
        file.truncate(64 << 20)
    for command in (
        ["modprobe", "loop"],
        ["mkfs.ext4", "-q", image],
        ["mount", "-o", "loop", image, point],
    ):
        subprocess.run(command, check=True)
    yield point
    subprocess.run(["umount", point], check=True)


@pytest.fixture(scope="module", name="worker")
def _worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


@contextlib.contextmanager
def victim(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that ran ``program`` and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}\nprint(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Hold it still: on its way to waiting for input it would go on touching pages for a while."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def there(reply: RoundReply) -> np.ndarray:
    """The rows of locations on the way there."""
    forward = reply.calls["driver_call"][reply.calls["backward"] == 0]
    return reply.locations[np.isin(reply.locations["driver_call"], forward)]


def workload(kind: str, disk: Path, **options: object) -> Workload:
    """Enough pages for four huge ones, or 509."""
    pages = 2048 if kind in ("thp", "hugetlb") else PAGES
    return Workload(
        kind=kind, pages=pages, directory=str(disk) if kind == "file" else "", **options
    )


@pytest.mark.parametrize("target", ["self", "child"])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_move_there_and_stay(worker: Worker, disk: Path, kind: str, target: str) -> None:
    """Before they are on node 0, afterwards on node 1, as numa_maps and a query tell."""
    setup = worker.setup(workload(kind, disk, target=target, back=False))
    before = numa_maps(setup.target_pid)
    reply = worker.round(record=True)
    addresses = reply.locations["address"]
    assert (reply.locations["before_nid"] == 0).all()
    assert (oracle(setup.target_pid, addresses) == 1).all()
    assert (reply.locations["final_nid"] == 1).all()
    assert (worker.statuses()["status"] == 1).all()
    base = int(addresses.min())
    assert before[base] == {0: setup.base_pages}
    assert numa_maps(setup.target_pid)[base] == {1: setup.base_pages}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_what_was_asked_for(worker: Worker, disk: Path, kind: str) -> None:
    """As smaps tells; entries are folios."""
    setup = worker.setup(workload(kind, disk))
    address = int(worker.round(record=True).locations["address"][0])
    text = smaps_at(setup.target_pid, address)
    fields = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.M))
    huge = kind in ("thp", "hugetlb")
    assert (setup.entries, setup.base_pages) == ((4, 2048) if huge else (PAGES, PAGES))
    assert int(fields["AnonHugePages"]) == (8192 if kind == "thp" else 0)
    assert int(fields["KernelPageSize"]) == (2048 if kind == "hugetlb" else 4)
    header = text.splitlines()[0]
    assert ("memfd:mptrace" in header) == (kind == "shmem")
    assert (f" {disk}/" in header) == (kind == "file")


@pytest.mark.parametrize("kind", KINDS)
def test_vmstat_counts_what_moved_there_and_back(worker: Worker, disk: Path, kind: str) -> None:
    """pgmigrate_success grows by the folios' base pages, twice; afterwards all are home."""
    setup = worker.setup(workload(kind, disk))
    before = vmstat("pgmigrate_success")
    reply = worker.round(record=True)
    assert vmstat("pgmigrate_success") - before == 2 * setup.base_pages
    assert (there(reply)["final_nid"] == 1).all()
    assert (oracle(setup.target_pid, reply.locations["address"]) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_pinned_folios_stay(worker: Worker, disk: Path, kind: str) -> None:
    """A quarter is pinned: exactly so many calls of one entry return 1 and leave it there."""
    setup = worker.setup(workload(kind, disk, pin=0.25, pages_per_call=1, back=False, seed=7))
    reply = worker.round(record=True)
    where = oracle(setup.target_pid, reply.locations["address"])
    failed = reply.calls["ret"] == 1
    assert np.count_nonzero(failed) == round(0.25 * setup.entries)
    assert not reply.calls["ret"][~failed].any()
    assert (where == np.where(failed, 0, 1)).all()
    assert (worker.statuses()["status"] == np.where(failed, SENTINEL, 1)).all()
    assert reply.totals.positive == np.count_nonzero(failed)


def test_hundreds_of_pins_fill_many_pipes(worker: Worker) -> None:
    """Half of 2003 pages."""
    setup = worker.setup(Workload(pages=2003, pin=0.5, pages_per_call=1, back=False))
    reply = worker.round(record=True)
    assert np.count_nonzero(reply.calls["ret"] == 1) == round(0.5 * 2003)
    assert np.count_nonzero(oracle(setup.target_pid, reply.locations["address"]) == 0) == 1002


@pytest.mark.parametrize("kind", ["4k", "shmem", "file"])
def test_extras_are_what_they_are_called(worker: Worker, disk: Path, kind: str) -> None:
    """Holes and unmapped addresses have no page; duplicates are told -EBUSY or the node."""
    options = {"duplicates": 0.1, "holes": 0.05, "bad": 3, "pattern": "random"}
    setup = worker.setup(workload(kind, disk, back=False, **options))
    reply = worker.round(record=True)
    addresses, status = reply.locations["address"], worker.statuses()["status"]
    where = oracle(setup.target_pid, addresses)
    assert setup.entries == PAGES + 51 + 25 + 3
    assert np.count_nonzero(where < 0) == 28
    assert (where[where >= 0] == 1).all()
    assert (status[where < 0] == where[where < 0]).all()
    assert set(status[where >= 0]) <= {1, -errno.EBUSY}
    assert np.unique(addresses[where >= 0]).size == PAGES
    assert np.unique(addresses[where < 0]).size == 28
    assert np.count_nonzero(where == -errno.EFAULT) in (3, 28)


def test_every_page_of_a_huge_one_can_be_named(worker: Worker) -> None:
    """2048 entries for 4 folios; the duplicates of a folio are told -EBUSY once."""
    setup = worker.setup(Workload(kind="thp", pages=2048, every_page=True, back=False))
    reply = worker.round(record=True)
    assert setup.entries == 2048
    assert (oracle(setup.target_pid, reply.locations["address"]) == 1).all()


@pytest.mark.parametrize("alternate", [True, False])
def test_several_targets_in_one_call(worker: Worker, alternate: bool) -> None:
    """Each entry ends on its own target."""
    setup = worker.setup(Workload(pages=10, target_nids=(1, 0), alternate=alternate, back=False))
    reply = worker.round(record=True)
    expected = [1, 0] * 5 if alternate else [1] * 5 + [0] * 5
    assert oracle(setup.target_pid, reply.locations["address"]).tolist() == expected
    assert worker.statuses()["target_nid"].tolist() == expected


@pytest.mark.parametrize("target", ["self", "child"])
def test_explicit_entries(worker: Worker, target: str) -> None:
    """Duplicates, a pin, a hole, an unmapped address, three groups."""
    entries = ((4, 1), (UNMAPPED, 1), (0, 1), (4, 0), (2, 1), (HOLE, 0), (3, 1))
    explicit = Explicit(entries, pinned=(2,))
    options = {"pages": 5, "target": target, "back": False}
    setup = worker.setup(Workload(source_nids=(0,), explicit=explicit, **options))
    reply = worker.round(record=True)
    addresses = reply.locations["address"]
    where = oracle(setup.target_pid, addresses)
    hole = where[5]
    assert hole in (-errno.ENOENT, -errno.EFAULT)
    # Entry 3 moves page 4 home again.  The node changes at the hole: page 2's group fails
    # there and ends the call, with 1 folio failed and 2 entries never attempted.
    assert where.tolist() == [0, -errno.EFAULT, 1, 0, 0, hole, 0]
    unset = SENTINEL
    assert worker.statuses()["status"].tolist() == [1, -errno.EFAULT, 1, 0, unset, unset, unset]
    assert reply.calls["ret"].tolist() == [3]


def test_threads_call_at_once_on_one_address_space(worker: Worker) -> None:
    """Three of them, each with its share."""
    setup = worker.setup(Workload(pages=PAGES, threads=3, pages_per_call=50, back=False))
    reply = worker.round(record=True)
    assert len(set(reply.calls["tid"])) == 3
    assert (oracle(setup.target_pid, reply.locations["address"]) == 1).all()


def test_strace_sees_the_arguments_that_are_recorded(worker: Worker, tmp_path: Path) -> None:
    """Process, count, addresses, nodes, statuses, flags and return value of each call."""
    options = {"target": "child", "move_all": True, "pages": 5, "pin": 0.2, "seed": 3}
    setup = worker.setup(Workload(pages_per_call=3, **options))
    log = tmp_path / "strace"
    command = ["strace", "-f", "-v", "-e", "trace=move_pages", "-o", log, "-p", str(worker.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        assert b"attached" in strace.stderr.readline()
        reply = worker.round(record=True)
        strace.send_signal(signal.SIGINT)
    calls = [line for line in log.read_text().splitlines() if "MPOL_MF_MOVE_ALL" in line]
    assert len(calls) == len(reply.calls) == 4
    rows = worker.statuses()
    for line, call in zip(calls, reply.calls, strict=True):
        mine = rows[rows["driver_call"] == call["driver_call"]]
        pid, count, pages, nodes, status, flags, ret = re.search(
            r"move_pages\((\d+), (\d+), \[(.*?)\], \[(.*?)\], \[(.*?)\], (\w+)\) = (\d+)", line
        ).groups()
        assert (int(pid), int(count)) == (setup.target_pid, call["entries"])
        assert [int(text, 16) for text in pages.split(", ")] == mine["address"].tolist()
        assert [int(text) for text in nodes.split(", ")] == mine["target_nid"].tolist()
        assert flags == "MPOL_MF_MOVE_ALL"
        assert int(ret) == call["ret"]
        told = [
            SENTINEL if int(text, 0) == SENTINEL else int(text, 0) for text in status.split(", ")
        ]
        assert told == mine["status"].tolist()


def test_a_shared_page_needs_move_all(worker: Worker) -> None:
    """MOVE of a page that two processes map is refused, MOVE_ALL moves it."""
    program = "import mmap, os\nm = mmap.mmap(-1, 23 * 4096)\nm.write(b'x' * 23 * 4096)\n"
    program += "import ctypes\nat = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
    program += "print(hex(at), flush=True)\nif not os.fork():\n m[0:1]\n import signal\n"
    program += " [m[i] for i in range(0, len(m), 4096)]\n os.write(3, b'.')\n signal.pause()\n"
    reader, writer = os.pipe()
    command = [sys.executable, "-c", program + "input()"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.dup2(writer, 3),
        pass_fds=(3,),
        start_new_session=True,
    ) as process:
        base = int(process.stdout.readline(), 16)
        os.read(reader, 1)
        options = {"target": "pid", "pid": process.pid, "ranges": ((base, base + 23 * PAGE),)}
        nid = int(oracle(process.pid, np.array([base], np.uint64))[0])
        options |= {"source_nids": (nid,), "target_nids": (1 - nid,)}
        worker.setup(Workload(**options))
        worker.round(record=True)
        refused = worker.statuses()["status"][:23].tolist()
        worker.setup(Workload(move_all=True, **options))
        moved = there(worker.round(record=True))["final_nid"].tolist()
        worker.teardown()
        os.killpg(process.pid, signal.SIGKILL)
    os.close(reader)
    os.close(writer)
    assert refused == [-errno.EACCES] * 23
    assert moved == [1 - nid] * 23


# Anonymous memory with pages on both nodes: its first 101 on node 0, the next 103 on node 1.
TWO_NODES = """
import ctypes, mmap
libc = ctypes.CDLL(None)
memory = mmap.mmap(-1, 509 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(15)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
mask = (ctypes.c_ulong * 1)
def put(nid, first, count):
    assert not libc.syscall(ctypes.c_long(238), 2, mask(1 << nid), ctypes.c_ulong(64))
    for page in range(first, first + count):
        memory[page * 4096] = 1
put(0, 0, 101)
put(1, 101, 103)
print(hex(base), flush=True)
"""


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """That process and the address of its memory."""
    with subprocess.Popen(
        [sys.executable, "-c", TWO_NODES + "input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        base = int(process.stdout.readline(), 16)
        yield process, base
        process.kill()


def nodes_of(pid: int, base: int) -> np.ndarray:
    """Where the 204 pages are."""
    return oracle(pid, base + np.arange(204, dtype=np.uint64) * np.uint64(PAGE))


HOME = np.repeat([0, 1], [101, 103])


def test_another_processs_pages_go_and_come_back(worker: Worker) -> None:
    """What would move is told first; each page ends where it was, on either node."""
    with two_nodes() as (process, base):
        options = {"target": "pid", "pid": process.pid, "ranges": ((base, base + 509 * PAGE),)}
        setup = worker.setup(Workload(source_nids=(0,), target_nids=(1,), **options))
        assert setup.would_move == [
            {"start": base, "end": base + 509 * PAGE, "name": "", "pages": 101, "nodes": {"0": 101}}
        ]
        assert (nodes_of(process.pid, base) == HOME).all()
        reply = worker.round(record=True)
        assert (there(reply)["final_nid"] == 1).all()
        assert (nodes_of(process.pid, base) == HOME).all()


def test_back_is_where_each_page_was(worker: Worker) -> None:
    """Pages of both nodes change places and return; back=False leaves them."""
    with two_nodes() as (process, base):
        options = {"target": "pid", "pid": process.pid, "ranges": ((base, base + 509 * PAGE),)}
        # One call moves 204 entries to one and the other node in turn.
        options |= {"source_nids": (0, 1), "target_nids": (1, 0)}
        setup = worker.setup(Workload(**options))
        assert setup.entries == 204
        reply = worker.round(record=True)
        assert there(reply)["final_nid"].tolist() == [1, 0] * 102
        assert (nodes_of(process.pid, base) == HOME).all()
        worker.setup(Workload(back=False, **options))
        worker.round()
        worker.teardown()
        assert nodes_of(process.pid, base).tolist() == [1, 0] * 102


def test_an_interrupted_round_is_made_good_at_the_end(worker: Worker) -> None:
    """Pages that are away when it ends go home with the teardown."""
    with two_nodes() as (process, base):
        options = {"target": "pid", "pid": process.pid, "ranges": ((base, base + 509 * PAGE),)}
        options |= {"source_nids": (0, 1), "target_nids": (1, 0), "pages_per_call": 1}
        worker.setup(Workload(**options))
        worker.begin_round(record=True)
        _wait_until_away(process.pid, base)
        worker.interrupt()
        assert worker.finish_round().totals.n_calls < 408
        away = np.count_nonzero(nodes_of(process.pid, base) != HOME)
        reply = worker.teardown()
        assert (reply.restored, reply.left) == (away, 0)
        assert (nodes_of(process.pid, base) == HOME).all()


def test_without_a_round_nothing_is_moved_back(worker: Worker) -> None:
    """What another mover did between setup and teardown stays."""
    with two_nodes() as (process, base):
        options = {"target": "pid", "pid": process.pid, "ranges": ((base, base + 509 * PAGE),)}
        worker.setup(Workload(source_nids=(0,), target_nids=(1,), **options))
        subprocess.run(["migratepages", str(process.pid), "0", "1"], check=True)
        reply = worker.teardown()
        assert (reply.restored, reply.left) == (0, 0)
        assert (nodes_of(process.pid, base) == 1).all()


def _wait_until_away(pid: int, base: int) -> None:
    """Until a page was seen elsewhere: the round is under way."""
    while (nodes_of(pid, base) == HOME).all():
        pass


_KILLED = """
import sys
from mptrace.driving.worker_client import Worker
from mptrace.driving.workloads import Workload
pid, base = int(sys.argv[1]), int(sys.argv[2])
worker = Worker()
worker.setup(Workload(target="pid", pid=pid, source_nids=(0, 1), target_nids=(1, 0),
                      ranges=((base, base + 509 * 4096),), pages_per_call=1))
print(worker.pid, flush=True)
while True:
    worker.round()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_pages_go_home_however_the_parent_ends(how: signal.Signals) -> None:
    """The worker moves them back before it ends itself."""
    with two_nodes() as (process, base):
        with subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(process.pid), str(base)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as parent:
            worker = os.pidfd_open(int(parent.stdout.readline()))
            _wait_until_away(process.pid, base)
            parent.send_signal(how)
        assert select.select([worker], [], [], 60)[0]
        os.close(worker)
        assert (nodes_of(process.pid, base) == HOME).all()


def test_a_target_that_exits_in_the_middle(worker: Worker) -> None:
    """A TargetError with the calls up to then."""
    with two_nodes() as (process, base):
        options = {"target": "pid", "pid": process.pid, "ranges": ((base, base + 509 * PAGE),)}
        options |= {"source_nids": (0, 1), "target_nids": (1, 0), "pages_per_call": 1}
        worker.setup(Workload(**options))
        worker.begin_round(record=True)
        _wait_until_away(process.pid, base)
        process.kill()
        with pytest.raises(TargetGone) as caught:
            worker.finish_round()
    assert str(process.pid) in caught.value.message
    assert 0 < caught.value.partial.totals.n_calls <= 408


def test_thp_of_another_process_is_one_entry_each(worker: Worker) -> None:
    """The frame numbers tell which addresses are of one folio."""
    program = "import mmap\nm = mmap.mmap(-1, 6 << 20, flags=0x22)\nm.madvise(14)\n"
    with victim(program + "m.write(b'x' * (6 << 20))") as process:
        huge = [
            tuple(int(part, 16) for part in paragraph.split()[0].split("-"))
            for paragraph in re.split(
                r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{process.pid}/smaps").read_text()
            )
            if re.search(r"AnonHugePages: +[1-9]", paragraph)
        ]
        thps = sum(
            int(re.search(r"AnonHugePages: +(\d+)", smaps_at(process.pid, start))[1]) // 2048
            for start, _ in huge
        )
        assert thps >= 2
        options = {"target": "pid", "pid": process.pid, "ranges": tuple(huge)}
        options |= {"source_nids": (0, 1), "target_nids": (1,)}
        setup = worker.setup(Workload(**options))
        assert setup.entries == thps + setup.base_pages - 512 * thps
        worker.teardown()


def test_where_counts_what_numa_maps_counts() -> None:
    """Every mapping of a process with pages on both nodes, hugetlb and THP among them."""
    huge = "\nh = mmap.mmap(-1, 4 << 20, flags=0x40022)\nh[0] = 1\nh[2 << 20] = 1\n"
    huge += "t = mmap.mmap(-1, 6 << 20, flags=0x22)\nt.madvise(14)\nt.write(b'x' * (6 << 20))\n"
    with victim(TWO_NODES + huge) as process:
        process.stdout.readline()
        stop(process)
        text = subprocess.run(
            [MPTRACE, "where", "-p", str(process.pid), "--json"], check=True, capture_output=True
        ).stdout
        told = numa_maps(process.pid)
    answer = json.loads(text)
    assert len(answer["mappings"]) > 20
    for row in answer["mappings"]:
        mine = {int(nid): count for nid, count in row["nodes"].items()}
        if row["name"] not in ("[vdso]", "[vvar]", "[vvar_vclock]"):
            assert mine == told[row["start"]], row
    sums = answer["total"]["nodes"]
    assert int(sums["0"]) > 101
    assert int(sums["1"]) > 103 + 1024


def test_where_says_of_absent_pages_what_the_kernel_says() -> None:
    """A query of every page of small mappings gives the counts of each state."""
    with victim(TWO_NODES) as process:
        stop(process)
        text = subprocess.run(
            [MPTRACE, "where", "-p", str(process.pid), "--json"], check=True, capture_output=True
        ).stdout
        compared = 0
        for row in json.loads(text)["mappings"]:
            if row["pages"] > 5000:
                continue
            status = oracle(process.pid, np.arange(row["start"], row["end"], PAGE))
            states = {
                errno.errorcode[-value]: int(np.count_nonzero(status == value))
                for value in set(status[status < 0].tolist())
            }
            assert row["states"] == states, row
            compared += bool(states)
    assert compared > 5


def test_without_thp_the_error_says_so(worker: Worker) -> None:
    """With the file to write."""
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    before = re.search(r"\[(\w+)\]", switch.read_text())[1]
    switch.write_text("never")
    try:
        with pytest.raises(HostError, match="switched off") as caught:
            worker.setup(Workload(kind="thp", pages=512))
    finally:
        switch.write_text(before)
    assert str(switch) in caught.value.hint


def test_the_hugetlb_pool_is_not_changed(worker: Worker) -> None:
    """One page too many: the free pages of each node, the way out, the pools as before."""
    worker.teardown()
    pools = [f"/sys/devices/system/node/node{nid}/hugepages/hugepages-2048kB" for nid in (0, 1)]
    free = [int(Path(pool, "free_hugepages").read_text()) for pool in pools]
    told = f"there are {free[0]} on node 0, {free[1]} on node 1"
    with pytest.raises(HostError, match=told) as caught:
        worker.setup(Workload(kind="hugetlb", pages=512 * (free[1] + 1), source_nids=(1,)))
    assert f"{pools[1]}/nr_hugepages" in caught.value.hint
    assert [int(Path(pool, "free_hugepages").read_text()) for pool in pools] == free


def test_files_in_ram_are_refused(worker: Worker) -> None:
    """An overlay whose upper layer is tmpfs too."""
    for directory in ("/dev/shm", "/var/tmp"):
        with pytest.raises(HostError, match="RAM"):
            worker.setup(Workload(kind="file", directory=directory))
