# SPDX-License-Identifier: GPL-2.0-or-later
"""Names the kernel's reason for what became of an entry.  Pure, vectorized.

A rule is a test over the records of the entries, with the evidence that it
needs; where the evidence is missing, a rule that needs less answers, down to
"can't tell".  The order of the rules is the order of the kernel's code
(mm/migrate.c: lookup, isolation, allocation, lock and writeback, unmap, move).
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mptrace.arrays import Bools, Codes, Ints
from mptrace.outcomes.causes import table as causes
from mptrace.outcomes.causes.obstacles import (
    PTE_HUGE,
    PTE_NONE,
    PTE_PRESENT,
    PTE_PROT_NONE,
    PTE_SPECIAL,
    PTE_SWAP,
    PTE_ZERO,
)
from mptrace.outcomes.causes.rule_columns import RuleColumns
from mptrace.recording.layouts import (
    FOLIO_HUGETLB,
    LOOKUP_NONE,
    STAGE_LOCK,
    STAGE_UNMAP,
)

#: Causes by number; :func:`cause_name` adds those that carry an errno.
CAUSES = tuple(cause.name for cause in causes.CAUSES)
#: Added to an errno: the kernel's move was refused with it, or the whole call was.
_MOVE_REFUSED = 10_000
_CALL_REFUSED = 20_000
_LOOKUP_REFUSED = 30_000
#: Stands for every number that is no errno: they end at MAX_ERRNO, 4095 (linux/err.h).
_NO_ERRNO = 4096
_FAMILIES = ((_LOOKUP_REFUSED, "lookup"), (_CALL_REFUSED, "call_refused"), (_MOVE_REFUSED, "move"))

_ERRNO_NAMES = {**errno.errorcode, _NO_ERRNO: "no_errno"}
_CODE = {name: code for code, name in enumerate(CAUSES)}
_MPOL_MF_MOVE_ALL = 4
_EHWPOISON = 133
# File systems of pages that drivers map by themselves: never on an LRU list.
_DRIVERS_OWN = b"anon_inodefs"


def cause_code(name: str) -> int:
    """Number of a cause of :data:`CAUSES`."""
    return _CODE[name]


def cause_name(code: int) -> str:
    """Name of a cause: of :data:`CAUSES`, or ``move_EIO``, ``call_refused_EPERM``."""
    for base, family in _FAMILIES:
        if code > base:
            number = code - base
            return f"{family}_{_ERRNO_NAMES.get(number, number)}"
    return CAUSES[code]


def cause_meaning(name: str) -> str:
    """A line for people about a cause's name."""
    if name.startswith("move_"):
        return f"the kernel refused to move it: {name.removeprefix('move_')}"
    if name.startswith("call_refused_"):
        return f"the whole call was refused: {name.removeprefix('call_refused_')}"
    if name.startswith("lookup_"):
        return f"the lookup failed: {name.removeprefix('lookup_')}"
    return causes.BY_NAME[name].meaning


def _errno_of(rc: Ints) -> Ints:
    """The errno of each negative return value."""
    return -np.maximum(rc, -_NO_ERRNO)


@dataclass(frozen=True)
class Rule:
    """One cause: the evidence that it rests on, and the test of it."""

    cause: str
    needs: str
    test: Callable[[RuleColumns], Any]


_ENTRY = "the page table entry"
_STATE = "the folio's state at the refusal"

