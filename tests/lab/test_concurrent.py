# SPDX-License-Identifier: GPL-2.0-or-later
"""32 threads of 8 processes in move_pages(2) at once while memory is compacted.

Each caller keeps its own record (crowd/race.c): nothing of one call may turn up in another.
"""

from pathlib import Path

import numpy as np
import pytest
from crowd.run import MACHINE, Crowd, Told, crowd_of

from mptrace.lab.guest import Guest
from mptrace.outcomes.correlate import UNTOUCHED, WRITTEN, correlate
from mptrace.recording.layouts import NO_LOOKUP, NOT_COUNTED, OUTCOMES

PROCESSES, THREADS, ROUNDS = 8, 4, 10
UNKNOWN, MOVED, ALREADY_THERE, FAILED, NOT_ATTEMPTED = range(len(OUTCOMES))

pytestmark = MACHINE


@pytest.fixture
def crowd(guest: Guest, kernel: str, guest_dir: str, tmp_path: Path) -> Crowd:
    """What this kernel's one run left."""
    return crowd_of(guest, kernel, guest_dir, tmp_path)


def racing(crowd: Crowd) -> np.ndarray:
    """The recorded calls of the race's processes, rows of CALL."""
    calls = crowd.recording.table("calls")
    return calls[np.isin(calls["tgid"], [told.about["tgid"] for told in crowd.told])]


def pairs(crowd: Crowd) -> list[tuple[Told, np.void]]:
    """Each call that was made with its one record, by thread and time."""
    calls, found = racing(crowd), []
    for told in crowd.told:
        own = calls[
            (calls["tid"] == told.about["tid"])
            & (calls["enter_ns"] >= told.about["before_ns"])
            & (calls["exit_ns"] <= told.about["after_ns"])
        ]
        assert len(own) == 1, (told.about, own)
        found.append((told, own[0]))
    return found


def entries_of(crowd: Crowd) -> dict[int, np.ndarray]:
    """The raw entries by call."""
    entries = crowd.recording.table("entries")
    entries = entries[np.lexsort((entries["entry"], entries["call_id"]))]
    ids, starts = np.unique(entries["call_id"], return_index=True)
    return dict(zip(ids.tolist(), np.split(entries, starts[1:]), strict=True))


def test_they_were_at_it_at_once(crowd: Crowd) -> None:
    """The race was one: calls overlap in time by the callers' clocks, and memory was compacted."""
    assert len(crowd.told) == PROCESSES * THREADS * ROUNDS
    starts = np.sort([told.about["before_ns"] for told in crowd.told])
    ends = np.sort([told.about["after_ns"] for told in crowd.told])
    inside = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts)
    assert inside.max() >= 16, inside.max()
    migrations = crowd.recording.table("migrations")
    compactor = migrations[migrations["tid"] == crowd.race["compactor"]]
    reasons = {crowd.recording.meta.reasons[number] for number in compactor["reason"]}
    assert reasons == {"compaction"}
    during = (compactor["enter_ns"] < ends[-1]) & (compactor["exit_ns"] > starts[0])
    assert during.any()


def test_each_call_is_recorded_once(crowd: Crowd) -> None:
    """As many calls as were made, each with its caller's process, target, count and result."""
    matched = pairs(crowd)
    assert len(racing(crowd)) == len(matched)
    assert len({call["call_id"] for _, call in matched}) == len(matched)
    for told, call in matched:
        about = told.about
        assert call["ret"] == about["ret"]
        assert call["tgid"] == about["tgid"]
        assert call["pid"] == about["pid"]
        assert call["nr_pages"] == about["count"]
        assert call["target_tgid"] == (about["pid"] or about["tgid"])
        assert call["comm"] == b"race"


def test_arrays_are_the_callers_own(crowd: Crowd) -> None:
    """Addresses, nodes, statuses before and after, entry by entry; what is missing is counted."""
    entries = entries_of(crowd)
    lost = 0
    for told, call in pairs(crowd):
        rows = entries.get(
            int(call["call_id"]), np.empty(0, crowd.recording.table("entries").dtype)
        )
        if call["lost"]:
            lost += 1
        else:
            assert np.array_equal(rows["entry"], np.arange(len(told.pages)))
        index = rows["entry"]
        assert not (rows["unread"] | rows["unread_before"]).any() or call["lost"]
        whole = (rows["unread"] | rows["unread_before"]) == 0
        for column, array in (
            ("address", told.pages),
            ("target_nid", told.nodes),
            ("status_before", told.before),
            ("status_after", told.after),
        ):
            assert np.array_equal(rows[column][whole], array[index][whole]), column
    assert bool(lost) <= any(crowd.recording.meta.lost.values())


