# SPDX-License-Identifier: GPL-2.0-or-later
"""Helpers that wait in the kernel while a scenario goes on."""

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mptrace import driver
from mptrace.conform.stage import blockdev
from mptrace.host import proc

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def aside(act: Callable[[], object]) -> None:
    """Begin ``act`` and do not wait for its end; the process may be killed meanwhile."""
    threading.Thread(target=act, daemon=True).start()


def moving(stage: "Stage", address: int) -> int:
    """A process that moves a page of this one to the target node; its process id."""
    owner = os.getpid()
    pages = np.array([address], np.uint64)
    nodes = np.array([stage.target], np.int32)
    status = np.full(1, driver.SENTINEL, np.int32)

    def move() -> None:
        driver.move_pages(owner, pages, nodes, status, driver.MPOL_MF_MOVE)

    return stage.fork(lambda: aside(move))


def waits_in(pid: int, function: str) -> bool:
    """Whether a thread of a process sleeps, without being interruptible, in a kernel function."""
    return any(
        proc.status(tid)["State"].startswith("D") and blockdev.is_in(tid, function)
        for tid in proc.tids(pid)
    )
