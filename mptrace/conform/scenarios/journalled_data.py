# SPDX-License-Identifier: GPL-2.0-or-later
"""A page whose data the file system has put into its journal and not committed yet."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import blockdev, files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.need_tool("mke2fs")
    device = blockdev.loop(stage, 32 * blockdev.MIB)
    blockdev.make_ext(stage, device, "-t", "ext4")
    root = files.mounted(stage, "ext4", device, data="journal", commit="300")
    file = files.opened(stage, root / "file")
    with files.on_node(stage.source):
        os.write(file, bytes(PAGE_SIZE))
    before, after = stage.anonymous(2)
    (journalled,) = files.mapped(stage, file, write=False)
    stage.move([before, journalled, after])


def _expect(known: Known) -> Expectation:
    if known.operation("ext4_journalled_aops", "migrate_folio"):
        return one_stays("buffers_busy", "ext4_journalled_aops has buffer_migrate_folio_norefs()")
    return one_stays("private_not_released")


SCENARIO = Scenario(
    name="journalled_data",
    subject=REASON,
    title="data in the journal of ext4 (data=journal), not committed",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="filemap_release_folio",
    source="move_pages(2), page states; ext4_release_folio(), fallback_migrate_folio()",
    provoke=_provoke,
    expect=_expect,
    cause="private_not_released",
    changes="a loop device, and a mount of it that nobody else sees",
)
