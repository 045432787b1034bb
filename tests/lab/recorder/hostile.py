# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers that make it hard to follow them; each keeps its own record.

usage: hostile.py DIRECTORY [CASE].  Runs in a guest, a process for each case, with
nothing of mptrace.  A record is an .npz: what was passed (address, target, status
before, as far as there is memory), what came back (ret, status after) and where the
pages were before and after by the caller's own query.  ``count`` differs from call to
call: it names the call.
"""

import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from mover import (
    _MOVE_PAGES,
    PAGE,
    Guarded,
    Mover,
    _libc,
    _mmap,
    _syscall,
)

FILL = 0x7777
NOWHERE = 0x1000  # below mmap_min_addr: never mapped
KERNEL = 0xFFFF800000000000
TOUCHED = 701  # entries of an array that ends too early
GOOD = 1009
MILLION = 1_000_003


def move_pages(count, pages, nodes, status, *, flags=2):
    """The call itself: ret or -errno, times, tid."""
    arguments = [ctypes.c_ulong(v) for v in (_MOVE_PAGES, 0, count, pages, nodes, status, flags)]
    ctypes.set_errno(0)
    before = time.monotonic_ns()
    ret = _libc.syscall(*arguments)
    after = time.monotonic_ns()
    return {
        "ret": ret if ret >= 0 else -ctypes.get_errno(),
        "before_ns": before,
        "after_ns": after,
        "tid": threading.get_native_id(),
    }


def locate(addresses):
    """Where pages are: a node or -errno each."""
    pages, status = Guarded(addresses.nbytes), Guarded(addresses.size * 4)
    pages.fill(addresses.tobytes())
    assert not _syscall(_MOVE_PAGES, 0, addresses.size, pages.address, 0, status.address, 0)
    return np.frombuffer(status.read(), np.int32)


class Case:
    """Pages on node 0, the arrays for moving them to node 1, and the record."""

    def __init__(self, directory, name, count, pages=GOOD):
        self.path = directory / f"{name}.npz"
        self.count = count
        self.mover = Mover()
        self.base = self.mover.do_map("4k", [[pages, 0]])["base"]
        self.address = (self.base + np.arange(pages) * PAGE).astype(np.uint64)
        self.target = np.ones(pages, np.int32)

    def arrays(self, pages=GOOD, nodes=GOOD, status=GOOD):
        """Arrays of so many entries, each ending at a page that nobody may touch."""
        made = Guarded(pages * 8), Guarded(nodes * 4), Guarded(status * 4)
        made[0].fill(self.address[:pages].tobytes())
        made[1].fill(self.target[:nodes].tobytes())
        made[2].fill(np.full(status, FILL, np.int32).tobytes())
        return made

    def call(self, pages, nodes, status, *, status_array=None):
        """Call, and keep what this side knows of it."""
        before = locate(self.address)
        about = move_pages(self.count, pages, nodes, status)
        after = locate(self.address)
        written = np.frombuffer(status_array.read(), np.int32) if status_array else None
        self.keep(about, before, after, written)

    def keep(self, about, before, after, written, **more):
        """Write the record."""
        np.savez(
            self.path,
            count=np.uint64(self.count),
            address=self.address,
            target=self.target,
            status=np.empty(0, np.int32) if written is None else written,
            before=before,
            after=after,
            **{name: np.int64(value) for name, value in {**about, **more}.items()},
        )


def bad_pages(directory):
    """No array of pages."""
    case = Case(directory, "bad_pages", 1013)
    _, nodes, status = case.arrays()
    case.call(NOWHERE, nodes.address, status.address, status_array=status)


def bad_nodes(directory):
    """An array of nodes in the kernel's memory."""
    case = Case(directory, "bad_nodes", 1019)
    pages, _, status = case.arrays()
    case.call(pages.address, KERNEL, status.address, status_array=status)


def bad_status(directory):
    """Nowhere to write a status to: the pages move."""
    case = Case(directory, "bad_status", GOOD)
    pages, nodes, _ = case.arrays()
    case.call(pages.address, nodes.address, NOWHERE)


def short_pages(directory):
    """The array of pages ends before its count says."""
    case = Case(directory, "short_pages", 1021)
    pages, nodes, status = case.arrays(pages=TOUCHED)
    case.call(pages.address, nodes.address, status.address, status_array=status)


def short_nodes(directory):
    """The array of nodes does."""
    case = Case(directory, "short_nodes", 1031)
    pages, nodes, status = case.arrays(nodes=TOUCHED)
    case.call(pages.address, nodes.address, status.address, status_array=status)


def short_status(directory):
    """The array of statuses does."""
    case = Case(directory, "short_status", 1033, pages=1033)
    pages, nodes, status = case.arrays(1033, 1033, TOUCHED)
    case.call(pages.address, nodes.address, status.address, status_array=status)


