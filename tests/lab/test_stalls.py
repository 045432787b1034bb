# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that stand still because somebody moves their pages: found, and who did it.

The threads measure their stalls themselves (crowd/touch.c), and the movers aren't ours.
One recording on each kernel serves all tests.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowd.run import MACHINE, Crowd, crowd_of

from mptrace.lab.guest import Guest
from mptrace.outcomes.dump import dumped_table
from mptrace.recording.layouts import (
    FOLIO_HUGETLB,
    FOLIO_PMD,
    WAIT_HUGETLB,
    WAIT_LOCK,
    WAIT_PMD,
    WAIT_PTE,
)

PAGE = 4096
HUGE_PAGE = 2 << 20
#: Sections of the run, and the size of a page of theirs.
SIZES = {
    **dict.fromkeys(("migratepages", "move_pages", "shmem", "file"), PAGE),
    **dict.fromkeys(("huge", "hugetlb"), HUGE_PAGE),
}
SECTIONS = list(SIZES)

pytestmark = MACHINE


@pytest.fixture
def crowd(guest: Guest, kernel: str, guest_dir: str, tmp_path: Path) -> Crowd:
    """What this kernel's one run left."""
    return crowd_of(guest, kernel, guest_dir, tmp_path)


def waits_of(crowd: Crowd, name: str) -> np.ndarray:
    """The recorded waits of a section's touchers."""
    waits = crowd.recording.table("waits")
    return waits[np.isin(waits["tid"], crowd.sections[name]["tids"])]


def holders_of(crowd: Crowd, waits: np.ndarray) -> np.ndarray:
    """The migration that each wait is said to be for, rows of MIGRATION."""
    migrations = crowd.recording.table("migrations")
    order = np.argsort(migrations["migration_id"])
    place = np.searchsorted(migrations["migration_id"], waits["holder_id"], sorter=order)
    found = migrations[order[np.minimum(place, len(order) - 1)]]
    assert (found["migration_id"] == waits["holder_id"]).all()
    return found


def held_by(crowd: Crowd, waits: np.ndarray) -> np.ndarray:
    """The folio that each wait was for, as the migration named had it, rows of FOLIO."""
    folios = crowd.recording.table("folios")
    found = []
    for wait in waits:
        held = folios[
            (folios["migration_id"] == wait["holder_id"]) & (folios["src"] == wait["folio"])
        ]
        assert len(held) == 1, wait
        found.append(held[0])
    return np.array(found, folios.dtype)


def places_of(crowd: Crowd, waits: np.ndarray) -> np.ndarray:
    """The address waited for; where a wait has none, that at which its folio was mapped."""
    has_none = waits["kind"] != WAIT_PTE
    return np.where(has_none, held_by(crowd, waits)["address"], waits["address"])


def was_dark(crowd: Crowd, stall: np.void, size: int) -> bool:
    """Whether the page touched was inaccessible in that time, by the folios' windows."""
    folios = crowd.recording.table("folios")
    at = folios["address"] // size == stall["address"] // size
    dark = (folios["n_dark"] > 0) & (folios["dark_first_ns"] <= stall["after_ns"])
    return bool((at & dark & (folios["light_last_ns"] >= stall["before_ns"])).any())


def in_mapping(section: dict[str, Any], addresses: np.ndarray) -> np.ndarray:
    """Which addresses are the toucher's pages, not its stack or code."""
    end = section["base"] + section["pages"] * PAGE
    return (addresses >= section["base"]) & (addresses < end)


def test_nothing_is_lost(crowd: Crowd) -> None:
    """No record was lost and each wait's holder is known: the other tests judge all of it.

    Where migrate_pages() has more arguments than a trampoline takes, the returns of
    those that failed may be missed, while 32 threads race.
    """
    lost = {cause for cause, count in crowd.recording.meta.lost.items() if count}
    way = crowd.recording.meta.phases["migration"].method
    # the kernel keeps stacks by a hash, in which two may want one place
    assert lost <= {"stack_map_full", *({"return_missed"} if way == "kprobe" else ())}
    waits = crowd.recording.table("waits")
    assert (waits["holder_id"] != 0).all()
    assert (waits["folio"] != 0).all()


