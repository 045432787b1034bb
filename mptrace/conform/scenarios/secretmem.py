# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of memfd_secret(2): the kernel itself can't read it, so it can't copy it."""

import os
from typing import TYPE_CHECKING

from mptrace.conform.scenarios.base import (
    MOVED,
    REASON,
    Entry,
    Expectation,
    Known,
    Scenario,
    one_stays,
)
from mptrace.conform.stage import files
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

_MEMFD_SECRET = 447


def _provoke(stage: "Stage") -> None:
    try:
        file = files.syscall(_MEMFD_SECRET, 0)
    except OSError as error:
        stage.skip(f"no memfd_secret(2) here: {error.strerror} (secretmem.enable=1 at boot?)")
    stage.undo.callback(os.close, file)
    os.ftruncate(file, PAGE_SIZE)
    before, after = stage.anonymous(2)
    (secret,) = files.mapped(stage, file)
    stage.move([before, secret, after])


def _expect(known: Known) -> Expectation:
    if known.function("folio_walk_start"):
        return one_stays("refused_by_filesystem", "secretmem_migrate_folio() answers -EBUSY")
    return Expectation(
        "0",
        (MOVED, Entry("ENOENT", "failed", "secret_memory"), MOVED),
        "follow_page() does not give out secret memory (vma_is_secretmem(); until 6.11)",
    )


SCENARIO = Scenario(
    name="secretmem",
    subject=REASON,
    title="memory of memfd_secret(2)",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="secretmem_migrate_folio",
    source="move_pages(2), page states; secretmem_migrate_folio(); 6.1: follow_page()",
    provoke=_provoke,
    expect=_expect,
    cause="refused_by_filesystem",
)
