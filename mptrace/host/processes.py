# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes that a session met: name, user and cgroup, read from /proc while they are there."""

import ctypes
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mptrace.arrays import Table
from mptrace.host import proc
from mptrace.recording.layouts import NO_UID, PROCESS

#: Processes remembered, so that a long session doesn't grow; they are asked again after that.
_MAX_KNOWN = 1 << 16
# Inode of the initial PID namespace: PROC_PID_INIT_INO of include/linux/proc_ns.h.
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
#: What can't be seen where `own_tgids` knows nothing.
NOT_TOLD_APART = (
    "what is mptrace's own: process numbers are of another PID namespace here; it is in the sums"
)
_CGROUP_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


# The kernel finds a cgroup by its id alone: enum fid_type in linux/exportfs.h,
# kernfs_export_ops in fs/kernfs/mount.c (with 64-bit ids since 5.5).
_FILEID_KERNFS = 0xFE
_HANDLE = "=IiQ"  # struct file_handle with the id
_libc = ctypes.CDLL(None, use_errno=True)


def in_initial_namespace() -> bool:
    """Whether process numbers are the kernel's own here.  Raises OSError without /proc."""
    return Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE


def own_tgids() -> list[int] | None:
    """This process by the kernel's own number; None where that can't be known here."""
    try:
        return [os.getpid()] if in_initial_namespace() else None
    except OSError:
        return None


class Processes:
    """Asks /proc once about each process."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._known: set[int] = set()
        self._ids: dict[str, int] = {}
        self._nameless: set[int] = set()  # ids of cgroups that are not there any more
        #: cgroup id -> path below the cgroup2 file system, of the processes met (the first 65,536).
        self.cgroups: dict[int, str] = {}
        self._mount = next((root / m for m in _CGROUP_MOUNTS if _is_cgroup2(root / m)), None)

    def meet(self, tgids: Iterable[int]) -> Table:
        """Rows, shape (n,), dtype PROCESS, of those not met before; gone ones without a name."""
        new = {tgid for tgid in tgids if tgid} - self._known
        if len(self._known) + len(new) > _MAX_KNOWN:
            self.forget()
        self._known |= new
        rows = np.zeros(len(new), PROCESS)
        for row, tgid in zip(rows, sorted(new), strict=True):
            row["seen_ns"] = time.monotonic_ns()
            row["tgid"] = tgid
            row["uid"] = NO_UID
            try:
                row["comm"] = proc.comm(tgid, self._root)
                row["uid"] = proc.owner(tgid, self._root)
                row["cgroup_id"] = self._cgroup(tgid)
            except OSError:
                continue
        return rows

    def forget(self) -> None:
        """Ask about each process anew: what is recorded next stands for itself."""
        self._known.clear()

    def learn(self, cgroup_ids: Iterable[int]) -> None:
        """Paths of cgroups of which only the id is known: whoever was in them is gone."""
        for number in {*cgroup_ids} - self.cgroups.keys() - self._nameless - {0}:
            path = self._path(number) if len(self.cgroups) < _MAX_KNOWN else None
            if path is not None:
                self.cgroups[number] = path
            elif len(self._nameless) < _MAX_KNOWN:
                self._nameless.add(number)

    def _path(self, number: int) -> str | None:
        """Path below the mount of the cgroup with this id; None where there is none."""
        if self._mount is None:
            return None
        handle = struct.pack(_HANDLE, 8, _FILEID_KERNFS, number)
        opened: list[int] = []
        try:
            opened.append(os.open(self._mount, os.O_RDONLY | os.O_CLOEXEC))
            fd = _libc.open_by_handle_at(opened[0], handle, os.O_RDONLY | os.O_CLOEXEC)
            if fd < 0:
                return None
            opened.append(fd)
            place = Path(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            return None
        finally:
            for each in opened:
                os.close(each)
        if not place.is_relative_to(self._mount):
            return None
        below = place.relative_to(self._mount)
        return "/" if below == Path() else f"/{below}"

    def _cgroup(self, tgid: int) -> int:
        """The id of a process's cgroup (the inode of its directory), 0 where there is none."""
        path = proc.cgroup(tgid, self._root)
        return 0 if path is None or self._mount is None else self._id(path)

    def _id(self, path: str) -> int:
        number = self._ids.get(path)
        if number is None:
            assert self._mount is not None
            try:
                number = os.stat(self._mount / path.lstrip("/")).st_ino
            except OSError:
                return 0
            if len(self._ids) >= _MAX_KNOWN:
                self._ids.clear()
            self._ids[path] = number
            if len(self.cgroups) < _MAX_KNOWN:
                self.cgroups[number] = path
        return number


def _is_cgroup2(directory: Path) -> bool:
    return (directory / "cgroup.controllers").exists()


def cgroup_id(path: str, root: Path = Path("/")) -> tuple[int, str]:
    """Id and path below the mount of a cgroup given as a directory or as a path below the mount.

    Raises FileNotFoundError where there is no such cgroup (v2).
    """
    mounts = [root / mount for mount in _CGROUP_MOUNTS if _is_cgroup2(root / mount)]
    for mount in mounts:
        for place in (Path(path), mount / path.lstrip("/")):
            if place.is_relative_to(mount) and (place / "cgroup.procs").exists():
                below = "/" + str(place.relative_to(mount)) if place != mount else "/"
                return os.stat(place).st_ino, below
    raise FileNotFoundError(path)
