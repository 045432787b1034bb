# SPDX-License-Identifier: GPL-2.0-or-later
"""Each rule of the diagnosis fires by its evidence, and without it a lesser answer comes."""

import errno
from typing import Any

import numpy as np
import pytest

from mptrace.outcomes.causes.obstacles import (
    PTE_HUGE,
    PTE_NONE,
    PTE_PRESENT,
    PTE_PROT_NONE,
    PTE_SPECIAL,
    PTE_SWAP,
    PTE_UNKNOWN,
    PTE_ZERO,
)
from mptrace.outcomes.causes.rules import (
    RULES,
    RuleColumns,
    cause_name,
    causes_of_failure,
    causes_of_no_attempt,
)
from mptrace.recording.layouts import (
    FOLIO_ALLOC_FAILED,
    FOLIO_HUGETLB,
    ISOLATE_NOT_TRIED,
    LOOKUP_NONE,
    MOVE_NOT_TRIED,
    STAGE_ALLOCATE,
    STAGE_LOCK,
    STAGE_PUTBACK,
    STAGE_UNMAP,
)

FILE, ANONYMOUS, KSM = 0, 1, 3

#: An entry whose lookup found a small folio, and of which no state was recorded.
FOUND: dict[str, Any] = {
    "looked_up": True,
    "queued": False,
    "told_zero": False,
    "call_flags": 2,
    "migration_rc": 0,
    "vma": -1,
    "lookup_rc": 0,
    "isolate_rc": ISOLATE_NOT_TRIED,
    "move_rc": MOVE_NOT_TRIED,
    "flags": 0,
    "nr_pages": 1,
    "n_alloc": 0,
    "n_unmap": 0,
    "seen": False,
    "stage": 0,
    "pte": PTE_UNKNOWN,
    "mapping": -1,
    "mapcount": 0,
    "extra": 0,
    "extra_known": False,
    "pinned": False,
    "locked": False,
    "writeback": False,
    "dirty": False,
    "private": False,
    "private_2": False,
    "reserved": False,
    "allowed": -1,
    "n_release": 0,
    "n_split": 0,
    "has_ops": False,
    "has_migrate_op": False,
    "moves_buffers": False,
    "is_hugetlb": False,
    "has_holder": False,
    "fs": b"",
}
NO_LOOKUP = {"looked_up": False}
NOTHING = {"lookup_rc": LOOKUP_NONE}
FAULT = {"lookup_rc": -errno.EFAULT}
LARGE = {"nr_pages": 512}
NOT_ISOLATED = {"isolate_rc": -errno.EBUSY}
QUEUED = {"queued": True, "isolate_rc": 0}
FAILED_ALLOCATION = {**QUEUED, "n_alloc": 1, "flags": FOLIO_ALLOC_FAILED}
PUT_BACK = {**QUEUED, "stage": STAGE_PUTBACK}
GIVEN_UP = {**QUEUED, "n_alloc": 1}
UNMAPPED = {**GIVEN_UP, "n_unmap": 10}


def moved(number: int) -> dict[str, Any]:
    """An entry whose move was refused with an errno."""
    return {**UNMAPPED, "move_rc": -number}


AGAIN = moved(errno.EAGAIN)
OF_FILE = {"seen": True, "mapping": FILE, "has_ops": True}
MIGRATED_BY_FILE = {**OF_FILE, "has_migrate_op": True}

