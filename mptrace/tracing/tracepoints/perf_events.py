# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracepoints of all CPUs through perf_event_open(2): rings, drained in bulk as numpy.

Works where BPF and kprobes are refused.  Every event and every ring lives as long as
its descriptor: whatever happens to this process, the kernel takes them back.

The events of a CPU whose records have one size share a ring, so that what comes out of
it is one array (see `perf_records.runs`).  All times are of CLOCK_MONOTONIC.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mptrace.arrays import Bytes, Table
from mptrace.errors import HostError
from mptrace.host.topology import parse_list
from mptrace.tracing.tracepoints.perf_records import LOSS, TASK, split

_SYSCALLS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_TYPE_SOFTWARE, _TYPE_TRACEPOINT = 1, 2
_SW_DUMMY = 9
_SAMPLE_TID_TIME_RAW = 1 << 1 | 1 << 2 | 1 << 10
_DISABLED, _COMM, _TASK, _SAMPLE_ID_ALL, _USE_CLOCKID = 1 << 0, 1 << 9, 1 << 13, 1 << 18, 1 << 25
_CLOCK_MONOTONIC = 1
_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_DISABLE, _IOC_SET_OUTPUT = 0x2400, 0x2401, 0x2405
# struct perf_event_attr as of PERF_ATTR_SIZE_VER5 (4.x).
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQQQQIiQIHH")
# struct perf_event_mmap_page
_DATA_HEAD, _DATA_TAIL = 1024, 1032
_LONGEST_RECORD = 256
#: Bound of all rings together, and what a ring has at least and at most.
_TOTAL_BYTES = 256 << 20
_MIN_RING_BYTES, _MAX_RING_BYTES = 64 << 10, 4 << 20
_RARE_RING_BYTES = 256 << 10

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Probe:
    """One tracepoint to watch: its name, its ``id``, and the size of its records in a ring."""

    name: str
    event_id: int
    record_bytes: int
    #: Comes once per page: its ring is a big one.
    frequent: bool = False


