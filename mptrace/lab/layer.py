# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's changes to files, taken from the layer over the host's root and packed as a tar."""

import os
import stat
import tarfile
from collections.abc import Iterable

from .port import Port, PortFile

_LAYER = "/run/mptrace-lab/layer/upper"
_HOST = "/run/mptrace-lab/host"


def send_changes(port: Port, roots: Iterable[str], exclude: Iterable[str]) -> None:
    """Send as a tar what was changed below ``roots``; removed paths carry the record "removed".

    The layer over the host's root has what changed: a file there is new, or was
    opened for writing; one whose content and mode equal the host's is left out.
    A character device 0/0 stands for a removed name, the attribute
    trusted.overlay.opaque for a directory made anew in the place of another
    (Documentation/filesystems/overlayfs.rst).
    """
    names = frozenset(exclude)
    with tarfile.open(fileobj=PortFile(port), mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for root in roots:
            upper = _LAYER + root
            if os.path.lexists(upper):
                _add(tar, root, names)


def _add(tar: tarfile.TarFile, path: str, exclude: frozenset[str]) -> None:
    upper, lower = _LAYER + path, _HOST + path
    status = os.lstat(upper)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        _add_removed(tar, path)
    elif stat.S_ISDIR(status.st_mode):
        if not os.path.isdir(lower) or os.path.islink(lower):
            tar.add(upper, path, recursive=False)
        children = set(os.listdir(upper))
        if _is_opaque(upper):
            for name in sorted(set(_listdir(lower)) - children - exclude):
                _add_removed(tar, f"{path.rstrip('/')}/{name}")
        for name in sorted(children - exclude):
            _add(tar, f"{path.rstrip('/')}/{name}", exclude)
    elif (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)) and not _same(upper, lower):
        tar.add(upper, path, recursive=False)


def _add_removed(tar: tarfile.TarFile, path: str) -> None:
    member = tarfile.TarInfo(path)
    member.pax_headers = {"MPTRACE.removed": "1"}
    tar.addfile(member)


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _listdir(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _same(one: str, two: str) -> bool:
    """Whether two paths have the same type, mode and content."""
    try:
        first, second = os.lstat(one), os.lstat(two)
        if first.st_mode != second.st_mode or first.st_size != second.st_size:
            return False
        if stat.S_ISLNK(first.st_mode):
            return os.readlink(one) == os.readlink(two)
        with open(one, "rb") as a, open(two, "rb") as b:
            while chunk := a.read(1 << 20):
                if chunk != b.read(1 << 20):
                    return False
    except OSError:
        return False
    return True