#: The first rule whose test holds names the cause.
RULES: tuple[Rule, ...] = (
    # ---- no folio was looked up
    Rule("unsuitable_vma", "vma_migratable()", lambda e: ~e.looked_up & (e.vma == 1)),
    Rule("no_vma", "vma_migratable()", lambda e: ~e.looked_up & (e.vma == 0)),
    Rule("no_vma_or_unsuitable", "no lookup", lambda e: ~e.looked_up),
    # ---- the lookup found none
    Rule("huge_zero_page", _ENTRY, lambda e: e.absent & (e.pte == PTE_HUGE)),
    Rule("zero_page", _ENTRY, lambda e: e.absent & (e.pte == PTE_ZERO)),
    Rule("never_touched", _ENTRY, lambda e: e.absent & (e.pte == PTE_NONE)),
    Rule("prot_none", _ENTRY, lambda e: e.absent & (e.pte == PTE_PROT_NONE)),
    Rule("swapped_out", _ENTRY, lambda e: e.absent & (e.pte == PTE_SWAP)),
    Rule("special_entry", _ENTRY, lambda e: e.absent & (e.pte == PTE_SPECIAL)),
    Rule(
        "secret_memory",
        f"{_ENTRY}, the mapping's file",
        lambda e: e.absent & (e.pte == PTE_PRESENT) & (e.fs == b"secretmem"),
    ),
    Rule("hidden", _ENTRY, lambda e: e.absent & (e.pte == PTE_PRESENT)),
    Rule(
        "not_present",
        "the lookup's answer",
        lambda e: e.absent & np.isin(e.lookup_rc, (LOOKUP_NONE, -errno.ENOENT)),
    ),
    Rule(
        "unmapped_or_zero_page",
        "the lookup's answer",
        lambda e: e.absent & (e.lookup_rc == -errno.EFAULT),
    ),
    # ---- found, and not taken
    Rule("huge_zero_page", _ENTRY, lambda e: e.untaken & (e.pte == PTE_HUGE)),
    Rule("zero_page", _ENTRY, lambda e: e.untaken & (e.pte == PTE_ZERO)),
    Rule("zero_page", "the status", lambda e: e.untaken & e.told_zero),
    Rule("shared_ksm", _STATE, lambda e: e.untaken & e.seen & (e.mapping == 3) & (e.mapcount > 1)),
    Rule("shared", _STATE, lambda e: e.untaken & e.seen & (e.mapcount > 1)),
    Rule("hugetlb_tail", "the mapping", lambda e: e.untaken & e.is_hugetlb),
    Rule("cant_tell", "", lambda e: e.untaken & e.seen & e.move_all),
    Rule("hugetlb_tail", "the flags", lambda e: e.untaken & e.move_all),
    Rule("shared", "the folio's size", lambda e: e.untaken & (e.nr_pages == 1)),
    Rule("shared_or_hugetlb_tail", "a lookup", lambda e: e.untaken),
    # ---- its isolation was refused
    Rule(
        "hugetlb_isolated",
        "its path",
        lambda e: e.not_isolated & ((e.flags & FOLIO_HUGETLB) != 0),
    ),
    Rule("isolated_by_other", "the other's record", lambda e: e.not_isolated & e.has_holder),
    Rule(
        "not_on_lru",
        _STATE,
        lambda e: (
            e.not_isolated & e.seen & ((e.mapping == -1) | e.reserved | (e.fs == _DRIVERS_OWN))
        ),
    ),
    Rule("isolated_by_other", _STATE, lambda e: e.not_isolated & e.is_kept_on_lru),
    Rule("not_on_lru_or_isolated", "the isolation's answer", lambda e: e.not_isolated),
    # ---- left behind, and seen only as it was put back
    Rule(
        "no_memory_in_group",
        "the migration's return value",
        lambda e: e.put_back & (e.migration_rc == -errno.ENOMEM),
    ),
    Rule("pinned", f"{_STATE}, a moment later", lambda e: e.put_back & e.pinned),
    Rule("writeback", f"{_STATE}, a moment later", lambda e: e.put_back & e.writeback & ~e.locked),
    Rule("locked", f"{_STATE}, a moment later", lambda e: e.put_back & e.locked & ~e.writeback),
    Rule(
        "extra_references",
        f"{_STATE}, a moment later",
        lambda e: e.put_back & e.extra_known & (e.extra > 0),
    ),
    Rule(
        "dirty_no_migration",
        f"{_STATE}, a moment later",
        lambda e: e.put_back & e.no_op & e.dirty,
    ),
    Rule("refusal_not_traced", "a putback", lambda e: e.put_back),
    # ---- isolated, and refused before its move
    Rule(
        "node_outside_callers_cpuset",
        "the caller's mems_allowed",
        lambda e: e.without_target & (e.allowed == 0),
    ),
    # folios that are split beforehand may fail to: that stops none of them
    Rule("split_failed", "the split's answer", lambda e: e.without_target & (e.n_split > 0)),
    Rule("no_memory", "the allocation's answer", lambda e: e.without_target),
    # a single try of its lock is no refusal
    Rule(
        "ended_before_its_turn",
        "the migration's return value",
        lambda e: (e.unstarted | (e.unmoved & (e.stage == STAGE_LOCK))) & (e.migration_rc < 0),
    ),
    Rule("cant_tell", "", lambda e: e.unstarted),
    Rule("locked", _STATE, lambda e: e.not_unmapped & e.locked & ~e.writeback),
    Rule("writeback", _STATE, lambda e: e.not_unmapped & e.writeback & ~e.locked),
    Rule(
        "locked_or_writeback",
        "allocated, not unmapped",
        lambda e: e.unmoved & ((e.n_unmap == 0) | (e.stage == STAGE_LOCK)),
    ),
    Rule("pinned", _STATE, lambda e: e.unmoved & (e.stage == STAGE_UNMAP) & e.pinned),
    Rule("not_unmappable", "unmapped, not moved", lambda e: e.unmoved),
    # ---- its move was refused
    Rule("pinned", _STATE, lambda e: e.move(errno.EAGAIN) & e.pinned),
    # writeout() puts the mappings back before it says so
    Rule("writeback", _STATE, lambda e: e.move(errno.EAGAIN) & e.no_op & e.writeback),
    Rule(
        "extra_references", _STATE, lambda e: e.move(errno.EAGAIN) & e.extra_known & (e.extra > 0)
    ),
    Rule(
        "private_not_released",
        "filemap_release_folio()",
        lambda e: e.move(errno.EAGAIN, errno.EBUSY) & (e.n_release > 0),
    ),
    Rule(
        "buffers_busy",
        f"{_STATE}, the name of its operation",
        lambda e: (
            e.move(errno.EAGAIN) & e.extra_known & (e.extra <= 0) & e.private & e.moves_buffers
        ),
    ),
    Rule("references_or_buffers", "the move's answer", lambda e: e.move(errno.EAGAIN)),
    Rule(
        "dirty_no_migration",
        _STATE,
        lambda e: e.move(errno.EINVAL, errno.EBUSY) & e.no_op & e.dirty,
    ),
    Rule("write_failed", _STATE, lambda e: e.move(errno.EIO) & e.no_op),
    Rule(
        "private_in_use",
        _STATE,
        lambda e: e.move(errno.EBUSY) & e.is_file & e.has_migrate_op & (e.private | e.private_2),
    ),
    Rule(
        "refused_by_filesystem",
        _STATE,
        lambda e: e.move(errno.EBUSY, errno.EOPNOTSUPP) & e.is_file & e.has_migrate_op,
    ),
    Rule("poisoned", "the move's answer", lambda e: e.move(_EHWPOISON)),
)


