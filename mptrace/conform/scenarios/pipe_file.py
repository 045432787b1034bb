# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of a file in a pipe: splice(2) took a reference to the page cache."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import REASON, Expectation, Known, Scenario, one_stays
from mptrace.conform.stage import files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    file = files.memory_file(stage, 3 * PAGE_SIZE)
    pages = files.mapped(stage, file, 3)
    reading, writing = os.pipe()
    stage.undo.callback(os.close, reading)
    stage.undo.callback(os.close, writing)
    os.splice(file, writing, PAGE_SIZE, offset_src=PAGE_SIZE)
    stage.move(pages)


def _expect(known: Known) -> Expectation:
    return one_stays("extra_references")


SCENARIO = Scenario(
    name="pipe_file",
    subject=REASON,
    title="a page of a file in a pipe (splice)",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_migrate_mapping",
    source="move_pages(2), page states; folio_migrate_mapping(), __migrate_folio() in mm/migrate.c",
    provoke=_provoke,
    expect=_expect,
    cause="extra_references",
)
