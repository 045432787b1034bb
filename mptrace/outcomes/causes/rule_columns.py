# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rules of causes look at: the records of entries whose page stayed.  Pure, vectorized."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Bools, Ints
from mptrace.recording.layouts import (
    FOLIO_ALLOC_FAILED,
    FOLIO_HUGETLB,
    ISOLATE_NOT_TRIED,
    MOVE_NOT_TRIED,
    STAGE_ALLOCATE,
    STAGE_LOCK,
    STAGE_PUTBACK,
    STAGE_SPLIT,
    STAGE_UNMAP,
)

_MPOL_MF_MOVE_ALL = 4


def _mask(values: Any) -> Bools:
    return np.asarray(values, np.bool_)


@dataclass(frozen=True)
class RuleColumns:
    """The records of entries whose page stayed; all arrays of one length.

    ``queued``: isolated and handed to a migration; ``looked_up``: has a lookup
    record; ``told_zero``: a page was found, yet the status says -EFAULT;
    ``call_flags``: flags of the call; ``migration_rc``: 0 where unknown.
    ``vma``: 1 where vma_migratable() refused the address's mapping, 0 where it
    was not even asked, -1 where that is not known.

    The rest are fields of the folio record, and after ``n_unmap`` what its
    obstacle says (``seen``: there is one, with the folio's state); see
    ``layouts.OBSTACLE`` and the functions of ``obstacles``.  ``extra``: references
    beyond those expected, where ``extra_known``.
    """

    looked_up: Bools
    queued: Bools
    told_zero: Bools
    call_flags: Ints
    migration_rc: Ints
    vma: Ints
    lookup_rc: Ints
    isolate_rc: Ints
    move_rc: Ints
    flags: Ints
    nr_pages: Ints
    n_alloc: Ints
    n_unmap: Ints
    seen: Bools
    stage: Ints
    pte: Ints
    mapping: Ints
    mapcount: Ints
    extra: Ints
    extra_known: Bools
    pinned: Bools
    locked: Bools
    writeback: Bools
    dirty: Bools
    private: Bools
    private_2: Bools
    reserved: Bools
    allowed: Ints
    n_release: Ints
    n_split: Ints
    has_ops: Bools
    has_migrate_op: Bools
    moves_buffers: Bools
    is_hugetlb: Bools
    has_holder: Bools
    fs: npt.NDArray[np.bytes_]

    # How far the kernel came with the entry's page.

    @property
    def absent(self) -> Bools:
        """The lookup found no folio."""
        return _mask(self.looked_up & ~self.queued & (self.lookup_rc != 0))

    @property
    def untaken(self) -> Bools:
        """A folio was found and its isolation not even tried."""
        return _mask(self._found & (self.isolate_rc == ISOLATE_NOT_TRIED))

    @property
    def not_isolated(self) -> Bools:
        """Its isolation was tried and refused."""
        return _mask(self._found & (self.isolate_rc != ISOLATE_NOT_TRIED))

    @property
    def put_back(self) -> Bools:
        """Isolated and left behind; what refused it is not traced, its state a moment later is."""
        return _mask(self.queued & (self.stage == STAGE_PUTBACK))

    @property
    def unmoved(self) -> Bools:
        """Isolated, and never came to its move, or was refused before it in the last pass."""
        return _mask(self.queued & ((self.move_rc == MOVE_NOT_TRIED) | self._stopped_before))

    @property
    def unstarted(self) -> Bools:
        """Nothing was seen done to it; some paths' allocations are not, their refusals are."""
        seen = (self.n_alloc > 0) | (self.n_unmap > 0)
        return _mask(self.unmoved & ~seen & ~np.isin(self.stage, (STAGE_LOCK, STAGE_UNMAP)))

    def move(self, *numbers: int) -> Bools:
        """Its last refusal was that of its move, with one of these errnos."""
        refused = np.isin(-self.move_rc, numbers) & ~self._stopped_before
        return _mask(self.queued & refused)

    @property
    def without_target(self) -> Bools:
        """The last allocation of a target for it failed."""
        return _mask(self.unmoved & ((self.flags & FOLIO_ALLOC_FAILED) != 0))

    @property
    def not_unmapped(self) -> Bools:
        """It had a target and was still mapped, untried, when the kernel went on (no hugetlb)."""
        is_hugetlb = (self.flags & FOLIO_HUGETLB) != 0
        return _mask(self.unmoved & (self.stage == STAGE_LOCK) & ~is_hugetlb)

    @property
    def move_all(self) -> Bools:
        """Shared pages were to be moved, too."""
        return _mask((self.call_flags & _MPOL_MF_MOVE_ALL) != 0)

    @property
    def is_kept_on_lru(self) -> Bools:
        """Of a kind that is on an LRU list: anonymous, of KSM, of a file that can migrate it."""
        kept = (self.mapping == 1) | (self.mapping == 3) | (self.is_file & self.has_migrate_op)
        return _mask(self.seen & kept)

    @property
    def _stopped_before(self) -> Bools:
        # an earlier pass may have come to the move: the last refusal counts
        return _mask(np.isin(self.stage, (STAGE_ALLOCATE, STAGE_SPLIT, STAGE_LOCK, STAGE_UNMAP)))

    @property
    def is_file(self) -> Bools:
        """It belongs to a file's mapping."""
        return _mask(self.seen & (self.mapping == 0))

    @property
    def no_op(self) -> Bools:
        """It belongs to a file whose operations have no migrate_folio."""
        return _mask(self.is_file & self.has_ops & ~self.has_migrate_op)

    @property
    def _found(self) -> Bools:
        return _mask(self.looked_up & ~self.queued & (self.lookup_rc == 0))
