# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory that a workload moves: mapped, placed on its node, checked to be there.

Every page is touched, its place asked for and its kind looked at before a
workload is called ready: what was not there before can't be moved away.
"""

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mptrace import driver
from mptrace.driver import PAGE_SIZE
from mptrace.driving import address_space, protocol
from mptrace.errors import HostError, MptraceError
from mptrace.host import proc
from mptrace.host.parent import die_with_parent
from mptrace.units import format_bytes, many

_MADV_COLLAPSE = 25  # since 6.1; not in Python's mmap
_MAP_NORESERVE = 0x4000
_MAP_HUGETLB = 0x40000
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_SPLICE_F_NONBLOCK = 2
_PIPE_BYTES = 1 << 20  # what any user may ask for: /proc/sys/fs/pipe-max-size
_WRITE_BYTES = 1 << 20
# Left free on a node: MPOL_BIND past its end calls the OOM killer.
_MARGIN_BYTES = 32 << 20
_RAM_FILESYSTEMS = ("tmpfs", "ramfs", "rootfs", "hugetlbfs", "devtmpfs")
_IOVEC = np.dtype([("base", "<u8"), ("bytes", "<u8")])

_libc = ctypes.CDLL(None, use_errno=True)
_libc.vmsplice.restype = ctypes.c_ssize_t
_libc.vmsplice.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_uint]


@dataclass(frozen=True)
class MemoryRequest:
    """The memory wanted: ``folios`` touched ones on ``nid``, then ``holes`` never touched."""

    kind: str
    folios: int
    holes: int
    nid: int
    directory: str
    pinned: tuple[int, ...]  #: base pages, counted from the start


class Memory(Protocol):
    """Memory in place: ``base`` is its first address, ``pid`` its owner (0: this process)."""

    base: int
    pid: int

    def close(self) -> None:
        """Give it back."""


def folio_bytes(kind: str) -> int:
    """Return the bytes of a folio of that kind on this machine.

    Raises :class:`HostError` where the kernel has no such folios.
    """
    if kind == "thp":
        return _thp_bytes()
    return _hugetlb_bytes() if kind == "hugetlb" else PAGE_SIZE


class OwnMemory:
    """Memory of this process."""

    def __init__(self, request: MemoryRequest) -> None:
        """Map, place, check and pin it; raises :class:`HostError` and leaves nothing behind."""
        self.pid = 0
        self._pipes: list[int] = []
        folio = folio_bytes(request.kind)
        self._bytes = request.folios * folio
        size = self._bytes + request.holes * folio
        slack = folio if request.kind == "thp" else 0
        with contextlib.ExitStack() as undo:
            fd = -1
            if request.kind in ("shmem", "file"):
                fd = _shmem() if request.kind == "shmem" else _file(request)
                undo.callback(os.close, fd)
                os.ftruncate(fd, size)
            if request.kind == "file":
                _fill(fd, self._bytes, request.nid)
            self._mapped = driver.map_memory(size + slack, _flags(request.kind), fd)
            self._mapped_bytes = size + slack
            self.base = -(-self._mapped // folio) * folio if slack else self._mapped
            undo.callback(self.close)
            self._place(request, size)
            self._check(request, folio)
            self._pin(request.pinned)
            undo.pop_all()
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Let go of the pins and unmap it."""
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()
        driver.unmap(self._mapped, self._mapped_bytes)

    def _place(self, request: MemoryRequest, size: int) -> None:
        # Without MADV_NOHUGEPAGE, "always" and mTHP would make other folios than asked for.
        huge = mmap.MADV_HUGEPAGE if request.kind == "thp" else mmap.MADV_NOHUGEPAGE
        if request.kind != "hugetlb":
            driver.advise(self.base, size, huge)
        if request.kind == "file":  # or read-ahead and fault-around would touch holes
            driver.advise(self.base, size, mmap.MADV_RANDOM)
        else:
            driver.mbind(self.base, size, driver.MPOL_BIND, (request.nid,))
        bytes_ = np.ctypeslib.as_array((ctypes.c_uint8 * self._bytes).from_address(self.base))
        if request.kind == "file":  # a read leaves them clean: no writeback while they move
            int(bytes_[::PAGE_SIZE].sum())
        else:
            bytes_[::PAGE_SIZE] = 1

    def _check(self, request: MemoryRequest, folio: int) -> None:
        pages = self._pages()
        if request.kind == "thp" and self._huge_bytes() < self._bytes:
            driver.advise(self.base, self._bytes, _MADV_COLLAPSE)
            got = self._huge_bytes()
            if got < self._bytes:
                raise HostError(
                    f"got only {got // folio} of {many(request.folios, 'transparent huge page')} "
                    f"on node {request.nid}",
                    "free memory on that node, or compact it: echo 1 > /proc/sys/vm/compact_memory",
                )
        nids = driver.query(0, pages)
        if (nids != request.nid).any():
            found, counts = np.unique(nids, return_counts=True)
            told = ", ".join(
                f"{count} on node {nid}" if nid >= 0 else f"{count} {os.strerror(-nid).lower()}"
                for nid, count in zip(found.tolist(), counts.tolist(), strict=True)
            )
            raise HostError(
                f"could not place {many(pages.size, 'page')} of kind '{request.kind}' on node "
                f"{request.nid}: {told}",
                "another tool may be moving pages (NUMA balancing?)",
            )
        if request.kind == "file":
            self._check_file(request.directory)

    def _check_file(self, directory: str) -> None:
        """An overlay's upper layer may be RAM: the pages themselves tell."""
        with address_space.Pagemap(os.getpid()) as pagemap:
            entries = pagemap.entries(self._pages()[:1])
        flags = address_space.page_flags(entries & np.uint64((1 << 55) - 1))
        if flags is not None and (flags & np.uint64(address_space.KPF_SWAPBACKED)).any():
            raise _not_a_filesystem(directory, "keeps its files in RAM")

    def _pages(self) -> npt.NDArray[np.uint64]:
        first = np.uint64(self.base)
        return first + np.arange(0, self._bytes, PAGE_SIZE, dtype=np.uint64)

    def _huge_bytes(self) -> int:
        """AnonHugePages of the mapping in smaps."""
        for one, fields in proc.smaps("self"):
            if one.start <= self.base < one.end:
                return proc.smaps_bytes(fields, "AnonHugePages")
        return 0

    def _pin(self, pages: tuple[int, ...]) -> None:
        """Put base pages into pipes that nobody reads: a reference each."""
        if pages:
            _raise_file_limit()
        addresses = np.uint64(self.base) + np.array(pages, np.uint64) * np.uint64(PAGE_SIZE)
        done = 0
        while done < addresses.size:
            reader, writer = os.pipe()
            self._pipes += [reader, writer]
            with contextlib.suppress(OSError):
                fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_BYTES)
            slots = fcntl.fcntl(writer, _F_GETPIPE_SZ) // PAGE_SIZE
            vectors = np.zeros(min(slots, addresses.size - done), _IOVEC)
            vectors["base"] = addresses[done : done + vectors.size]
            vectors["bytes"] = 1
            put = _libc.vmsplice(writer, vectors.ctypes.data, vectors.size, _SPLICE_F_NONBLOCK)
            if put <= 0:
                raise HostError(f"can't pin pages: vmsplice: {os.strerror(ctypes.get_errno())}")
            done += put


