# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that another process has unmapped for a migration of its own."""

import fcntl
import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.conform.stage import blockdev, files, mover

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

_SETFSLABEL = 0x41009432  # FS_IOC_SETFSLABEL, include/uapi/linux/fs.h


def _provoke(stage: "Stage") -> None:
    stage.need_tool("mke2fs")
    device = blockdev.SlowDevice(stage)
    blockdev.make_ext(stage, device.path, "-t", "ext2")
    with files.on_node(stage.source):
        root = files.mounted(stage, "ext4", device.path)
    block = files.opened(stage, device.path, os.O_RDONLY)
    (superblock,) = files.mapped(stage, block, write=False)
    label = files.opened(stage, root, os.O_RDONLY)
    device.slow()
    stage.undo.callback(device.fast)
    # written at once: the buffer is locked until it is on the device, its page is not
    writer = stage.fork(lambda: mover.aside(lambda: fcntl.ioctl(label, _SETFSLABEL, bytes(256))))
    stage.await_(lambda: mover.waits_in(writer, "__sync_dirty_buffer"), "a superblock's write")
    other = mover.moving(stage, superblock)
    stage.await_(lambda: mover.waits_in(other, "move_to_new_folio"), "the other's migration")
    before, after = stage.anonymous(2)  # after the helper began: else it would share them
    stage.move([before, superblock, after])
    device.fast()


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("ENOENT", "failed", "special_entry"), MOVED))


SCENARIO = Scenario(
    name="migration_entry",
    subject=REASON,
    title="a page that another process has just unmapped to migrate it",
    documented="status -ENOENT: the page is not present",
    function="buffer_migrate_folio_norefs",
    source="move_pages(2), page states; folio_walk_start(), follow_page(): migration entries",
    provoke=_provoke,
    expect=_expect,
    cause="special_entry",
    changes="a loop device and a device-mapper device, and a mount of it that nobody else sees",
    everyone=True,
)
