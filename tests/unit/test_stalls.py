# SPDX-License-Identifier: GPL-2.0-or-later
"""Who waited for whom: waits joined with what held the page, by the record or by time."""

from typing import Any

import numpy as np
import pytest
from others import META, MOVER, OTHER, VICTIM, WRITER, Others
from simulated_kernel import PAGE

from mptrace.outcomes.waiting import MATCHES, join
from mptrace.recording.layouts import (
    END_OPEN,
    WAIT_HUGETLB,
    WAIT_LOCK,
    WAIT_NAMES,
    WAIT_PMD,
    WAIT_PTE,
)
from mptrace.recording.meta import Meta
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile
from mptrace.reporting.numbers.stalls import MAX_LONGEST

THREAD = 4101
COVERAGE = [{"phase": "wait_pte", "state": "unproved", "unit": "wait", "attach": "x"}]
KNOWN, TRACED = Meta.of(META), Meta.of({**META, "coverage": COVERAGE})


def stalls(others: Others, **meta: Any) -> dict[str, Any]:
    """Numbers of the stalls."""
    found: dict[str, Any] = profile(others.tables(), Meta.of({**META, **meta}))["stalls"]
    return found


def two_movers() -> tuple[Others, Any, Any]:
    """mbind(2) by one process moves pages of VICTIM; kcompactd one of OTHER."""
    others = Others()
    others.process(VICTIM, b"postgres")
    others.process(OTHER, b"redis")
    bind = others.migrate(
        "mempolicy_mbind", tgid=MOVER, comm=b"mover", folios=[{}, {}], syscall=237, mode="sync"
    )
    compaction = others.migrate(
        "compaction",
        tgid=31,
        comm=b"kcompactd0",
        kthread=True,
        folios=[{"owner_tgid": OTHER, "nr_pages": 512}],
    )
    return others, bind, compaction


def wait(others: Others, start: int, ns: int, **fields: Any) -> None:
    """A wait of VICTIM's second thread."""
    known = {"tid": THREAD, "tgid": VICTIM, "comm": b"worker-1", "address": PAGE}
    others.add("waits", **{**known, "start_ns": start, "end_ns": start + ns, **fields})


def test_the_holder_of_the_record_is_the_initiator() -> None:
    """Victim, thread, address, time, initiator, path and reason are those of the story."""
    others, bind, compaction = two_movers()
    for ns in (100, 300, 6_200_000):
        wait(others, 5, ns, holder_id=bind["migration_id"], holder_tid=MOVER)
    wait(others, 5, 50, tgid=OTHER, tid=OTHER, comm=b"redis", holder_id=compaction["migration_id"])
    found = stalls(others, coverage=COVERAGE)
    assert (found["count"], found["threads"], found["total_ns"]) == (4, 2, 6_200_450)
    assert found["matches"] == {"unknown": 0, "holder": 4, "time": 0}
    victim, other = found["by_victim"]
    assert (victim["tgid"], victim["comm"], victim["count"]) == (VICTIM, "postgres", 3)
    assert (victim["p50"], victim["p99"], victim["max"]) == (300, 6_200_000, 6_200_000)
    (who,) = victim["initiators"]
    assert (who["initiator"]["path"], who["initiator"]["tgid"]) == ("mbind", MOVER)
    assert other["initiators"][0]["initiator"] == {
        "path": "compaction_kcompactd",
        "label": "kcompactd",
        "tgid": 31,
        "comm": "kcompactd0",
        "kernel_thread": True,
    }
    mover, kcompactd = found["by_initiator"]
    assert (mover["initiator"]["comm"], mover["count"]) == ("mover", 3)
    assert mover["victims"] == [
        {"tgid": VICTIM, "comm": "postgres", "count": 3, "total_ns": 6_200_400}
    ]
    assert kcompactd["victims"][0]["tgid"] == OTHER
    # the blackout beside them: of the folios that it maps, and that it migrated
    assert (victim["blackout"]["folios"], victim["blackout"]["max"]) == (2, 500)
    assert mover["blackout"]["folios"] == 2
    longest = found["longest"][0]
    assert (longest["wait_ns"], longest["tid"], longest["comm"]) == (
        6_200_000,
        THREAD,
        "worker-1",
    )
    assert (longest["address"], longest["reason"]) == (hex(PAGE), "mempolicy_mbind")
    assert longest["initiator"]["path"] == "mbind"
    text = render(profile(others.tables(), TRACED))
    assert "worker-1/4001 (thread 4101) waited 6.20 ms for 0x1000, migrated by" in " ".join(
        text.split()
    )
    assert "mover/5001: mbind(2) (reason mempolicy_mbind)" in text.replace("\n    ", " ")


