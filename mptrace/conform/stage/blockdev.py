# SPDX-License-Identifier: GPL-2.0-or-later
"""Block devices of a scenario's own: a loop device in memory, and one that answers late.

The loop device detaches itself when its last user is gone (autoclear); the
device-mapper device over it is written into the journal.
"""

import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mptrace.conform.stage import files
from mptrace.conform.stage.journal import OWN_PREFIX
from mptrace.driver import PAGE_SIZE
from mptrace.host import proc

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

MIB = 1 << 20

# include/uapi/linux/loop.h
_LOOP_CONFIGURE, _LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_INFO = struct.Struct("5Q4I64s64s32s2Q")
# Longer than all that has to happen meanwhile, on a machine that is busy, too: after 10 s the
# write had ended before its page was wanted, and a scenario waited in vain.
_DELAY_MS = 30_000

_libc = ctypes.CDLL(None, use_errno=True)


def loop(stage: "Stage", size: int = 8 * MIB) -> str:
    """A loop device over ``size`` bytes of memory; its path."""
    stage.need_module("loop")
    stage.need_file("/dev/loop-control")
    backing = files.memory_file(stage, size)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
    finally:
        os.close(control)
    device = files.opened(stage, path, os.O_RDWR)
    info = _LOOP_INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _LO_FLAGS_AUTOCLEAR, b"", b"", b"", 0, 0)
    fcntl.ioctl(device, _LOOP_CONFIGURE, struct.pack("2I", backing, 0) + info + bytes(64))
    return path


class SlowDevice:
    """A device over a loop device; from :meth:`slow` to :meth:`fast` its I/O takes seconds.

    Make file systems before it is slow.
    """

    def __init__(self, stage: "Stage", size: int = 8 * MIB) -> None:
        stage.need_tool("dmsetup")
        stage.need_module("dm-delay")
        # names in /dev/mapper are made by dmsetup itself: a guest has no udev
        os.environ["DM_DISABLE_UDEV"] = "1"
        self._stage = stage
        self._loop = loop(stage, size)
        self._sectors = size // 512
        self._name = f"{OWN_PREFIX}{os.getpid()}"
        self.path = f"/dev/mapper/{self._name}"
        stage.change("dm-remove", self._name)
        stage.run("dmsetup", "create", self._name, "--table", self._table("linear"))

    def slow(self) -> None:
        """From now on, and until the scenario ends, each read and write takes seconds."""
        # before anything is unmounted, which writes
        self._stage.undo.callback(self.fast)
        self._load(f"{self._table('delay')} {_DELAY_MS}")

    def fast(self) -> None:
        """Let everything that waits pass at once: suspending dm-delay lets go of it."""
        self._load(self._table("linear"))

    def _load(self, table: str) -> None:
        run = self._stage.run
        run("dmsetup", "load", self._name, "--table", table)
        run("dmsetup", "suspend", "--nolockfs", self._name)
        run("dmsetup", "resume", self._name)

    def _table(self, target: str) -> str:
        return f"0 {self._sectors} {target} {self._loop} 0"


def make_ext(stage: "Stage", device: str, *options: str) -> None:
    """Make an ext file system with blocks of 4 KiB; ``options`` are those of mke2fs."""
    # what it leaves in the device's page cache is a scenario's page too
    with files.on_node(stage.source):
        stage.run("mke2fs", "-q", "-F", "-b", "4096", *options, device)


def page_in_writeback(stage: "Stage", *, stable: bool = False) -> tuple[SlowDevice, int, int]:
    """A mapped page of a file that is on its way to a slow device: device, file, address.

    ``stable``: who writes to it locks it and waits for the device before he
    changes it (folio_wait_stable(); disks with checksums ask for that).
    """
    stage.need_tool("mke2fs")
    device = SlowDevice(stage)
    make_ext(stage, device.path, "-t", "ext2")
    if stable:
        number = os.stat(device.path).st_rdev
        queue = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/stable_writes"
        stage.need_file(queue)
        Path(queue).write_text("1")
    root = files.mounted(stage, "ext4", device.path)
    file = files.opened(stage, root / "file")
    with files.on_node(stage.source):
        os.write(file, bytes(PAGE_SIZE))
    os.fsync(file)  # its block is allocated: what follows writes this page alone
    (page,) = files.mapped(stage, file)
    device.slow()
    # sync_file_range(2), SYNC_FILE_RANGE_WRITE: does not wait for the end
    if _libc.sync_file_range(file, ctypes.c_int64(0), ctypes.c_int64(0), 2):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return device, file, page


def any_in(pid: int, function: str) -> bool:
    """Whether a thread of a process sleeps in a kernel function, or in one that it called."""
    return any(is_in(tid, function) for tid in proc.tids(pid))


def is_in(tid: int, function: str) -> bool:
    """Whether a thread sleeps in a kernel function, or in one that it called."""
    try:
        return function in proc.kernel_stack(tid)
    except OSError:
        return False


def meanwhile(stage: "Stage", when: Callable[[], bool], act: Callable[[], None]) -> None:
    """A process that acts once ``when()`` is true, while this one waits in the kernel."""

    def wait() -> None:
        stage.await_(when, "the state in which a helper acts")
        act()

    stage.fork(threading.Thread(target=wait, daemon=True).start)