@dataclass
class PerfRecords:
    """What was taken out of the rings: runs of samples, LOSS rows, TASK rows in order of time."""

    samples: list[Bytes] = field(default_factory=list)
    losses: Table = field(default_factory=lambda: np.empty(0, LOSS))
    tasks: Table = field(default_factory=lambda: np.empty(0, TASK))

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing."""
        return not (self.samples or self.losses.size or self.tasks.size)


class _Ring:
    """The ring of one event, mapped, read by one consumer."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        page = mmap.PAGESIZE
        while True:
            try:
                self._map = mmap.mmap(fd, page + size_bytes)
                break
            except OSError as error:
                # EPERM: more than perf_event_mlock_kb without CAP_IPC_LOCK
                if error.errno not in (errno.EPERM, errno.ENOMEM) or size_bytes <= page:
                    raise
                size_bytes //= 2
        self.size_bytes = size_bytes
        control = np.frombuffer(self._map, "<u8", page // 8)
        self._head = control[_DATA_HEAD // 8 : _DATA_HEAD // 8 + 1]
        self._tail = control[_DATA_TAIL // 8 : _DATA_TAIL // 8 + 1]
        self._data = np.frombuffer(self._map, np.uint8, size_bytes, page)
        self.last_ns = 0
        #: Whether the next record would not have fitted when it was last taken.
        self.was_full = False
        #: From when to when records were lost then.
        self.full_ns = (0, 0)

    def take(self) -> Bytes:
        """A copy of everything that is there, and free its room."""
        head, tail = int(self._head[0]), int(self._tail[0])
        if head == tail:
            self.was_full = False
            return np.empty(0, np.uint8)
        first, last = tail % self.size_bytes, head % self.size_bytes
        if first < last:
            data = self._data[first:last].copy()
        else:
            data = np.concatenate([self._data[first:], self._data[:last]])
        # it may have been filled while it was copied
        self.was_full = self.size_bytes - (int(self._head[0]) - tail) < _LONGEST_RECORD
        self._tail[0] = head
        return data

    def split(self, data: Bytes) -> tuple[list[Bytes], Table, Table]:
        """Runs of samples, LOSS rows and TASK rows of what was taken.

        A ring that was found full gets a loss of one, until now: how many records it had
        no room for is told with the next one that it has, however late that comes.
        """
        began, full_ns = self.last_ns, self.full_ns
        samples, losses, tasks, self.last_ns = split(data, began)
        if full_ns[1] and losses.size and losses["from_ns"][0] == began:
            losses["from_ns"][0], losses["to_ns"][0] = full_ns
        self.full_ns = (0, 0)
        if self.was_full:
            self.full_ns = self.last_ns, time.monotonic_ns()
            losses = np.concatenate([losses, np.array([(*self.full_ns, 1)], LOSS)])
            self.last_ns = self.full_ns[1]
        return samples, losses, tasks

    def close(self) -> None:
        """Unmap; the ring must not be used afterwards."""
        del self._head, self._tail, self._data
        with contextlib.suppress(BufferError):
            self._map.close()


class PerfEvents:
    """Tracepoints on every CPU that is online, from `enable` to `disable`.

    :param probes: what to watch.
    :param tasks: also say which threads come, go and change their name.
    :raises HostError: the kernel refuses events or rings.
    """

    def __init__(self, probes: Sequence[Probe], *, tasks: bool = True) -> None:
        self.cpus = online_cpus()
        self._fds: list[int] = []
        self._counted: list[tuple[Probe, int]] = []
        self._rings: list[_Ring] = []
        try:
            with _descriptors_allowed(len(self.cpus) * (len(probes) + 1)):
                for cpu in self.cpus:
                    self._open_cpu(cpu, probes, tasks)
        except OSError as error:
            self.close()
            raise _refused(error) from error
        except BaseException:
            self.close()
            raise

    @property
    def memory_bytes(self) -> int:
        """Bytes of all rings."""
        return sum(ring.size_bytes + mmap.PAGESIZE for ring in self._rings)

    def enable(self) -> None:
        """Start all events."""
        for fd in self._fds:
            fcntl.ioctl(fd, _IOC_ENABLE, 0)

    def disable(self) -> None:
        """Stop all events; what is in the rings stays there."""
        for fd in self._fds:
            fcntl.ioctl(fd, _IOC_DISABLE, 0)

    def drain(self) -> PerfRecords:
        """Take what is in the rings."""
        drained = PerfRecords()
        losses, tasks = [drained.losses], [drained.tasks]
        for ring in self._rings:
            data = ring.take()
            if data.size:
                samples, lost, found = ring.split(data)
                drained.samples += samples
                losses.append(lost)
                tasks.append(found)
        drained.losses = np.concatenate(losses)
        drained.tasks = np.concatenate(tasks)
        drained.tasks = drained.tasks[np.argsort(drained.tasks["time_ns"], kind="stable")]
        return drained

    def counts(self) -> dict[str, int]:
        """How often the kernel met each tracepoint since `enable`, whether it had room or not."""
        totals: dict[str, int] = {}
        for probe, fd in self._counted:
            totals[probe.name] = totals.get(probe.name, 0) + struct.unpack("=Q", os.read(fd, 8))[0]
        return totals

    def close(self) -> None:
        """Give everything back; does nothing when closed already."""
        for ring in self._rings:
            ring.close()
        for fd in self._fds:
            os.close(fd)
        self._rings, self._fds, self._counted = [], [], []

    def _open_cpu(self, cpu: int, probes: Sequence[Probe], tasks: bool) -> None:
        rings: dict[int, int] = {}  # size of a record -> descriptor that has the ring
        sizes = {p.record_bytes for p in probes}
        frequent = {p.record_bytes for p in probes if p.frequent}
        share = _TOTAL_BYTES // (len(self.cpus) * max(1, len(frequent)))
        big = min(_MAX_RING_BYTES, max(_MIN_RING_BYTES, 1 << (share.bit_length() - 1)))
        if tasks:
            fd = self._open(_TYPE_SOFTWARE, _SW_DUMMY, _COMM | _TASK, cpu)
            self._map(fd, _RARE_RING_BYTES)
        for probe in probes:
            fd = self._open(_TYPE_TRACEPOINT, probe.event_id, 0, cpu)
            self._counted.append((probe, fd))
            if probe.record_bytes in rings:
                fcntl.ioctl(fd, _IOC_SET_OUTPUT, rings[probe.record_bytes])
            else:
                self._map(fd, big if probe.record_bytes in frequent else _RARE_RING_BYTES)
                rings[probe.record_bytes] = fd
        assert set(rings) == sizes

    def _open(self, kind: int, config: int, flags: int, cpu: int) -> int:
        attributes = _ATTRIBUTES.pack(
            kind,
            _ATTRIBUTES.size,
            config,
            1 if kind == _TYPE_TRACEPOINT else 0,  # sample_period
            _SAMPLE_TID_TIME_RAW,
            0,  # read_format: the count alone
            flags | _DISABLED | _SAMPLE_ID_ALL | _USE_CLOCKID,
            *(0,) * 7,
            _CLOCK_MONOTONIC,
            *(0,) * 4,
        )
        number = _SYSCALLS.get(platform.machine())
        if number is None:
            raise HostError(f"mptrace does not know perf_event_open(2) on {platform.machine()}")
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        fd = int(
            _libc.syscall(number, buffer, -1, cpu, -1, ctypes.c_ulong(_FD_CLOEXEC)),
        )
        if fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._fds.append(fd)
        return fd

    def _map(self, fd: int, size_bytes: int) -> None:
        self._rings.append(_Ring(fd, size_bytes))


def online_cpus(root: Path = Path("/")) -> tuple[int, ...]:
    """Numbers of the CPUs that are online."""
    return parse_list((root / "sys/devices/system/cpu/online").read_text())


@contextlib.contextmanager
def _descriptors_allowed(count: int) -> Iterator[None]:
    # Raises the soft limit of descriptors, within the hard one, and puts it back: a
    # command that is run later must not inherit it.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 256
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _refused(error: OSError) -> HostError:
    hints = {
        errno.EPERM: "run it as root, or with CAP_PERFMON and CAP_IPC_LOCK",
        errno.EACCES: "run it as root, or with CAP_PERFMON and CAP_IPC_LOCK",
        errno.EMFILE: "raise the limit of open files (ulimit -n): each event takes one per CPU",
        errno.ENOSYS: "boot a kernel with CONFIG_PERF_EVENTS",
    }
    return HostError(
        f"the kernel refused a tracepoint through perf_event_open(2): {error.strerror}",
        hints.get(error.errno or 0, "run 'mptrace doctor'"),
    )