@pytest.mark.parametrize(
    ("offset", "fields", "match"),
    [
        (0, {}, "time"),
        (500, {}, "time"),
        (-1, {}, "unknown"),  # before it went dark
        (10**6, {}, "unknown"),  # long after
        (0, {"address": 2 * PAGE}, "unknown"),  # another page
        (0, {"tgid": OTHER}, "unknown"),  # the same address of another process
        (0, {"address": 0}, "unknown"),
    ],
)
def test_a_wait_without_a_holder_is_joined_by_address_and_time(
    offset: int, fields: dict[str, Any], match: str
) -> None:
    """Only where that process's page was inaccessible when the wait began."""
    others, bind, _ = two_movers()
    folio = others.rows["folios"][0]
    values = {"address": int(folio["address"]) + 123, **fields}
    wait(others, int(folio["dark_first_ns"]) + offset, 77, **values)
    joined = join(others.tables(), KNOWN)
    assert MATCHES[joined.how[0]] == match
    if match == "time":
        assert others.rows["migrations"][joined.migration[0]] == bind
        assert stalls(others)["longest"][0]["initiator"]["tgid"] == MOVER
    else:
        assert stalls(others)["longest"][0]["initiator"] is None
        assert stalls(others)["by_initiator"][0]["initiator"] is None


def test_a_page_in_a_huge_one_and_a_folio_by_its_pointer() -> None:
    """Any page of a large folio is it; a PMD's wait has no address and has a folio."""
    others, _, compaction = two_movers()
    folio = others.rows["folios"][2]
    dark = int(folio["dark_first_ns"]) + 3
    inside = int(folio["address"]) + 511 * PAGE
    wait(others, dark, 1, tgid=OTHER, address=inside)
    wait(others, dark, 1, tgid=OTHER, address=int(folio["address"]) + 512 * PAGE)
    wait(others, dark, 1, address=0, folio=int(folio["src"]), kind=WAIT_PMD)
    wait(others, 1, 1, address=0, folio=int(folio["src"]), kind=WAIT_HUGETLB)
    joined = join(others.tables(), KNOWN)
    assert [MATCHES[how] for how in joined.how] == ["time", "unknown", "time", "unknown"]
    assert others.rows["migrations"][joined.migration[2]] == compaction


@pytest.mark.parametrize(
    ("kind", "tgid", "said"),
    [
        (WAIT_LOCK, VICTIM, "waited 77 ns for the lock of a page at {place}"),
        (WAIT_PMD, VICTIM, "waited 77 ns for a page at {place}"),
        (WAIT_LOCK, OTHER, "waited 77 ns for the lock of a page, migrated by"),
    ],
)
def test_a_wait_without_an_address_is_where_its_folio_was_mapped(
    kind: int, tgid: int, said: str
) -> None:
    """As far as the migration found it mapped by the process that waited."""
    others, bind, _ = two_movers()
    folio = others.rows["folios"][0]
    holder = {"holder_id": bind["migration_id"], "holder_tid": MOVER, "folio": int(folio["src"])}
    wait(others, 5, 77, address=0, kind=kind, tgid=tgid, **holder)
    (longest,) = stalls(others, coverage=COVERAGE)["longest"]
    place = hex(int(folio["address"])) if tgid == VICTIM else None
    assert (longest["address"], longest["mapped_at"]) == (None, place)
    assert longest["kind"] == WAIT_NAMES[kind]
    text = render(profile(others.tables(), TRACED)).replace("\n    ", " ")
    assert said.format(place=place) in text


@pytest.mark.parametrize(("waiter", "named"), [(VICTIM, True), (OTHER, False)])
def test_the_address_of_a_call_is_its_targets(waiter: int, named: bool) -> None:
    """Also where the folio's owner, who maps it first, is another process than the target."""
    others, bind, _ = two_movers()
    folio = others.rows["folios"][0]
    folio["owner_tgid"], folio["call_id"] = OTHER, 77
    others.add("calls", call_id=77, tgid=MOVER, target_tgid=VICTIM, nr_pages=1)
    holder = {"holder_id": bind["migration_id"], "holder_tid": MOVER, "folio": int(folio["src"])}
    wait(others, 5, 77, address=0, kind=WAIT_LOCK, tgid=waiter, **holder)
    (longest,) = stalls(others, coverage=COVERAGE)["longest"]
    assert longest["mapped_at"] == (hex(int(folio["address"])) if named else None)


