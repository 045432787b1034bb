# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of the system calls in which migrations begin, by number.  Pure.

x86's tables (arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl); a
number that is not here keeps its number.
"""

from mptrace.records import SYSCALL_NONE

# name -> number on x86-64, number on i386 (-1: not there)
_NUMBERS = {
    "read": (0, 3),
    "write": (1, 4),
    "mmap": (9, 90),
    "mmap2": (-1, 192),
    "mprotect": (10, 125),
    "munmap": (11, 91),
    "brk": (12, 45),
    "ioctl": (16, 54),
    "pread64": (17, 180),
    "pwrite64": (18, 181),
    "readv": (19, 145),
    "writev": (20, 146),
    "mremap": (25, 163),
    "madvise": (28, 219),
    "sendfile": (40, 187),
    "sendfile64": (-1, 239),
    "sendmsg": (46, 370),
    "recvmsg": (47, 372),
    "setsockopt": (54, 366),
    "clone": (56, 120),
    "fork": (57, 2),
    "execve": (59, 11),
    "fsync": (74, 118),
    "mlock": (149, 150),
    "mlockall": (151, 152),
    "futex": (202, 240),
    "io_submit": (209, 248),
    "mbind": (237, 274),
    "set_mempolicy": (238, 276),
    "migrate_pages": (256, 294),
    "splice": (275, 313),
    "vmsplice": (278, 316),
    "move_pages": (279, 317),
    "fallocate": (285, 324),
    "pwritev": (296, 334),
    "process_vm_readv": (310, 347),
    "process_vm_writev": (311, 348),
    "bpf": (321, 357),
    "execveat": (322, 358),
    "mlock2": (325, 376),
    "copy_file_range": (326, 377),
    "pwritev2": (328, 379),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),
    "process_madvise": (440, 440),
}
_NATIVE = {native: name for name, (native, _) in _NUMBERS.items() if native >= 0}
_COMPAT = {compat: name for name, (_, compat) in _NUMBERS.items()}
# x32: a bit in the number, and numbers of its own where a structure is laid out otherwise.
_X32_BIT = 0x40000000
_X32 = {514: "ioctl", 515: "readv", 516: "writev", 533: "move_pages"}
_MACHINES = ("x86_64", "i386", "i686")


def syscall_name(number: int, *, is_compat: bool, machine: str = "x86_64") -> str | None:
    """Name of a system call by its number.

    :param number: as in ``records.MIGRATION``, with ``SYSCALL_NONE`` and ``SYSCALL_UNKNOWN``.
    :param is_compat: the number is of the 32-bit table.
    :returns: "" in no system call, None where that is unknown, else a name or ``syscall 123``.
    """
    if number < 0:
        return "" if number == SYSCALL_NONE else None
    known = None
    if machine in _MACHINES:
        if is_compat:
            known = _COMPAT.get(number)
        elif number & _X32_BIT:
            plain = number & ~_X32_BIT
            known = _X32.get(plain) or _NATIVE.get(plain)
        else:
            known = _NATIVE.get(number)
    return known or f"syscall {number}"
