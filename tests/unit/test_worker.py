# SPDX-License-Identifier: GPL-2.0-or-later
"""The worker and its client, on this machine's first node: what moves goes where it is."""

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mptrace import driver
from mptrace.driving.worker_client import TargetGone, Worker
from mptrace.driving.workloads import HOLE, UNMAPPED, Explicit, Workload
from mptrace.errors import HostError, MptraceError, UsageError

NID = driver.memory_nodes()[0]
HERE = {"source_nids": (NID,), "target_nids": (NID,)}
PAGES = 509


@pytest.fixture(name="worker")
def _worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def _alive(pid: int) -> bool:
    """Whether the process runs: a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for_end(pid: int) -> None:
    """Wait until a process that need not be our child has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 30)[0], f"process {pid} still runs"
    finally:
        os.close(handle)


@pytest.mark.parametrize("kind", ["4k", "shmem"])
@pytest.mark.parametrize("target", ["self", "child"])
def test_a_round_passes_every_entry_there_and_back(worker: Worker, kind: str, target: str) -> None:
    """The rows say whose pages, by which thread, in which round, with what result."""
    workload = Workload(kind=kind, target=target, pages=PAGES, pages_per_call=100, **HERE)
    setup = worker.setup(workload)
    assert (setup.tgid, setup.entries, setup.base_pages, setup.calls) == (
        worker.pid,
        PAGES,
        PAGES,
        12,
    )
    assert (setup.target_pid == worker.pid) == (target == "self")
    reply = worker.round(record=True)
    assert reply.calls["entries"].tolist() == [100] * 5 + [9] + [100] * 5 + [9]
    assert reply.calls["backward"].tolist() == [0] * 6 + [1] * 6
    assert set(reply.calls["pid"]) == {0 if target == "self" else setup.target_pid}
    assert set(reply.calls["tid"]) == {worker.pid}
    assert not reply.calls["ret"].any()
    spent = reply.calls["after_ns"] - reply.calls["before_ns"]
    assert (spent > 0).all()
    assert reply.call_ns == spent.sum()
    assert reply.cpu_ns > 0
    assert (reply.locations["final_nid"] == NID).all()
    assert np.unique(reply.locations["address"]).size == PAGES


def test_call_numbers_go_on_through_rounds_and_workloads(worker: Worker) -> None:
    """They name a call in the worker's whole life, recorded or not; rounds start anew."""
    worker.setup(Workload(pages=5, **HERE))
    assert worker.round(record=True).calls["driver_call"].tolist() == [0, 1]
    worker.round()
    reply = worker.round(record=True)
    assert reply.calls["driver_call"].tolist() == [4, 5]
    assert reply.calls["round"].tolist() == [2, 2]
    worker.setup(Workload(pages=5, back=False, **HERE))
    reply = worker.round(record=True)
    assert (reply.calls["driver_call"].tolist(), reply.calls["round"].tolist()) == ([6], [0])


def test_an_unrecorded_round_has_times_and_no_rows(worker: Worker) -> None:
    """Its entries and times are in the totals."""
    worker.setup(Workload(pages=5, **HERE))
    reply = worker.round()
    assert (reply.calls.size, reply.locations.size, reply.entries) == (0, 0, 10)
    assert reply.call_ns > 0


def test_recorded_rows_are_kept_where_asked(worker: Worker, tmp_path: Path) -> None:
    """As .npy files of a round's number."""
    worker.setup(Workload(pages=5, **HERE))
    reply = worker.round(record=True, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "driver_calls-000000.npy",
        "locations-000000.npy",
    ]
    assert (np.load(tmp_path / "driver_calls-000000.npy") == reply.calls).all()


def test_explicit_entries_are_passed_as_given(worker: Worker) -> None:
    """Statuses of a page, an unmapped address, a hole, and what an unknown node leaves alone."""
    entries = ((3, NID), (UNMAPPED, NID), (HOLE, NID), (3, NID), (0, 999), (1, NID))
    explicit = Explicit(entries, pinned=(3,), unchecked=True)
    worker.setup(Workload(pages=5, source_nids=(NID,), explicit=explicit, back=False))
    reply = worker.round(record=True)
    rows = worker.statuses()
    assert rows["status"].tolist()[:2] == [NID, -errno.EFAULT]
    assert rows["status"][2] in (-errno.ENOENT, -errno.EFAULT)
    assert rows["status"].tolist()[3:] == [NID, driver.SENTINEL, driver.SENTINEL]
    assert rows["target_nid"].tolist() == [nid for _, nid in entries]
    assert rows["address"][0] == rows["address"][3]
    assert reply.calls[["ret", "errno_"]].tolist() == [(-1, errno.ENODEV)]
    assert reply.totals.errnos == {str(errno.ENODEV): 1}


