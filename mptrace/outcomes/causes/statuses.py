# SPDX-License-Identifier: GPL-2.0-or-later
"""The documented page states and return codes of move_pages(2), in one table.

What a value means, how kernels since 4.17 really produce it (before, a failed
migration wrote its errno into the array: commit a49bd4d71637, "mm, numa: rework
do_pages_move"), what to do, and where that is written.  Every message of
mptrace takes its words from here.
"""

import errno
from dataclasses import dataclass

_PAGE = "move_pages(2), page states"
_RETURN = "move_pages(2), errors"


@dataclass(frozen=True)
class Status:
    """One value that a page's status or the call's return value can have.

    ``value`` is -errno, or 0 where the row stands for a whole class
    (``name`` says which).
    """

    name: str
    value: int
    meaning: str
    kernel: str
    remedy: str
    source: str


#: Values of ``status[i]``.
PAGE_STATUSES: tuple[Status, ...] = (
    Status(
        "node",
        0,
        "the page is on that node, as far as its group knows",
        "already there when looked up, or its group's migrate_pages() returned 0",
        "",
        f"{_PAGE}; store_status() in do_pages_move()",
    ),
    Status(
        "untouched",
        0,
        "the kernel wrote nothing: its group failed, or the call ended before",
        "move_pages_and_store_status() stores nothing when migrate_pages() is not 0",
        "fill the array with an impossible value first, and query afterwards",
        "mm/migrate.c; not in the manual",
    ),
    Status(
        "ENOENT",
        -errno.ENOENT,
        "no page there",
        "never touched, swapped out, or being migrated by somebody else; 6.1 to 6.4 also PROT_NONE",
        "touch the page first",
        f"{_PAGE}; folio_walk_start(), follow_page()",
    ),
    Status(
        "EFAULT",
        -errno.EFAULT,
        "no mapping there, or one that can't be migrated",
        "no VMA, VM_IO or VM_PFNMAP, the zero page; up to 6.11 also untouched anonymous memory",
        "check the address; write to the page first",
        f"{_PAGE}; vma_migratable()",
    ),
    Status(
        "EACCES",
        -errno.EACCES,
        "mapped more than once",
        "shared without MPOL_MF_MOVE_ALL; before 6.7 also any hugetlb address but the first",
        "MPOL_MF_MOVE_ALL (needs CAP_SYS_NICE), or the head address of the huge page",
        f"{_PAGE}; folio_likely_mapped_shared(), page_mapcount()",
    ),
    Status(
        "EBUSY",
        -errno.EBUSY,
        "could not be isolated",
        "not on an LRU list, or isolated already: by another entry of the call, or by others",
        "name each page, and each huge page, once; try again",
        f"{_PAGE}; folio_isolate_lru(), isolate_hugetlb()",
    ),
    Status(
        "EIO",
        -errno.EIO,
        "a dirty page could not be written",
        "stays inside the kernel: a positive return value and an untouched status",
        "",
        f"{_PAGE}; writeout()",
    ),
    Status(
        "EINVAL",
        -errno.EINVAL,
        "a dirty page can't be moved: its file system has no migration",
        "stays inside the kernel: a positive return value and an untouched status",
        "",
        f"{_PAGE}; fallback_migrate_folio()",
    ),
    Status(
        "ENOMEM",
        -errno.ENOMEM,
        "no memory on the target node",
        "stays inside the kernel: the call returns -ENOMEM or a positive value",
        "",
        f"{_PAGE}; alloc_migration_target()",
    ),
)

#: Return values of the call.
RETURN_CODES: tuple[Status, ...] = (
    Status(
        "success",
        0,
        "the kernel came to every entry; each has a status (since 6.1)",
        "every group moved, or had nothing to move; up to 6.0 one folio of the last may stay",
        "look at the statuses: they may hold errors",
        "move_pages(2), return value",
    ),
    Status(
        "positive",
        0,
        "that many folios failed, plus the entries that were never attempted",
        "migrate_pages() > 0 ends the loop; the failed group's statuses are untouched",
        "query where the pages are; move the rest again",
        "move_pages(2), return value; move_pages_and_store_status()",
    ),
    Status(
        "ENODEV",
        -errno.ENODEV,
        "a target node does not exist or has no memory",
        "!node_state(node, N_MEMORY); earlier groups were moved",
        "choose a node with memory",
        f"{_RETURN}; do_pages_move()",
    ),
    Status(
        "EACCES",
        -errno.EACCES,
        "a target node is outside the target's cpuset",
        "!node_isset(node, task_nodes); earlier groups were moved",
        "widen cpuset.mems of the target process",
        f"{_RETURN}; do_pages_move()",
    ),
    Status(
        "EFAULT",
        -errno.EFAULT,
        "one of the three arrays can't be accessed",
        "get_user() or put_user(); with a bad status array pages were moved all the same",
        "give arrays that are as long as the count",
        f"{_RETURN}; do_pages_move()",
    ),
    Status(
        "ENOMEM",
        -errno.ENOMEM,
        "the target node had no memory for a page",
        "alloc_migration_target() returned NULL; earlier pages of the group may have moved",
        "free memory on the node; query where the pages are",
        "mm/migrate.c, migrate_pages(); not in the manual",
    ),
    Status(
        "EPERM",
        -errno.EPERM,
        "not allowed for that process, or MPOL_MF_MOVE_ALL without CAP_SYS_NICE",
        "ptrace_may_access(), capable(CAP_SYS_NICE)",
        "run with the right of ptrace over the target, or as root",
        f"{_RETURN}; kernel_move_pages()",
    ),
    Status(
        "ESRCH",
        -errno.ESRCH,
        "no such process",
        "find_mm_struct()",
        "check the process number",
        f"{_RETURN}; find_mm_struct()",
    ),
    Status(
        "EINVAL",
        -errno.EINVAL,
        "unknown flags, or a process without memory (kernel thread, zombie)",
        "flags other than MPOL_MF_MOVE and MPOL_MF_MOVE_ALL; get_task_mm() == NULL",
        "check the flags and the process",
        f"{_RETURN}; kernel_move_pages()",
    ),
    Status(
        "E2BIG",
        -errno.E2BIG,
        "too many pages",
        "never since 2.6.29 (commit 3140a2273009)",
        "",
        _RETURN,
    ),
    Status(
        "ENOENT",
        -errno.ENOENT,
        "no page needed moving",
        "never since 2008 (commit e78bbfa82624): 0 instead",
        "",
        _RETURN,
    ),
)

