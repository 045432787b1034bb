# SPDX-License-Identifier: GPL-2.0-or-later
"""io_uring, as far as it takes to register buffers: the kernel pins their pages for good."""

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING

from mptrace.conform.stage.files import syscall
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

# The same numbers on every machine (unified since 5.1).
_SETUP, _REGISTER = 425, 427
_IORING_REGISTER_BUFFERS = 0
_PARAMS_BYTES = 120  # struct io_uring_params


def register_buffer(stage: "Stage", address: int, length: int = PAGE_SIZE) -> None:
    """Register a buffer with a ring of its own: its pages are pinned until the scenario ends."""
    try:
        ring = syscall(_SETUP, 1, ctypes.create_string_buffer(_PARAMS_BYTES))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            # EPERM: sysctl kernel.io_uring_disabled
            stage.skip(f"this host has no io_uring ({error.strerror})")
        raise
    stage.undo.callback(os.close, ring)
    syscall(_REGISTER, ring, _IORING_REGISTER_BUFFERS, struct.pack("2Q", address, length), 1)
