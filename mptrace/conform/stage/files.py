# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of files, and file systems of a scenario's own that nobody else sees."""

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mptrace import driver
from mptrace.driver import MPOL_BIND, MPOL_DEFAULT, PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

# The same numbers on every machine (unified since 5.1).
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: object) -> int:
    """A raw system call; raises OSError.  Integers are passed as longs, bytes as pointers."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ret = int(_libc.syscall(ctypes.c_long(number), *converted))
    if ret < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ret


@contextlib.contextmanager
def on_node(nid: int) -> Iterator[None]:
    """Page cache that this thread, or a child, brings in meanwhile lies on ``nid``."""
    driver.set_mempolicy(MPOL_BIND, (nid,))
    try:
        yield
    finally:
        driver.set_mempolicy(MPOL_DEFAULT)


def opened(stage: "Stage", path: str | Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """Open a file until the scenario ends."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stage.undo.callback(os.close, fd)
    return fd


def memory_file(stage: "Stage", size: int) -> int:
    """A file of tmpfs without a name."""
    fd = os.memfd_create("mptrace")
    stage.undo.callback(os.close, fd)
    os.ftruncate(fd, size)
    return fd


def mapped(stage: "Stage", fd: int, pages: int = 1, *, write: bool = True) -> list[int]:
    """Map a file's first pages shared and bring them in on the source node; their addresses.

    ``write``: make them dirty through the mapping; else it is read only.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    memory = mmap.mmap(fd, pages * PAGE_SIZE, mmap.MAP_SHARED, protection)
    stage.undo.callback(memory.close)
    base = int(np.frombuffer(memory, np.uint8).ctypes.data)
    addresses = [base + PAGE_SIZE * page for page in range(pages)]
    with on_node(stage.source):
        stage.touch(addresses, write=write)
    return addresses


def mounted(stage: "Stage", kind: str, source: str = "", **options: str) -> Path:
    """The root of a new mount that has no place in the tree: it ends with its last user.

    ``options`` with an empty value are flags.  Skips where the kernel has no such
    file system.
    """
    try:
        context = syscall(_FSOPEN, kind.encode(), 1)
    except OSError as error:
        stage.skip(f"this kernel has no file system '{kind}' ({error.strerror})")
    try:
        for key, value in {"source": source or kind, **options}.items():
            command = _FSCONFIG_SET_STRING if value else _FSCONFIG_SET_FLAG
            syscall(_FSCONFIG, context, command, key.encode(), value.encode() or None, 0)
        syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        root = syscall(_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)
    stage.undo.callback(os.close, root)
    return Path(f"/proc/self/fd/{root}")
