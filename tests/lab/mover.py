# SPDX-License-Identifier: GPL-2.0-or-later
"""The mover: moves its pages with move_pages(2) on command and tells where they are.

The judge of the acceptance tests, so it shares nothing with mptrace: ctypes and
the standard library only.  It reads a JSON object per line from stdin and answers
each with one on stdout.  Arrays travel in files as raw numbers of this machine:
addresses uint64, targets and statuses int32.

map     kind (4k, thp, hugetlb, shmem, file), pieces [[pages, nid], ...], path -> base
drop    pages [address, ...]: back to never touched
pin     pages [address, ...]: a pipe holds a reference to each
unpin   let all of them go
unmap   base
calls   calls [{...}, ...]: all at once, a thread for each; see `_Call`
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import sys
import threading
import time
from array import array
from pathlib import Path

PAGE = mmap.PAGESIZE
AROUND = 1 << 16
HUGE = 2 << 20
_MOVE_PAGES, _MBIND, _SET_MEMPOLICY, _VMSPLICE = 279, 237, 238, 278
_MPOL_DEFAULT, _MPOL_BIND = 0, 2
_MADV_DONTNEED, _MADV_HUGEPAGE, _MADV_NOHUGEPAGE, _MADV_POPULATE_WRITE = 4, 14, 15, 23
_PROT_RW = mmap.PROT_READ | mmap.PROT_WRITE
_MAP_FIXED, _MAP_NORESERVE, _MAP_HUGETLB = 0x10, 0x4000, 0x40000
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_PIPE_BYTES = 1 << 20
_PIPE_SLOTS = _PIPE_BYTES // PAGE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.syscall.restype = ctypes.c_long


def _check(ret, what):
    if ret is None or ret < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return ret


def _syscall(number, *arguments):
    return _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))


def _mmap(size, *, prot=_PROT_RW, flags=_ANONYMOUS, fd=-1, at=0):
    base = _libc.mmap(at, size, prot, flags | (_MAP_FIXED if at else 0), fd, 0)
    if base == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"mmap: {os.strerror(ctypes.get_errno())}")
    return base


class Guarded:
    """Memory of ``size`` bytes that ends at a page nobody may touch."""

    def __init__(self, size):
        self._length = (size + PAGE - 1) // PAGE * PAGE + PAGE
        self._base = _mmap(self._length)
        _check(_libc.mprotect(self._base + self._length - PAGE, PAGE, 0), "mprotect")
        self.address = self._base + self._length - PAGE - size
        self.size = size

    def fill(self, data):
        """Copy bytes to its beginning."""
        ctypes.memmove(self.address, data, len(data))

    def read(self):
        """All of it, as bytes."""
        return ctypes.string_at(self.address, self.size)

    def close(self):
        """Unmap it."""
        _libc.munmap(self._base, self._length)


def locate(pid, addresses, count):
    """Node or -errno of each address (a pointer to ``count`` of them), as int32 bytes."""
    status = Guarded(count * 4)
    ret = _syscall(_MOVE_PAGES, pid, count, addresses, 0, status.address, 0)
    _check(ret, "move_pages in query mode")
    found = status.read()
    status.close()
    return found


def vmstat():
    """The counters of page migration."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return {
        name: int(value)
        for name, value in (line.split() for line in lines)
        if name.startswith(("pgmigrate_", "thp_migration_"))
    }


class _Call:
    """One move_pages(2).

    ``pid``, ``flags``; ``addresses``, ``targets`` and ``out`` are paths, ``count`` the
    number of entries; ``fill`` is what the status array holds before (null: memory
    never touched); ``cold``: the two arrays are files whose pages this process has not
    mapped yet; ``locate``: ask where the pages are, before and after; ``switch``: a file
    that gets "1" directly before the call and "0" directly after it.  What is told
    about the entries (status, before, after) is written to ``out``, one after the other.
    """

    def __init__(self, spec):
        self.spec = spec
        self.count = spec["count"]
        self.pid = spec.get("pid", 0)
        pages, targets = Path(spec["addresses"]), Path(spec["targets"])
        self.own = Guarded(self.count * 8)
        self.own.fill(pages.read_bytes())
        if spec.get("cold"):
            self.pages, self.targets = (self._map_file(path) for path in (pages, targets))
        else:
            self.pages = self.own.address
            self._targets = Guarded(self.count * 4)
            self._targets.fill(targets.read_bytes())
            self.targets = self._targets.address
        self.status = Guarded(self.count * 4)
        if spec.get("fill") is not None:
            self.status.fill(array("i", [spec["fill"]]).tobytes() * self.count)
        self.before = self.after = b""
        self.result = {}
        self.switch = os.open(spec["switch"], os.O_WRONLY) if spec.get("switch") else -1

    def _map_file(self, path):
        # A fault maps what lies around it, up to the next multiple of AROUND (fault_around_bytes):
        # where the file began short of one, it was a page alone, and half of mptrace's piece.
        size = path.stat().st_size
        room = _mmap(size + AROUND, prot=0, flags=_ANONYMOUS | _MAP_NORESERVE)
        start = (room + AROUND - 1) // AROUND * AROUND
        fd = os.open(path, os.O_RDONLY)
        _mmap(size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE, fd=fd, at=start)
        os.close(fd)
        return start

    def locate(self):
        """Where the pages are now; empty if not asked for."""
        if not self.spec.get("locate", True):
            return b""
        return locate(self.pid, self.own.address, self.count)

    def run(self, barrier):
        """The call itself, when all threads are ready."""
        arguments = [ctypes.c_long(_MOVE_PAGES)]
        arguments += [
            ctypes.c_long(value)
            for value in (
                *(self.pid, self.count, self.pages, self.targets),
                *(self.status.address, self.spec.get("flags", 2)),
            )
        ]
        barrier.wait()
        before = time.monotonic_ns()
        if self.switch >= 0:
            os.write(self.switch, b"1")
        ret = _libc.syscall(*arguments)
        number = ctypes.get_errno()
        if self.switch >= 0:
            os.write(self.switch, b"0")
        after = time.monotonic_ns()
        self.result = {
            "ret": ret if ret >= 0 else -number,
            "tid": threading.get_native_id(),
            "before_ns": before,
            "after_ns": after,
        }

    def finish(self):
        """Write what is known about the entries; the rest is the answer."""
        Path(self.spec["out"]).write_bytes(self.status.read() + self.before + self.after)
        if self.switch >= 0:
            os.close(self.switch)
        for memory in (self.own, self.status):
            memory.close()
        return self.result