def test_outcomes_agree_with_the_statuses(crowd: Crowd) -> None:
    """Which statuses the kernel wrote, by replay, are those that changed; each fits its outcome.

    The callers' statuses differ from everything that the kernel writes.  Entries of calls
    of which something was lost are unknown, all others known.
    """
    found = correlate(crowd.recording.tables(), crowd.recording.meta)
    ordinal = {int(call_id): number for number, call_id in enumerate(found.call_ids)}
    starts = np.searchsorted(found.rows["call"], np.arange(len(found.call_ids) + 1))
    seen = np.zeros(len(OUTCOMES), int)
    for told, call in pairs(crowd):
        number = ordinal[int(call["call_id"])]
        rows = found.rows[starts[number] : starts[number + 1]]
        told_of = told.after[rows["entry"]]
        changed = told_of != told.before[rows["entry"]]
        seen += np.bincount(rows["outcome"], minlength=len(OUTCOMES))
        known = rows["outcome"] != UNKNOWN
        assert known.all() or call["lost"], (told.about, rows[~known])
        assert (rows["written"][known & changed] == WRITTEN).all()
        assert (rows["written"][known & ~changed] == UNTOUCHED).all()
        assert (rows["status_expected"][known & changed] == told_of[known & changed]).all()
        there = known & changed & (told_of >= 0)
        assert np.isin(rows["outcome"][there], [MOVED, ALREADY_THERE]).all()
        refused = known & changed & (told_of < 0)
        # told -EBUSY as somebody else had the page just then, it may move by a later entry
        assert ((rows["outcome"] == FAILED) | (rows["entry_reason"] != 0))[refused].all()
        assert told.about["ret"] or changed.all()
    assert seen[MOVED] > 1000
    assert seen[FAILED] > 100
    assert seen[ALREADY_THERE] > 1000


def test_identities_are_unique(crowd: Crowd) -> None:
    """No two calls, and no two migrations, have one identity; threads do one thing at a time."""
    tables = crowd.recording.tables()
    for table, name in (("calls", "call_id"), ("migrations", "migration_id")):
        assert len(np.unique(tables[table][name])) == len(tables[table])
    for table in ("calls", "migrations"):
        rows = tables[table][np.lexsort((tables[table]["enter_ns"], tables[table]["tid"]))]
        same = rows["tid"][1:] == rows["tid"][:-1]
        after = rows["enter_ns"][1:] >= rows["exit_ns"][:-1]
        # a migration may be nested in another's allocation
        inside = rows["exit_ns"][1:] <= rows["exit_ns"][:-1]
        assert (after | (inside & (table == "migrations")))[same].all()


def test_folios_are_where_they_belong(crowd: Crowd) -> None:
    """A call's folios are its thread's and at its addresses; compaction's belong to no call."""
    tables = crowd.recording.tables()
    folios, migrations = tables["folios"], tables["migrations"]
    for told, call in pairs(crowd):
        own = folios[folios["call_id"] == call["call_id"]]
        assert (own["tid"] == call["tid"]).all()
        looked_up = own[own["lookup_seq"] != NO_LOOKUP]
        assert np.isin(looked_up["address"], told.pages).all()
        assert len(np.unique(looked_up["lookup_seq"])) == len(looked_up)
    of = dict(zip(migrations["migration_id"].tolist(), migrations, strict=True))
    for folio in folios[folios["migration_id"] != 0]:
        migration = of.get(int(folio["migration_id"]))
        if migration is None:
            assert any(crowd.recording.meta.lost.values())
            continue
        assert folio["tid"] == migration["tid"]
        assert folio["call_id"] == migration["call_id"]
        assert migration["enter_ns"] <= folio["end_ns"]
        reason = crowd.recording.meta.reasons[int(migration["reason"])]
        assert (reason == "compaction") <= (folio["call_id"] == 0)


def test_the_kernel_counted_the_same(crowd: Crowd) -> None:
    """Base pages that moved and that failed, by /proc/vmstat: those of the recorded migrations."""
    rows = crowd.recording.table("migrations")
    rows = rows[rows["enter_ns"] >= crowd.race["start_ns"]]
    rows = rows[rows["enter_ns"] <= crowd.race["end_ns"]]
    assert (rows["succeeded"] != NOT_COUNTED).all()
    succeeded = int(rows["succeeded"].sum())
    if any(crowd.recording.meta.lost.values()):
        assert 0 < succeeded <= crowd.race["pgmigrate_success"]
    else:
        assert succeeded == crowd.race["pgmigrate_success"]
        assert int(rows["failed"].sum()) == crowd.race["pgmigrate_fail"]