#: What happened; the evidence; the cause with it; the cause without it.
CASES: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    (NO_LOOKUP, {"vma": 1}, "unsuitable_vma", "no_vma_or_unsuitable"),
    (NO_LOOKUP, {"vma": 0}, "no_vma", "no_vma_or_unsuitable"),
    (FAULT, {"pte": PTE_HUGE}, "huge_zero_page", "unmapped_or_zero_page"),
    (FAULT, {"pte": PTE_ZERO}, "zero_page", "unmapped_or_zero_page"),
    (FAULT, {"pte": PTE_NONE}, "never_touched", "unmapped_or_zero_page"),
    (NOTHING, {"pte": PTE_NONE}, "never_touched", "not_present"),
    (NOTHING, {"pte": PTE_PROT_NONE}, "prot_none", "not_present"),
    (NOTHING, {"pte": PTE_SWAP}, "swapped_out", "not_present"),
    (NOTHING, {"pte": PTE_SPECIAL}, "special_entry", "not_present"),
    ({**NOTHING, "pte": PTE_PRESENT}, {"fs": b"secretmem"}, "secret_memory", "hidden"),
    (NOTHING, {"pte": PTE_PRESENT}, "hidden", "not_present"),
    ({"lookup_rc": -errno.ENOMEM}, NOTHING, "not_present", "lookup_ENOMEM"),
    ({"lookup_rc": -errno.ENOMEM}, {"lookup_rc": -errno.ENOENT}, "not_present", "lookup_ENOMEM"),
    ({"lookup_rc": -errno.ENOMEM}, FAULT, "unmapped_or_zero_page", "lookup_ENOMEM"),
    (LARGE, {"pte": PTE_HUGE}, "huge_zero_page", "shared_or_hugetlb_tail"),
    ({}, {"pte": PTE_ZERO}, "zero_page", "shared"),
    ({}, {"told_zero": True}, "zero_page", "shared"),
    ({"seen": True, "mapcount": 2}, {"mapping": KSM}, "shared_ksm", "shared"),
    ({**LARGE, "mapping": ANONYMOUS}, {"seen": True, "mapcount": 2}, "shared", ""),
    (LARGE, {"call_flags": 4}, "hugetlb_tail", "shared_or_hugetlb_tail"),
    ({**LARGE, "mapcount": 1}, {"is_hugetlb": True}, "hugetlb_tail", "shared_or_hugetlb_tail"),
    ({"call_flags": 4}, {"seen": True}, "cant_tell", "hugetlb_tail"),
    (LARGE, {"nr_pages": 1}, "shared", "shared_or_hugetlb_tail"),
    (NOT_ISOLATED, {"flags": FOLIO_HUGETLB}, "hugetlb_isolated", "not_on_lru_or_isolated"),
    (NOT_ISOLATED, {"has_holder": True}, "isolated_by_other", "not_on_lru_or_isolated"),
    (NOT_ISOLATED, {"seen": True}, "not_on_lru", "not_on_lru_or_isolated"),
    (
        {**NOT_ISOLATED, **MIGRATED_BY_FILE},
        {"reserved": True},
        "not_on_lru",
        "isolated_by_other",
    ),
    (
        {**NOT_ISOLATED, "seen": True, "mapping": FILE},
        {"fs": b"anon_inodefs"},
        "not_on_lru",
        "not_on_lru_or_isolated",
    ),
    (
        {**NOT_ISOLATED, "mapping": ANONYMOUS},
        {"seen": True},
        "isolated_by_other",
        "not_on_lru_or_isolated",
    ),
    (FAILED_ALLOCATION, {"n_split": 1}, "split_failed", "no_memory"),
    (FAILED_ALLOCATION, {"allowed": 0}, "node_outside_callers_cpuset", "no_memory"),
    (FAILED_ALLOCATION, {"allowed": 1}, "no_memory", "no_memory"),
    (QUEUED, {"flags": FOLIO_ALLOC_FAILED}, "no_memory", "cant_tell"),
    (QUEUED, {"migration_rc": -errno.ENOMEM}, "ended_before_its_turn", "cant_tell"),
    (GIVEN_UP, {"stage": STAGE_LOCK, "locked": True}, "locked", "locked_or_writeback"),
    (GIVEN_UP, {"stage": STAGE_LOCK, "writeback": True}, "writeback", "locked_or_writeback"),
    (
        {**GIVEN_UP, "stage": STAGE_LOCK, "locked": True},
        {"migration_rc": -errno.ENOMEM},
        "ended_before_its_turn",
        "locked",
    ),
    (PUT_BACK, {"migration_rc": -errno.ENOMEM}, "no_memory_in_group", "refusal_not_traced"),
    (PUT_BACK, {"pinned": True}, "pinned", "refusal_not_traced"),
    (PUT_BACK, {"writeback": True}, "writeback", "refusal_not_traced"),
    (PUT_BACK, {"locked": True}, "locked", "refusal_not_traced"),
    (PUT_BACK, {"extra_known": True, "extra": 1}, "extra_references", "refusal_not_traced"),
    (PUT_BACK, {**OF_FILE, "dirty": True}, "dirty_no_migration", "refusal_not_traced"),
    (UNMAPPED, {"stage": STAGE_UNMAP, "pinned": True}, "pinned", "not_unmappable"),
    (AGAIN, {"pinned": True}, "pinned", "references_or_buffers"),
    (AGAIN, {"extra_known": True, "extra": 1}, "extra_references", "references_or_buffers"),
    (AGAIN, {"n_release": 1}, "private_not_released", "references_or_buffers"),
    (moved(errno.EBUSY), {"n_release": 1}, "private_not_released", "move_EBUSY"),
    (AGAIN, {**OF_FILE, "writeback": True}, "writeback", "references_or_buffers"),
    (
        {**AGAIN, "extra_known": True, "private": True},
        {"moves_buffers": True},
        "buffers_busy",
        "references_or_buffers",
    ),
    (moved(errno.EINVAL), {**OF_FILE, "dirty": True}, "dirty_no_migration", "move_EINVAL"),
    (moved(errno.EBUSY), {**OF_FILE, "dirty": True}, "dirty_no_migration", "move_EBUSY"),
    (moved(errno.EIO), OF_FILE, "write_failed", "move_EIO"),
    (
        moved(errno.EBUSY),
        MIGRATED_BY_FILE,
        "refused_by_filesystem",
        "move_EBUSY",
    ),
    (
        {**moved(errno.EBUSY), **MIGRATED_BY_FILE},
        {"private_2": True},
        "private_in_use",
        "refused_by_filesystem",
    ),
    (moved(errno.EIO), moved(133), "poisoned", "move_EIO"),
]
CASES = [
    (what, evidence, cause, lesser or "shared_or_hugetlb_tail")
    for what, evidence, cause, lesser in CASES
]


