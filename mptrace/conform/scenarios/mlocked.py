# SPDX-License-Identifier: GPL-2.0-or-later
"""A page locked into memory with mlock(2): it moves."""

import ctypes
import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario
from mptrace.conform.stage.stage import StageError
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


_libc = ctypes.CDLL(None, use_errno=True)


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    if _libc.mlock(ctypes.c_void_p(pages[1]), ctypes.c_size_t(PAGE_SIZE)):
        raise StageError(f"mlock failed: {os.strerror(ctypes.get_errno())}")
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation(
        "0",
        (MOVED, MOVED, MOVED),
        '("Allow migration of mlocked pages") unmapping for a migration passes over VM_LOCKED',
    )


SCENARIO = Scenario(
    name="mlocked",
    subject=PAGE_STATE,
    title="a page locked with mlock(2)",
    documented="status -EPERM: mlocked, cannot be moved (the kernel's first documentation)",
    function="try_to_migrate_one",
    source="announcement of sys_move_pages() (2006); try_to_migrate_one() in mm/rmap.c",
    provoke=_provoke,
    expect=_expect,
)
