# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that io_uring holds for a device: it is pinned while the buffer is registered."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import iouring

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    iouring.register_buffer(stage, pages[1])
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return one_stays("pinned")


SCENARIO = Scenario(
    name="io_uring_buffer",
    subject=REASON,
    title="a buffer registered with io_uring",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="try_to_migrate_one",
    source="move_pages(2), page states; folio_try_share_anon_rmap_pte() in mm/rmap.c",
    provoke=_provoke,
    expect=_expect,
    cause="pinned",
)
