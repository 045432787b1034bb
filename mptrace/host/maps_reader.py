# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread that reads the mappings of the processes that a session meets, within bounds.

A process is read when it is first met, and again when an address of it is met that no
mapping known of it holds, or when it has another program.  Who drains the rings hands over
arrays, and takes rows away; it never waits for a read.
"""

import mmap
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mptrace.arrays import Addresses, Ints, Table, Tables, Tgids
from mptrace.host import maps, proc
from mptrace.host.processes import in_initial_namespace
from mptrace.recording.joins import distinct, members, ranks, rows_of_ids, run_starts
from mptrace.recording.mapping import MAPPING

#: Processes, and of each a span of its addresses: the first and the last (0: none).
Spans = tuple[Tgids, Addresses, Addresses]
#: Why no mappings are read where process numbers aren't /proc's.
FOREIGN = "process numbers are of another PID namespace here"


@dataclass(frozen=True)
class Bounds:
    """What is read in one recording, and how fast."""

    processes: int = 4096
    mappings: int = 4096  #: of one reading
    rows: int = 1 << 17  #: of all: 40 MB
    share: float = 0.05  #: of a core, in the long run
    burst_ns: int = 2_000_000_000  #: that share of so much time may be used at once
    again_ns: int = 250_000_000  #: between a process's first and second reading; then doubled
    checked_ns: int = 1_000_000_000  #: between two looks at whether it has another program
    batches: int = 256  #: that wait to be looked at, with each address of theirs
    remembered: int = 1 << 16  #: processes of which anything is known, read or not


@dataclass
class _Known:
    reading: maps.Reading
    next_ns: int  # not read again before
    gap_ns: int
    checked_ns: int


class MapsReader:
    """Reads the mappings of processes that are met; for one session."""

    def __init__(self, bounds: Bounds = Bounds(), root: Path = Path("/")) -> None:
        self._bounds = bounds
        self._root = root
        self._ready = threading.Condition()
        # under the lock:
        self._batches: deque[Spans] = deque()
        self._crowded: set[int] = set()  # of further batches the processes alone
        self._has_beyond = False  # whether there are others of which nothing is remembered
        self._found: list[Table] = []
        self._fresh = self._hurry = self._stopped = False
        # of the thread alone:
        self._known: dict[int, _Known | None] = {}
        self._due: dict[int, int] = {}
        self._reading = 0  # the process that is read just now
        self._free_ns = 0
        self._rows = 0
        self._thread = threading.Thread(target=self._loop, name="mptrace-maps", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def meet(self, tgids: Tgids, firsts: Addresses, lasts: Addresses) -> None:
        """Processes that were met, each with a span of its addresses; copies, never waits.

        Of more than the thread gets done only whose they are is kept, and these processes
        are read again: they may have mapped what is at those addresses since.
        """
        if not tgids.size:
            return
        with self._ready:
            if len(self._batches) < self._bounds.batches:
                self._batches.append(
                    (
                        tgids.astype(np.uint32),
                        firsts.astype(np.uint64),
                        lasts.astype(np.uint64),
                    )
                )
            elif len(self._crowded) < self._bounds.remembered:
                self._crowded.update(np.unique(tgids).tolist())
            else:
                self._beyond()
            self._ready.notify_all()

    def take(self) -> Table:
        """What was read since the last time, rows of MAPPING."""
        with self._ready:
            found, self._found = self._found, []
        return np.concatenate(found) if found else np.empty(0, MAPPING)

    def forget(self) -> None:
        """Read each process anew: what is recorded next stands for itself."""
        with self._ready:
            self._fresh, self._has_beyond = True, False

    def settle(self, seconds: float) -> None:
        """Read at once what is to be read, waiting for it so long; the rest is read later."""
        with self._ready:
            self._hurry = True
            self._ready.notify_all()
            self._ready.wait_for(lambda: not self._hurry or not self._thread.is_alive(), seconds)
            self._hurry = False

    def stop(self, seconds: float) -> None:
        """Read no more; a process may be stuck in the kernel, and its reader with it."""
        with self._ready:
            self._stopped = True
            self._ready.notify_all()
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._ready:
                waiting = set(self._due) | self._crowded | {self._reading}
                for tgids, _, _ in self._batches:
                    waiting.update(tgids.tolist())
                self._batches.clear()
                self._found.extend(maps.left_out(tgid) for tgid in sorted(waiting - {0}))

    # ---- the thread ------------------------------------------------------------------

    def _loop(self) -> None:
        is_stopped = False
        try:
            while not is_stopped:
                batches, crowded, is_stopped = self._next()
                for batch in batches:
                    self._look(*batch)
                self._look_again(crowded)
                if not is_stopped:
                    self._read_due()
        finally:
            for tgid in list(self._due):
                self._leave_out(tgid)

    def _next(self) -> tuple[list[Spans], set[int], bool]:
        """What was handed over, and whether to stop; waits until there is something to do."""
        with self._ready:
            while not (self._stopped or self._batches or self._crowded or self._is_due()):
                if self._hurry and not self._due:
                    self._hurry = False
                    self._ready.notify_all()
                self._ready.wait(self._seconds())
            if self._fresh:
                self._fresh = False
                self._known.clear()
                self._due.clear()
                self._rows = 0
            batches, crowded = list(self._batches), self._crowded
            self._batches.clear()
            self._crowded = set()
            return batches, crowded, self._stopped

    def _is_due(self) -> bool:
        wait = self._seconds()
        return wait is not None and wait <= 0

    def _seconds(self) -> float | None:
        """Until a process may be read, None where there is none to be read."""
        if not self._due:
            return None
        if self._hurry:
            return 0.0
        return (max(min(self._due.values()), self._free_ns) - time.monotonic_ns()) / 1e9

    def _look(self, tgids: Tgids, firsts: Addresses, lasts: Addresses) -> None:
        """Note which of these processes are to be read."""
        some, place = tgids[:1], np.zeros(tgids.size, np.int64)
        if (tgids != tgids[0]).any():
            some, place = ranks(tgids)
        now = time.monotonic_ns()
        for number, rows in enumerate(members(place, some.size)):
            tgid = int(some[number])
            if not tgid or tgid in self._due:
                continue
            if tgid not in self._known:
                self._first(tgid, now)
            elif (known := self._known[tgid]) is not None:
                mine = rows[firsts[rows] != 0]
                missing = not known.reading.holds(firsts[mine], lasts[mine]).all()
                if missing or self._has_changed(tgid, known, now):
                    self._due[tgid] = known.next_ns

    def _look_again(self, tgids: set[int]) -> None:
        """Have processes read again of which nobody knows at which addresses they were met."""
        now = time.monotonic_ns()
        for tgid in tgids - self._due.keys() - {0}:
            if tgid not in self._known:
                self._first(tgid, now)
            elif (known := self._known[tgid]) is not None:
                self._due[tgid] = known.next_ns

    def _first(self, tgid: int, now: int) -> None:
        if len(self._known) < self._bounds.processes and self._rows < self._bounds.rows:
            self._due[tgid] = now
        elif len(self._known) < self._bounds.remembered:
            self._leave_out(tgid)
        else:
            with self._ready:
                self._beyond()

    def _beyond(self) -> None:
        """Say once that there are processes that have no row; under the lock."""
        if not self._has_beyond:
            self._has_beyond = True
            self._found.append(maps.left_out(0))

    def _has_changed(self, tgid: int, known: _Known, now: int) -> bool:
        """Whether it is another process, or has another program; looked at now and then."""
        if known.reading.image is None or now - known.checked_ns < self._bounds.checked_ns:
            return False
        known.checked_ns = now
        try:
            return proc.image(tgid, self._root) != known.reading.image
        except (OSError, ValueError, IndexError):
            return False  # it has ended: what was read stands

    def _read_due(self) -> None:
        """Read one process that is due, if that is allowed by now."""
        if not self._due:
            return
        tgid = min(self._due, key=lambda each: self._due[each])
        now = time.monotonic_ns()
        if not self._hurry and max(self._due[tgid], self._free_ns) > now:
            return
        del self._due[tgid]
        if self._rows >= self._bounds.rows:
            self._leave_out(tgid)
            return
        self._reading = tgid
        reading = maps.read(tgid, self._bounds.mappings, self._root)
        self._reading = 0
        self._rows += reading.rows.size
        after = time.monotonic_ns()
        spent = (after - now) / self._bounds.share
        self._free_ns = max(self._free_ns, after - self._bounds.burst_ns) + int(spent)
        before = self._known.get(tgid)
        gap = self._bounds.again_ns if before is None else 2 * before.gap_ns
        self._known[tgid] = _Known(reading, after + gap, gap, after)
        self._put(reading.rows)

    def _leave_out(self, tgid: int) -> None:
        if self._known.get(tgid, 0) is None:
            return
        self._known[tgid] = None
        self._put(maps.left_out(tgid))

    def _put(self, rows: Table) -> None:
        with self._ready:
            self._found.append(rows)


def met_in(tables: Tables) -> Spans:
    """Processes that rows of one drain name, each with a span of its pages' addresses.

    Of calls those of their arrays, in the call's target; of folios that no call asked for,
    and of waits, those where they were met.

    :param tables: by name, of those that there are.
    """
    calls = tables["calls"]
    targets = calls["target_tgid"]
    some = distinct(targets)
    none = np.zeros(some.size, np.uint64)
    found: list[Spans] = [(some, none, none)]
    for name, of, start in (
        ("folios", "owner_tgid", "call_id"),
        ("waits", "tgid", ""),
    ):
        rows = tables.get(name)
        if rows is not None and start:
            alone = rows[start] == 0
            rows = rows[alone] if alone.any() else None
        if rows is not None and rows.size:
            found.append(_spans(rows[of], rows["address"]))
    for name in ("entries", "folios"):
        rows = tables.get(name)
        if rows is not None and rows.size and calls.size:
            starts = run_starts(rows["call_id"])
            ids = rows["call_id"][starts]
            row = rows_of_ids(calls["call_id"], ids)
            tgids = np.where((row >= 0) & (ids != 0), targets[row], 0)
            lengths: Ints = np.diff(starts, append=rows.size)
            found.append(_spans(np.repeat(tgids, lengths), rows["address"]))
    met, firsts, lasts = (np.concatenate(columns) for columns in zip(*found, strict=True))
    known = met != 0
    return met[known], firsts[known], lasts[known]


def _spans(tgids: Tgids, addresses: Addresses) -> Spans:
    """Pages of one process that follow each other are one span."""
    # of addresses that go down the difference is very large
    goes_on = (addresses[1:] - addresses[:-1] <= mmap.PAGESIZE) & (tgids[1:] == tgids[:-1])
    breaks = np.flatnonzero(~goes_on)
    firsts = np.append(0, breaks + 1)
    return tgids[firsts], addresses[firsts], addresses[np.append(breaks, addresses.size - 1)]


def reader() -> MapsReader | None:
    """One for a session; None where process numbers aren't /proc's, as `gap` says."""
    return None if gap() else MapsReader()


def gap() -> str:
    """Why no mappings can be read here; "" where they can."""
    try:
        return "" if in_initial_namespace() else FOREIGN
    except OSError:
        return "there is no /proc"
