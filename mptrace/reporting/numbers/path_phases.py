# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time of any migrations went, by the times in their folios' rows.  Pure."""

from collections.abc import Mapping

import numpy as np

from mptrace.arrays import Table
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.meta import Coverage
from mptrace.reporting.numbers.sums import Numbers

#: Phase -> the phases of the coverage that its time rests on.
_NEEDS = {
    "isolate": ("isolate",),
    "allocate": ("allocate",),
    "lock": ("allocate", "unmap"),
    "unmap": ("unmap",),
    "tlb_flush": ("tlb_flush", "tlb_flush_pte", "tlb_flush_batch"),
    "move": ("move",),
    "copy": ("copy",),
    "lru_add": ("move", "remap"),
    "remap": ("remap",),
    "release": ("remap", "done"),
}
_UNSEEN = ("missing", "not_separable")


#: Columns of a folio's record that are summed.
PHASE_COLUMNS = (
    "isolate_ns",
    "alloc_ns",
    "lock_ns",
    "unmap_ns",
    "flush_ns",
    "move_ns",
    "copy_ns",
    "lru_ns",
    "remap_ns",
    "release_ns",
)


def phases_of_folios(
    total: Mapping[str, int],
    migrations: Table,
    coverage: Mapping[str, Coverage],
    detail: str,
    *,
    of_calls: bool,
) -> Numbers:
    """Nanoseconds of each phase inside migrate_pages(), summed over folios.

    :param total: sum of each of :data:`PHASE_COLUMNS`.
    :param migrations: whose TLB flushes per batch count.
    :param coverage: phases of the session by name.
    :param detail: the level of detail.
    :param of_calls: with `isolate`: move_pages(2) does that folio by folio, in the call's time.
    :returns: phase -> ns; None where no probe tells it apart: it is then in ``move``
        (``copy``) or ``unmap`` (``tlb_flush``).
    """
    flush = total["flush_ns"]
    sums = {"isolate": total["isolate_ns"]} if of_calls else {}
    sums |= {
        "allocate": total["alloc_ns"],
        "lock": total["lock_ns"],
        "unmap": total["unmap_ns"] - flush,
        "tlb_flush": flush + int(migrations["flush_ns"].astype(np.int64).sum()),
        "move": total["move_ns"] - total["copy_ns"],
        "copy": total["copy_ns"],
        "lru_add": total["lru_ns"],
        "remap": total["remap_ns"],
        "release": total["release_ns"],
    }
    found: Numbers = {}
    for name, ns in sums.items():
        known = [coverage[need].state for need in _NEEDS[name] if need in coverage]
        blind = detail == LEVEL_OUTCOMES or bool(known)
        blind = blind and all(state in _UNSEEN for state in known)
        found[name] = None if blind and not ns else ns
    return found
