# SPDX-License-Identifier: GPL-2.0-or-later
"""Which processes map a page that the kernel refused because it is mapped more than once.

Evidence names the page by its struct page's address.  On x86-64 those lie in one
array by frame number (vmemmap), and /proc/PID/pagemap shows the frame behind an
address, so that the processes that map it can be met one by one: first at the
same address (forked children), then where they map the same page of the file,
at last anywhere in the mapping that the page was refused in (KSM, mremap).

All of it reads; a target at most waits for its mmap_lock while a piece of its
page table is read.  All of it is bounded: what was not looked at has no rows.
"""

import functools
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Table
from mptrace.host import proc
from mptrace.host.names import Names
from mptrace.outcomes.causes import obstacles
from mptrace.recording.layouts import MAPPER, SEEN_HUGE_ZERO, SEEN_VMA, SEEN_ZERO, STAGE_SHARED

PAGE_SIZE = mmap.PAGESIZE

#: Refused pages looked for in a session, counted per call.  A forked parent has
#: thousands that are all alike, and whoever asks asks about a few.
MAX_PAGES = 64
#: Mappings found of one page: every process maps libc's, and some dozens of
#: names say that as well as thousands.
MAX_MAPPERS = 64
#: Time for one page, half of it for its own address.  A process takes some 50 us to ask;
#: an emulated machine's, which has few, take a millisecond each.
PAGE_NS = 200_000_000
#: Time in a session: what the search takes of a core is not the workload's.
SESSION_NS = 2_000_000_000
# Of a mapping that is looked through: 128 KiB of pagemap, well below a millisecond.
_SCAN_BYTES = 64 << 20

# pagemap entries: Documentation/admin-guide/mm/pagemap.rst
_PRESENT = 1 << 63
_FRAME = (1 << 55) - 1
# kernel_randomize_memory() places vmemmap at a multiple of PUD_SIZE (arch/x86/mm/kaslr.c),
# as is the fixed place (Documentation/arch/x86/x86_64/mm.rst).
_BASE_ALIGNMENT = 1 << 30
_STRUCT_PAGE_BYTES = 64


@dataclass(frozen=True)
class Frames:
    """Where struct pages are: the address of frame 0's, None where not known, and their size."""

    base: int | None
    struct_bytes: int = _STRUCT_PAGE_BYTES

    @staticmethod
    @functools.cache  # both stand until the next boot
    def running() -> "Frames":
        """Those of the running kernel; without ``base`` where /proc/kcore can't be read."""
        names = Names()
        return Frames(names.word("vmemmap_base"), names.size("page") or _STRUCT_PAGE_BYTES)

    def frame(self, src: int) -> int | None:
        """The frame number of a struct page, None where there is none at this address."""
        if self.base is None or src < self.base:
            return None
        number, rest = divmod(src - self.base, self.struct_bytes)
        return None if rest else number

    def learn(self, src: int, nr_pages: int, frame: int) -> "Frames":
        """With the base that follows from ``frame``, if that is one of the folio's pages.

        It is not where the address was another process's, or has another page by
        now; the base would then lie at no multiple of 1 GiB, unless two frames
        lie a multiple of 64 GiB apart.
        """
        first = frame - frame % nr_pages  # folios are aligned to their size
        base = src - first * self.struct_bytes
        known = frame > 0 and base > 0 and base % _BASE_ALIGNMENT == 0
        return Frames(base, self.struct_bytes) if known else self


def shared(rows: Table) -> npt.NDArray[np.bool_]:
    """Which rows of OBSTACLE are pages that were met mapped more than once, bool[n]."""
    found: npt.NDArray[np.bool_] = (rows["stage"] == STAGE_SHARED) & (rows["src"] != 0)
    found &= (rows["mapcount"] > 1) | (rows["page_mapcount"] > 1)
    found &= (rows["seen"] & (SEEN_ZERO | SEEN_HUGE_ZERO)) == 0
    return found


def pick(rows: Table, limit: int) -> Table:
    """The first ``limit`` refusals for being shared, one for each call and page."""
    chosen = rows[shared(rows)]
    if not chosen.size or limit <= 0:
        return chosen[:0]
    _, first = np.unique(chosen[["call_id", "src"]], return_index=True)
    return chosen[np.sort(first)[:limit]]


def find(rows: Table, limit: int = MAX_PAGES) -> Table:
    """Who maps the pages that were refused for being shared, now: rows of ``layouts.MAPPER``.

    ``rows`` are of ``layouts.OBSTACLE``, the later the worse: a process that has
    ended is not found.  For many batches of one session use :class:`Finder`.
    """
    if not shared(rows).any():  # nothing is read of the kernel for it
        return np.empty(0, MAPPER)
    return Finder(pages=limit).find(rows)


