# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread that moves records in bulk from the rings into the recording."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mptrace.arrays import Table, Tgids
from mptrace.host.maps_reader import MapsReader, met_in
from mptrace.host.processes import Processes
from mptrace.recording.joins import distinct
from mptrace.recording.layouts import PROCESS
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions import mappers
from mptrace.sessions.assembler import Assembler, Tables
from mptrace.sessions.pace import Pace
from mptrace.sessions.stacks import Stacks
from mptrace.tracer import Drained, Tracer

#: Longest wait for searches that are under way: what they may take, and a little.
_SEARCH_SECONDS = mappers.SESSION_NS / 1e9 + 1
#: Longest wait for mappings that are still to be read at the end.
_MAPS_SECONDS = 1.0
#: Seconds between two looks at what NUMA balancing did.
_BALANCING_SECONDS = 1.0
#: Folios that are taken at once: arrays of them come from the heap (host/heap.py).
_BLOCK_FOLIOS = 1 << 13
#: Blocks after which others may go on, however many come meanwhile: more than the ring holds.
_MOST_BLOCKS = 64


@dataclass(frozen=True)
class Met:
    """What was met until some moment: kernel addresses, and cgroups (id -> path)."""

    addresses: frozenset[int]
    cgroups: dict[int, str]


class Pump:
    """Takes what is in the rings, again and again, into the recording (or nowhere)."""

    def __init__(
        self,
        tracer: Tracer,
        writer: RecordingWriter,
        finder: mappers.Finder | None = None,
        processes: Processes | None = None,
        maps: MapsReader | None = None,
        stacks: Stacks | None = None,
    ) -> None:
        self._tracer = tracer
        self._writer = writer
        #: Who is asked about processes that are met; None where all are known.
        self._processes = processes
        #: Who reads mappings of processes that are met, and the pace; None: nobody.
        self._maps = maps
        #: Names stacks; None where none are taken.
        self._stacks = stacks
        self._assembler = Assembler()
        self._lock = threading.Lock()
        self._keep = False
        #: When what NUMA balancing did was taken last, in time.monotonic().
        self._balanced = time.monotonic()
        self._given_up = False
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="mptrace-drain", daemon=True)
        # Who maps a refused page is looked for at once, but by another thread: a
        # search takes so long that a ring can fill up meanwhile.
        # (It mostly waits for reads of /proc, which release the interpreter.)
        self._finder = finder or mappers.Finder()
        self._refused: queue.Queue[NDArray[np.void] | None] = queue.Queue()
        self._refusals_left = mappers.MAX_PAGES  # bounds the queue, too
        self._searcher = threading.Thread(target=self._search, name="mptrace-mappers", daemon=True)

    def start(self) -> None:
        """Start taking; what comes is dropped until `keeping`."""
        self._thread.start()
        self._searcher.start()
        if self._maps is not None:
            self._maps.start()
        if self._stacks is not None:
            self._stacks.start(self._append_frames)

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Record what comes while inside; drop what comes outside."""
        with self._lock:
            self._tracer.drain()
            self._tracer.fresh_tgids()
            self._keep = True
        try:
            yield
        finally:
            with self._lock:
                self._take()
                self._take_maps()
                self._take_balancing(every=True)
                self._keep = False
            # while the workload's memory is there
            self._await_searches()
            self._settle()
            if self._stacks is not None:
                self._stacks.wait()
            self._raise()

    @property
    def failed(self) -> bool:
        """Whether recording came to an end by an error; `finish` raises it."""
        return self._error is not None

    def met(self) -> Met:
        """What was met until now, for the last of a recording's meta; taking goes on meanwhile."""
        with self._lock:
            cgroups = {} if self._processes is None else dict(self._processes.cgroups)
            return Met(frozenset(self._assembler.addresses), cgroups)

    def swap(self, writer: RecordingWriter) -> RecordingWriter:
        """Go on in another recording; returns the one before, to be finished.

        Of a call or migration that is under way a part is in either: it counts as
        lost in the second, so that nothing is judged by what is missing there.  What NUMA
        balancing did beside is in the one during which it was taken, some time after.
        """
        self._settle()
        with self._lock:
            self._take()
            self._take_maps()
            self._take_balancing()
            before, self._writer = self._writer, writer
            self._assembler.boundary_ns = time.monotonic_ns()
            # who reads both knows by it what is whole all the same
            writer.meta["boundary_ns"] = self._assembler.boundary_ns
            if self._processes is not None:
                self._processes.forget()
            if self._maps is not None:
                self._maps.forget()
            if self._stacks is not None:
                before.append("stacks", self._stacks.forget())
        return before

    def finish(self) -> None:
        """Stop, and record what never came to an end."""
        self.stop()
        with self._lock:
            self._raise()
            rest = self._assembler.rest(self._tracer)
            self._ask(rest["folios"]["owner_tgid"])
            for name, rows in rest.items():
                self._writer.append(name, rows)
            self._take_maps()
        self._raise()

    def stop(self) -> None:
        """Take and search no more: the tracer may be closed.  Harmless when called again."""
        self._stop.set()
        self._thread.join()
        self._refused.put(None)
        self._searcher.join(_SEARCH_SECONDS)
        if self._maps is not None:
            self._maps.stop(_MAPS_SECONDS)
        if self._stacks is not None:
            try:
                self._append_frames(self._stacks.stop())
            except BaseException as error:  # raised by `finish`
                self._error = self._error or error
        with self._lock:
            self._given_up = True

    def _await_searches(self) -> None:
        """Wait for the searches under way; not for ever: a process may be stuck in the kernel."""
        with self._refused.all_tasks_done:
            self._refused.all_tasks_done.wait_for(
                lambda: not self._refused.unfinished_tasks, _SEARCH_SECONDS
            )

    def append(self, table: str, rows: NDArray[np.void]) -> None:
        """Rows that do not come from the tracer."""
        with self._lock:
            self._writer.append(table, rows)

    def _append_frames(self, rows: NDArray[np.void]) -> None:
        """Frames that were named meanwhile."""
        with self._lock:
            if not self._given_up:
                self._writer.append("stacks", rows)

    def _loop(self) -> None:
        pace = Pace(time.monotonic())
        try:
            while not self._stop.wait(pace.seconds()):
                with self._lock:
                    self._look(pace)
        except BaseException as error:  # carried to the session's thread
            self._error = error

    def _look(self, pace: Pace) -> None:
        """Meet at once who is new; take what is there, if it is time to."""
        is_awaited = False
        fill = self._tracer.fill
        if self._keep and fill:
            self._greet(self._tracer.fresh_tgids())
            is_awaited = self._is_awaited()
        if pace.is_due(time.monotonic(), fill, is_awaited=is_awaited):
            is_any = self._take(_MOST_BLOCKS)
            pace.took(time.monotonic(), self._tracer.fill, is_any=is_any)
        elif self._keep:
            self._writer.tick()
        if self._keep:
            self._take_maps()
            if time.monotonic() - self._balanced >= _BALANCING_SECONDS:
                self._take_balancing()

    def _is_awaited(self) -> bool:
        """Whether there is something of a process that may end before it is asked."""
        if self._tracer.has_fresh_stacks:
            return True
        refused = self._tracer.fresh_obstacles()
        return bool(self._refusals_left and mappers.shared(refused).any())

    def _search(self) -> None:
        while (refused := self._refused.get()) is not None:
            try:
                found = self._finder.find(refused)
                with self._lock:
                    if not self._given_up:
                        self._writer.append("mappers", found)
                        self._ask(found["pid"])
                        if self._maps is not None:
                            self._maps.meet(found["pid"], found["address"], found["address"])
            except BaseException as error:  # carried to the session's thread
                self._error = error
            finally:
                self._refused.task_done()

    def _take(self, blocks: int = 0) -> bool:
        """Take what is there, so many blocks of folios at the most (0: all); whether any was."""
        is_any, is_over, taken = False, False, 0
        while not is_over:
            drained = self._tracer.drain(_BLOCK_FOLIOS)
            if self._keep and len(drained):
                self._append(drained)
            taken += 1
            is_any |= len(drained) > 0
            is_over = len(drained.folios) < _BLOCK_FOLIOS or taken == blocks
        return is_any

    def _take_balancing(self, *, every: bool = False) -> None:
        self._balanced = time.monotonic()
        rows = self._tracer.balancing(time.monotonic_ns(), every=every)
        if rows.size:
            self._ask(rows["tgid"])
            self._writer.append("balancing", rows)

    def _settle(self) -> None:
        """Have what is to be read of processes read now; they may end, or be another part's."""
        if self._maps is not None:
            self._maps.settle(_MAPS_SECONDS)
            with self._lock:
                self._take_maps()

    def _take_maps(self) -> None:
        if self._maps is not None and (rows := self._maps.take()).size:
            self._writer.append("mappings", rows)

    def _append(self, drained: Drained) -> None:
        tables = self._assembler.add(drained)
        self._meet(tables)
        for name, rows in tables.items():
            self._writer.append(name, rows)
        if self._stacks is not None:
            uses, frames = self._stacks.add(drained.stacks)
            self._writer.append("stack_uses", uses)
            self._writer.append("stacks", frames)
        refused = mappers.pick(drained.obstacles, self._refusals_left)
        if refused.size:
            self._refusals_left -= refused.size
            self._refused.put(refused)

    def _meet(self, tables: Tables) -> None:
        """Ask who initiators, targets, owners and waiters are, at once: they may end soon."""
        met = [
            distinct(tables[table][name])
            for table, name in (
                ("calls", "tgid"),
                ("calls", "target_tgid"),
                ("migrations", "tgid"),
                ("folios", "owner_tgid"),
                ("waits", "tgid"),
            )
        ]
        self._ask(np.concatenate(met))
        if self._maps is not None:
            self._maps.meet(*met_in(tables))
        if self._processes is not None:
            self._processes.learn(distinct(tables["migrations"]["cgroup_id"]).tolist())

    def _greet(self, tgids: Tgids) -> None:
        """Ask who they are, and what they have mapped, before what they did is taken."""
        new = self._ask(tgids)
        if self._maps is not None and new.size:
            none = np.zeros(new.size, np.uint64)
            self._maps.meet(new["tgid"], none, none)

    def _ask(self, tgids: Tgids) -> Table:
        """Rows of those that were not met before."""
        if self._processes is None:
            return np.empty(0, PROCESS)
        rows = self._processes.meet(tgids.tolist())
        if rows.size:
            self._writer.append("processes", rows)
        return rows

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
