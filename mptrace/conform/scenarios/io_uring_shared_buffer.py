# SPDX-License-Identifier: GPL-2.0-or-later
"""A shared page that io_uring pins: unlike a private one it is unmapped, and counted then."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import files, iouring
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = files.mapped(stage, files.memory_file(stage, 3 * PAGE_SIZE), 3)
    iouring.register_buffer(stage, pages[1])
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return one_stays("pinned")


SCENARIO = Scenario(
    name="io_uring_shared_buffer",
    subject=REASON,
    title="a shared memory buffer registered with io_uring",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_migrate_mapping",
    source="move_pages(2), page states; folio_maybe_dma_pinned(), GUP_PIN_COUNTING_BIAS",
    provoke=_provoke,
    expect=_expect,
    cause="pinned",
)
