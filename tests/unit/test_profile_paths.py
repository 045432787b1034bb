# SPDX-License-Identifier: GPL-2.0-or-later
"""Who migrated, by which path, what and with what success, from records with a known story."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from others import HELD, META, MOVER, NEVER_MOVED, OTHER, VICTIM, Others, story

from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.correlate import correlate
from mptrace.outcomes.fates import fates, split_heads
from mptrace.outcomes.joined import FAILED, MOVED, UNKNOWN
from mptrace.recording.layouts import (
    END_DONE,
    END_OPEN,
    FOLIO_ALLOC_FAILED,
    FOLIO_UNTRACKED,
    MOVE_NOT_TRIED,
    STAGE_UNMAP,
)
from mptrace.recording.meta import Meta
from mptrace.recording.reader import Recording
from mptrace.reporting.numbers.profile import is_clean, profile

FIXTURES = Path(__file__).parents[1] / "fixtures"


def rows_of(others: Others, **meta: Any) -> dict[str, dict[str, Any]]:
    """The rows of a report by path."""
    numbers = profile(others.tables(), Meta.of({**META, **meta}))
    return {row["path"]: row for row in numbers["paths"]}


def test_the_story_is_told_by_path_and_initiator() -> None:
    """Counts, nodes, owners, the kernel's own count and the failures are exact."""
    rows = rows_of(story())
    assert list(rows) == [
        "migrate_pages",
        "compaction_kcompactd",
        "demotion_kswapd",
        "numa_balancing",
    ]
    compaction = rows["compaction_kcompactd"]
    assert compaction["migrations"] == 23
    assert compaction["modes"] == {"sync_light": 23}
    assert compaction["syscalls"] == {"none": 23}
    assert compaction["initiator"]["kernel_thread"] is True
    assert compaction["pages"] == {"moved": 69, "failed": 0, "unknown": 0}
    assert compaction["matrix"] == [{"from": 0, "to": 0, "pages": 69}]
    assert {(o["tgid"], o["comm"], o["moved_pages"]) for o in compaction["owners"]} == {
        (VICTIM, "postgres", 23),
        (OTHER, "redis", 23),
        (0, "", 23),
    }
    assert compaction["time_ns"] == 23_000
    assert compaction["difference"] == {"moved_pages": 0, "failed_pages": 0}
    assert compaction["blackout"]["max"] == 500


def test_the_failure_has_cause_and_initiator() -> None:
    """A folio without an entry is judged by the same rules, with its state."""
    row = rows_of(story())["migrate_pages"]
    assert row["initiator"] == {
        "tgid": MOVER,
        "comm": "migratepages",
        "process": "migratepages",
        "kernel_thread": False,
        "threads": 1,
        "cgroup_id": 77,
        "cgroup": "/system.slice/mover.service",
    }
    assert (row["migrations"], row["failed_migrations"]) == (1, 1)
    assert row["folios"] == {"seen": 8, "moved": 7, "failed": 1, "unknown": 0}
    (failure,) = row["failures"]
    assert (failure["cause"], failure["pages"]) == ("extra_references", 1)
    assert failure["example"]["owner_tgid"] == VICTIM
    assert failure["remedy"]


def test_what_the_kernel_counted_stands_beside_the_folios() -> None:
    """A difference is a number; where the kernel's count was not seen there is none."""
    others = Others()
    others.migrate("mempolicy_mbind", tgid=1, comm=b"a", folios=[{}, {}, HELD], succeeded=5)
    others.migrate("damon", tgid=2, comm=b"kdamond.0", folios=[{}], kthread=True, failed=2**32 - 1)
    rows = rows_of(others)
    assert rows["mbind"]["difference"] == {"moved_pages": -3, "failed_pages": 0}
    assert rows["mbind"]["kernel_counted"] == {
        "migrations": 1,
        "moved_pages": 5,
        "failed_pages": 1,
    }
    assert rows["damon"]["difference"] is None


