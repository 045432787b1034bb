# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages for scenarios: transparent ones, hugetlb pools, and nodes that have none left."""

import ctypes
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mptrace import driver
from mptrace.conform.stage.pages import KPF_THP, frames, has_flag
from mptrace.conform.stage.stage import StageError
from mptrace.driver import MPOL_PREFERRED, PAGE_SIZE
from mptrace.driving.memory import MemoryRequest, OwnMemory, folio_bytes
from mptrace.host import proc

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

_THP = Path("/sys/kernel/mm/transparent_hugepage")
_PROACTIVENESS = Path("/proc/sys/vm/compaction_proactiveness")
_STAT_REFRESH = Path("/proc/sys/vm/stat_refresh")
_MIN_FREE = Path("/proc/sys/vm/min_free_kbytes")
#: Low watermarks, so that the pool gets at (almost) all blocks of the node.
_LOW_WATERMARK_KIB = "1024"
_BLOCK_ORDER = 9  # a huge page of x86
_BLOCK_PAGES = 1 << _BLOCK_ORDER
_BASE_PAGES = 3 * _BLOCK_PAGES  # left free: more than the parts of a huge page
_MOST_BLOCKS = 64
_ROUNDS = 24
_STEP_PAGES = 64
_FILL_PAGES = 512  # a call costs more than its pages
_REFUSALS = 3
_FILL_REFUSALS = 12  # reclaim finds some pages now and then

_libc = ctypes.CDLL(None, use_errno=True)


def thp(stage: "Stage", *, held: tuple[int, ...] = ()) -> int:
    """A transparent huge page on the source node; its address.

    ``held`` base pages of it are put into pipes that nobody reads.
    """
    stage.need_file(_THP / "enabled")
    if "[never]" in (_THP / "enabled").read_text():
        stage.skip(f"transparent huge pages are switched off (echo madvise > {_THP / 'enabled'})")
    return _own(stage, "thp", held)


