# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that is there, in a mapping made PROT_NONE afterwards."""

import ctypes
import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.conform.stage.stage import StageError
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


_libc = ctypes.CDLL(None, use_errno=True)


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    if _libc.mprotect(ctypes.c_void_p(pages[1]), ctypes.c_size_t(PAGE_SIZE), 0):
        raise StageError(f"mprotect failed: {os.strerror(ctypes.get_errno())}")
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    # Neither change has a name in BTF; each has a neighbour in its release: the maple tree
    # came with 6.1, the page walks' locking in the same series of fixes as
    # FOLL_HONOR_NUMA_FAULT (49b0638502da, 6.5).
    hides = known.member("mm_struct.mm_mt") and not known.member("mm_walk_ops.walk_lock")
    if not hides:
        return Expectation("0", (MOVED, MOVED, MOVED))
    return Expectation(
        "0",
        (MOVED, Entry("ENOENT", "failed", "prot_none"), MOVED),
        "6.1 (474098edac26) to 6.4: gup_can_follow_protnone() refuses without FOLL_FORCE; "
        "6.5 (d74943a2f3cd) undid that",
    )


SCENARIO = Scenario(
    name="prot_none",
    subject=PAGE_STATE,
    title="a present page in a PROT_NONE mapping",
    documented="status: a node number (the page is present)",
    function="follow_page_pte",
    source="move_pages(2), page states; gup_can_follow_protnone() in follow_page_pte()",
    provoke=_provoke,
    expect=_expect,
    cause="prot_none",
)
