# SPDX-License-Identifier: GPL-2.0-or-later
"""The correlator against a model of the kernel's loop that knows the truth."""

import errno
import time
from typing import Any

import numpy as np
import pytest
from simulated_kernel import MOVE, MOVE_ALL, PAGE, SENTINEL, Kernel, Truth

from mptrace.outcomes import correlate as module
from mptrace.outcomes.causes.rules import cause_meaning, cause_name
from mptrace.outcomes.correlate import CANT_TELL, ENTRY_REASONS, ROW, UNTOUCHED, WRITTEN, correlate
from mptrace.recording.layouts import (
    CALL,
    END_DONE,
    END_OPEN,
    ENTRY,
    FOLIO,
    ISOLATE_NOT_TRIED,
    LARGE_CHUNK,
    MIGRATION,
    NO_LOOKUP,
    OUTCOMES,
    READ_NODES,
    READ_PAGES,
    READ_STATUS,
    SEEN_VMA,
    STAGE_VMA,
    TABLES,
    WITNESSES,
)
from mptrace.recording.meta import Meta

BASE = 0x7F0000000000 // PAGE
TRAITS = ("pinned", "unmappable", "refused", "no memory", "locked", "freed")


def address(page: int, offset: int = 0) -> int:
    """User address of a page of the test's address space."""
    return (BASE + page) * PAGE + offset


def words(rows: np.ndarray[Any, Any]) -> list[str]:
    """Outcomes as words."""
    return [OUTCOMES[code] for code in rows["outcome"]]


def reasons(rows: np.ndarray[Any, Any]) -> list[str]:
    """Entry reasons as words."""
    return [ENTRY_REASONS[code] for code in rows["entry_reason"]]


def witnesses(rows: np.ndarray[Any, Any]) -> list[str]:
    """Witnesses as words."""
    return [WITNESSES[code] for code in rows["witnesses"]]


def causes(rows: np.ndarray[Any, Any]) -> list[str]:
    """Causes as words."""
    return [cause_name(int(code)) for code in rows["cause"]]


def run(kernel: Kernel, **meta: Any) -> np.ndarray[Any, Any]:
    """Rows of everything that the model recorded."""
    return correlate(kernel.tables(), Meta.of({**kernel.meta(), **meta})).rows