class ChildMemory:
    """Memory of a child process, which does nothing but hold it."""

    def __init__(self, request: MemoryRequest) -> None:
        """Fork the child and have it make the memory; raises what it raised."""
        answer, tell = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            _hold(request, tell, parent)
        os.close(tell)
        with os.fdopen(answer, "rb") as stream:
            line = stream.readline()
        reply: dict[str, Any] = (
            json.loads(line) if line else {"error": "the child process died while set up"}
        )
        if "error" in reply:
            self.close()
            raise protocol.from_error(reply)
        self.base = int(reply["base"])

    def close(self) -> None:
        """End the child."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _hold(request: MemoryRequest, tell: int, parent: int) -> None:
    """Be the child: make the memory, say where it is, wait for the end."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent(parent)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        tell = os.dup2(tell, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        try:
            memory = OwnMemory(request)
            reply: dict[str, Any] = {"base": memory.base}
        except MptraceError as error:
            reply = protocol.to_error(error)
        os.write(tell, json.dumps(reply).encode() + b"\n")
        while True:
            signal.pause()
    finally:
        os._exit(1)


def make(request: MemoryRequest, child: bool) -> Memory:
    """Return the memory in place, in this process or in a child of it."""
    return ChildMemory(request) if child else OwnMemory(request)


def _flags(kind: str) -> int:
    if kind in ("shmem", "file"):
        return mmap.MAP_SHARED
    hugetlb = _MAP_HUGETLB | _MAP_NORESERVE if kind == "hugetlb" else 0
    return mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | hugetlb