def shmem_thp(stage: "Stage") -> int:
    """A transparent huge page of shared memory on the source node; its address."""
    stage.need_file(_THP / "shmem_enabled")
    if "[never]" in (_THP / "shmem_enabled").read_text():
        stage.set_file(_THP / "shmem_enabled", "advise")
    size = folio_bytes("thp")
    room = driver.map_anonymous(2 * size)
    base = -(-room // size) * size
    driver.unmap(room, 2 * size)
    # offset 0 of the file must lie at an aligned address: a hint that is free is taken
    if driver.map_memory(size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, address=base) != base:
        raise StageError("no aligned shared memory could be mapped")
    driver.advise(base, size, mmap.MADV_HUGEPAGE)
    stage.bind(base, size, stage.source)
    stage.touch([base])
    fields = next(fields for one, fields in proc.smaps("self") if one.start == base)
    if proc.smaps_bytes(fields, "ShmemPmdMapped") != size:
        stage.skip("this kernel gave no huge page of shared memory")
    return base


def hugetlb(stage: "Stage", *, held: tuple[int, ...] = ()) -> int:
    """A hugetlb page on the source node, with room for it in the target's pool; its address."""
    for nid in {stage.source, stage.target}:
        pool = _pool(stage, nid)
        stage.set_file(pool / "nr_hugepages", str(_number(pool / "nr_hugepages") + 1))
        if not _number(pool / "free_hugepages"):
            stage.skip(f"node {nid} has no free huge page for its pool")
    return _own(stage, "hugetlb", held)


def was_split(address: int) -> bool:
    """Whether what lies there is no huge page (any more)."""
    return not has_flag(address, KPF_THP)


def fill(stage: "Stage", nid: int) -> None:
    """Leave no memory on ``nid`` that a move to it could have.

    Huge pages go into the hugetlb pool.  The rest is filled by moving pages there:
    unlike faults, moves never call the OOM killer.
    """
    _fill_pool(stage, nid)
    stage.need_file(_STAT_REFRESH)
    nodes = np.full(_FILL_PAGES, nid, np.int32)
    status = np.empty(_FILL_PAGES, np.int32)
    refused = 0
    while refused < _FILL_REFUSALS:
        # what the CPUs keep in lists of their own for a node goes back to it after some of these
        _STAT_REFRESH.read_text()
        pages = np.array(stage.anonymous(_FILL_PAGES), np.uint64)
        # else they would go to swap, as long as there is any
        if _libc.mlock(ctypes.c_void_p(int(pages[0])), ctypes.c_size_t(_FILL_PAGES * PAGE_SIZE)):
            stage.skip("memory can't be locked here (ulimit -l)")
        driver.move_pages(0, pages, nodes, status, driver.MPOL_MF_MOVE)
        refused = refused + 1 if (driver.query(0, pages) != nid).all() else 0


def leave_base_pages(stage: "Stage", nid: int) -> None:
    """Leave no huge page on ``nid`` to be had, by compaction neither, yet enough base pages.

    Huge pages are given back by the pool, and in each of them one page is held
    by a pipe, which no compaction can move.
    """
    pool = _fill_pool(stage, nid)
    refused = 0
    for _ in range(_ROUNDS):
        had = _number(pool / "nr_hugepages")
        short = max(0, _BASE_PAGES - _memory_pages(nid, "MemFree"))
        # no more than the pool has: the kernel takes no negative number
        if back := min(-(-short // (_BLOCK_PAGES - 1)), had):
            (pool / "nr_hugepages").write_text(str(had - back))
        if back or _free_blocks(nid):
            _break_blocks(stage, nid)
            refused = 0
        if not refused:
            # the pool tries hardest: it reclaims, and compacts also where that was put off
            had = _number(pool / "nr_hugepages")
            (pool / "nr_hugepages").write_text(str(had + 1))
            if _number(pool / "nr_hugepages") > had:
                continue
        refused = 0 if _takes_huge_page(stage, nid) else refused + 1
        if refused == _REFUSALS and not _free_blocks(nid):
            return
    stage.skip(f"node {nid} could not be left with base pages alone")


def _fill_pool(stage: "Stage", nid: int) -> Path:
    """Take every huge page that is free on ``nid`` into its hugetlb pool; the pool's directory."""
    # what a CPU freed it may keep in lists of its own: the call that is judged sees this one's
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    stage.set_file(_MIN_FREE, _LOW_WATERMARK_KIB)
    # kcompactd makes huge pages also where nobody asks for them
    if _PROACTIVENESS.exists():
        stage.set_file(_PROACTIVENESS, "0")
    pool = _pool(stage, nid)
    # not more than is free: for that the kernel would reclaim, which may take long
    stage.set_file(pool / "nr_hugepages", str(_number(pool / "nr_hugepages") + _free_blocks(nid)))
    return pool


def _takes_huge_page(stage: "Stage", nid: int) -> bool:
    """Whether a huge page of the source node can be moved to ``nid`` as one; then it stays there.

    The request for memory is the one of the call that is judged.
    """
    memory = OwnMemory(MemoryRequest("thp", 1, 0, stage.source, "", ()))
    pages = np.array([memory.base], np.uint64)
    status = np.full(1, driver.SENTINEL, np.int32)
    driver.move_pages(0, pages, np.array([nid], np.int32), status, driver.MPOL_MF_MOVE)
    if driver.query(0, pages)[0] == nid and not was_split(memory.base):
        stage.undo.callback(memory.close)
        return True
    memory.close()
    return False


def _break_blocks(stage: "Stage", nid: int) -> None:
    """Hold one page in every block of ``nid`` that is free as a whole."""
    most = _MOST_BLOCKS * _BLOCK_PAGES
    base = driver.map_anonymous(most * PAGE_SIZE)
    driver.advise(base, most * PAGE_SIZE, mmap.MADV_NOHUGEPAGE)
    # not MPOL_BIND: that would call the OOM killer where the node has no more
    driver.mbind(base, most * PAGE_SIZE, MPOL_PREFERRED, (nid,))
    touched: list[int] = []
    for page in range(0, most, _STEP_PAGES):
        if not _free_blocks(nid):
            break
        step = [base + number * PAGE_SIZE for number in range(page, page + _STEP_PAGES)]
        stage.touch(step)
        touched += step
    blocks = {
        number // _BLOCK_PAGES: at for at, number in zip(touched, frames(touched), strict=True)
    }
    for address in blocks.values():
        stage.vmsplice(address)
    driver.unmap(base, most * PAGE_SIZE)


def _free_blocks(nid: int) -> int:
    """How many huge pages are free on ``nid``, of all zones."""
    total = 0
    for line in Path("/proc/buddyinfo").read_text().splitlines():
        where, _, counts = line.partition("zone")
        if where.split()[1].rstrip(",") == str(nid):
            by_order = [int(count) for count in counts.split()[1:]]
            total += sum(count << order for order, count in enumerate(by_order[_BLOCK_ORDER:]))
    return total


def _own(stage: "Stage", kind: str, held: tuple[int, ...]) -> int:
    memory = OwnMemory(MemoryRequest(kind, 1, 0, stage.source, "", held))
    stage.undo.callback(memory.close)
    return memory.base


def _pool(stage: "Stage", nid: int) -> Path:
    size = folio_bytes("hugetlb")
    pool = Path(f"/sys/devices/system/node/node{nid}/hugepages/hugepages-{size >> 10}kB")
    stage.need_file(pool / "nr_hugepages")
    return pool


def _number(path: Path) -> int:
    return int(path.read_text())


def _memory_pages(nid: int, field: str) -> int:
    """A field of a node's meminfo in base pages."""
    for line in Path(f"/sys/devices/system/node/node{nid}/meminfo").read_text().splitlines():
        words = line.split()
        if words[2] == f"{field}:":
            return int(words[3]) * 1024 // PAGE_SIZE
    return 0
