# SPDX-License-Identifier: GPL-2.0-or-later
"""One address in the middle of a transparent huge page of shared memory."""

from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Expectation, Known, Scenario
from mptrace.conform.stage import hugepages
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    huge = hugepages.shmem_thp(stage)
    stage.move([first, huge + 3 * PAGE_SIZE, last])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="shmem_thp",
    subject=PAGE_STATE,
    title="a huge page of shared memory",
    documented="status: a node number",
    function="migrate_folio",
    source="move_pages(2), page states; shmem_aops in mm/shmem.c",
    provoke=_provoke,
    expect=_expect,
    changes="the setting transparent_hugepage/shmem_enabled",
)
