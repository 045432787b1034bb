# SPDX-License-Identifier: GPL-2.0-or-later
"""A huge page's range that was read and never written: the shared huge zero page."""

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from mptrace import driver
from mptrace.conform.scenarios.base import MOVED, PAGE_STATE, Entry, Expectation, Known, Scenario

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    stage.need_file(enabled)
    if "[never]" in enabled.read_text():
        stage.skip("transparent huge pages are off ('never')")
    if enabled.with_name("use_zero_page").read_text().strip() != "1":
        stage.skip("the huge zero page is off (use_zero_page)")
    size = int(enabled.with_name("hpage_pmd_size").read_text())
    base = driver.map_anonymous(2 * size)
    huge = -(-base // size) * size
    driver.advise(huge, size, mmap.MADV_HUGEPAGE)
    stage.touch([huge], write=False)
    pages = stage.anonymous(2)
    stage.move([pages[0], huge, pages[1]])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EFAULT", "failed", "huge_zero_page"), MOVED))


SCENARIO = Scenario(
    name="huge_zero_page",
    subject=PAGE_STATE,
    title="a huge page's range read, never written",
    documented="status -EFAULT: this is a zero page",
    function="is_huge_zero_folio",
    source=(
        "move_pages(2), page states; is_huge_zero_pmd() in follow_trans_huge_pmd(), "
        "is_huge_zero_folio()"
    ),
    provoke=_provoke,
    expect=_expect,
    cause="huge_zero_page",
)