def _thp_bytes() -> int:
    folder = Path("/sys/kernel/mm/transparent_hugepage")
    try:
        if "[never]" in (folder / "enabled").read_text():
            raise HostError(
                "transparent huge pages are switched off",
                f"echo madvise > {folder}/enabled",
            )
        return int((folder / "hpage_pmd_size").read_text())
    except FileNotFoundError as error:
        raise HostError("this kernel has no transparent huge pages") from error


def _hugetlb_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Hugepagesize:"):
            return int(line.split()[1]) * 1024
    raise HostError("this kernel has no hugetlb pages")


def check_room(kind: str, folios: int, nid: int) -> None:
    """Raise :class:`HostError` where ``folios`` of ``kind`` don't fit on node ``nid``.

    To be asked before the memory is made: past a node's end the OOM killer
    waits, past a pool's end SIGBUS.
    """
    folio = folio_bytes(kind)
    node = Path(f"/sys/devices/system/node/node{nid}")
    if kind == "hugetlb":
        pool = f"hugepages/hugepages-{folio >> 10}kB"
        free = {
            path.name[4:]: int((path / pool / "free_hugepages").read_text())
            for path in sorted(node.parent.glob("node[0-9]*"))
            if (path / pool).exists()
        }
        if free.get(str(nid), 0) < folios:
            told = ", ".join(f"{count} on node {nid}" for nid, count in free.items()) or "none"
            raise HostError(
                f"{many(folios, 'free hugetlb page')} {'is' if folios == 1 else 'are'} needed on "
                f"node {nid}; there are {told}",
                f"echo N > {node}/{pool}/nr_hugepages",
            )
        return
    available = _available_bytes(node)
    size = folios * folio
    if available is not None and size + _MARGIN_BYTES > available:
        raise HostError(
            f"{format_bytes(size)} don't fit on node {nid}: about "
            f"{format_bytes(available)} are available, and {format_bytes(_MARGIN_BYTES)} stay free",
            "move fewer pages",
        )


def _available_bytes(node: Path) -> int | None:
    """Free memory of a node and page cache that can be dropped; None without sysfs."""
    try:
        lines = (node / "meminfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    fields = {line.split()[2].rstrip(":"): int(line.split()[3]) * 1024 for line in lines}
    cache = fields.get("Active(file)", 0) + fields.get("Inactive(file)", 0)
    return fields["MemFree"] + cache - fields.get("Dirty", 0)


def _shmem() -> int:
    return os.memfd_create("mptrace", os.MFD_CLOEXEC)


def _file(request: MemoryRequest) -> int:
    """Open a nameless file on a real file system."""
    candidates = [request.directory] if request.directory else ["/var/tmp", os.getcwd()]
    refused: HostError | None = None
    for directory in candidates:
        name = _filesystem(directory)
        if name in _RAM_FILESYSTEMS:
            refused = refused or _not_a_filesystem(directory, f"is {name}, which is RAM")
            continue
        try:
            with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                return os.dup(file.fileno())
        except OSError as error:
            refused = refused or HostError(f"can't make a file in '{directory}': {error.strerror}")
    raise refused or HostError("found no directory for a file")


def _not_a_filesystem(directory: str, why: str) -> HostError:
    return HostError(
        f"'{directory or 'the temporary directory'}' {why}: its pages belong to no file system",
        "give a directory on a disk, or use kind 'shmem'",
    )


def _filesystem(directory: str) -> str:
    """The file system type of the mount that ``directory`` lies in, from mountinfo."""
    real = os.path.realpath(directory)
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        if os.path.commonpath([real, point]) == point and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def _fill(fd: int, size: int, nid: int) -> None:
    """Write ``size`` bytes; page cache of files follows the thread's policy alone."""
    block = b"\x01" * min(size, _WRITE_BYTES)
    try:
        with _policy(nid):
            for offset in range(0, size, len(block)):
                os.pwrite(fd, block[: size - offset], offset)
            os.fsync(fd)
    except OSError as error:
        raise HostError(f"can't write a file of {format_bytes(size)}: {error.strerror}") from error


@contextlib.contextmanager
def _policy(nid: int) -> Iterator[None]:
    driver.set_mempolicy(driver.MPOL_BIND, (nid,))
    try:
        yield
    finally:
        driver.set_mempolicy(driver.MPOL_DEFAULT)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