def random_kernel(random: np.random.Generator) -> Kernel:
    """An address space of a few folios of all kinds."""
    nodes = int(random.integers(2, 5))
    cpuset = tuple(range(nodes)) if random.random() < 0.8 else tuple(range(nodes - 1))
    kernel = Kernel(str(random.choice(["5.10", "6.1", "6.12"])), nodes, cpuset)
    kernel.reuse = bool(random.random() < 0.7)
    trouble = random.choice([0.0, 0.02, 0.1, 0.3])

    def trait() -> str:
        return str(random.choice(TRAITS)) if random.random() < trouble else ""

    for page in range(int(random.integers(3, 30))):
        kind = random.random()
        nid = int(random.integers(0, nodes))
        if kind < 0.06:
            continue  # no mapping
        if kind < 0.12:
            kernel.pages[BASE + page] = None
        elif kind < 0.14:
            kernel.folio(BASE + page, nid, zero=True)
        elif kind < 0.18:
            kernel.folio(BASE + page, nid, shared=True)
        elif kind < 0.21:
            kernel.folio(BASE + page, nid, busy=True)
        else:
            kernel.folio(BASE + page, nid, trait=trait())
    for number in range(int(random.integers(0, 3))):
        kernel.folio(
            (BASE // 512 + 1 + number) * 512,
            int(random.integers(0, nodes)),
            512,
            trait=trait(),
            hugetlb=bool(random.random() < 0.4),
        )
    # Inside a THP's range: one that was unmapped in part.  A hugetlb folio has no holes.
    hugetlb = any(folio is not None and folio.hugetlb for folio in kernel.pages.values())
    for number in range(0 if hugetlb else int(random.integers(0, 2))):
        kernel.folio(BASE + 1000 + 16 * number, int(random.integers(0, nodes)), 16, trait=trait())
    if random.random() < 0.2:  # one KSM folio behind several addresses
        shared = kernel.folio(BASE + 2000, 0, shared=True)
        for page in (2001, 2007):
            kernel.pages[BASE + page] = shared
    return kernel


def random_call(kernel: Kernel, random: np.random.Generator, tid: int) -> Truth:
    """A call with duplicates, holes, changing targets and now and then a bad node."""
    pool = np.array([*kernel.pages, BASE + 3000, BASE + 3001], np.int64)
    few = random.choice(pool, min(pool.size, int(random.integers(1, 40))), replace=False)
    count = int(random.integers(1, 40))
    pages = few[:count] if random.random() < 0.4 else random.choice(few, count)
    bad = random.random() < 0.15
    nodes, node = [], 0
    for _ in pages:
        if random.random() < 0.25 or not nodes:
            node = int(random.choice(kernel.allowed))
        odd = bad and random.random() < 0.1
        nodes.append(int(random.choice([-1, 77, *kernel.memory_nodes])) if odd else node)
    offsets = random.choice([0, 0, 0, 8, 4095], len(pages))
    fault = None
    if random.random() < 0.05:
        fault = int(random.choice([0, 0, random.integers(0, len(pages))]))
    return kernel.move_pages(
        [int(page) * PAGE + int(offset) for page, offset in zip(pages, offsets, strict=True)],
        nodes,
        int(random.choice([MOVE, MOVE_ALL])),
        int(random.choice([SENTINEL, 0, -errno.EFAULT, 1])),
        fault,
        tid,
    )


def check(rows: np.ndarray[Any, Any], truth: Truth, strict: bool = True) -> None:
    """Each row against the truth; `strict` also forbids needless unknowns."""
    assert len(rows) == len(truth.outcome)
    for row, outcome, written, status, final, aliased in zip(
        rows,
        truth.outcome,
        truth.written,
        truth.status,
        truth.final,
        truth.aliased,
        strict=True,
    ):
        named = OUTCOMES[row["outcome"]]
        if named == "unknown":
            assert row["cause"], row
            assert WITNESSES[row["witnesses"]] == "unknown"
            if strict:
                cause = cause_name(int(row["cause"]))
                excuse = (cause == "maybe_same_folio" and aliased) or (
                    cause == "ambiguous" and truth.ret in (-errno.EACCES, -errno.EFAULT)
                )
                assert outcome == "unknown" or excuse, (row, outcome)
            continue
        if named == "not_attempted" and aliased and row["final_nid"] != row["before_nid"]:
            continue  # KSM: moved through another address of the page, which nothing shows
        assert named == outcome, (row, outcome)
        if row["written"] != CANT_TELL:
            assert (row["written"] == WRITTEN) == written, row
        elif strict:
            assert truth.ret < 0, row
        if row["has_status"]:
            assert row["status_after"] == status
        judged = strict or WITNESSES[row["witnesses"]] != "unknown"
        if (
            judged
            and named in ("moved", "already_there")
            and ENTRY_REASONS[row["entry_reason"]] != ("moved_again")
        ):
            assert final == row["target_nid"], row
        if row["has_location"] and judged:
            assert WITNESSES[row["witnesses"]] in ("agree", "silent"), row
            assert row["final_nid"] == final


@pytest.mark.parametrize("seed", range(400))
def test_random_calls_are_named_right(seed: int) -> None:
    """Outcome, written statuses and witnesses equal the model's truth, call by call."""
    random = np.random.default_rng(seed)
    kernel = random_kernel(random)
    truths = [random_call(kernel, random, 100 + index % 2) for index in range(5)]
    rows = run(kernel)
    for call, truth in enumerate(truths):
        check(rows[rows["call"] == call], truth)


@pytest.mark.parametrize("seed", range(400))
def test_what_was_lost_is_never_guessed(seed: int) -> None:
    """With records missing each verdict that is left is still the true one."""
    random = np.random.default_rng(10_000 + seed)
    kernel = random_kernel(random)
    truths = [random_call(kernel, random, 100) for _ in range(4)]
    tables = kernel.tables()
    for table in ("folios", "migrations", "entries", "calls"):
        if random.random() < 0.6:
            keep = random.random(tables[table].size) > random.choice([0.02, 0.2, 1.0])
            tables[table] = tables[table][keep]
    result = correlate(tables, Meta.of({**kernel.meta(), "lost": {"ring": 1}}))
    for number, call_id in enumerate(result.call_ids):
        rows = result.rows[result.rows["call"] == number]
        truth = truths[_call_number(kernel, int(call_id))]
        by_entry = {int(row["entry"]): row for row in rows}
        some = [index for index in range(len(truth.outcome)) if index in by_entry]
        part = Truth(
            *(
                [values[index] for index in some]
                for values in (
                    truth.outcome,
                    truth.written,
                    truth.status,
                    truth.final,
                    truth.before,
                )
            ),
            truth.ret,
            truth.processed,
            [truth.aliased[index] for index in some],
        )
        if tables["calls"].size == len(truths):
            assert len(some) == len(truth.outcome)
        check(rows, part, strict=False)


def _call_number(kernel: Kernel, call_id: int) -> int:
    return [int(row["call_id"]) for row in kernel.rows["calls"]].index(call_id)


def plain(count: int = 5, nodes: int = 2, generation: str = "6.1") -> Kernel:
    """`count` base pages on node 0."""
    kernel = Kernel(generation, nodes)
    for page in range(count):
        kernel.folio(BASE + page, 0)
    return kernel


def test_pages_there_and_back() -> None:
    """509 pages to node 1 and back: all moved, all witnesses agree."""
    kernel = plain(509)
    pages = [address(page) for page in range(509)]
    for node in (1, 0):
        assert kernel.move_pages(pages, [node] * 509).ret == 0
    rows = run(kernel)
    assert rows.dtype == ROW
    assert len(rows) == 1018
    assert set(words(rows)) == {"moved"}
    assert set(witnesses(rows)) == {"agree"}
    assert set(causes(rows)) == {""}
    assert (rows["has_status"] == 1).all()
    assert rows["final_nid"].tolist() == [1] * 509 + [0] * 509


def test_a_pinned_page_silences_its_group() -> None:
    """[ok, pinned, ok]: return 1, no status at all, yet two pages moved."""
    kernel = plain(3)
    kernel.folio(BASE + 1, 0, trait="pinned")
    truth = kernel.move_pages([address(page) for page in range(3)], [1] * 3, initial=0)
    assert truth.ret == 1
    rows = run(kernel)
    assert words(rows) == ["moved", "failed", "moved"]
    assert rows["has_status"].tolist() == [0, 0, 0]
    assert rows["written"].tolist() == [UNTOUCHED] * 3
    assert witnesses(rows) == ["silent"] * 3
    assert causes(rows) == ["", "extra_references", ""]


def test_the_abort_of_the_manual() -> None:
    """[ok, ok, BAD, pinned, ok, BAD] returns 1; the last BAD's own status was stored."""
    kernel = Kernel("6.1", 2)
    for page in (0, 1, 3, 4):
        kernel.folio(BASE + page, 0, trait="pinned" if page == 3 else "")
    truth = kernel.move_pages([address(page) for page in range(6)], [1] * 6)
    assert truth.ret == 1
    rows = run(kernel)
    assert words(rows) == ["moved", "moved", "failed", "failed", "moved", "failed"]
    assert rows["has_status"].tolist() == [1, 1, 1, 0, 0, 1]
    assert causes(rows)[2] == "no_vma_or_unsuitable"


@pytest.mark.parametrize(
    ("refused", "cause"),
    [
        (None, "no_vma"),
        ({"seen": SEEN_VMA, "vm_start": address(1), "vm_end": address(2)}, "unsuitable_vma"),
        ({"seen": SEEN_VMA, "vm_start": address(5), "vm_end": address(9)}, "no_vma"),
        # refused without saying which mapping: it may be this one's
        ({"seen": 0}, "no_vma_or_unsuitable"),
    ],
)
def test_a_mapping_that_was_refused_and_none_are_told_apart(
    refused: dict[str, int] | None, cause: str
) -> None:
    """Where vma_migratable() is seen; a refusal of an unknown mapping leaves both open."""
    kernel = plain(1)
    kernel.move_pages([address(0), address(1)], [1, 1])
    if refused is not None:
        call_id = kernel.rows["calls"][0]["call_id"]
        kernel.add("obstacles", call_id=call_id, stage=STAGE_VMA, **refused)
    meta = kernel.meta()
    meta["coverage"] += [{"phase": "vma", "state": "proved"}]
    assert causes(correlate(kernel.tables(), Meta.of(meta)).rows) == ["", cause]


def test_entries_after_a_failed_group_are_not_attempted() -> None:
    """A change of target flushes; what follows a failed group was never looked up."""
    kernel = plain(4, nodes=3)
    kernel.folio(BASE + 1, 0, trait="pinned")
    truth = kernel.move_pages([address(page) for page in range(4)], [1, 1, 2, 2])
    assert truth.ret == 3
    rows = run(kernel)
    assert words(rows) == ["moved", "failed", "not_attempted", "not_attempted"]
    assert causes(rows)[2:] == ["aborted_by_earlier_group"] * 2
    assert witnesses(rows) == ["silent"] * 4


@pytest.mark.parametrize("generation", ["5.10", "6.1", "6.12"])
def test_lookups_say_where_a_failed_group_ended_the_call(generation: str) -> None:
    """5.10 returns one less: the entry whose node flushed was never attempted all the same."""
    kernel = plain(4, nodes=3, generation=generation)
    kernel.folio(BASE + 1, 0, trait="pinned")
    truth = kernel.move_pages([address(page) for page in range(4)], [1, 1, 2, 2])
    assert truth.ret == (2 if generation == "5.10" else 3)
    rows = run(kernel)
    assert words(rows) == ["moved", "failed", "not_attempted", "not_attempted"]
    assert rows["written"].tolist() == [UNTOUCHED] * 4
    assert causes(rows)[2:] == ["aborted_by_earlier_group"] * 2
    assert witnesses(rows) == ["silent"] * 4


def test_zero_returned_is_no_success_of_the_last_group() -> None:
    """5.10 returns 0 when one page of the last group stayed: its statuses are untouched."""
    kernel = plain(5, generation="5.10")
    kernel.folio(BASE + 3, 0, trait="pinned")
    # one without a mapping before it, and behind it one that was looked at
    pages = [address(0), address(9), *(address(page) for page in (1, 2, 3))]
    assert kernel.move_pages(pages, [1] * 5).ret == 0
    rows = run(kernel)
    assert words(rows) == ["moved", "failed", "moved", "moved", "failed"]
    assert rows["written"].tolist() == [WRITTEN, WRITTEN, UNTOUCHED, UNTOUCHED, UNTOUCHED]
    # and where that migration's record is lost nobody knows what it returned
    tables = kernel.tables()
    tables["migrations"] = tables["migrations"][:1]
    rows = correlate(tables, Meta.of({**kernel.meta(), "lost": {"ring": 1}})).rows
    assert rows["written"].tolist() == [WRITTEN, WRITTEN] + [CANT_TELL] * 3
    assert rows["has_status"].tolist() == [1, 1, 0, 0, 0]


def test_a_group_moved_where_the_loop_went_on() -> None:
    """Its migration's record is lost; a lookup after it says that it returned 0."""
    kernel = plain(4, nodes=3)
    kernel.move_pages([address(page) for page in range(4)], [1, 1, 2, 2])
    tables = kernel.tables()
    tables["migrations"] = tables["migrations"][:0]
    rows = correlate(tables, Meta.of({**kernel.meta(), "lost": {"ring": 1}})).rows
    assert words(rows) == ["moved"] * 4
    assert rows["written"].tolist() == [WRITTEN, WRITTEN, CANT_TELL, CANT_TELL]


@pytest.mark.parametrize(("generation", "fourth"), [("5.10", "unknown"), ("6.1", "not_attempted")])
def test_a_count_that_may_be_too_small_leaves_an_entry_open(generation: str, fourth: str) -> None:
    """A lookup is lost: 5.10's count says that the fourth entry was looked at, which is not so."""
    kernel = Kernel(generation, 3)
    pages = [1000 * page for page in range(5)]
    for page in pages:
        kernel.folio(BASE + page, 0, trait="pinned" if page == 1000 else "")
    kernel.move_pages([address(page) for page in pages], [1, 1, 1, 2, 2])
    tables = kernel.tables()
    tables["folios"] = tables["folios"][tables["folios"]["lookup_seq"] != 2]
    rows = correlate(tables, Meta.of({**kernel.meta(), "lost": {"ring": 1}})).rows
    assert words(rows) == ["moved", "failed", "unknown", fourth, "not_attempted"]


@pytest.mark.parametrize(
    ("coverage", "n_drain", "cause"),
    [
        ("proved", 0, "call_refused_EACCES"),
        ("proved", 1, "node_not_allowed"),
        ("missing", 0, "cant_tell"),
    ],
)
def test_a_security_module_and_a_cpuset_are_told_apart(
    coverage: str, n_drain: int, cause: str
) -> None:
    """Both return -EACCES; the loop, which looks at the cpuset, drains first."""
    kernel = Kernel("6.1", 2, cpuset=(0,))
    kernel.folio(BASE, 0)
    assert kernel.move_pages([address(0)], [1]).ret == -errno.EACCES
    tables, meta = kernel.tables(), kernel.meta()
    tables["calls"]["n_drain"] = n_drain
    meta["coverage"] += [{"phase": "drain", "state": coverage}]
    rows = correlate(tables, Meta.of(meta)).rows
    assert (words(rows), causes(rows)) == (["not_attempted"], [cause])


def test_a_bad_node_ends_the_call() -> None:
    """[ok, pinned, node 77] is -ENODEV with both first statuses untouched."""
    kernel = plain(4)
    kernel.folio(BASE + 1, 0, trait="pinned")
    truth = kernel.move_pages([address(page) for page in range(4)], [1, 1, 77, 1])
    assert truth.ret == -errno.ENODEV
    rows = run(kernel)
    assert words(rows) == ["moved", "failed", "not_attempted", "not_attempted"]
    assert causes(rows)[2:] == ["bad_node", "aborted_by_bad_node"]
    assert rows["has_status"].tolist() == [0, 0, 0, 0]


def test_a_refused_call_attempts_nothing() -> None:
    """-EPERM before the loop: each entry is not attempted, for that reason."""
    kernel = plain(2)
    kernel.move_pages([address(0), address(1)], [0, 0])
    tables = kernel.tables()
    tables["folios"] = tables["folios"][:0]
    tables["entries"]["status_after"] = SENTINEL
    tables["calls"]["ret"] = -errno.EPERM
    tables["calls"]["n_lookups"] = 0
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert words(rows) == ["not_attempted"] * 2
    assert causes(rows) == ["call_refused_EPERM"] * 2


def test_a_duplicate_has_its_pages_outcome() -> None:
    """The second entry of a page is -EBUSY and moved, and says why."""
    kernel = plain(2)
    truth = kernel.move_pages([address(0), address(0, 8), address(1)], [1, 1, 1])
    assert truth.status == [1, -errno.EBUSY, 1]
    rows = run(kernel)
    assert words(rows) == ["moved"] * 3
    assert reasons(rows) == ["", "duplicate", ""]
    assert witnesses(rows) == ["agree"] * 3
    assert rows["folio"][0] == rows["folio"][1]


def test_the_pages_of_a_thp() -> None:
    """512 addresses of one THP: the second is -EBUSY, the others find it there: all moved."""
    kernel = Kernel("6.12", 2)
    first = (BASE // 512 + 1) * 512
    kernel.folio(first, 0, 512)
    truth = kernel.move_pages([(first + page) * PAGE for page in range(512)], [1] * 512)
    assert truth.status == [1, -errno.EBUSY] + [1] * 510
    rows = run(kernel)
    assert set(words(rows)) == {"moved"}
    assert reasons(rows) == [""] + ["same_folio"] * 511
    assert len(set(rows["folio"].tolist())) == 1
    assert set(witnesses(rows)) == {"agree"}


def test_the_pages_of_a_thp_that_were_never_attempted() -> None:
    """A THP mapped by a PMD moves in the first group, the second fails: its other pages moved,
    those of the THP beside it did not.  Mapped by PTEs nothing says which pages are its."""
    for pmd in (True, False):
        kernel = Kernel("6.12", 2)
        first = (BASE // 512 + 1) * 512
        kernel.folio(first, 0, 512, pmd=pmd)
        kernel.folio(first + 512, 0, 512, pmd=pmd)
        kernel.folio(BASE, 1, trait="pinned")
        kernel.folio(BASE + 1, 1)
        pages = [first + 500, BASE + 1, first + 3, BASE, first + 7, first + 500, first + 513]
        truth = kernel.move_pages([page * PAGE for page in pages], [1, 1, 1, 0, 1, 1, 1])
        rows = run(kernel)
        tail = ["moved", "not_attempted"] if pmd else ["unknown", "unknown"]
        assert truth.outcome[4:] == ["moved", "moved", "not_attempted"]
        assert words(rows) == [
            *("moved", "already_there", "moved", "failed"),
            *(tail[0], "moved", tail[1]),
        ]
        same = "same_folio" if pmd else ""
        assert reasons(rows) == ["", "", "same_folio", "", same, "duplicate", ""]
        assert set(witnesses(rows)) == {"agree", "silent", *(() if pmd else ("unknown",))}


def test_a_hugetlb_tail_before_its_head() -> None:
    """On 6.1 a tail is -EACCES although a later entry moves its folio."""
    kernel = Kernel("6.1", 2)
    first = (BASE // 512 + 1) * 512
    kernel.folio(first, 0, 512, hugetlb=True)
    truth = kernel.move_pages([(first + 3) * PAGE, first * PAGE], [1, 1])
    assert truth.status == [-errno.EACCES, 1]
    rows = run(kernel)
    assert words(rows) == ["moved", "moved"]
    assert reasons(rows) == ["same_folio", ""]


def test_a_page_moved_twice_in_one_call() -> None:
    """The first entry says that its page was moved again; the location is the last one's."""
    kernel = plain(1, nodes=3)
    kernel.move_pages([address(0), address(0)], [1, 2])
    rows = run(kernel)
    assert words(rows) == ["moved", "moved"]
    assert reasons(rows) == ["moved_again", ""]
    assert rows["expected_nid"].tolist() == [2, 2]
    assert witnesses(rows) == ["agree", "agree"]


def test_the_example_of_shared_folios() -> None:
    """The table in the docstring of `share_folios` is what its steps make of that call."""
    kernel = plain(2, nodes=2)
    kernel.reuse = False
    page, other = address(0), address(1)
    truth = kernel.move_pages([page, page, page, other, page], [1, 1, 0, 1, 0])
    assert truth.status == [1, -errno.EBUSY, 0, 1, 0]
    folios = kernel.tables()["folios"]
    by_seq = np.argsort(folios["lookup_seq"])
    isolated = folios["isolate_rc"][by_seq].tolist()
    assert isolated == [0, -errno.EBUSY, 0, 0, ISOLATE_NOT_TRIED]
    rows = run(kernel)
    assert words(rows) == ["moved"] * 5
    assert reasons(rows) == ["moved_again", "moved_again", "", "", "duplicate"]
    assert rows["folio"].tolist() == by_seq[[0, 0, 2, 3, 2]].tolist()
    assert rows["expected_nid"].tolist() == [0, 0, 0, 1, 0]


def test_a_freed_folio_is_unknown() -> None:
    """A folio that was freed under the kernel counts as success there, not here."""
    kernel = plain(1)
    kernel.folio(BASE, 0, trait="freed")
    assert kernel.move_pages([address(0)], [1]).ret == 0
    rows = run(kernel)
    assert words(rows) == ["unknown"]
    assert causes(rows) == ["freed"]


@pytest.mark.parametrize(
    ("trait", "cause"),
    [
        ("pinned", "extra_references"),
        ("unmappable", "not_unmappable"),
        ("refused", "move_EIO"),
        ("no memory", "no_memory"),
        ("locked", "locked_or_writeback"),
    ],
)
def test_causes_of_isolated_pages(trait: str, cause: str) -> None:
    """The cause is what the records show of the last step that was reached."""
    kernel = plain(2)
    kernel.folio(BASE, 0, trait=trait)
    kernel.move_pages([address(0), address(1)], [1, 1])
    rows = run(kernel)
    assert causes(rows)[0] == cause
    assert cause_meaning(cause)
    if trait == "no memory":
        assert causes(rows)[1] == "ended_before_its_turn"


@pytest.mark.parametrize("generation", ["6.1", "6.12"])
def test_causes_of_pages_that_were_not_isolated(generation: str) -> None:
    """Each documented per-page status has its cause."""
    kernel = Kernel(generation, 2)
    kernel.pages[BASE] = None
    kernel.folio(BASE + 1, 0, shared=True)
    kernel.folio(BASE + 2, 0, busy=True)
    kernel.folio(BASE + 3, 1, zero=True)
    kernel.folio(BASE + 4, 0)
    kernel.folio(BASE + 5, 1)
    kernel.move_pages([address(page) for page in range(7)], [1] * 7)
    rows = run(kernel)
    old = generation == "6.1"
    assert words(rows) == ["failed"] * 4 + ["moved", "already_there", "failed"]
    assert causes(rows) == [
        "unmapped_or_zero_page" if old else "not_present",
        "shared",
        "not_on_lru_or_isolated",
        "unmapped_or_zero_page" if old else "zero_page",
        "",
        "",
        "no_vma_or_unsuitable",
    ]
    assert set(witnesses(rows)) == {"agree"}


def test_without_the_kernels_events_nothing_is_known() -> None:
    """The same data with the folios' records dropped yields `unknown`, and says why."""
    kernel = plain(23)
    kernel.folio(BASE + 7, 0, trait="pinned")
    kernel.move_pages([address(page) for page in range(23)], [1] * 20 + [0] * 3)
    kernel.move_pages([address(page) for page in range(23)], [0] * 23)
    for dropped in (("folios",), ("folios", "migrations"), ("folios", "migrations", "calls")):
        tables = kernel.tables()
        for table in dropped:
            tables[table] = tables[table][:0]
        rows = correlate(tables, Meta.of(kernel.meta())).rows
        assert set(words(rows)) == {"unknown"}
        assert set(witnesses(rows)) == {"unknown"}
        expected = "call_open" if "calls" in dropped else "no_events"
        assert set(causes(rows)) == {expected}


def test_the_location_makes_no_outcome() -> None:
    """Turning every location around changes the witnesses and no outcome."""
    kernel = plain(23)
    kernel.folio(BASE + 7, 0, trait="pinned")
    kernel.move_pages([address(page) for page in range(23)], [1] * 23)
    tables = kernel.tables()
    good = correlate(tables, Meta.of(kernel.meta())).rows
    tables["locations"]["final_nid"] = 1 - tables["locations"]["final_nid"]
    bad = correlate(tables, Meta.of(kernel.meta())).rows
    assert words(bad) == words(good)
    assert set(witnesses(bad)) == {"disagree"}
    tables["locations"] = tables["locations"][:0]
    none = correlate(tables, Meta.of(kernel.meta())).rows
    assert words(none) == words(good)
    assert set(witnesses(none)) == {"unknown"}


def test_a_location_that_nobody_asked_for_is_no_unknown() -> None:
    """Of calls that are not the driver's, whatever the outcome; what contradicts is still told."""
    kernel = plain(23)
    kernel.folio(BASE + 7, 0, trait="pinned")
    kernel.move_pages([address(page) for page in range(23)], [1] * 23)
    tables = kernel.tables()
    tables["locations"], drivers = tables["locations"][:0], tables["driver_calls"]
    for calls_of_driver in (drivers[:0], drivers.copy()):
        calls_of_driver["tid"] += 1
        tables["driver_calls"] = calls_of_driver
        rows = correlate(tables, Meta.of(kernel.meta())).rows
        assert witnesses(rows) == ["not_asked"] * 23
    tables["entries"]["status_after"][3] = -errno.EBUSY
    assert witnesses(correlate(tables, Meta.of(kernel.meta())).rows)[2:5] == [
        "not_asked",
        "disagree",
        "not_asked",
    ]
    tables["folios"] = tables["folios"][:0]
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert (set(words(rows)), set(witnesses(rows))) == ({"unknown"}, {"not_asked"})


def test_the_status_makes_no_outcome() -> None:
    """Statuses that the kernel can't have written are a disagreement, nothing else."""
    kernel = plain(5)
    kernel.move_pages([address(page) for page in range(5)], [1] * 5)
    tables = kernel.tables()
    tables["entries"]["status_after"][3] = -errno.EBUSY
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert words(rows) == ["moved"] * 5
    assert witnesses(rows) == ["agree"] * 3 + ["disagree", "agree"]


def test_a_status_that_should_be_untouched() -> None:
    """A status that changed in a group that failed is a disagreement."""
    kernel = plain(3)
    kernel.folio(BASE + 1, 0, trait="pinned")
    kernel.move_pages([address(page) for page in range(3)], [1] * 3)
    tables = kernel.tables()
    tables["entries"]["status_after"][0] = 1
    assert witnesses(correlate(tables, Meta.of(kernel.meta())).rows) == [
        "disagree",
        "silent",
        "silent",
    ]


def test_lost_lookups_are_unknown_and_the_rest_keeps_its_verdict() -> None:
    """One lost folio record costs one entry its verdict."""
    kernel = plain(23)
    kernel.move_pages([address(page) for page in range(23)], [1] * 23)
    tables = kernel.tables()
    tables["folios"] = np.delete(tables["folios"], 11)
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert words(rows) == ["moved"] * 11 + ["unknown"] + ["moved"] * 11
    assert causes(rows)[11] == "lost"


def test_lookups_after_a_missed_return_are_unknown() -> None:
    """They were not even counted: that an entry has none says nothing in such a call."""
    kernel = plain(23)
    kernel.move_pages([address(page) for page in range(23)], [1] * 23)
    kernel.move_pages([address(page) for page in range(23)], [0] * 23)
    tables = kernel.tables()
    call = tables["calls"][0]
    uncounted = tables["folios"]["call_id"] == call["call_id"]
    uncounted &= tables["folios"]["lookup_seq"] >= 11
    tables["folios"] = tables["folios"][~uncounted]
    tables["calls"]["n_lookups"][0] = 11
    assert words(correlate(tables, Meta.of(kernel.meta())).rows)[11:23] == ["failed"] * 12
    tables["calls"]["lost"][0] = 1
    rows = correlate(tables, Meta.of({**kernel.meta(), "lost": {"return_missed": 1}})).rows
    assert words(rows) == ["moved"] * 11 + ["unknown"] * 12 + ["moved"] * 23
    assert set(causes(rows[11:23])) == {"lost"}


def test_entries_without_a_row_are_unknown() -> None:
    """A lost chunk of the arrays leaves rows that say so, in their place."""
    kernel = plain(23)
    kernel.move_pages([address(page) for page in range(23)], [1] * 23)
    tables = kernel.tables()
    tables["entries"] = np.concatenate([tables["entries"][:5], tables["entries"][9:]])
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert rows["entry"].tolist() == list(range(23))
    assert words(rows) == ["moved"] * 5 + ["unknown"] * 4 + ["moved"] * 14
    assert set(causes(rows[5:9])) == {"lost"}


def test_unread_entries_are_unknown() -> None:
    """Addresses or nodes that BPF could not read leave only those entries unknown."""
    kernel = plain(9)
    kernel.move_pages([address(page) for page in range(9)], [1] * 9)
    tables = kernel.tables()
    tables["entries"]["unread"][2:4] = READ_PAGES
    tables["entries"]["address"][2:4] = 0
    tables["entries"]["unread"][6] = READ_NODES
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert (
        words(rows) == ["moved"] * 2 + ["unknown"] * 2 + ["moved"] * 2 + ["unknown"] + ["moved"] * 2
    )
    assert {causes(rows)[index] for index in (2, 3, 6)} == {"unread"}


@pytest.mark.parametrize("bits", [READ_PAGES | READ_NODES, READ_PAGES | READ_NODES | READ_STATUS])
def test_what_follows_a_chunk_of_which_nothing_could_be_read(bits: int) -> None:
    """BPF does not go on then: those entries are not lost but unread, too."""
    count = 2 * LARGE_CHUNK + 5
    kernel = plain(9)
    kernel.move_pages([address(page) for page in range(9)], [1] * 9)
    tables = kernel.tables()
    tables["calls"]["nr_pages"] = count
    entries = np.resize(tables["entries"][:1], LARGE_CHUNK)
    entries["entry"] = np.arange(LARGE_CHUNK)
    entries["unread"] = bits
    tables["entries"] = entries
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert set(words(rows)) == {"unknown"}
    nothing = bits & READ_STATUS
    assert set(causes(rows[:LARGE_CHUNK])) == {"unread"}
    assert set(causes(rows[LARGE_CHUNK:])) == {"unread" if nothing else "lost"}


def test_two_rows_of_one_entry_are_merged() -> None:
    """Where the sides of a call came in separate rows nothing is lost."""
    kernel = plain(5)
    kernel.move_pages([address(page) for page in range(5)], [1] * 5)
    tables = kernel.tables()
    whole = correlate(tables, Meta.of(kernel.meta())).rows
    entry, leave = tables["entries"].copy(), tables["entries"].copy()
    entry["unread"] = READ_STATUS
    entry["status_after"] = 0
    leave["unread_before"] = READ_STATUS
    leave["status_before"] = 0
    tables["entries"] = np.concatenate([leave, entry])
    assert correlate(tables, Meta.of(kernel.meta())).rows.tobytes() == whole.tobytes()


def test_entries_beyond_the_bound_are_counted() -> None:
    """What lies beyond the entries that are read of a call is counted, exactly."""
    kernel = plain(9)
    kernel.move_pages([address(page) for page in range(9)], [1] * 9)
    tables = kernel.tables()
    tables["entries"] = tables["entries"][:5]
    tables["calls"]["nr_pages"] = 1 << 62
    result = correlate(tables, Meta.of({**kernel.meta(), "max_entries": 5}))
    assert result.beyond_bound == (1 << 62) - 5
    assert len(result.rows) == 5


def test_a_call_without_an_end_is_unknown() -> None:
    """No CALL record: the session closed in its middle, or lost it."""
    kernel = plain(3)
    kernel.move_pages([address(page) for page in range(3)], [1] * 3)
    tables = kernel.tables()
    tables["calls"] = tables["calls"][:0]
    assert set(causes(correlate(tables, Meta.of(kernel.meta())).rows)) == {"call_open"}
    lossy = {**kernel.meta(), "lost": {"call_ring": 1}}
    assert set(causes(correlate(tables, Meta.of(lossy)).rows)) == {"lost"}


@pytest.mark.parametrize("phase", ["call", "lookup", "isolate", "move"])
def test_without_coverage_nothing_is_known(phase: str) -> None:
    """A phase that decides and can't be seen makes every outcome unknown."""
    kernel = plain(3)
    kernel.move_pages([address(page) for page in range(3)], [1] * 3)
    for unseen in ({"state": "missing"}, {"state": "unproved", "expected": 46, "seen": 45}):
        rows = run(kernel, coverage=[{"phase": phase, **unseen}])
        assert set(causes(rows)) == {"no_coverage"}
        assert set(words(rows)) == {"unknown"}
    unproved = {"phase": phase, "state": "unproved", "expected": None, "seen": None}
    assert "unknown" not in words(run(kernel, coverage=[unproved]))


def test_open_and_untracked_folios_are_unknown() -> None:
    """A folio still in the kernel's map has no fate yet."""
    kernel = plain(2)
    kernel.move_pages([address(0), address(1)], [1, 1])
    tables = kernel.tables()
    tables["folios"]["end"][1] = END_OPEN
    tables["folios"]["move_rc"][1] = 1
    tables["folios"]["end"][0] = END_DONE
    tables["folios"]["flags"][0] = 2
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert causes(rows) == ["lost", "call_open"]


def test_query_mode_has_no_rows() -> None:
    """A call with nodes == NULL asks for no move."""
    kernel = plain(2)
    kernel.move_pages([address(0), address(1)], [1, 1])
    tables = kernel.tables()
    tables["calls"]["nodes_ptr"] = 0
    assert len(correlate(tables, Meta.of(kernel.meta())).rows) == 0


def test_an_empty_recording() -> None:
    """No records, no rows, no error."""
    empty = {name: np.zeros(0, layout) for name, layout in TABLES.items()}
    assert len(correlate(empty, Meta.of({})).rows) == 0
    kernel = Kernel()
    assert kernel.move_pages([], []).ret == 0
    assert len(run(kernel)) == 0


def test_tagged_addresses_are_aligned() -> None:
    """The kernel looks an address up without its tag; the array has it."""
    kernel = plain(5)
    kernel.move_pages([address(page) for page in range(5)], [1] * 5)
    tables = kernel.tables()
    tables["entries"]["address"] |= np.uint64(0x3F << 57)
    tables["locations"]["address"] |= np.uint64(0x3F << 57)
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert words(rows) == ["moved"] * 5
    assert witnesses(rows) == ["agree"] * 5


def test_a_mapping_that_appears_in_the_middle() -> None:
    """Equal addresses of which only the later one had a mapping: the order decides."""
    kernel = plain(3)
    kernel.move_pages([address(page) for page in (0, 1, 2)], [1, 1, 1])
    tables = kernel.tables()
    # [1, 0, 1, 2]: entry 0 had no mapping yet; lookups are 0, 1, 2.
    entries = np.concatenate([tables["entries"][1:2], tables["entries"]])
    entries["entry"] = range(4)
    entries["status_after"][0] = -errno.EFAULT
    tables["entries"] = entries
    tables["calls"]["nr_pages"] = 4
    rows = correlate(tables, Meta.of(kernel.meta())).rows
    assert words(rows)[1:] == ["moved"] * 3
    assert rows["folio"].tolist()[1:] == [0, 1, 2]


def test_a_split_folio_is_told_page_by_page() -> None:
    """Pages of a THP that was split have the fates of their own tails."""
    kernel = Kernel("6.12", 2)
    first = (BASE // 512 + 1) * 512
    folio = kernel.folio(first, 0, 512)
    head = folio.pointer
    kernel.move_pages([(first + page) * PAGE for page in (3, 4, 9)], [1] * 3)
    tables = kernel.tables()
    tails = np.zeros(2, FOLIO)
    tails["call_id"] = tables["folios"]["call_id"][0]
    tails["migration_id"] = tables["migrations"]["migration_id"][0]
    tails["lookup_seq"] = NO_LOOKUP
    tails["src"] = [head + 64 * 3, head + 64 * 4]
    tails["move_rc"] = [0, -errno.EAGAIN]
    tails["end"] = [1, 2]
    tails["isolate_rc"] = 1
    tables["folios"] = np.concatenate([tables["folios"], tails])
    result = correlate(tables, Meta.of(kernel.meta()))
    assert words(result.rows) == ["moved", "failed", "unknown"]
    assert reasons(result.rows) == ["split"] * 3
    assert causes(result.rows) == ["", "references_or_buffers", "split"]
    assert result.split.size == 1


def test_many_calls_and_many_pages_are_fast() -> None:
    """100,000 calls of one page, and one call of a million: no loop per page or call."""
    for calls, size in ((100_000, 1), (1, 1_000_000)):
        tables = large_tables(calls, size)
        before = time.process_time()
        rows = correlate(tables, Meta.of({})).rows
        spent = time.process_time() - before
        assert (rows["outcome"] == module.MOVED).all()
        # Generous: a loop per page takes ten times as long.
        assert spent < 8.0


def large_tables(calls: int, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Tables of calls that each moved `size` pages from node 0 to node 1."""
    total = calls * size
    call_id = np.arange(calls, dtype=np.uint64) + np.uint64(1)
    tables = {name: np.zeros(0, layout) for name, layout in TABLES.items()}
    call = np.zeros(calls, CALL)
    call["call_id"], call["nodes_ptr"], call["n_migrations"] = call_id, 1, 1
    call["nr_pages"], call["n_lookups"] = size, size
    call["enter_ns"] = np.arange(calls) * 1000 * size
    call["exit_ns"] = call["enter_ns"] + 900 * size
    entry = np.zeros(total, ENTRY)
    entry["call_id"] = np.repeat(call_id, size)
    entry["entry"] = np.tile(np.arange(size), calls)
    entry["address"] = np.arange(total) * PAGE
    entry["target_nid"], entry["status_before"], entry["status_after"] = 1, SENTINEL, 1
    folio = np.zeros(total, FOLIO)
    folio["call_id"], folio["migration_id"] = entry["call_id"], entry["call_id"]
    folio["address"], folio["lookup_seq"] = entry["address"], entry["entry"]
    folio["src"] = 0xFFFFEA0000000000 + np.arange(total, dtype=np.uint64) * np.uint64(64)
    folio["dst"] = folio["src"] + np.uint64(1 << 40)
    folio["nr_pages"], folio["dst_nid"], folio["end"] = 1, 1, END_DONE
    folio["isolate_ns"], folio["alloc_ns"], folio["unmap_ns"] = 50, 60, 100
    folio["move_ns"], folio["copy_ns"], folio["remap_ns"] = 300, 200, 80
    folio["blackout_ns"], folio["n_dark"] = 500, 1
    for name in ("n_alloc", "n_unmap", "n_move", "n_copy", "n_remap"):
        folio[name] = 1
    migration = np.zeros(calls, MIGRATION)
    migration["migration_id"], migration["call_id"] = call_id, call_id
    migration["lookups_before"], migration["dst_nid"] = size, 1
    migration["enter_ns"] = call["enter_ns"] + 100 * size
    migration["exit_ns"] = call["exit_ns"] - np.uint64(10)
    tables.update(calls=call, entries=entry, folios=folio, migrations=migration)
    return tables