#: Why an entry's status is silent, or says something else than what became of
#: its page: a name, and words whose fields are the facts of the case.
STORIES: dict[str, str] = {
    "group_failed": "since 4.17 the kernel stores a group's statuses only after its "
    "migrate_pages() returned 0; here it returned {rc}: {stayed}",
    "group_failed_moved": "this page moved, and nothing says so: since 4.17 the kernel stores a "
    "group's statuses only after its migrate_pages() returned 0; here it returned {rc}: {stayed}",
    "group_failed_nowhere": "since 4.17 the kernel stores a group's statuses only after its "
    "migrate_pages() returned 0; what it returned here was not recorded",
    "ended_before": "never attempted: the call ended before it came here, because {because}",
    "call_refused": "the kernel refused the whole call and looked at no entry",
    "stale": "the array still holds {value}, as before the call: it looks like a status, but "
    "this call did not write it",
    "unstored": "the status could not be stored or read: the array is not writable there",
    "duplicate": "{other} names the same page and had isolated it already, so this one "
    "could not: {status} is about the isolation, not about what became of the page",
    "same_folio": "{other} names the same folio and had isolated it already, so this one "
    "could not: {status} is about the isolation, not about what became of the page",
    "moved_again": "another entry of the same call moved the page again: {status} was true when it "
    "was stored",
    "split": "its large folio was split on the way, and each part had its own fate",
    "positive": "move_pages() returned {ret}: {rc} that migrate_pages() left behind, and "
    "{rest} never attempted; the count does not say which",
    # a7504ed14f9b, "migrate: fix syscall move_pages() return value for failure", 6.1
    "count_too_small": "move_pages() returned {ret}, which is too small, as it can be "
    "on this kernel: migrate_pages() left {rc} behind, and {rest} were never attempted",
    "error_hides": "move_pages() returned {ret}: that is not about this entry, and does not say "
    "what was done before",
}

#: Statuses that the manual explains otherwise than the kernel means them:
#: (status, cause) -> words.
MISLEADING: dict[tuple[int, str], str] = {
    (-errno.EFAULT, "never_touched"): "the manual has -ENOENT for a page that is not there; up to "
    "6.11 follow_page() gives the same answer for memory never written and the zero page",
    (-errno.EFAULT, "unmapped_or_zero_page"): "the mapping is there: up to 6.11 follow_page() "
    "gives this answer for memory never written, for which the manual has -ENOENT",
    (-errno.EFAULT, "unsuitable_vma"): "the address is mapped, contrary to the manual: the "
    "kernel migrates no pages of such a mapping",
    (
        -errno.ENOENT,
        "prot_none",
    ): "the page is there: from 6.1 to 6.4 the lookup asks for access, and PROT_NONE refuses it",
    (-errno.ENOENT, "special_entry"): "the page may be there all the same: somebody else is "
    "moving it, or a marker stands in its place",
    (-errno.ENOENT, "secret_memory"): "the page is there, but hidden from the kernel's own lookup",
    (-errno.ENOENT, "hidden"): "a page is there, but the kernel's lookup does not return it",
    (-errno.ENOENT, "zero_page"): "the manual has -EFAULT for the zero page; since 6.12 the "
    "lookup passes over it",
    (-errno.ENOENT, "huge_zero_page"): "the manual has -EFAULT for the zero page; since 6.12 "
    "the lookup passes over it",
    (-errno.EACCES, "hugetlb_tail"): "nobody shares it, contrary to the manual: before 6.7 any "
    "address of a hugetlb page but its first gets this status",
    (-errno.EACCES, "shared"): "the kernel counts mappings, although the manual says processes: "
    "one process that maps the page twice is enough",
    (-errno.EACCES, "shared_ksm"): "the kernel counts mappings, although the manual says "
    "processes: equal pages that KSM merged are enough",
    (-errno.EBUSY, "not_on_lru"): "the manual's advice to try again later does not help: such a "
    "page is never on an LRU list",
}


def errno_name(number: int) -> str:
    """``EBUSY`` for 16; the number as text where it has no name."""
    return errno.errorcode.get(number, str(number))


def status_text(status: int | None) -> str:
    """A status in few characters: ``untouched``, ``node 1``, ``-16 EBUSY``."""
    if status is None:
        return "untouched"
    if status >= 0:
        return f"node {status}"
    return f"{status} {errno_name(-status)}"


def page_status(status: int | None) -> Status | None:
    """The row of a page's status; None for a value that the table doesn't know."""
    if status is None:
        return PAGE_STATUSES[1]
    if status >= 0:
        return PAGE_STATUSES[0]
    return next((row for row in PAGE_STATUSES if row.value == status), None)
