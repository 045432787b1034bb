# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls of a workload: one round moves its pages to the targets and back.

A call's own work lies between its two times; what has to be asked or written
down (locations, sentinels) lies outside of them.
"""

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace import driver
from mptrace.arrays import Addresses, Nids
from mptrace.errors import MptraceError
from mptrace.recording import driver_layouts

#: Asked before each call: whether the round goes on.
Wanted = Callable[[], bool]

#: One row per entry of a round: what the kernel wrote, SENTINEL where it wrote nothing.
STATUS = np.dtype(
    [
        ("driver_call", "<u4"),
        ("entry", "<u4"),
        ("address", "<u8"),
        ("target_nid", "<i4"),
        ("status", "<i4"),
    ]
)


@dataclass(frozen=True)
class PlannedCalls:
    """The arrays and calls of one direction.

    ``addresses`` and ``nids`` have an element per entry; ``bounds`` is
    int64[calls, 3] of ``(thread, first, end)`` (see ``patterns.call_bounds``).
    ``pid`` is passed as it is (0: the caller), like ``flags``.
    """

    addresses: Addresses
    nids: Nids
    bounds: npt.NDArray[np.int64]
    pid: int
    flags: int
    backward: bool


@dataclass
class Issued:
    """What came of the calls of one direction; rows in the order of ``PlannedCalls.bounds``.

    ``gone`` is set where the target process went away: then the calls after it
    were not issued and their rows are left out.
    """

    calls: npt.NDArray[np.void]  #: driver_layouts.DRIVER_CALL
    locations: npt.NDArray[np.void]  #: driver_layouts.LOCATION; empty unless asked for
    statuses: npt.NDArray[np.void]  #: STATUS
    cpu_ns: npt.NDArray[np.int64]  #: of the calling thread, in the call
    gone: MptraceError | None = None


def issue(calls: PlannedCalls, *, number: int, round_: int, record: bool, wanted: Wanted) -> Issued:
    """Issue the calls of one direction, each thread its own, all starting together.

    ``number`` is the ``driver_call`` of the first call, ``round_`` goes into
    the rows.  With ``record`` the entries' locations are asked for before and
    after each call.  ``wanted`` is asked before each call; False ends the round
    early.  An errno of a call is a row's content, not an error; only the end of
    the target process is, see :class:`Issued`.
    """
    bounds = calls.bounds
    lengths = bounds[:, 2] - bounds[:, 1]
    out = Issued(
        np.zeros(len(bounds), driver_layouts.DRIVER_CALL),
        np.zeros(calls.addresses.size if record else 0, driver_layouts.LOCATION),
        np.zeros(calls.addresses.size, STATUS),
        np.zeros(len(bounds), np.int64),
    )
    out.calls["driver_call"] = number + np.arange(len(bounds))
    out.calls["sentinel"] = driver.SENTINEL
    out.calls["entries"] = lengths
    out.calls["pid"] = calls.pid
    out.calls["round"] = round_
    out.calls["backward"] = calls.backward
    for table in (out.locations, out.statuses) if record else (out.statuses,):
        table["driver_call"] = np.repeat(out.calls["driver_call"], lengths)
        table["entry"] = np.arange(table.size) - np.repeat(bounds[:, 1], lengths)
        table["address"] = calls.addresses
    out.statuses["target_nid"] = calls.nids
    done = np.zeros(len(bounds), bool)
    _run_threads(calls, out, record, wanted, done)
    entries_done = np.repeat(done, lengths)
    out.calls, out.statuses = out.calls[done], out.statuses[entries_done]
    out.cpu_ns = out.cpu_ns[done]
    out.locations = out.locations[entries_done] if record else out.locations
    return out


def _run_threads(
    calls: PlannedCalls, out: Issued, record: bool, wanted: Wanted, done: npt.NDArray[np.bool_]
) -> None:
    """Run every thread's calls; one thread alone is the calling one."""
    shares = [
        np.flatnonzero(calls.bounds[:, 0] == thread) for thread in np.unique(calls.bounds[:, 0])
    ]
    barrier = threading.Barrier(len(shares))
    runs = [_Thread(calls, rows, out, record, wanted, barrier, done) for rows in shares]
    if len(runs) == 1:
        runs[0].run()
    else:
        threads = [threading.Thread(target=run.run) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for run in runs:
        if run.error and not isinstance(run.error, threading.BrokenBarrierError):
            raise run.error


@dataclass
class _Thread:
    """One calling thread's share: it writes rows of its own calls only."""

    calls: PlannedCalls
    rows: npt.NDArray[np.int64]
    out: Issued
    record: bool
    wanted: Wanted
    barrier: threading.Barrier
    done: npt.NDArray[np.bool_]
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # raised again by _run_threads(), in its thread
            self.error = error
            self.barrier.abort()

    def _run(self) -> None:
        bounds = self.calls.bounds[self.rows]
        status = driver.guarded_array(int((bounds[:, 2] - bounds[:, 1]).max()), np.int32)
        tid = threading.get_native_id()
        self.barrier.wait()
        for row, (_, first, end) in zip(self.rows.tolist(), bounds.tolist(), strict=True):
            if self.out.gone or not self.wanted():
                return
            self._call(row, slice(first, end), status[status.size - (end - first) :], tid)

    def _call(self, row: int, entries: slice, status: Nids, tid: int) -> None:
        calls, out = self.calls, self.out
        addresses, nids = calls.addresses[entries], calls.nids[entries]
        status[:] = driver.SENTINEL
        if self.record:
            out.locations["before_nid"][entries] = self._locate(addresses)
        if out.gone:
            return
        ret, number, before_ns, after_ns, out.cpu_ns[row] = driver.timed_move_pages(
            calls.pid, addresses, nids, status, calls.flags
        )
        issued = out.calls[row]
        issued["tid"], issued["ret"], issued["errno_"] = tid, ret, number
        issued["before_ns"], issued["after_ns"] = before_ns, after_ns
        out.statuses["status"][entries] = status
        if calls.pid and number in driver.GONE:
            out.gone = driver.target_error(calls.pid, number, "move its pages")
        if self.record:
            out.locations["final_nid"][entries] = self._locate(addresses)
        self.done[row] = True

    def _locate(self, addresses: Addresses) -> Nids:
        """Ask for the pages' nodes; -ESRCH for all of them when the process is gone."""
        try:
            return driver.query(self.calls.pid, addresses)
        except MptraceError as error:
            self.out.gone = self.out.gone or error
            return np.full(addresses.size, -errno.ESRCH, np.int32)