@pytest.mark.parametrize(
    ("changes", "outcome", "cause"),
    [
        (HELD, FAILED, "extra_references"),
        ({"move_rc": -5}, FAILED, "move_EIO"),
        (NEVER_MOVED, FAILED, "cant_tell"),
        ({**NEVER_MOVED, "n_unmap": 2, "obstacle": {"stage": STAGE_UNMAP}}, FAILED, "not_unm"),
        ({**NEVER_MOVED, "n_alloc": 1, "flags": FOLIO_ALLOC_FAILED}, FAILED, "no_free_page"),
        ({"move_rc": MOVE_NOT_TRIED, "end": END_DONE}, UNKNOWN, "freed"),
        ({"move_rc": MOVE_NOT_TRIED, "end": END_OPEN}, UNKNOWN, "call_open"),
        ({"move_rc": MOVE_NOT_TRIED, "flags": FOLIO_UNTRACKED}, UNKNOWN, "lost"),
    ],
)
def test_a_folio_without_an_entry_is_judged(
    changes: dict[str, Any], outcome: int, cause: str
) -> None:
    """Cause where the records tell, else what they lack; never a guess."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[changes])
    found = fates(others.tables(), Meta.of(META))
    assert int(found.outcome[0]) == outcome
    assert cause_name(int(found.cause[0])).startswith(cause)


def test_no_memory_is_another_thing_than_no_free_page() -> None:
    """Compaction's scanner meets an end; elsewhere the target node is full."""
    others = Others()
    full = {**NEVER_MOVED, "n_alloc": 1, "flags": FOLIO_ALLOC_FAILED}
    others.migrate("numa_misplaced", tgid=VICTIM, comm=b"x", folios=[full])
    found = fates(others.tables(), Meta.of(META))
    assert [cause_name(int(code)) for code in found.cause] == ["no_memory"]


def test_without_coverage_nothing_is_claimed() -> None:
    """A phase that decides and is missing makes every folio unknown."""
    missing = [{"phase": "move", "state": "missing"}]
    row = rows_of(story(), coverage=missing)["migrate_pages"]
    assert row["pages"] == {"moved": 0, "failed": 0, "unknown": 8}
    assert [failure["cause"] for failure in row["failures"]] == ["no_coverage"]
    assert [failure["outcome"] for failure in row["failures"]] == ["unknown"]


def test_tracepoints_alone_say_who_moved_and_not_why() -> None:
    """A page frame that changed has moved; one that did not has stayed for an unseen cause."""
    others = Others()
    stayed = {"move_rc": MOVE_NOT_TRIED, "n_alloc": 0}
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", folios=[{}, stayed])
    coverage = [{"phase": "move", "state": "missing"}]
    found = fates(others.tables(), Meta.of({**META, "tier": "tracepoints", "coverage": coverage}))
    assert found.outcome.tolist() == [MOVED, FAILED]
    assert cause_name(int(found.cause[1])) == "no_coverage"


def test_a_split_folio_counts_its_pages_once() -> None:
    """The head's record counts one page where its other pages have their own records."""
    others = Others()
    others.migrate("demotion", tgid=1, comm=b"a", folios=[{"nr_pages": 512, "src": 1 << 20}, {}])
    tail = {"src": (1 << 20) + 64 * 511}
    others.migrate(
        "demotion", tgid=1, comm=b"a", folios=[{"nr_pages": 512, "src": 1 << 20}, tail, {}]
    )
    tables = others.tables()
    assert split_heads(tables["folios"], np.arange(5)).tolist() == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert fates(tables, Meta.of(META)).pages.tolist() == [512, 1, 1, 1, 1]


def test_pages_of_a_split_folio_are_summed_once() -> None:
    """The sum by reason is that of the rows by path, not 512 pages too many."""
    others = Others()
    split = [{"nr_pages": 512, "src": 1 << 20}, {"src": (1 << 20) + 64 * 511}, HELD]
    others.migrate("demotion", tgid=1, comm=b"a", folios=split)
    numbers = profile(others.tables(), Meta.of(META))
    (row,), (group,) = numbers["paths"], numbers["migrations"]["without_call"]
    assert row["pages"] == {"moved": 2, "failed": 1, "unknown": 0}
    assert (group["moved_pages"], group["folios"], group["failed"]) == (2, 3, 1)


