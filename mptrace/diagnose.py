# SPDX-License-Identifier: GPL-2.0-or-later
"""Names the kernel's reason for what became of an entry.  Pure, vectorized.

Only what the records show is named; where several reasons fit, the name says
so.  The order of the tests is the order of the kernel's code (mm/migrate.c:
lookup, isolation, allocation, lock and writeback, unmap, reference count).
"""

import errno
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mptrace.records import FOLIO_ALLOC_FAILED, ISOLATE_NOT_TRIED, LOOKUP_NONE, MOVE_NOT_TRIED

Codes = npt.NDArray[np.uint16]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Reasons by number; :func:`cause_name` adds those that carry an errno.
CAUSES = (
    "",
    # Why an entry is unknown.
    "lost",
    "unread",
    "beyond_bound",
    "no_events",
    "no_coverage",
    "call_open",
    "freed",
    "ambiguous",
    "split",
    "maybe_same_folio",
    # Why a page stayed: looked up, or not even that.
    "no_vma_or_unsuitable",
    "not_present",
    "zero_page",
    "unmapped_or_zero_page",
    "shared",
    "shared_or_hugetlb_tail",
    "hugetlb_tail",
    "not_on_lru_or_isolated",
    # ... isolated, and refused on the way.
    "no_memory",
    "ended_before_its_turn",
    "locked_or_writeback",
    "not_unmappable",
    "extra_references",
    "cant_tell",
    # Why an entry was never attempted.
    "aborted_by_earlier_group",
    "bad_node",
    "node_not_allowed",
    "bad_array",
    "aborted_by_bad_node",
    "aborted_by_refused_node",
    "aborted_by_bad_array",
)
#: Added to an errno: the kernel's move was refused with it, or the whole call was.
_MOVE_REFUSED = 1000
_CALL_REFUSED = 2000
_LOOKUP_REFUSED = 3000
_FAMILIES = ((_LOOKUP_REFUSED, "lookup"), (_CALL_REFUSED, "call_refused"), (_MOVE_REFUSED, "move"))

#: What each cause means, for people; keys are :data:`CAUSES`.
MEANINGS = {
    "lost": "the tracer lost the records that would tell",
    "unread": "the entry's address or node could not be read",
    "beyond_bound": "the entry lies beyond those that the tracer reads of one call",
    "no_events": "no event of the kernel was recorded",
    "no_coverage": "a phase that decides can't be traced here",
    "call_open": "the call had not returned when the session ended",
    "freed": "the page was freed while it was being moved",
    "ambiguous": "the events fit the arrays in more than one way",
    "split": "the large folio was split and this page's part was not seen",
    "maybe_same_folio": "may be a page of a large folio that an earlier entry moved",
    "no_vma_or_unsuitable": "no mapping there, or one that can't be migrated",
    "not_present": "no page there: never touched, or swapped out",
    "zero_page": "the shared zero page",
    "unmapped_or_zero_page": "never written: nothing there, or the zero page",
    "shared": "mapped more than once, and not MPOL_MF_MOVE_ALL",
    "shared_or_hugetlb_tail": "mapped more than once, or not a hugetlb folio's head",
    "hugetlb_tail": "not the head of its hugetlb folio",
    "not_on_lru_or_isolated": "not on an LRU list, or isolated by somebody else",
    "no_memory": "the target node had no memory for it",
    "ended_before_its_turn": "the migration ended before its turn",
    "locked_or_writeback": "locked by somebody else, or under writeback",
    "not_unmappable": "a mapping could not be replaced (pinned by a device?)",
    "extra_references": "somebody holds a reference (a pin, a pipe, I/O in flight)",
    "cant_tell": "the records do not tell",
    "aborted_by_earlier_group": "an earlier group of the call failed and ended it",
    "bad_node": "its node does not exist or has no memory",
    "node_not_allowed": "its node is outside the target's cpuset",
    "bad_array": "the user's arrays could not be accessed here",
    "aborted_by_bad_node": "an earlier entry's node is bad and ended the call",
    "aborted_by_refused_node": "an earlier entry's node is not allowed and ended the call",
    "aborted_by_bad_array": "the user's arrays could not be accessed and that ended the call",
}

_CODE = {name: code for code, name in enumerate(CAUSES)}
_MPOL_MF_MOVE_ALL = 4
_EAGAIN = 11


def cause_code(name: str) -> int:
    """Number of a cause of :data:`CAUSES`."""
    return _CODE[name]


def cause_name(code: int) -> str:
    """Name of a cause: of :data:`CAUSES`, or ``move_EIO``, ``call_refused_EPERM``."""
    for base, family in _FAMILIES:
        if code > base:
            number = code - base
            return f"{family}_{errno.errorcode.get(number, number)}"
    return CAUSES[code]