class Finder:
    """Looks for mappers within the bounds of one session."""

    def __init__(
        self,
        *,
        pages: int = MAX_PAGES,
        session_ns: int = SESSION_NS,
        frames: Frames | None = None,
        root: Path = Path("/"),
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """``frames`` are the running kernel's by default, read here and once for all."""
        self._pages = pages
        self._left_ns = session_ns
        self._frames = Frames.running() if frames is None else frames
        self._root = root
        self._clock = clock
        # of one search:
        self._maps: dict[int, bytes] = {}
        self._lines: dict[int, list[proc.Mapped]] = {}
        self._comms: dict[int, bytes] = {}
        # kernel threads are most of what a small host runs: asked once
        self._without_memory = frozenset(filter(self._has_no_memory, self._processes(0)))

    def find(self, rows: Table) -> Table:
        """Rows of MAPPER, shape (n,), of those rows of OBSTACLE that are worth it and allowed."""
        chosen = pick(rows, self._pages)
        self._pages -= chosen.size
        if not chosen.size or self._left_ns <= 0:
            return np.empty(0, MAPPER)
        began = self._clock()
        pages = self._located(chosen)
        until = began + min(self._left_ns, len(pages) * PAGE_NS)
        if pages:
            self._search(pages, began, until)
        found = self._rows(chosen, pages)
        self._left_ns -= self._clock() - began
        return found

    # ---- which frames -------------------------------------------------------

    def _located(self, chosen: Table) -> "list[_Page]":
        """The pages whose frames are known, each once."""
        rows = {int(row["src"]): row for row in chosen[::-1]}
        if self._frames.base is None:
            for row in rows.values():
                self._learn(row)
        pages = []
        for src, row in rows.items():
            if (first := self._frames.frame(src)) is not None:
                pages.append(_Page(row, first, max(1, int(row["nr_pages"]))))
        return pages

    def _learn(self, row: np.void) -> None:
        """Where struct pages are, by a page that the calling thread itself maps."""
        with self._pagemap(int(row["tid"])) as fd:
            entry = _entries(fd, int(row["address"]), PAGE_SIZE)
            if entry.size and int(entry[0]) & _PRESENT:
                self._frames = self._frames.learn(
                    int(row["src"]), max(1, int(row["nr_pages"])), int(entry[0]) & _FRAME
                )

    # ---- the steps of the search --------------------------------------------

    def _search(self, pages: "list[_Page]", now: int, until: int) -> None:
        pids = [p for p in self._processes(pages[0].tid) if p not in self._without_memory]
        of_file = [page for page in pages if page.of_file]
        others = [page for page in pages if not page.of_file]
        self._maps.clear()
        self._lines.clear()
        self._comms.clear()
        self._at_the_same_address(pages, pids, (now + until) // 2)
        self._in_the_same_mapping(others, until)
        self._in_the_same_file(of_file, pids, until)
        self._in_the_same_mapping(of_file, until)

    def _at_the_same_address(self, pages: "list[_Page]", pids: Sequence[int], until: int) -> None:
        for pid in pids:
            missing = [page for page in pages if not page.complete]
            if not missing or self._clock() >= until:
                return
            with self._pagemap(pid) as fd:
                for page in missing:
                    self._look(page, pid, fd, page.address, PAGE_SIZE)

    def _in_the_same_file(self, pages: "list[_Page]", pids: Sequence[int], until: int) -> None:
        """Wherever else the same page of the same file is mapped, in the same process too."""
        places: dict[bytes, list[tuple[_Page, int]]] = {}
        for page in pages:
            if not page.complete and (place := self._place(page)):
                places.setdefault(place[0], []).append((page, place[1]))
        for pid in pids:
            if not places or all(page.complete for page in pages) or self._clock() >= until:
                return
            text = self._text_of_maps(pid)
            with self._pagemap(pid) as fd:
                if any(b" %b " % file in text for file in places):
                    for one in proc.mapped(text):
                        self._look_for_each(places.get(one.file, []), pid, fd, one)

    def _look_for_each(
        self,
        wanted: "list[tuple[_Page, int]]",
        pid: int,
        fd: int,
        one: proc.Mapped,
    ) -> None:
        """Look for pages in one mapping of their file, each where its offset is mapped."""
        for page, page_offset in wanted:
            first = one.start + page_offset - one.offset
            low, high = max(one.start, first), min(one.end, first + page.nr_pages * PAGE_SIZE)
            if low < high and not page.complete:
                self._look(page, pid, fd, low, high - low)

    def _in_the_same_mapping(self, pages: "list[_Page]", until: int) -> None:
        """Anywhere in the mapping in which it was refused, of the processes found so far."""
        for page in pages:
            if page.complete or not page.row["seen"] & SEEN_VMA:
                continue
            start, end = int(page.row["vm_start"]), int(page.row["vm_end"])
            if end - start > _SCAN_BYTES:  # what lies around it
                start = max(start, page.address - _SCAN_BYTES // 2)
                end = min(end, start + _SCAN_BYTES)
            for pid in dict.fromkeys(pid for pid, _ in page.found):
                if page.complete or self._clock() >= until:
                    break
                with self._pagemap(pid) as fd:
                    self._look(page, pid, fd, start, end - start)

    def _look(self, page: "_Page", pid: int, fd: int, address: int, size: int) -> None:
        """Note where this process maps the page between two addresses."""
        entries = _entries(fd, address, size)
        frames = (entries & np.uint64(_FRAME)).astype(np.int64) - page.first_frame
        hits = (entries >= np.uint64(_PRESENT)) & (frames >= 0) & (frames < page.nr_pages)
        for index in np.flatnonzero(hits).tolist():
            if page.complete:
                return
            at = address + index * PAGE_SIZE
            # the pages of a folio that are mapped in a row are one mapping of it
            key = (pid, at - int(frames[index]) * PAGE_SIZE)
            page.found.setdefault(key, (at, self._clock()))
            if pid not in self._comms:
                self._comms[pid] = self._comm(pid)

    # ---- what /proc says ----------------------------------------------------

    def _processes(self, near: int) -> list[int]:
        """All processes, those that were forked at about the time of ``near`` first."""
        try:
            pids = proc.pids(self._root)
        except OSError:
            return []
        return sorted(pids, key=lambda pid: (abs(pid - near), pid))

    def _has_no_memory(self, pid: int) -> bool:
        with self._pagemap(pid) as fd:
            return fd >= 0 and not _entries(fd, 0, PAGE_SIZE).size

    @contextmanager
    def _pagemap(self, pid: int) -> Iterator[int]:
        """A file descriptor, -1 for one that can't be had; a process that ends is no error."""
        fd = -1
        with suppress(OSError):
            fd = os.open(self._root / f"proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            if fd >= 0:
                os.close(fd)

    def _text_of_maps(self, pid: int) -> bytes:
        """As it was when this search first asked."""
        if pid not in self._maps:
            self._maps[pid] = b""
            with suppress(OSError):
                self._maps[pid] = proc.maps(pid, self._root)
        return self._maps[pid]

    def _place(self, page: "_Page") -> tuple[bytes, int] | None:
        """The file as maps names it, and the folio's offset in it, by a mapping that was found.

        Not by the evidence's inode: of overlayfs and btrfs, maps shows another one.
        """
        for (pid, folio_address), (address, _) in page.found.items():
            if pid not in self._lines:
                self._lines[pid] = list(proc.mapped(self._text_of_maps(pid)))
            for one in self._lines[pid]:
                if one.start <= address < one.end and not one.file.endswith(b" 0"):
                    return one.file, one.offset + folio_address - one.start
        return None

    def _comm(self, pid: int) -> bytes:
        try:
            return proc.comm(pid, self._root)
        except OSError:
            return b""

    def _rows(self, chosen: Table, pages: "list[_Page]") -> Table:
        """What was found of each page, for each of the calls that it was refused to."""
        by_src = {int(page.row["src"]): page.found for page in pages}
        found = [
            (call_id, src, address, found_ns, seq, pid, self._comms[pid])
            for call_id, src, seq in chosen[["call_id", "src", "lookup_seq"]].tolist()
            for (pid, _), (address, found_ns) in by_src.get(src, {}).items()
        ]
        return np.array(found, MAPPER)


@dataclass
class _Page:
    """A refused folio, and where it was found: (pid, address of its first page) -> (address, ns).

    There are at most MAX_PAGES of it.
    """

    row: np.void
    first_frame: int
    nr_pages: int
    found: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    @property
    def address(self) -> int:
        return int(self.row["address"])

    @property
    def tid(self) -> int:
        return int(self.row["tid"])

    @property
    def of_file(self) -> bool:
        return int(obstacles.mapping_kind(np.atleast_1d(self.row))[0]) == 0

    @property
    def complete(self) -> bool:
        # the counts of a large folio may be of all its pages: they end no search
        wanted = MAX_MAPPERS
        if self.nr_pages == 1:
            wanted = min(wanted, max(int(self.row["mapcount"]), int(self.row["page_mapcount"])))
        return len(self.found) >= wanted


def _entries(fd: int, address: int, size: int) -> npt.NDArray[np.uint64]:
    """Pagemap entries of a range, as many as there are; none of a process that is gone."""
    data = b""
    if fd >= 0:
        with suppress(OSError):
            data = os.pread(fd, size // PAGE_SIZE * 8, address // PAGE_SIZE * 8)
    return np.frombuffer(data, np.uint64, len(data) // 8)
