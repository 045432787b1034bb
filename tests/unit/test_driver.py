# SPDX-License-Identifier: GPL-2.0-or-later
"""move_pages(2) as a library, on whatever node this machine has."""

import ctypes
import errno
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mptrace import driver
from mptrace.errors import TargetError

PAGES = 23


@pytest.fixture(name="pages")
def _pages() -> np.ndarray:
    """Addresses of 23 touched pages of our own, freed with the fixture's array."""
    size = PAGES * driver.PAGE_SIZE
    base = driver.map_anonymous(size)
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(base))
    memory[:: driver.PAGE_SIZE] = 1
    yield base + np.arange(PAGES, dtype=np.uint64) * np.uint64(driver.PAGE_SIZE)
    driver.unmap(base, size)


def _numa_maps_nodes(address: int) -> dict[int, int]:
    """Pages per node of the mapping that holds ``address``, as numa_maps tells."""
    lines = [line.split() for line in Path("/proc/self/numa_maps").read_text().splitlines()]
    # a neighbour below may have merged with it
    words = max((words for words in lines if int(words[0], 16) <= address), key=_start)
    pairs = (word[1:].split("=") for word in words if word[0] == "N" and "=" in word)
    return {int(nid): int(count) for nid, count in pairs}


def _start(words: list[str]) -> int:
    return int(words[0], 16)


def test_a_query_names_the_node_of_each_touched_page(pages: np.ndarray) -> None:
    """The nodes are those that numa_maps counts."""
    nids, counts = np.unique(driver.query(0, pages), return_counts=True)
    told = _numa_maps_nodes(int(pages[0]))
    assert sum(told.values()) >= PAGES
    if sum(told.values()) == PAGES:  # else the mapping was merged with a neighbour
        assert dict(zip(nids.tolist(), counts.tolist(), strict=True)) == told
    assert set(nids.tolist()) <= set(told)


def test_a_query_of_nothing_asks_nobody() -> None:
    """An empty array is answered without a system call, whatever the pid."""
    assert driver.query(1 << 30, np.empty(0, np.uint64)).size == 0


def test_moving_to_the_node_they_are_on_returns_zero(pages: np.ndarray) -> None:
    """Every status becomes the node; nothing keeps the sentinel."""
    nodes = driver.query(0, pages)
    status = driver.guarded_array(PAGES, np.int32)
    status[:] = driver.SENTINEL
    assert driver.move_pages(0, pages, nodes, status, driver.MPOL_MF_MOVE) == driver.CallResult(
        0, 0
    )
    assert (status == nodes).all()


def test_the_guard_page_stops_the_kernel(pages: np.ndarray) -> None:
    """A count beyond the status array gives EFAULT, and the array is written up to its end."""
    nodes = driver.query(0, pages)
    short = driver.guarded_array(7, np.int32)
    short[:] = driver.SENTINEL
    result = driver.move_pages(0, pages, nodes, short, driver.MPOL_MF_MOVE, count=PAGES)
    assert result == driver.CallResult(-1, errno.EFAULT)
    assert (short == nodes[:7]).all()


@pytest.mark.parametrize("bad", ["pages", "nodes", "status"])
def test_a_bad_pointer_is_efault(pages: np.ndarray, bad: str) -> None:
    """A raw address goes to the kernel as it is."""
    arrays = {"pages": pages, "nodes": driver.query(0, pages), "status": np.zeros(PAGES, np.int32)}
    arrays[bad] = 8
    result = driver.move_pages(0, *arrays.values(), driver.MPOL_MF_MOVE, count=PAGES)
    assert result == driver.CallResult(-1, errno.EFAULT)


@pytest.mark.parametrize(
    ("pid", "nid", "flags", "expected"),
    [(0, 0, 0x80, errno.EINVAL), (1 << 30, 0, 2, errno.ESRCH), (0, 1023, 2, errno.ENODEV)],
)
def test_errors_of_the_call_are_errnos(
    pages: np.ndarray, pid: int, nid: int, flags: int, expected: int
) -> None:
    """Unknown flags, no such process, no such node: -1 and the errno, no exception."""
    nodes = np.full(PAGES, nid, np.int32)
    status = np.full(PAGES, driver.SENTINEL, np.int32)
    result = driver.move_pages(pid, pages, nodes, status, flags)
    assert result == driver.CallResult(-1, expected)
    assert (status == driver.SENTINEL).all()


def test_arrays_are_checked(pages: np.ndarray) -> None:
    """Another dtype, a view with gaps and unequal lengths never reach the kernel."""
    status = np.zeros(PAGES, np.int32)
    with pytest.raises(ValueError, match="contiguous"):
        driver.move_pages(0, pages.astype(np.int64), None, status, 0)
    with pytest.raises(ValueError, match="contiguous"):
        driver.move_pages(0, pages[::2], None, status[::2], 0)
    with pytest.raises(ValueError, match="count"):
        driver.move_pages(0, pages, None, status[:5], 0)