def test_folios_whose_migration_was_lost_are_counted() -> None:
    """They are in no row, and the recording is not clean."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"a", folios=[{}, {"migration_id": 9}])
    numbers = profile(others.tables(), Meta.of(META))
    assert numbers["folios_without_migration"] == {"folios": 1, "pages": 1}
    assert [row["folios"]["seen"] for row in numbers["paths"]] == [1]
    assert not is_clean(numbers)
    assert is_clean(profile(Others().tables(), Meta.of(META)))


def test_initiators_are_told_apart() -> None:
    """By process, comm, cgroup and kernel thread; the threads of one process are one row."""
    others = Others()
    for tgid, tid, comm, cgroup in (
        (1, 1, b"a", 0),
        (1, 2, b"a", 0),
        (1, 1, b"b", 0),
        (2, 3, b"a", 7),
    ):
        others.migrate("compaction", tgid=tgid, tid=tid, comm=comm, cgroup_id=cgroup, folios=[{}])
    rows = profile(others.tables(), Meta.of(META))["paths"]
    assert sorted(
        (r["initiator"]["tgid"], r["initiator"]["comm"], r["initiator"]["threads"]) for r in rows
    ) == [
        (1, "a", 2),
        (1, "b", 1),
        (2, "a", 1),
    ]


def test_all_owners_are_summed() -> None:
    """Those beyond the first ones are one line, and no page is forgotten."""
    others = Others()
    others.migrate(
        "compaction", tgid=1, comm=b"a", folios=[{"owner_tgid": 100 + n} for n in range(61)]
    )
    (row,) = profile(others.tables(), Meta.of(META))["paths"]
    assert row["owners"][-1] == {
        "tgid": None,
        "comm": "11 more",
        "asked": False,
        "processes": 11,
        "folios": 11,
        "moved_pages": 11,
        "failed_pages": 0,
        "unknown_pages": 0,
    }
    assert sum(owner["moved_pages"] for owner in row["owners"]) == 61


@pytest.mark.parametrize("release", ["6.1", "6.12"])
def test_entries_and_folios_of_real_calls_have_one_cause(release: str) -> None:
    """On recordings of real kernels both ways of judging name the same cause."""
    data = Recording.open(FIXTURES / f"conform-{release}" / "recording")
    tables, meta = data.tables(), data.meta
    rows = correlate(tables, meta).rows
    found = fates(tables, meta)
    cause = np.full(tables["folios"].size, -1)
    cause[found.row] = np.where(found.outcome == FAILED, found.cause.astype(np.int64), -1)
    both = rows[(rows["outcome"] == FAILED) & (rows["folio"] >= 0)]
    both = both[cause[both["folio"]] >= 0]
    assert both.size >= 20
    assert [cause_name(int(code)) for code in both["cause"]] == [
        cause_name(int(code)) for code in cause[both["folio"]]
    ]


def test_callers_of_move_pages_are_counted() -> None:
    """Calls, entries, what came back and what each was told, by process."""
    data = Recording.open(FIXTURES / "conform-6.12" / "recording")
    numbers = profile(data.tables(), data.meta)
    callers = numbers["callers"]
    assert sum(caller["calls"] for caller in callers) == numbers["calls"]["count"]
    assert sum(sum(c["outcomes"].values()) for c in callers) == numbers["entries"]["rows"]
    told = numbers["entries"]
    assert sum(c["told"]["untouched"] for c in callers) == told["untouched"]
    assert sum(c["told"]["node"] for c in callers) == told["told_a_node"]
    assert sum(c["returned_positive"] for c in callers) == numbers["calls"]["returned_positive"]
    assert json.loads(json.dumps(numbers)) == numbers
