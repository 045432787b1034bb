# SPDX-License-Identifier: GPL-2.0-or-later
"""A process's address space: its mappings, and which of their pages exist.

Terabytes of reserved addresses are skipped in bulk: by ioctl PAGEMAP_SCAN where
the kernel has it (since 6.7, 52526ca7fdb9 "fs/proc/task_mmu: implement IOCTL to
get and optionally clear info about PTEs"), else by the sizes in smaps.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Addresses
from mptrace.driver import PAGE_SIZE
from mptrace.errors import TargetError
from mptrace.host import proc

Ranges = npt.NDArray[np.int64]

# pagemap entries: Documentation/admin-guide/mm/pagemap.rst
_PRESENT_OR_SWAPPED = np.uint64(3 << 62)
_PRESENT = np.uint64(1 << 63)
_PFN = np.uint64((1 << 55) - 1)
# /proc/kpageflags, same page.
KPF_SWAPBACKED = 1 << 14
_KPF_COMPOUND_TAIL = 1 << 16

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), 96 bytes
_PAGE_IS_PRESENT_OR_SWAPPED = 1 << 3 | 1 << 4
_SCAN_REGIONS = 4096
_CHUNK_PAGES = 1 << 20  # pagemap entries read at once: 8 MiB
#: Pages of one mapping whose pagemap is read without PAGEMAP_SCAN: 1 TiB of 4 KiB pages.
MAX_READ_PAGES = 1 << 28


@dataclass(frozen=True)
class Mapping:
    """One mapping of a process; ``end`` exclusive, ``name`` as maps prints it."""

    start: int
    end: int
    perms: str
    name: str
    resident_bytes: int  #: Rss, Swap and hugetlb of smaps: 0 means nothing but zero pages
    raw_frames: bool = False  #: VM_PFNMAP (devices, [vvar]): pagemap shows none of its pages

    @property
    def pages(self) -> int:
        """Base pages of the mapping, present or not."""
        return (self.end - self.start) // PAGE_SIZE


class _ScanArgument(ctypes.Structure):
    """struct pm_scan_arg of include/uapi/linux/fs.h."""

    _fields_ = (
        ("size", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("walk_end", ctypes.c_uint64),
        ("vec", ctypes.c_uint64),
        ("vec_len", ctypes.c_uint64),
        ("max_pages", ctypes.c_uint64),
        ("category_inverted", ctypes.c_uint64),
        ("category_mask", ctypes.c_uint64),
        ("category_anyof_mask", ctypes.c_uint64),
        ("return_mask", ctypes.c_uint64),
    )


def mappings(pid: int, *, root: Path = Path("/")) -> list[Mapping]:
    """Return the mappings of process ``pid`` in address order, without [vsyscall].

    Raises :class:`TargetError` where the process does not exist, may not be
    looked at, or has no memory.
    """
    try:
        found = [_mapping(*each) for each in proc.smaps(pid, root)]
    except OSError as error:
        raise proc_error(pid, error, root=root) from error
    if not found:
        raise TargetError(
            f"process {pid} has no memory of its own", "it is a kernel thread, or is exiting"
        )
    return [mapping for mapping in found if mapping.name != "[vsyscall]"]


def clip(found: list[Mapping], ranges: tuple[tuple[int, int], ...]) -> list[Mapping]:
    """Return the parts of mappings that lie in ``ranges``; all of them where there are none.

    Ranges are widened to whole pages.
    """
    if not ranges:
        return found
    parts = []
    for mapping in found:
        for start, end in ranges:
            low = max(mapping.start, start & -PAGE_SIZE)
            high = min(mapping.end, -(-end // PAGE_SIZE) * PAGE_SIZE)
            if low < high:
                parts.append(replace(mapping, start=low, end=high))
    return parts


class Pagemap:
    """The page tables of a process, read through /proc/PID/pagemap.  A context manager."""

    def __init__(self, pid: int, *, scan: bool = True) -> None:
        """Open it; ``scan=False`` never asks for PAGEMAP_SCAN.  Raises TargetError."""
        self.pid = pid
        try:
            self._fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise proc_error(pid, error) from error
        self._scan = scan and self._can_scan()

    def __enter__(self) -> "Pagemap":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def unread(self, mapping: Mapping) -> bool:
        """Whether the mapping is too large to look into and holds nothing known: all absent."""
        return not self._scan and mapping.pages > _CHUNK_PAGES and not mapping.resident_bytes

    def present(self, mapping: Mapping) -> Iterator[tuple[int, Ranges]]:
        """Yield ``(end, ranges)``: what lies below ``end`` and was not yielded before.

        ``ranges`` is int64[n, 2] of addresses ``(start, end)`` where a page is
        present or swapped out, ascending; of raw frames every page.  The last
        ``end`` says how far it came: to MAX_READ_PAGES without PAGEMAP_SCAN, of
        raw frames to _CHUNK_PAGES.
        """
        if mapping.raw_frames:
            end = min(mapping.end, mapping.start + _CHUNK_PAGES * PAGE_SIZE)
            yield end, np.array([[mapping.start, end]])
        elif self.unread(mapping):
            yield mapping.end, np.empty((0, 2), np.int64)
        elif self._scan:
            yield from self._scanned(mapping)
        else:
            yield from self._read(mapping)

    def entries(self, addresses: Addresses) -> npt.NDArray[np.uint64]:
        """Return the pagemap entries uint64[n] of ascending ``addresses``.

        Frame numbers are 0 without CAP_SYS_ADMIN.
        """
        frames = (addresses // np.uint64(PAGE_SIZE)).astype(np.int64)
        return _gather(self._fd, frames)

    def folio_heads(self, addresses: Addresses) -> npt.NDArray[np.bool_] | None:
        """Return bool[n]: which of ascending ``addresses`` is the first of its folio among them.

        None where frame numbers are hidden from us.
        """
        entries = self.entries(addresses)
        frames = np.where(entries & _PRESENT, entries & _PFN, np.uint64(0))
        flags = page_flags(frames)
        if flags is None:
            return None
        follows = np.zeros(addresses.size, bool)
        follows[1:] = (np.diff(frames.astype(np.int64)) == 1) & (
            np.diff(addresses.astype(np.int64)) == PAGE_SIZE
        )
        heads: npt.NDArray[np.bool_] = ~(follows & ((flags & np.uint64(_KPF_COMPOUND_TAIL)) != 0))
        return heads

    def _can_scan(self) -> bool:
        argument = _ScanArgument(size=ctypes.sizeof(_ScanArgument), return_mask=1 << 3)
        region = (ctypes.c_uint64 * 3)()
        argument.vec, argument.vec_len = ctypes.addressof(region), 1
        try:
            fcntl.ioctl(self._fd, _PAGEMAP_SCAN, argument)
        except OSError as error:
            return error.errno not in (errno.ENOTTY, errno.EINVAL)
        return True

    def _scanned(self, mapping: Mapping) -> Iterator[tuple[int, Ranges]]:
        regions = np.empty((_SCAN_REGIONS, 3), np.uint64)
        start = mapping.start
        while start < mapping.end:
            argument = _ScanArgument(
                size=ctypes.sizeof(_ScanArgument),
                start=start,
                end=mapping.end,
                vec=regions.ctypes.data,
                vec_len=_SCAN_REGIONS,
                category_anyof_mask=_PAGE_IS_PRESENT_OR_SWAPPED,
                return_mask=_PAGE_IS_PRESENT_OR_SWAPPED,
            )
            try:
                count = fcntl.ioctl(self._fd, _PAGEMAP_SCAN, argument)
            except OSError as error:
                raise proc_error(self.pid, error) from error
            start = max(int(argument.walk_end), start + PAGE_SIZE)
            yield start, regions[:count, :2].astype(np.int64)

    def _read(self, mapping: Mapping) -> Iterator[tuple[int, Ranges]]:
        first = mapping.start // PAGE_SIZE
        last = first + min(mapping.pages, MAX_READ_PAGES)
        for frame in range(first, last, _CHUNK_PAGES):
            count = min(_CHUNK_PAGES, last - frame)
            words = np.frombuffer(os.pread(self._fd, count * 8, frame * 8), np.uint64)
            if words.size < count:  # it exits, or the range ends
                words = np.concatenate([words, np.zeros(count - words.size, np.uint64)])
            there = np.zeros(count + 2, np.int8)
            there[1:-1] = (words & _PRESENT_OR_SWAPPED) != 0
            edges = np.flatnonzero(np.diff(there)).reshape(-1, 2)
            yield (frame + count) * PAGE_SIZE, (edges + frame) * PAGE_SIZE


def addresses_in(ranges: Ranges, limit: int) -> Iterator[Addresses]:
    """Yield the addresses of all pages of ``ranges`` (int64[n, 2]), at most ``limit`` at once."""
    lengths = (ranges[:, 1] - ranges[:, 0]) // PAGE_SIZE
    ends = np.cumsum(lengths)
    total = int(lengths.sum())
    for first in range(0, total, limit):
        ordinals = np.arange(first, min(first + limit, total))
        row = np.searchsorted(ends, ordinals, side="right")
        inside = ordinals - (ends[row] - lengths[row])
        yield (ranges[row, 0] + inside * PAGE_SIZE).astype(np.uint64)


def page_flags(frames: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64] | None:
    """Return the KPF_* flags uint64[n] of page frames from /proc/kpageflags, 0 for frame 0.

    None where there is no frame number to be seen or the file can't be read.
    """
    known = np.unique(frames[frames != 0]).astype(np.int64)
    if not known.size:
        return None
    try:
        fd = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        flags = _gather(fd, known)
    finally:
        os.close(fd)
    found = np.searchsorted(known, frames.astype(np.int64)).clip(max=known.size - 1)
    return np.where(frames != 0, flags[found], np.uint64(0))


def _gather(fd: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Read 8-byte words at ascending ``positions``: neighbours at once, gaps up to 512 too."""
    words = np.zeros(positions.size, np.uint64)
    cuts = np.flatnonzero(np.diff(positions) > 512) + 1
    for part in np.split(np.arange(positions.size), cuts):
        for first in range(0, part.size, _CHUNK_PAGES):
            chosen = part[first : first + _CHUNK_PAGES]
            if not chosen.size:
                continue
            low, high = int(positions[chosen[0]]), int(positions[chosen[-1]])
            data = np.frombuffer(os.pread(fd, (high + 1 - low) * 8, low * 8), np.uint64)
            inside = positions[chosen] - low
            got = inside < data.size
            words[chosen[got]] = data[inside[got]]
    return words


_RESIDENT = ("Rss", "Swap", "Shared_Hugetlb", "Private_Hugetlb")


def _mapping(one: proc.Mapped, fields: proc.Fields) -> Mapping:
    return Mapping(
        one.start,
        one.end,
        one.perms,
        one.name.decode(errors="replace"),
        resident_bytes=sum(proc.smaps_bytes(fields, name) for name in _RESIDENT),
        raw_frames="pf" in fields.get("VmFlags", "").split(),
    )


def proc_error(pid: int, error: OSError, *, root: Path = Path("/")) -> TargetError:
    """Return the error that says why a file of process ``pid`` in /proc could not be read."""
    if error.errno in (errno.ENOENT, errno.ESRCH) and not proc.is_there(pid, root):
        return TargetError(f"process {pid} does not exist, or has ended")
    if error.errno in (errno.EPERM, errno.EACCES):
        return TargetError(
            f"not permitted to look at the memory of process {pid}",
            "run as root, or as its user with CAP_SYS_PTRACE; a security module may forbid it too",
        )
    if error.errno == errno.ESRCH:
        return TargetError(f"process {pid} has no memory of its own", "it is exiting")
    return TargetError(f"can't look at the memory of process {pid}: {error.strerror}")
