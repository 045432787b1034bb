# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a block device that holds a mounted file system's superblock: it is in use."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import blockdev, files

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    stage.need_tool("mke2fs")
    device = blockdev.loop(stage)
    blockdev.make_ext(stage, device, "-t", "ext2")
    with files.on_node(stage.source):
        files.mounted(stage, "ext4", device)
    before, after = stage.anonymous(2)
    (superblock,) = files.mapped(stage, files.opened(stage, device, os.O_RDONLY), write=False)
    stage.move([before, superblock, after])


def _expect(known: Known) -> Expectation:
    return one_stays("buffers_busy")


SCENARIO = Scenario(
    name="superblock",
    subject=REASON,
    title="the superblock of a mounted file system, in the device's page cache",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="buffer_migrate_folio_norefs",
    source="move_pages(2), page states; __buffer_migrate_folio() in mm/migrate.c: b_count",
    provoke=_provoke,
    expect=_expect,
    cause="buffers_busy",
    changes="a loop device, and a mount of it that nobody else sees",
)