def evidence(*fields: dict[str, Any]) -> RuleColumns:
    """One entry with these fields."""
    values: dict[str, Any] = dict(FOUND)
    for each in fields:
        values |= each
    return RuleColumns(**{name: np.array([value]) for name, value in values.items()})


def diagnosed(*fields: dict[str, Any]) -> str:
    """Its cause."""
    return cause_name(int(causes_of_failure(evidence(*fields))[0]))


def rule_that_fires(*fields: dict[str, Any]) -> int:
    """Number of the first rule whose test holds, -1 for none."""
    found = evidence(*fields)
    fires = (number for number, rule in enumerate(RULES) if bool(np.asarray(rule.test(found))[0]))
    return next(fires, -1)


@pytest.mark.parametrize(
    ("what", "seen", "cause", "lesser"), CASES, ids=[f"{c[2]}-{n}" for n, c in enumerate(CASES)]
)
def test_a_rule_fires_by_its_evidence(
    what: dict[str, Any], seen: dict[str, Any], cause: str, lesser: str
) -> None:
    """With it the cause is named; without it an answer that claims less."""
    assert diagnosed(what, seen) == cause
    assert diagnosed(what) == lesser


def test_every_rule_has_a_case() -> None:
    """With or without its evidence, some case is decided by each rule."""
    fired = {rule_that_fires(what, seen) for what, seen, _, _ in CASES}
    fired |= {rule_that_fires(what) for what, _, _, _ in CASES}
    assert {RULES[number].cause for number in range(len(RULES)) if number not in fired} == set()
    assert set(range(len(RULES))) <= fired


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        # do_pages_move(): mapped twice is met before anything is isolated
        ([{"seen": True, "mapping": ANONYMOUS, "mapcount": 2, "pinned": True}], "shared"),
        # add_page_for_migration(): the zero page before the mapcount
        ([{"seen": True, "pte": PTE_ZERO, "mapcount": 2}], "zero_page"),
        # migrate_folio_unmap(): the lock and writeback before references are counted
        ([GIVEN_UP, {"stage": STAGE_LOCK, "locked": True, "pinned": True}], "locked"),
        ([GIVEN_UP, {"stage": STAGE_LOCK, "writeback": True, "extra": 5}], "writeback"),
        # try_to_migrate_one() refuses a pinned page before its references are counted
        (
            [UNMAPPED, {"stage": STAGE_UNMAP, "pinned": True, "extra_known": True, "extra": 1025}],
            "pinned",
        ),
        ([AGAIN, {"pinned": True, "extra_known": True, "extra": 1025}], "pinned"),
        # folio_migrate_mapping() counts before the buffers are looked at
        ([AGAIN, {"extra_known": True, "extra": 1, "private": True}], "extra_references"),
        # the last refusal counts, not that of an earlier pass
        (
            [
                AGAIN,
                {"extra_known": True, "extra": 1},
                {"stage": STAGE_ALLOCATE, "flags": FOLIO_ALLOC_FAILED},
            ],
            "no_memory",
        ),
        # a folio that is split beforehand, in vain, goes on whole
        ([UNMAPPED, {"stage": STAGE_UNMAP, "pinned": True, "n_split": 1}], "pinned"),
        ([FAILED_ALLOCATION, {"allowed": 0, "n_split": 1}], "node_outside_callers_cpuset"),
        # writeout() restores the mappings before it answers
        ([AGAIN, OF_FILE, {"writeback": True, "extra_known": True, "extra": 1}], "writeback"),
        # the allocation fails before any lock is taken
        ([FAILED_ALLOCATION, {"allowed": 0, "locked": True}], "node_outside_callers_cpuset"),
    ],
)
def test_of_two_causes_the_first_in_the_kernels_code_is_named(
    fields: list[dict[str, Any]], cause: str
) -> None:
    """What stands in the way later was never met."""
    assert diagnosed(*fields) == cause


