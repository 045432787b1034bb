# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of the ring of asynchronous I/O: the kernel's own, and it moves."""

import ctypes
import os
import platform
from typing import TYPE_CHECKING

from mptrace import driver
from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    stage.move([first, _ring(stage), last])


def _ring(stage: "Stage") -> int:
    """The first page of the ring, which lies where the context's number says."""
    number = 206 if platform.machine() == "x86_64" else 0
    context = ctypes.c_ulong(0)
    driver.set_mempolicy(driver.MPOL_BIND, (stage.source,))
    failed = ctypes.CDLL(None, use_errno=True).syscall(number, 1, ctypes.byref(context))
    driver.set_mempolicy(driver.MPOL_DEFAULT)
    if failed:
        stage.skip(f"no asynchronous I/O here: {os.strerror(ctypes.get_errno())}")
    stage.touch([context.value], write=False)
    return context.value


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="aio_ring",
    subject=PAGE_STATE,
    title="the ring of asynchronous I/O",
    documented="status: a node number",
    function="aio_migrate_folio",
    source="move_pages(2), page states; aio_migrate_folio() in fs/aio.c",
    provoke=_provoke,
    expect=_expect,
)
