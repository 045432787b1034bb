# SPDX-License-Identifier: GPL-2.0-or-later
"""move_pages(2) itself: the whole system call, query mode, arrays that end at a guard page.

A library without libnuma: the raw system call with all six arguments, numpy
arrays in and out, errno and the positive return kept apart.  mbind(2) and
set_mempolicy(2) are here too, because memory must be somewhere before it can
be moved.
"""

import ctypes
import errno
import mmap
import os
import platform
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Addresses, Nids
from mptrace.errors import HostError, MptraceError, TargetError

MPOL_MF_MOVE = 1 << 1
MPOL_MF_MOVE_ALL = 1 << 2
MPOL_DEFAULT = 0
MPOL_PREFERRED = 1
MPOL_BIND = 2

#: What a status array is filled with before a call: neither a node (they end
#: below 1024) nor a -errno (they end above -4096), so it stands only where the
#: kernel wrote nothing.
SENTINEL = 0x7EAD0000

#: Errnos of a call that is right in itself: the process exited, or is just doing so.
GONE = (errno.ESRCH, errno.EINVAL)

PAGE_SIZE = mmap.PAGESIZE


# (move_pages, mbind, set_mempolicy): include/uapi/asm-generic/unistd.h for the
# machines without a table of their own, arch/*/kernel/syscalls/*.tbl for the others.
_GENERIC = (239, 235, 237)
_SYSCALLS = {
    "x86_64": (279, 237, 238),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (301, 259, 261),
    "ppc64": (301, 259, 261),
    "s390x": (310, 268, 270),
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True)
class CallResult:
    """What move_pages(2) returned: ``ret`` >= 0 with ``errno`` 0, or -1 with errno set.

    A positive ``ret`` is the kernel's count of folios that failed plus entries
    that it never attempted, not an error.
    """

    ret: int
    errno: int


def move_pages(
    pid: int,
    pages: Addresses | int,
    nodes: Nids | int | None,
    status: Nids | int | None,
    flags: int,
    *,
    count: int | None = None,
) -> CallResult:
    """Call move_pages(2) once and return what it said; never raises for an errno.

    ``pages`` is uint64[n], ``nodes`` and ``status`` are int32[n]; None is NULL
    (``nodes`` NULL is query mode).  A plain integer is passed as the pointer
    itself, for calls with bad pointers; then, or to lie about the length, give
    ``count``.  The kernel writes ``count`` statuses whatever the array's size:
    see :func:`guarded_array`.  ``pid`` 0 is the caller.  The interpreter's lock
    is released during the call.  Raises ValueError for arrays of another dtype,
    not contiguous, or of unequal length without ``count``.
    """
    return CallResult(*timed_move_pages(pid, pages, nodes, status, flags, count=count)[:2])


def timed_move_pages(
    pid: int,
    pages: Addresses | int,
    nodes: Nids | int | None,
    status: Nids | int | None,
    flags: int,
    *,
    count: int | None = None,
) -> tuple[int, int, int, int, int]:
    """Call move_pages(2) as :func:`move_pages` does and time it.

    Returns ``(ret, errno, before_ns, after_ns, cpu_ns)``, times of CLOCK_MONOTONIC
    taken directly around the system call: checks of the arguments lie outside,
    one ctypes call (about a microsecond) and the wait for the interpreter's
    lock lie inside.  ``cpu_ns`` is what it took of the thread's CPU time.
    """
    given = [array for array in (pages, nodes, status) if isinstance(array, np.ndarray)]
    if count is None:
        if not isinstance(pages, np.ndarray) or len({array.size for array in given}) != 1:
            raise ValueError("arrays of unequal length, or raw pointers: give count")
        count = pages.size
    arguments = (
        ctypes.c_long(_number(0)),
        ctypes.c_long(pid),
        ctypes.c_ulong(count),
        _pointer(pages, np.uint64),
        _pointer(nodes, np.int32),
        _pointer(status, np.int32),
        ctypes.c_long(flags),
    )
    syscall, clock, monotonic = _libc.syscall, time.clock_gettime_ns, time.CLOCK_MONOTONIC
    # clocks of a thread are asked by a system call: farther outside
    cpu_before_ns = clock(time.CLOCK_THREAD_CPUTIME_ID)
    before_ns = clock(monotonic)
    ret = syscall(*arguments)
    after_ns = clock(monotonic)
    cpu_ns = clock(time.CLOCK_THREAD_CPUTIME_ID) - cpu_before_ns
    return ret, ctypes.get_errno() if ret == -1 else 0, before_ns, after_ns, cpu_ns


def query(pid: int, addresses: Addresses) -> Nids:
    """Ask where pages are (query mode: nodes NULL) and return int32[n].

    Each is a node, or the -errno of that page: -ENOENT and -EFAULT have meanings
    that differ between kernels.  Raises :class:`TargetError` where process
    ``pid`` (0: the caller) can't be asked.
    """
    addresses = np.ascontiguousarray(addresses, dtype=np.uint64)
    status = np.full(addresses.size, SENTINEL, dtype=np.int32)
    if not addresses.size:
        return status
    result = move_pages(pid, addresses, None, status, 0)
    if result.errno:
        raise target_error(pid, result.errno, "ask for its pages")
    return status


def target_error(pid: int, number: int, tried: str) -> MptraceError:
    """Return the error that says why process ``pid`` refused, from an errno.

    ``tried`` continues "can't", as in "ask for its pages".
    """
    if number == errno.ESRCH:
        return TargetError(f"process {pid} does not exist, or has ended: can't {tried}")
    if number == errno.EPERM:
        return TargetError(
            f"not permitted to touch process {pid}: can't {tried}",
            "run as root, or as its user with CAP_SYS_PTRACE and CAP_SYS_NICE",
        )
    if number == errno.EINVAL:
        return TargetError(
            f"process {pid} has no memory of its own: can't {tried}",
            "it is a kernel thread, or is exiting",
        )
    if number == errno.ENOSYS:
        return HostError(
            "this kernel has no move_pages(2)", "it needs CONFIG_NUMA and CONFIG_MIGRATION"
        )
    return TargetError(f"can't {tried} of process {pid}: {os.strerror(number)}")