def test_times_lie_around_the_call(pages: np.ndarray) -> None:
    """Both are CLOCK_MONOTONIC, before below after."""
    first = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    ret, number, before_ns, after_ns, _ = driver.timed_move_pages(
        0, pages, None, np.zeros(PAGES, np.int32), 0
    )
    assert (ret, number) == (0, 0)
    assert first <= before_ns < after_ns <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def test_what_others_do_meanwhile_is_not_in_the_cpu_time(pages: np.ndarray) -> None:
    """Another thread may have the interpreter when the call returns: that is none of its time."""
    is_over = threading.Event()

    def spin() -> None:
        while not is_over.is_set():
            pass

    spinning = threading.Thread(target=spin)
    spinning.start()
    try:
        first = time.thread_time_ns()
        # long enough for the other one to begin
        many = np.tile(pages, 41)
        status = np.zeros(many.size, np.int32)
        calls = [driver.timed_move_pages(0, many, None, status, 0) for _ in range(23)]
        spent = time.thread_time_ns() - first
    finally:
        is_over.set()
        spinning.join()
    assert all(cpu_ns > 0 for *_, cpu_ns in calls)
    assert sum(cpu_ns for *_, cpu_ns in calls) <= spent


def test_cpu_time_is_that_of_the_thread(pages: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own clock, which is asked outside of the other one."""
    asked = []
    told = {time.CLOCK_THREAD_CPUTIME_ID: [100, 103], time.CLOCK_MONOTONIC: [10, 1000]}

    def clock(number: int) -> int:
        asked.append(number)
        return told[number].pop(0)

    monkeypatch.setattr(driver.time, "clock_gettime_ns", clock)
    status = np.zeros(PAGES, np.int32)
    *_, before_ns, after_ns, cpu_ns = driver.timed_move_pages(0, pages, None, status, 0)
    assert (before_ns, after_ns, cpu_ns) == (10, 1000, 3)
    inner, outer = time.CLOCK_MONOTONIC, time.CLOCK_THREAD_CPUTIME_ID
    assert asked == [outer, inner, inner, outer]


def test_errno_is_the_threads_own(pages: np.ndarray) -> None:
    """Threads that fail differently at once each see their own errno."""
    seen: dict[int, set[int]] = {}

    def fail(pid: int, flags: int, expected: int) -> None:
        status = np.zeros(PAGES, np.int32)
        seen[expected] = {
            driver.move_pages(pid, pages, status, status, flags).errno for _ in range(509)
        }

    threads = [
        threading.Thread(target=fail, args=(0, 0x80, errno.EINVAL)),
        threading.Thread(target=fail, args=(1 << 30, 2, errno.ESRCH)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {errno.EINVAL: {errno.EINVAL}, errno.ESRCH: {errno.ESRCH}}


def test_a_query_of_a_missing_process_is_a_target_error(pages: np.ndarray) -> None:
    """Its message names the process."""
    with pytest.raises(TargetError, match=f"process {1 << 30} does not exist"):
        driver.query(1 << 30, pages)


def test_a_query_of_a_zombie_is_a_target_error(pages: np.ndarray) -> None:
    """A process without memory is told apart from one that doesn't exist."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(TargetError, match="no memory of its own"):
            driver.query(child.pid, pages)
    finally:
        child.wait()


@pytest.mark.parametrize("count", [1, 7, 1024, 20_011])
def test_a_guarded_array_ends_at_a_page_and_lives_with_its_views(count: int) -> None:
    """The last byte is the last of a page, and a view keeps the memory mapped."""
    array = driver.guarded_array(count, np.int32)
    assert (array.ctypes.data + array.nbytes) % driver.PAGE_SIZE == 0
    assert not array.any()
    tail = array[-1:]
    del array
    gc.collect()
    tail[0] = 5
    assert tail[0] == 5


def test_a_guarded_array_is_unmapped_with_its_last_view() -> None:
    """Nothing is left behind in the address space."""
    array = driver.guarded_array(PAGES, np.uint64)
    page = np.array([array.ctypes.data & -driver.PAGE_SIZE], np.uint64)
    array[:] = 1
    assert driver.query(0, page)[0] >= 0
    del array
    gc.collect()
    assert driver.query(0, page)[0] == -errno.EFAULT


def test_nodes_are_read_below_a_root(tmp_path: Path) -> None:
    """Kernel lists with ranges; node 0 where the kernel has none."""
    assert driver.memory_nodes(tmp_path) == (0,)
    folder = tmp_path / "sys/devices/system/node"
    folder.mkdir(parents=True)
    (folder / "has_memory").write_text("0-2,5,7-8\n")
    assert driver.memory_nodes(tmp_path) == (0, 1, 2, 5, 7, 8)


def test_no_sentinel_is_a_node_or_an_errno() -> None:
    """It fits int32 and lies beyond MAX_NUMNODES."""
    assert 1 << 16 < driver.SENTINEL < 1 << 31
