# SPDX-License-Identifier: GPL-2.0-or-later
"""In a guest: prints the BPF programs and links that the kernel has, whoever holds them.

By the kernel's own numbers (BPF_PROG_GET_NEXT_ID, BPF_LINK_GET_NEXT_ID), without mptrace: one
line for each, "program 17", "link 5".
"""

import ctypes
import errno
import os
import struct

_BPF = 321
_NEXT = {"program": 11, "link": 31}


def numbers(command: int) -> list[int]:
    """Those of one kind, ascending."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = [0]
    while True:
        # union bpf_attr: start_id, next_id, open_flags
        attributes = ctypes.create_string_buffer(struct.pack("III", found[-1], 0, 0), 12)
        if libc.syscall(_BPF, command, attributes, 12) < 0:
            number = ctypes.get_errno()
            assert number == errno.ENOENT, os.strerror(number)
            return found[1:]
        found.append(struct.unpack_from("I", attributes.raw, 4)[0])


if __name__ == "__main__":
    for kind, command in _NEXT.items():
        for each in numbers(command):
            print(kind, each)
