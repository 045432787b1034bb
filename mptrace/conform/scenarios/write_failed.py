# SPDX-License-Identifier: GPL-2.0-or-later
"""A dirty page of a file system that can only write it first, and the write fails."""

import contextlib
import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import ecryptfs, files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


# Which file systems have writepage and no migrate_folio, by kernel, and what trying each gave:
# docs/write-back.md.  ecryptfs is one of them on 6.1 and 6.12, and needs no tool and no device.


def _provoke(stage: "Stage") -> None:
    below = files.mounted(stage, "tmpfs", size="64k")
    root = ecryptfs.mounted(stage, below)
    file = files.opened(stage, root / "file")
    with files.on_node(stage.source):
        os.write(file, bytes(PAGE_SIZE))
    (page,) = files.mapped(stage, file)
    encrypted = files.opened(stage, below / "file", os.O_RDWR)
    os.ftruncate(encrypted, 0)
    filler = files.opened(stage, below / "filler")
    with contextlib.suppress(OSError):  # ENOSPC, at last
        while os.write(filler, bytes(PAGE_SIZE)):
            pass
    before, after = stage.anonymous(2)
    stage.move([before, page, after])


def _expect(known: Known) -> Expectation:
    return one_stays("write_failed")


SCENARIO = Scenario(
    name="write_failed",
    subject=REASON,
    title="a dirty page whose file system can't migrate it, on a full disk (ecryptfs)",
    documented="status -EIO: unable to write back a page",
    function="writeout",
    source="move_pages(2), page states; writeout(), ecryptfs_writepage()",
    provoke=_provoke,
    expect=_expect,
    cause="write_failed",
    changes="mounts (ecryptfs, tmpfs) that nobody else sees",
)