def causes_of_failure(columns: RuleColumns) -> Codes:
    """Cause of each entry whose page stayed although the kernel looked at the entry."""
    e = columns
    tests: list[tuple[Bools, int | Ints]] = [
        *((np.asarray(rule.test(e), np.bool_), _CODE[rule.cause]) for rule in RULES),
        (e.absent & (e.lookup_rc < 0), _LOOKUP_REFUSED + _errno_of(e.lookup_rc)),
        (e.queued & (e.move_rc < 0), _MOVE_REFUSED + _errno_of(e.move_rc)),
    ]
    codes = np.select(
        [test for test, _ in tests],
        [np.broadcast_to(code, e.queued.shape) for _, code in tests],
        _CODE["cant_tell"],
    )
    return codes.astype(np.uint16)


def causes_of_no_attempt(
    ret: Ints, fail_rc: Ints, first: Bools, refused: Bools, began: Bools
) -> Codes:
    """Cause of each entry that the kernel's loop never came to.

    :param ret: return value of the entry's call.
    :param fail_rc: return value of the migration that failed in it, 0 for none.
    :param first: the entry is the first one that was not processed.
    :param refused: the call was refused before its loop began.
    :param began: its loop began, as events say.
    """
    tests: list[tuple[Bools, int | Ints]] = [
        (refused, _CALL_REFUSED + _errno_of(ret)),
        # a node outside the cpuset, or a security module that let nobody in
        (~began & (ret == -errno.EACCES), _CODE["cant_tell"]),
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