def test_the_last_of_several_migrations_of_a_page_counts() -> None:
    """A page that is moved again and again: the wait belongs to the time it fell into."""
    others = Others()
    for turn in range(23):
        others.migrate("damon", tgid=turn + 1, comm=b"d", folios=[{"address": 5 * PAGE}])
    for row in others.rows["folios"][3::5]:
        wait(others, int(row["dark_first_ns"]) + 9, 9, address=5 * PAGE)
    joined = join(others.tables(), KNOWN)
    assert joined.migration.tolist() == [3, 8, 13, 18]


def test_a_folio_that_is_still_dark_holds_on() -> None:
    """The session ended before the page came back."""
    others = Others()
    others.migrate(
        "compaction",
        tgid=1,
        comm=b"a",
        folios=[{"address": 5 * PAGE, "end": END_OPEN, "light_last_ns": 0, "move_rc": 1}],
    )
    wait(others, 10**9, 5, address=5 * PAGE)
    assert MATCHES[join(others.tables(), KNOWN).how[0]] == "time"


def test_a_page_held_by_a_call_before_its_migration() -> None:
    """The holder may be the call itself; a holder whose record is missing is unknown."""
    others = Others()
    others.add("calls", call_id=99, nodes_ptr=1, tgid=WRITER, tid=WRITER, comm=b"writer")
    wait(others, 5, 10, holder_id=99, holder_tid=WRITER)
    wait(others, 5, 10, holder_id=12345, holder_tid=777)
    found = stalls(others)
    assert found["matches"] == {"unknown": 1, "holder": 1, "time": 0}
    named = {each["match"]: each for each in found["longest"]}
    assert named["holder"]["initiator"]["path"] == "move_pages"
    assert named["holder"]["initiator"]["tgid"] == WRITER
    assert named["holder"]["migration"] is None
    assert named["unknown"]["initiator"] is None
    assert named["unknown"]["holder_tid"] == 777
    text = render(profile(others.tables(), TRACED))
    assert "; thread 777 migrated it, no more is known of that" in text.replace("\n    ", " ")


def test_a_wait_that_did_not_end_is_in_no_distribution() -> None:
    """It is counted as open."""
    others, bind, _ = two_movers()
    others.add("waits", start_ns=100, end_ns=0, tid=1, tgid=VICTIM, holder_id=bind["migration_id"])
    found = stalls(others)
    assert (found["count"], found["open"], found["total_ns"], found["max"]) == (1, 1, 0, None)
    assert found["longest"] == []


def test_many_waits_have_a_few_longest() -> None:
    """Ten are named, the longest first; the sums have all."""
    others, bind, _ = two_movers()
    for ns in range(1, 510):
        wait(others, 5, ns, holder_id=bind["migration_id"], kind=WAIT_PTE)
    found = stalls(others)
    assert found["total_ns"] == 509 * 510 // 2
    assert [each["wait_ns"] for each in found["longest"]] == list(range(509, 509 - MAX_LONGEST, -1))
    assert found["by_victim"][0]["kinds"] == {"pte": 509}
    assert (found["p50"], found["p99"], found["max"]) == (255, 504, 509)


def test_no_wait_is_said_only_where_waits_are_seen() -> None:
    """A run that does not trace waits claims nothing about them."""
    others, _, _ = two_movers()
    seen = profile(others.tables(), TRACED)
    blind = profile(others.tables(), KNOWN)
    assert seen["stalls"]["traced"] is True
    assert "no thread was seen to wait" in render(seen)
    assert "stalls" not in render(blind)
    without = others.tables()
    del without["waits"]
    assert profile(without, KNOWN)["stalls"]["count"] == 0


def test_a_hundred_thousand_waits_are_joined() -> None:
    """Vectorized: each finds its own among as many folios, by time."""
    others, _, _ = two_movers()
    tables = others.tables()
    count = 100_003
    folios = np.repeat(tables["folios"][:1], count)
    number = np.arange(count).astype(np.uint64)
    folios["src"] += number * np.uint64(64)
    folios["address"] = (number % np.uint64(997) + np.uint64(1)) * np.uint64(PAGE)
    folios["dark_first_ns"] = number * np.uint64(1000)
    folios["light_last_ns"] = folios["end_ns"] = folios["dark_first_ns"] + np.uint64(900)
    tables["folios"] = folios
    others.add("waits")
    waits = np.repeat(others.tables()["waits"], count)
    waits["tgid"], waits["address"] = VICTIM, folios["address"]
    waits["start_ns"] = folios["dark_first_ns"] + np.uint64(400)
    waits["start_ns"][::2] += np.uint64(550)
    how = join({**tables, "waits": waits}, KNOWN).how
    assert (how[1::2] == MATCHES.index("time")).all()
    assert (how[::2] == MATCHES.index("unknown")).all()
