# SPDX-License-Identifier: GPL-2.0-or-later
"""The layouts of stacks: the kernel's record, and the two tables that are there with `--stacks`.

``stack_uses`` says which stacks each call, migration without a call and wait came with;
``stacks`` has the frames of each different stack once.
"""

import numpy as np

# Whose stacks they are (`kind` of a use).
STACK_OF_CALL = 0
STACK_OF_MIGRATION = 1
STACK_OF_WAIT = 2
USE_NAMES = ("call", "migration", "wait")
#: Instead of a key of a map: a kernel thread has no stack in user space.
NO_STACK = -1

# Which part of a stack a frame is of (`kind` of a frame).
FRAME_KERNEL = 0
FRAME_USER = 1
FRAME_NAMES = ("kernel", "user")

#: Number of no stack, in `stack_uses`.
WITHOUT_STACK = 0
#: Why a frame is unknown whose stack another recording of the session may have named.
UNNAMED = "its recording ended before it was named"
#: Bytes of a symbol, a module or path, and a reason; what is longer is cut, and ends in CUT.
SYMBOL_BYTES, MODULE_BYTES, WHY_BYTES = 160, 160, 64
CUT = b"..."

#: As the ring has it: struct stack_record of bpf/move_pages/records.h.
STACK_SAMPLE = np.dtype(
    [
        ("id", "<u8"),  # call_id, migration_id, or start_ns of a wait
        ("image", "<u8"),  # where the program's stack begins, 0: unknown
        ("kernel", "<i4"),  # key of the map, NO_STACK, or -errno
        ("user", "<i4"),
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("kind", "<u4"),
        ("pad", "<u4"),
    ]
)

#: One row per call, migration without a call and wait.
STACK_USE = np.dtype(
    [
        ("id", "<u8"),  # call_id, migration_id, or start_ns of a wait of `tid`
        ("tid", "<u4"),
        ("tgid", "<u4"),
        ("kernel_stack", "<u4"),  # `stack` in the table of frames, WITHOUT_STACK: none
        ("user_stack", "<u4"),
        ("kind", "u1"),
    ]
)

#: One row per frame of a stack, the innermost first; one row of a stack that is unknown.
STACK_FRAME = np.dtype(
    [
        ("stack", "<u4"),  # from 1; the same in all recordings of a session
        ("tgid", "<u4"),  # of user space: whose addresses they are; 0: the kernel's
        ("address", "<u8"),  # where it goes on; 0: unknown
        ("offset", "<u8"),  # from the symbol; without one in the file
        ("depth", "<u2"),
        ("kind", "u1"),
        ("symbol", f"S{SYMBOL_BYTES}"),  # "": none
        ("module", f"S{MODULE_BYTES}"),  # kernel module, or path; "": the kernel itself
        ("unknown", f"S{WHY_BYTES}"),  # why there is no more about it, "" where it is known
    ]
)

STACK_TABLES = {"stack_uses": STACK_USE, "stacks": STACK_FRAME}