def test_locked_and_under_writeback_is_not_decided() -> None:
    """The state is read after the refusal: the lock that it shows may have come later.

    The kernel tries the lock first, but a folio refused for its writeback may be
    locked by somebody else a moment later, as seen with ext4 on 6.12.
    """
    both = {"stage": STAGE_LOCK, "locked": True, "writeback": True}
    assert diagnosed(GIVEN_UP, both) == "locked_or_writeback"


def test_nothing_is_claimed_without_records() -> None:
    """A folio that was isolated, and of which nothing more is known."""
    assert diagnosed(QUEUED) == "cant_tell"
    assert diagnosed(AGAIN) == "references_or_buffers"
    assert diagnosed(moved(errno.ENOSPC)) == "move_ENOSPC"


@pytest.mark.parametrize(
    ("rc", "named"),
    [
        (-errno.EIO, "EIO"),
        (-1500, "1500"),
        (-4095, "4095"),
        (-4096, "no_errno"),
        (-(1 << 31), "no_errno"),
    ],
)
def test_an_answer_stays_in_its_family(rc: int, named: str) -> None:
    """Whatever number the kernel's function returned: who returned it is not mixed up."""
    assert diagnosed({**FOUND, "queued": True, "move_rc": rc}) == f"move_{named}"
    assert diagnosed({**FOUND, "lookup_rc": rc}) == f"lookup_{named}"
    one = np.ones(1, np.bool_)
    for ret in (rc, rc if named != "no_errno" else -(1 << 63)):
        codes = causes_of_no_attempt(np.array([ret]), np.zeros(1, np.int64), one, one, ~one)
        assert cause_name(int(codes[0])) == f"call_refused_{named}"


def test_many_at_once() -> None:
    """Rules are columns: each entry has its own answer."""
    both = evidence(AGAIN, {"extra_known": True, "extra": 1})
    fields = {
        name: np.concatenate([getattr(both, name), getattr(evidence(NO_LOOKUP), name)])
        for name in FOUND
    }
    codes = causes_of_failure(RuleColumns(**fields))
    assert [cause_name(int(code)) for code in codes] == ["extra_references", "no_vma_or_unsuitable"]