def huge(directory):
    """Counts far beyond the arrays, and beyond any memory."""
    for number, count in enumerate((1 << 31, (1 << 40) + 7, (1 << 63) + 11)):
        case = Case(directory, f"huge_{number}", count, pages=509)
        pages, nodes, status = case.arrays(509, 509, 509)
        case.call(pages.address, nodes.address, status.address, status_array=status)


def million(directory):
    """Statuses in memory never touched: before the call, and where the kernel wrote none after it.

    In front entries of no page, each of which gets its status; then pages of one
    group, one of them held by a pipe: the call ends there with a positive count.
    """
    front, good = 5003, 3001
    case = Case(directory, "million", MILLION, pages=good)
    held = int(case.address[1511])
    case.mover.do_pin([held])
    address = np.full(MILLION, NOWHERE, np.uint64)
    address[front : front + good] = case.address
    case.address, case.target = address, np.ones(MILLION, np.int32)
    pages, nodes = Guarded(MILLION * 8), Guarded(MILLION * 4)
    pages.fill(address.tobytes())
    nodes.fill(case.target.tobytes())
    status = Guarded(MILLION * 4)
    # the queries cost time: of the pages alone
    case.address = address[front : front + good]
    before = locate(case.address)
    about = move_pages(MILLION, pages.address, nodes.address, status.address)
    after = locate(case.address)
    case.address = address
    fill = np.full(MILLION, -14, np.int32)
    whole = [fill.copy(), fill.copy()]
    for array, found in zip(whole, (before, after), strict=True):
        array[front : front + good] = found
    written = np.frombuffer(status.read(), np.int32)
    case.keep(about, *whole, written, fill=0)
    case.mover.do_unpin()


def in_the_middle(directory, name, count, end):
    """A process that ends, one way or the other, while a thread of it is in a long call."""
    size = count * 16
    shared = mmap.mmap(-1, size + PAGE)  # the arrays outlive the process
    child = os.fork()
    if not child:
        case = Case(directory, name, count, pages=count)
        base = ctypes.addressof(ctypes.c_char.from_buffer(shared))
        shared[: count * 8] = case.address.tobytes()
        shared[count * 8 : count * 12] = case.target.tobytes()
        shared[count * 12 : size] = np.full(count, FILL, np.int32).tobytes()

        def call():
            shared[size : size + 4] = np.int32(threading.get_native_id()).tobytes()
            move_pages(count, base, base + count * 8, base + count * 12)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        wait_for_call(shared, size)
        end()
        os._exit(1)
    if name == "killed":
        wait_for_call(shared, size)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    tables = np.frombuffer(shared[:size], np.uint8)
    np.savez(
        directory / f"{name}.npz",
        count=np.uint64(count),
        address=tables[: count * 8].view(np.uint64),
        target=tables[count * 8 : count * 12].view(np.int32),
        status=tables[count * 12 :].view(np.int32),
        before=np.empty(0, np.int32),
        after=np.empty(0, np.int32),
        tid=np.int64(np.frombuffer(shared[size : size + 4], np.int32)[0]),
    )


def wait_for_call(shared, size):
    """Until the thread has said its number, and a moment more: it is in the call then."""
    while shared[size : size + 4] == bytes(4):
        time.sleep(0.001)
    time.sleep(0.05)


def exits(directory):
    """exit_group() beside the call."""
    in_the_middle(directory, "exits", 4001, lambda: os._exit(0))


def execs(directory):
    """execve() beside the call: the thread is ended, the process goes on as another program."""
    in_the_middle(directory, "execs", 4003, lambda: os.execv("/bin/true", ["true"]))


def killed(directory):
    """SIGKILL from outside."""
    in_the_middle(directory, "killed", 4007, lambda: time.sleep(100))


def in_pid_namespace(directory):
    """A caller that has another number in its namespace than outside."""
    if os.getpid() > 5:
        command = ["unshare", "-pf", "--mount-proc", sys.executable, __file__]
        os.execvp("unshare", [*command, str(directory), "in_pid_namespace"])
    case = Case(directory, "in_pid_namespace", GOOD + 42, pages=GOOD + 42)
    pages, nodes, status = case.arrays(case.count, case.count, case.count)
    case.call(pages.address, nodes.address, status.address, status_array=status)


CASES = (
    *(bad_pages, bad_nodes, bad_status, short_pages, short_nodes, short_status),
    *(huge, million, exits, execs, killed, in_pid_namespace),
)


def main():
    """One case, or all of them."""
    directory = Path(sys.argv[1])
    if len(sys.argv) > 2:
        next(case for case in CASES if case.__name__ == sys.argv[2])(directory)
        return
    for case in CASES:
        child = os.fork()
        if not child:
            case(directory)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, case.__name__


if __name__ == "__main__":
    main()
    _ = _mmap