def guarded_array(count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return ``dtype[count]``, zeroed, whose last element ends at a PROT_NONE page.

    Whatever writes past the end faults (the kernel: EFAULT) where it would
    otherwise overwrite the heap.  The memory lives as long as the array and
    its views.  Raises :class:`HostError` where there is none.
    """
    kind = np.dtype(dtype)
    size = count * kind.itemsize
    body = -(-size // PAGE_SIZE) * PAGE_SIZE
    base = map_anonymous(body + PAGE_SIZE)
    if _libc.mprotect(base + body, PAGE_SIZE, 0):
        raise HostError(f"can't protect a guard page: {os.strerror(ctypes.get_errno())}")
    buffer = (ctypes.c_char * size).from_address(base + body - size)
    weakref.finalize(buffer, _libc.munmap, base, body + PAGE_SIZE)
    return np.frombuffer(memoryview(buffer), dtype=kind) if count else np.empty(0, kind)


def map_anonymous(size: int) -> int:
    """Map ``size`` private anonymous bytes, untouched, and return their address."""
    return map_memory(size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def map_memory(size: int, flags: int, fd: int = -1, *, address: int = 0) -> int:
    """mmap(2) ``size`` readable and writable bytes and return their address.

    Raises :class:`HostError` with the kernel's reason.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    base: int | None = _libc.mmap(address or None, size, protection, flags, fd, 0)
    if base is None or base == ctypes.c_void_p(-1).value:
        raise HostError(f"can't map {size} bytes of memory: {os.strerror(ctypes.get_errno())}")
    return base


def unmap(address: int, size: int) -> None:
    """munmap(2) ``size`` bytes at ``address``; what is not mapped stays so."""
    _libc.munmap(address, size)


def advise(address: int, size: int, advice: int) -> int:
    """madvise(2); return 0 or the errno."""
    return ctypes.get_errno() if _libc.madvise(address, size, advice) else 0


def mbind(address: int, size: int, mode: int, nids: tuple[int, ...]) -> None:
    """Give ``size`` bytes at ``address`` (page-aligned) a memory policy: mbind(2).

    ``mode`` is MPOL_*; pages already there stay where they are.  Raises
    :class:`HostError` with the kernel's reason.
    """
    mask, bits = _nodemask(nids)
    ret = _libc.syscall(
        ctypes.c_long(_number(1)),
        ctypes.c_ulong(address),
        ctypes.c_ulong(size),
        ctypes.c_long(mode),
        mask,
        ctypes.c_ulong(bits),
        ctypes.c_long(0),
    )
    if ret:
        _policy_error("mbind", nids)


def set_mempolicy(mode: int, nids: tuple[int, ...] = ()) -> None:
    """Set the calling thread's memory policy: set_mempolicy(2).

    Page cache follows it where no mapping's policy does.  Raises
    :class:`HostError` with the kernel's reason.
    """
    mask, bits = _nodemask(nids)
    if _libc.syscall(ctypes.c_long(_number(2)), ctypes.c_long(mode), mask, ctypes.c_ulong(bits)):
        _policy_error("set_mempolicy", nids)


def memory_nodes(root: Path = Path("/")) -> tuple[int, ...]:
    """Return the nodes that have memory, ascending, as sysfs below ``root`` lists them.

    ``(0,)`` where the kernel knows no nodes (CONFIG_NUMA=n).
    """
    try:
        text = (root / "sys/devices/system/node/has_memory").read_text()
    except FileNotFoundError:
        return (0,)
    return parse_nodelist(text)


def parse_nodelist(text: str) -> tuple[int, ...]:
    """Return the numbers of a kernel list such as ``0-2,5``."""
    nids: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        nids.extend(range(int(first), int(last or first) + 1))
    return tuple(nids)


def _number(index: int) -> int:
    machine = platform.machine()
    if machine not in _SYSCALLS:
        raise HostError(
            f"mptrace does not know the number of move_pages(2) on '{machine}'",
            "it knows " + ", ".join(sorted(_SYSCALLS)),
        )
    return _SYSCALLS[machine][index]


def _pointer(array: npt.NDArray[Any] | int | None, dtype: npt.DTypeLike) -> ctypes.c_void_p:
    if isinstance(array, np.ndarray):
        if array.dtype != dtype or not array.flags.c_contiguous:
            raise ValueError(f"need a contiguous array of {np.dtype(dtype)}, not {array.dtype}")
        return ctypes.c_void_p(array.ctypes.data)
    return ctypes.c_void_p(array)


def _nodemask(nids: tuple[int, ...]) -> tuple[Any, int]:
    if not nids:
        return None, 0
    word = 8 * ctypes.sizeof(ctypes.c_ulong)
    words = max(nids) // word + 1
    mask = (ctypes.c_ulong * words)()
    for nid in nids:
        mask[nid // word] |= 1 << nid % word
    # get_nodes() in mm/mempolicy.c takes maxnode - 1 bits.
    return mask, words * word + 1


def _policy_error(call: str, nids: tuple[int, ...]) -> None:
    number = ctypes.get_errno()
    raise HostError(
        f"{call} to node {','.join(map(str, nids))} failed: {os.strerror(number)}",
        "a cpuset may forbid this node" if number == errno.EINVAL else "",
    )
