# SPDX-License-Identifier: GPL-2.0-or-later
"""A tracefs to read from, mounted or not: where it isn't, a mount that nobody else sees.

fsopen(2), fsconfig(2) and fsmount(2) (since 5.2) make a mount that is in no directory.
It lives as long as its descriptor: nothing of the host changes, nothing stays behind.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from mptrace.errors import HostError
from mptrace.host import access, symbols

# One number on every architecture: they came after the tables were unified.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC = 1
_CMD_CREATE = 6

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def readable() -> Iterator[Path]:
    """A directory where tracefs can be read while inside; HostError where none can be had."""
    mounted = symbols.tracefs(Path("/"))
    if mounted is not None:
        yield mounted
        return
    try:
        descriptor = _detached_mount()
    except OSError as error:
        raise HostError(
            f"tracefs can't be read: {access.tracefs_reason(Path('/'))}, and mounting one for "
            f"mptrace alone failed: {error.strerror}",
            "as root: mount -t tracefs tracefs /sys/kernel/tracing",
        ) from error
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _detached_mount() -> int:
    context = _call(_FSOPEN, b"tracefs", _CLOEXEC)
    try:
        _call(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
