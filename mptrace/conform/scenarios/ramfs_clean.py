# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of ramfs that was only read: no need of migration in its file system."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import MOVED, REASON, Expectation, Known, Scenario
from mptrace.conform.stage import files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    before, after = stage.anonymous(2)
    root = files.mounted(stage, "ramfs")
    file = files.opened(stage, root / "file")
    os.ftruncate(file, PAGE_SIZE)
    (clean,) = files.mapped(stage, file, write=False)
    stage.move([before, clean, after])


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, MOVED, MOVED))


SCENARIO = Scenario(
    name="ramfs_clean",
    subject=REASON,
    title="a clean page of a file system without migration (ramfs)",
    documented="status: a node number",
    function="fallback_migrate_folio",
    source="move_pages(2), page states; fallback_migrate_folio() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    changes="a mount (ramfs) that nobody else sees",
)