@pytest.mark.parametrize("name", SECTIONS)
def test_each_stall_is_found(crowd: Crowd, name: str) -> None:
    """A touch that took long and in which the thread slept: a wait then, of it, there.

    migratepages moves the toucher's stack and code, too: between its two looks at the clock a
    thread may have waited for that instead, and for code also behind its sibling, whom alone
    the migration woke.
    """
    section, waits, size = crowd.sections[name], waits_of(crowd, name), SIZES[name]
    places = places_of(crowd, waits)
    stalls = crowd.touches[name]
    stalls = stalls[stalls["slept"] > 0]
    assert len(stalls) > 5, "nothing to be found"
    there = elsewhere = 0
    unseen = []
    for stall in stalls:
        then = (
            (waits["tid"] == stall["tid"])
            & (waits["start_ns"] >= stall["before_ns"])
            & (waits["end_ns"] <= stall["after_ns"])
        )
        own = then & (places // size == stall["address"] // size)
        others = then & ~in_mapping(section, places)
        sibling = (
            (waits["kind"] == WAIT_LOCK)
            & (waits["tid"] != stall["tid"])
            & (waits["end_ns"] >= stall["before_ns"])
            & (waits["end_ns"] <= stall["after_ns"])
        )
        others |= sibling & ~in_mapping(section, places)
        if not (own | others).any():
            unseen.append((stall, was_dark(crowd, stall, size)))
        there += bool(own.any())
        elsewhere += bool(others.any() and not own.any())
    # of files' pages one sleep in some 1,200 was not seen, in 6.12, and is not explained
    assert len(unseen) <= (1 if "/" in section["kind"] else 0), unseen
    assert there > 5
    assert not elsewhere or name in ("migratepages", "huge", "hugetlb")


@pytest.mark.parametrize("name", ["huge", "hugetlb"])
def test_huge_pages_are_waited_for_as_such(crowd: Crowd, name: str) -> None:
    """By a PMD's migration entry, or hugetlb's."""
    waits = waits_of(crowd, name)
    whole = held_by(crowd, waits)["nr_pages"] == HUGE_PAGE // PAGE
    own = whole & in_mapping(crowd.sections[name], places_of(crowd, waits))
    assert own.sum() > 5
    assert set(waits["kind"][own]) == {WAIT_PMD if name == "huge" else WAIT_HUGETLB}
    # such a folio is told from a transparent one by how it is put back
    hugetlb = (held_by(crowd, waits)["flags"][own] & FOLIO_HUGETLB) != 0
    assert (hugetlb == (name == "hugetlb")).all()


@pytest.mark.parametrize("name", ["shmem", "file"])
def test_a_fault_that_sleeps_for_the_folios_lock_is_a_wait(crowd: Crowd, name: str) -> None:
    """It met no migration entry: the page was taken out of the page table before."""
    waits = waits_of(crowd, name)
    locks = waits[waits["kind"] == WAIT_LOCK]
    assert len(locks) > 5
    assert in_mapping(crowd.sections[name], places_of(crowd, locks)).all()


@pytest.mark.parametrize("name", SECTIONS)
def test_no_wait_is_made_up(crowd: Crowd, name: str) -> None:
    """Each recorded wait for a page of theirs, as long as a touch they note, is such a touch."""
    section, touches, size = crowd.sections[name], crowd.touches[name], SIZES[name]
    waits = waits_of(crowd, name)
    waits = waits[waits["end_ns"] - waits["start_ns"] >= section["min_ns"]]
    for wait, place in zip(waits, places_of(crowd, waits), strict=True):
        if not in_mapping(section, place):
            continue
        noted = touches[
            (touches["tid"] == wait["tid"])
            & (touches["before_ns"] <= wait["start_ns"])
            & (touches["after_ns"] >= wait["end_ns"])
        ]
        assert len(noted) == 1, wait
        assert noted[0]["address"] // size == place // size


@pytest.mark.parametrize("name", SECTIONS)
def test_each_wait_has_its_mover(crowd: Crowd, name: str) -> None:
    """Who is said to have migrated the page is the program that then did so, by what it did."""
    section, waits = crowd.sections[name], waits_of(crowd, name)
    holders = holders_of(crowd, waits)
    reasons = crowd.recording.meta.reasons
    movers = {mover["tid"]: mover for mover in section["movers"]}
    for wait, holder in zip(waits, holders, strict=True):
        tid = int(holder["tid"])
        assert tid in movers, "somebody else is accused"
        assert wait["holder_tid"] == tid
        assert holder["comm"].decode() == movers[tid]["comm"]
        assert reasons[int(holder["reason"])] == movers[tid]["reason"]
        at_work = [
            mover
            for mover in section["movers"]
            if mover["tid"] == tid
            and mover["before_ns"] <= holder["enter_ns"]
            and holder["exit_ns"] <= mover["after_ns"]
        ]
        assert len(at_work) == 1, "its own word is that it did nothing then"
        assert at_work[0]["before_ns"] <= wait["start_ns"] <= at_work[0]["after_ns"]


@pytest.mark.parametrize("name", SECTIONS)
def test_who_is_named_had_the_page(crowd: Crowd, name: str) -> None:
    """The migration named had the very folio, at that address, inaccessible at that time."""
    waits, size = waits_of(crowd, name), SIZES[name]
    held = held_by(crowd, waits)
    # not more than that they overlap: a mover may be interrupted before it looks at the
    # clock, and a page that could not be moved at once goes dark again after the wait
    assert (held["start_ns"] <= waits["end_ns"]).all()
    assert (waits["start_ns"] <= held["end_ns"]).all()
    # what nobody maps any more can be locked and is never dark
    entry = waits["kind"] != WAIT_LOCK
    assert (held["n_dark"][entry] > 0).all()
    assert (held["dark_first_ns"] <= waits["end_ns"])[entry].all()
    assert (waits["start_ns"] <= held["light_last_ns"])[entry].all()
    pmd = waits["kind"] == WAIT_PMD
    assert ((held["flags"][pmd] & FOLIO_PMD) != 0).all()
    assert (held["nr_pages"][pmd] == HUGE_PAGE // PAGE).all()
    # what others map as well is known by the address of the mapping that was met first
    own = ~pmd & in_mapping(crowd.sections[name], waits["address"])
    assert (held["address"][own] // size == waits["address"][own] // size).all()


def mapped_at(section: dict[str, Any], address: int) -> tuple[str, int | None]:
    """What the toucher's own maps have at an address: name, and offset of a file, else None.

    By both texts that the guest read of it while it lived, which have to agree.
    """
    found = []
    for text in section["maps"]:
        for line in text.splitlines():
            span, _, offset, _, inode, *name = line.split(maxsplit=5)
            start, end = (int(bound, 16) for bound in span.split("-"))
            if start <= address < end:
                at = int(offset, 16) + address - start if int(inode) else None
                found.append((name[0] if name else "", at))
    assert len(found) == 2, hex(address)
    assert found[0] == found[1]
    return found[0]


def in_words(name: str) -> str:
    """How mptrace calls a mapping that maps has by this name."""
    if name.startswith("/dev/shm/"):
        return f"shared memory {name}"
    words = {"": "anonymous", "[heap]": "heap", "[stack]": "stack"}
    return words.get(name, "anonymous hugetlb" if name.startswith("/anon_huge") else name)


def dumped(crowd: Crowd, table: str) -> list[dict[str, Any]]:
    """The rows of `mptrace dump` of a table; what is unknown is None."""
    columns = dumped_table(table, crowd.recording.tables(), crowd.recording.meta).columns
    return [
        {name: values[at] if known[at] else None for name, (values, known) in columns.items()}
        for at in range(len(next(iter(columns.values()))[0]))
    ]


#: Why it may be unknown here: an emulated session may get to a process too late.
ENDED = "its process had ended before its mappings were read"


def compared(crowd: Crowd, name: str) -> tuple[Counter[str], int]:
    """Of a section's waits and moved folios how many lie where, all compared; how many unknown.

    The oracle is the text of /proc/PID/maps that the guest read while the toucher lived.
    """
    section = crowd.sections[name]
    calls = crowd.recording.table("calls")
    mine = calls["call_id"][calls["target_tgid"] == section["pid"]]
    folios = crowd.recording.table("folios")
    of_call = np.isin(folios["call_id"], mine) & (folios["call_id"] != 0)
    owned = (folios["call_id"] == 0) & (folios["owner_tgid"] == section["pid"])
    moved = (of_call | owned) & (folios["address"] != 0) & (folios["n_dark"] > 0)
    waits = crowd.recording.table("waits")
    waited = (waits["tgid"] == section["pid"]) & (waits["address"] != 0)
    seen: Counter[str] = Counter()
    unknown = 0
    for table, raw, which in (("folios", folios, moved), ("waits", waits, waited)):
        rows = dumped(crowd, table)
        assert len(rows) == len(raw)
        for at in np.flatnonzero(which).tolist():
            text, offset = mapped_at(section, int(raw[at]["address"]))
            said = rows[at]
            if said["lies_in"] is None:
                assert said["lies_gap"] == ENDED, said
                unknown += 1
                continue
            assert said["lies_in"] == in_words(text), said
            assert said["lies_at"] == offset, said
            assert said["lies_gap"] is None
            seen[in_words(text)] += 1
    return seen, unknown


@pytest.mark.parametrize("name", SECTIONS)
def test_what_lies_at_each_address_is_what_its_maps_say(crowd: Crowd, name: str) -> None:
    """Of each wait and each moved folio of the toucher, with the offset in a file.

    All of a toucher are unknown if it had ended before it was read.
    """
    section = crowd.sections[name]
    seen, unknown = compared(crowd, name)
    if unknown:
        assert not seen
        return
    own = in_words(mapped_at(section, section["base"])[0])
    assert seen[own] >= section["pages"] * PAGE // SIZES[name]
    # migratepages moves all that the program has
    if name == "migratepages":
        program = next(words for words in seen if words.endswith("/touch"))
        assert {"anonymous", "heap", "stack", program} <= seen.keys()


def test_most_touchers_are_read_in_time(crowd: Crowd) -> None:
    """At least half of them, as each lives for seconds, and the one that has it all."""
    unknown = [name for name in SECTIONS if compared(crowd, name)[1]]
    assert len(unknown) <= len(SECTIONS) // 2, unknown
    assert "migratepages" not in unknown