def cause_meaning(name: str) -> str:
    """A line for people about a cause's name."""
    if name.startswith("move_"):
        return f"the kernel refused to move it: {name.removeprefix('move_')}"
    if name.startswith("call_refused_"):
        return f"the whole call was refused: {name.removeprefix('call_refused_')}"
    if name.startswith("lookup_"):
        return f"the lookup failed: {name.removeprefix('lookup_')}"
    return MEANINGS.get(name, "")


@dataclass(frozen=True)
class Evidence:
    """The records of entries that failed; all arrays of one length.

    ``queued``: isolated and handed to a migration; ``looked_up``: has a lookup
    record; ``told_zero``: a page was found, yet the status says -EFAULT;
    ``call_flags``: flags of the call; ``migration_rc``: 0 where unknown.
    The rest are fields of the folio record, anything where there is none.
    """

    looked_up: Bools
    queued: Bools
    told_zero: Bools
    lookup_rc: Ints
    isolate_rc: Ints
    move_rc: Ints
    flags: Ints
    nr_pages: Ints
    n_alloc: Ints
    n_unmap: Ints
    call_flags: Ints
    migration_rc: Ints


def causes_of_failure(evidence: Evidence) -> Codes:
    """Cause of each entry whose page stayed although the kernel looked at the entry."""
    e = evidence
    move_all = (e.call_flags & _MPOL_MF_MOVE_ALL) != 0
    refused = ~e.queued & e.looked_up & (e.lookup_rc == 0)
    untouched = refused & (e.isolate_rc == ISOLATE_NOT_TRIED)
    unmoved = e.queued & (e.move_rc == MOVE_NOT_TRIED)
    # First test that holds wins.
    tests: list[tuple[Bools, int | Ints]] = [
        (~e.looked_up, _CODE["no_vma_or_unsuitable"]),
        (
            ~e.queued & ((e.lookup_rc == LOOKUP_NONE) | (e.lookup_rc == -errno.ENOENT)),
            _CODE["not_present"],
        ),
        (~e.queued & (e.lookup_rc == -errno.EFAULT), _CODE["unmapped_or_zero_page"]),
        (~e.queued & (e.lookup_rc < 0), _LOOKUP_REFUSED - e.lookup_rc),
        (untouched & e.told_zero, _CODE["zero_page"]),
        (untouched & move_all, _CODE["hugetlb_tail"]),
        (untouched & (e.nr_pages == 1), _CODE["shared"]),
        (untouched, _CODE["shared_or_hugetlb_tail"]),
        (refused, _CODE["not_on_lru_or_isolated"]),
        (unmoved & ((e.flags & FOLIO_ALLOC_FAILED) != 0), _CODE["no_memory"]),
        (
            unmoved & (e.n_alloc == 0) & (e.migration_rc < 0),
            _CODE["ended_before_its_turn"],
        ),
        (unmoved & (e.n_alloc == 0), _CODE["cant_tell"]),
        (unmoved & (e.n_unmap == 0), _CODE["locked_or_writeback"]),
        (unmoved, _CODE["not_unmappable"]),
        (e.queued & (e.move_rc == -_EAGAIN), _CODE["extra_references"]),
        (e.queued & (e.move_rc < 0), _MOVE_REFUSED - e.move_rc),
    ]
    codes = np.select(
        [test for test, _ in tests],
        [np.broadcast_to(code, e.queued.shape) for _, code in tests],
        _CODE["cant_tell"],
    )
    return codes.astype(np.uint16)


def causes_of_no_attempt(ret: Ints, fail_rc: Ints, first: Bools, refused: Bools) -> Codes:
    """Cause of each entry that the kernel's loop never came to.

    :param ret: return value of the entry's call.
    :param fail_rc: return value of the migration that failed in it, 0 for none.
    :param first: the entry is the first one that was not processed.
    :param refused: the call was refused before its loop began.
    """
    tests: list[tuple[Bools, int | Ints]] = [
        (refused, _CALL_REFUSED - ret),
        (first & (ret == -errno.ENODEV), _CODE["bad_node"]),
        (first & (ret == -errno.EACCES), _CODE["node_not_allowed"]),
        ((ret == -errno.ENODEV), _CODE["aborted_by_bad_node"]),
        ((ret == -errno.EACCES), _CODE["aborted_by_refused_node"]),
        ((ret > 0) | (fail_rc != 0), _CODE["aborted_by_earlier_group"]),
        (first & (ret == -errno.EFAULT), _CODE["bad_array"]),
        ((ret == -errno.EFAULT), _CODE["aborted_by_bad_array"]),
    ]
    codes = np.select(
        [test for test, _ in tests],
        [np.broadcast_to(code, ret.shape) for _, code in tests],
        _CODE["cant_tell"],
    )
    return codes.astype(np.uint16)
