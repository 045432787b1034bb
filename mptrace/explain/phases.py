# SPDX-License-Identifier: GPL-2.0-or-later
"""At which stage the kernel refused a page, and the function that did.  Pure."""

from typing import Any

from mptrace.explain.findings import Refusal
from mptrace.recording.layouts import (
    FOLIO_ALLOC_FAILED,
    ISOLATE_NOT_TRIED,
    MOVE_NOT_TRIED,
    NO_LOOKUP,
    STAGE_ALLOCATE,
    STAGE_ISOLATE,
    STAGE_LOCK,
    STAGE_LOOKUP,
    STAGE_MOVE,
    STAGE_NAMES,
    STAGE_SHARED,
)
from mptrace.recording.meta import Meta

# What the function of a phase is called where the coverage does not say.
_FUNCTIONS = {
    "vma": "vma_migratable",
    "lookup": "the kernel's lookup",
    "migration": "migrate_pages",
    "isolate": "folio_isolate_lru",
    "isolate_hugetlb": "isolate_hugetlb",
    "allocate": "alloc_migration_target",
    "alloc_compaction": "compaction_alloc",
    "alloc_numa": "alloc_misplaced_dst_folio",
    "alloc_demotion": "alloc_migrate_folio",
    "alloc_policy": "alloc_migration_target_by_mpol",
    "split": "split_huge_page_to_list",
    "unmap": "try_to_migrate",
    "release": "filemap_release_folio",
    "move": "move_to_new_folio",
    "putback": "folio_putback_lru",
}


class Phases:
    """The phases of a session: the functions that they were seen at, and which are missing.

    :param meta: a recording's meta.json; its ``coverage`` is used.
    """

    def __init__(self, meta: Meta) -> None:
        self._attach = {name: phase.attach for name, phase in meta.phases.items()}
        self._states = {name: phase.state for name, phase in meta.phases.items()}

    def is_missing(self, phase: str) -> bool:
        """Whether the kernel has nothing to trace a phase by."""
        return self._states.get(phase) == "missing"

    def function(self, phase: str) -> str:
        """The kernel function that a phase was seen at, for people."""
        name = self._attach.get(phase) or _FUNCTIONS[phase]
        return name if " " in name else f"{name}()"

    def refusal(self, stage: int, rc: int, allocate: str, *, is_hugetlb: bool) -> Refusal:
        """The refusal at a stage.

        :param stage: of ``layouts.STAGE_NAMES``, or of a later format.
        :param allocate: the phase in which the target was allocated.
        """
        if stage >= len(STAGE_NAMES):
            return Refusal(stage, f"stage {stage}", "", rc)
        phase = STAGE_NAMES[stage]
        if stage == STAGE_SHARED:
            phase = "lookup"
        elif stage == STAGE_ALLOCATE:
            phase = allocate
        elif stage == STAGE_ISOLATE and is_hugetlb:
            phase = "isolate_hugetlb"
        # no phase has it: it was seen to give up
        function = "migrate_folio_unmap()" if stage == STAGE_LOCK else self.function(phase)
        return Refusal(stage, STAGE_NAMES[stage], function, rc)


def stage_of(folio: Any) -> tuple[int, int] | None:
    """Stage and answer of a refusal, from the folio's own record."""
    lookup, isolate, move = (int(folio[name]) for name in ("lookup_rc", "isolate_rc", "move_rc"))
    looked_up = int(folio["lookup_seq"]) != NO_LOOKUP
    if looked_up and lookup != 0:
        return STAGE_LOOKUP, lookup
    if looked_up and isolate == ISOLATE_NOT_TRIED:
        return STAGE_SHARED, 0
    if looked_up and isolate != 0:
        return STAGE_ISOLATE, isolate
    if int(folio["flags"]) & FOLIO_ALLOC_FAILED:
        return STAGE_ALLOCATE, -12
    if move not in (0, MOVE_NOT_TRIED):
        return STAGE_MOVE, move
    return None


def phase_of(folio: Any) -> str:
    known = stage_of(folio)
    if known is None:
        return "unmap"
    return "lookup" if known[0] == STAGE_SHARED else STAGE_NAMES[known[0]]
