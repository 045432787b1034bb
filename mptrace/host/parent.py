# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that must not outlive the one that started it."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int = 0, number: int = signal.SIGKILL) -> None:
    """Have ``number`` sent to this process when the thread that started it ends.

    Ends the process at once where ``parent``, its process, is gone already; 0: not looked
    at.  A change of the user's id undoes it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)
