# SPDX-License-Identifier: GPL-2.0-or-later
"""A written page of ramfs, which can neither migrate it nor write it anywhere."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    before, after = stage.anonymous(2)
    root = files.mounted(stage, "ramfs")
    file = files.opened(stage, root / "file")
    os.ftruncate(file, PAGE_SIZE)
    (dirty,) = files.mapped(stage, file)
    stage.move([before, dirty, after])


def _expect(known: Known) -> Expectation:
    return one_stays("dirty_no_migration")


SCENARIO = Scenario(
    name="ramfs_dirty",
    subject=REASON,
    title="a dirty page of a file system without migration and without writing (ramfs)",
    documented="status -EINVAL: a dirty page cannot be moved",
    function="fallback_migrate_folio",
    source="move_pages(2), page states; fallback_migrate_folio(), writeout() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="dirty_no_migration",
    changes="a mount (ramfs) that nobody else sees",
)