def test_threads_share_the_entries(worker: Worker) -> None:
    """Each is another thread, calls for its own run of entries, and starts with the others."""
    worker.setup(Workload(pages=PAGES, threads=3, pages_per_call=50, **HERE))
    reply = worker.round(record=True)
    there = reply.calls[reply.calls["backward"] == 0]
    assert len(set(there["tid"])) == 3
    assert there["entries"].sum() == PAGES
    shares = [there["entries"][there["tid"] == tid].sum() for tid in set(there["tid"])]
    assert sorted(shares) == [169, 170, 170]


def test_an_interrupted_round_ends_early_with_what_was_done(worker: Worker) -> None:
    """The reply comes, and the worker goes on serving."""
    worker.setup(Workload(pages=20_011, pages_per_call=1, **HERE))
    worker.begin_round(record=True)
    worker.interrupt()
    reply = worker.finish_round()
    assert reply.calls.size == reply.locations.size < 2 * 20_011
    assert not reply.calls["ret"].any()
    worker.setup(Workload(pages=5, **HERE))
    assert worker.round().entries == 10


def test_errors_come_back_as_what_they_were(worker: Worker) -> None:
    """Class, message and hint; the worker goes on serving."""
    with pytest.raises(UsageError, match="node 999 does not exist") as caught:
        worker.setup(Workload(target_nids=(999,)))
    assert "nodes with memory" in caught.value.hint
    with pytest.raises(HostError, match="is tmpfs, which is RAM"):
        worker.setup(Workload(kind="file", directory="/dev/shm", **HERE))
    with pytest.raises(HostError, match="don't fit on node"):
        worker.setup(Workload(pages=1 << 34, **HERE))
    with pytest.raises(HostError, match="don't fit on node"):
        worker.setup(Workload(pages=1 << 34, target="child", **HERE))
    with pytest.raises(UsageError, match="no workload is in place"):
        worker.round()
    worker.setup(Workload(pages=5, **HERE))
    assert worker.round().entries == 10


def test_a_hugetlb_pool_too_small_says_what_is_free(worker: Worker) -> None:
    """And which file to write; nothing is changed unasked."""
    with pytest.raises(HostError, match=f"are needed on node {NID}; there are") as caught:
        worker.setup(Workload(kind="hugetlb", pages=1 << 30, **HERE))
    assert f"node{NID}/hugepages" in caught.value.hint


def test_the_end_of_another_process_in_the_middle_is_told(worker: Worker) -> None:
    """As a TargetError with what was done; teardown says it too."""
    with subprocess.Popen(["sleep", "1000"]) as target:
        worker.setup(Workload(target="pid", pid=target.pid, **HERE))
        target.kill()
        target.wait()
        with pytest.raises(TargetGone, match=f"process {target.pid} does not exist") as caught:
            worker.round(record=True)
    assert caught.value.partial is not None
    assert caught.value.partial.totals.n_calls == 0
    worker.setup(Workload(pages=5, **HERE))


def test_another_processs_pages_are_listed_and_restricted(worker: Worker) -> None:
    """Only those of the ranges, only present ones."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as target:
        assert target.stdout
        target.stdout.readline()
        maps = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
        heap = next(line for line in maps if line.endswith("[heap]")).split()[0]
        start, end = (int(part, 16) for part in heap.split("-"))
        setup = worker.setup(
            Workload(target="pid", pid=target.pid, ranges=((start, end),), every_page=True, **HERE)
        )
        reply = worker.round(record=True)
        target.kill()
    assert [row["name"] for row in setup.would_move] == ["[heap]"]
    assert setup.would_move[0]["pages"] == setup.entries
    assert 0 < setup.entries <= (end - start) // driver.PAGE_SIZE
    assert (reply.locations["address"] >= start).all()
    assert (reply.locations["address"] < end).all()


def test_the_workers_death_is_noticed(worker: Worker) -> None:
    """With the signal that ended it."""
    worker.setup(Workload(pages=5, **HERE))
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(MptraceError, match="ended unexpectedly by signal 9"):
        worker.round()


def test_closing_ends_the_worker_and_its_child() -> None:
    """Twice is as good as once."""
    worker = Worker()
    setup = worker.setup(Workload(pages=5, target="child", **HERE))
    worker.close()
    worker.close()
    assert not _alive(worker.pid)
    assert not _alive(setup.target_pid)


_PARENT = f"""
from mptrace.driving.worker_client import Worker
from mptrace.driving.workloads import Workload
worker = Worker()
workload = Workload(pages=5, target="child", source_nids=({NID},), target_nids=({NID},))
setup = worker.setup(workload)
print(setup.tgid, setup.target_pid, flush=True)
input()
"""


def test_worker_and_child_die_with_a_killed_parent() -> None:
    """A kill -9 leaves no process behind."""
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert all(map(_alive, pids))
        parent.kill()
    for pid in pids:
        _wait_for_end(pid)


def test_ctrl_c_of_the_terminal_does_not_reach_the_worker(worker: Worker) -> None:
    """Its own session; and SIGINT by itself is ignored once it serves."""
    worker.setup(Workload(pages=5, **HERE))
    assert os.getsid(worker.pid) == worker.pid
    os.kill(worker.pid, signal.SIGINT)
    assert worker.round().entries == 10