class Mover:
    """The commands, and what they left behind."""

    def __init__(self):
        self._mappings = {}
        self._pipes = []

    def answer(self, command):
        """The result of one command."""
        arguments = dict(command)
        return getattr(self, "do_" + arguments.pop("do"))(**arguments)

    def do_map(self, kind, pieces, path=""):
        """Memory of one kind, each piece on its node."""
        unit = HUGE if kind in ("thp", "hugetlb") else PAGE
        size = sum(pages for pages, _ in pieces) * PAGE
        # room to align
        room = _mmap(size + HUGE, prot=0, flags=_ANONYMOUS | _MAP_NORESERVE)
        start = (room + HUGE - 1) // HUGE * HUGE
        fd = -1
        if kind == "shmem":
            fd = os.memfd_create("mover")
        elif kind == "file":
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if fd >= 0:
            os.ftruncate(fd, size)
            _mmap(size, flags=mmap.MAP_SHARED, fd=fd, at=start)
            os.close(fd)
        else:
            hugetlb = _MAP_HUGETLB if kind == "hugetlb" else 0
            _mmap(size, flags=_ANONYMOUS | hugetlb, at=start)
            if kind != "hugetlb":
                advice = _MADV_HUGEPAGE if kind == "thp" else _MADV_NOHUGEPAGE
                _check(_libc.madvise(start, size, advice), "madvise")
        place = start
        for pages, nid in pieces:
            length = pages * PAGE
            if length % unit:
                raise ValueError(f"{pages} pages of {kind}")
            mask = ctypes.c_ulong(1 << nid)
            pointer = ctypes.addressof(mask)
            if kind == "file":
                _check(_syscall(_SET_MEMPOLICY, _MPOL_BIND, pointer, 64), "set_mempolicy")
            else:
                ret = _syscall(_MBIND, place, length, _MPOL_BIND, pointer, 64, 0)
                _check(ret, "mbind")
            _check(_libc.madvise(place, length, _MADV_POPULATE_WRITE), "populate")
            if kind == "file":
                _check(_syscall(_SET_MEMPOLICY, _MPOL_DEFAULT, 0, 0), "set_mempolicy")
            place += length
        self._mappings[start] = (room, size + HUGE)
        return {"base": start}

    def do_drop(self, pages):
        """The pages are as if never touched."""
        for page in pages:
            _check(_libc.madvise(page, PAGE, _MADV_DONTNEED), "madvise")
        return {}

    def do_pin(self, pages):
        """A pipe holds each of these pages."""
        for index, page in enumerate(pages):
            if index % _PIPE_SLOTS == 0:
                self._pipes.append(os.pipe())
                fcntl.fcntl(self._pipes[-1][1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            vector = (ctypes.c_ulong * 2)(page, PAGE)
            pointer = ctypes.addressof(vector)
            got = _check(_syscall(_VMSPLICE, self._pipes[-1][1], pointer, 1, 0), "vmsplice")
            if got != PAGE:
                raise OSError(errno.EIO, f"vmsplice took {got} bytes")
        return {}

    def do_unpin(self):
        """No pipe holds any page."""
        for pipe in self._pipes:
            for fd in pipe:
                os.close(fd)
        self._pipes.clear()
        return {}

    def do_unmap(self, base):
        """Give a mapping back."""
        _libc.munmap(*self._mappings.pop(base))
        return {}

    def do_huge(self, base, size):
        """Bytes of [base, base + size) that huge pages map, as smaps tells."""
        total, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            name, _, rest = line.partition(" ")
            if not name.endswith(":"):
                first, last = (int(part, 16) for part in name.split("-"))
                inside = first < base + size and base < last
            elif inside and name in ("AnonHugePages:", "Private_Hugetlb:"):
                total += int(rest.split()[0]) << 10
        return {"bytes": total}

    def do_calls(self, calls):
        """Calls at once, each in a thread; queries before all and after all of them."""
        own = [_Call(spec) for spec in calls]
        for call in own:
            call.before = call.locate()
        barrier = threading.Barrier(len(own))
        counted = vmstat()
        if len(own) == 1:
            own[0].run(barrier)
        else:
            threads = [threading.Thread(target=call.run, args=(barrier,)) for call in own]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        grown = {name: value - counted[name] for name, value in vmstat().items()}
        for call in own:
            call.after = call.locate()
        return {"calls": [call.finish() for call in own], "vmstat": grown}


def main():
    """Answer commands until stdin ends."""
    print(json.dumps({"pid": os.getpid()}), flush=True)
    mover = Mover()
    for line in sys.stdin:
        try:
            reply = mover.answer(json.loads(line))
        except OSError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
