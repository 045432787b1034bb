# SPDX-License-Identifier: GPL-2.0-or-later
"""An address where nothing is mapped."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario
from mptrace.driver import PAGE_SIZE, unmap

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    pages = stage.anonymous(3)
    unmap(pages[1], PAGE_SIZE)
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EFAULT", "failed", "no_vma"), MOVED))


SCENARIO = Scenario(
    name="no_vma",
    subject=PAGE_STATE,
    title="an address that is not mapped",
    documented="status -EFAULT: the memory area is not mapped by the process",
    function="vma_lookup",
    source="move_pages(2), page states; vma_lookup() in add_folio_for_migration()",
    provoke=_provoke,
    expect=_expect,
    cause="no_vma",
)
