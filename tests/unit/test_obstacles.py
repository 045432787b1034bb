# SPDX-License-Identifier: GPL-2.0-or-later
"""Evidence is joined to the folios and mappings that it is about, and decoded."""

from typing import Any

import numpy as np
import pytest

from mptrace.outcomes.causes import obstacles
from mptrace.outcomes.causes.obstacles import PTE_KINDS
from mptrace.recording.layouts import (
    FOLIO,
    NO_LOOKUP,
    OBSTACLE,
    SEEN_HUGE_ZERO,
    SEEN_PTE,
    SEEN_STATE,
    SEEN_ZERO,
    STAGE_LOOKUP,
    STAGE_MOVE,
    STAGE_VMA,
)
from mptrace.recording.meta import Meta

#: Bits as an x86-64 kernel has them; PG_swapcache shares its bit.
META = {
    "page_flags": {
        "PG_locked": 0,
        "PG_private": 14,
        "PG_swapbacked": 17,
        "PG_swapcache": 10,
        "PG_owner_priv_1": 10,
    },
    "kernel": {"machine": "x86_64"},
}
PRIVATE, SWAPBACKED, SWAPCACHE = 1 << 14, 1 << 17, 1 << 10
FILE, ANONYMOUS, KSM = 0xFFFF888000000100, 0xFFFF888000000101, 0xFFFF888000000103


def table(*rows: dict[str, Any], layout: np.dtype[Any] = OBSTACLE) -> np.ndarray[Any, Any]:
    """Rows with these fields, zeros elsewhere."""
    made = np.zeros(len(rows), layout)
    for place, row in enumerate(rows):
        for name, value in row.items():
            made[name][place] = value
    return made


def state(**fields: Any) -> np.ndarray[Any, Any]:
    """One small anonymous folio whose state was seen."""
    return table({"seen": SEEN_STATE, "mapping": ANONYMOUS, "nr_pages": 1} | fields)


def test_a_folio_has_the_obstacle_of_its_lookup() -> None:
    """By call and lookup; one that no lookup led to by its migration and address."""
    folios = table(
        {"call_id": 1, "lookup_seq": 0},
        {"call_id": 1, "lookup_seq": 1},
        {"call_id": 2, "lookup_seq": 1},
        {"lookup_seq": NO_LOOKUP, "migration_id": 5, "src": 100},
        {"lookup_seq": NO_LOOKUP, "migration_id": 5, "src": 164},
        layout=FOLIO,
    )
    found = table(
        {"call_id": 2, "lookup_seq": 1, "stage": STAGE_MOVE},
        {"lookup_seq": NO_LOOKUP, "migration_id": 5, "src": 164, "stage": STAGE_MOVE},
        {"call_id": 1, "lookup_seq": 1, "stage": STAGE_LOOKUP},
        {"call_id": 1, "lookup_seq": 0, "stage": STAGE_VMA},  # is about a mapping
    )
    joined = obstacles.of_folios({"folios": folios, "obstacles": found})
    assert joined.tolist() == [-1, 2, 0, -1, 1]


@pytest.mark.parametrize("base", [160_000_000_000_000, 1 << 63])
def test_a_folio_has_its_own_obstacle_whatever_the_size_of_ids(base: int) -> None:
    """Ids of neighbouring calls and migrations of a long session are told apart."""
    count, src = 509, 0xFFFFEA0000100000
    ids = [base + number for number in range(count)]
    looked_up = [{"call_id": id_, "lookup_seq": id_ % 7} for id_ in ids]
    named = [
        {"lookup_seq": NO_LOOKUP, "migration_id": id_, "src": src + 64 * (id_ % 5)} for id_ in ids
    ]
    refused = [{**row, "stage": STAGE_MOVE} for row in looked_up + named]
    tables = {
        "folios": table(*looked_up, *named, layout=FOLIO),
        "obstacles": table(*refused[::-1]),
    }
    assert obstacles.of_folios(tables).tolist() == list(range(2 * count))[::-1]


def test_an_old_recording_has_no_obstacles() -> None:
    """Nothing is joined, and nothing fails."""
    folios = table({"call_id": 1}, layout=FOLIO)
    assert obstacles.of({}).size == 0
    assert obstacles.of_folios({"folios": folios}).tolist() == [-1]
    none = obstacles.of_addresses({}, np.array([1], np.uint64), np.array([4096], np.uint64))
    assert none.tolist() == [-1]


def test_an_address_has_the_obstacle_of_its_mapping() -> None:
    """Of its own call, and within the bounds of the mapping, its end left out."""
    found = table(
        {"call_id": 1, "stage": STAGE_VMA, "vm_start": 0x3000, "vm_end": 0x5000},
        {"call_id": 1, "stage": STAGE_VMA, "vm_start": 0x1000, "vm_end": 0x2000},
        {"call_id": 2, "stage": STAGE_VMA, "vm_start": 0x1000, "vm_end": 0x9000},
        {"call_id": 1, "stage": STAGE_MOVE, "vm_start": 0x6000, "vm_end": 0x7000},
    )
    calls = np.array([1, 1, 1, 1, 2, 3, 1], np.uint64)
    addresses = np.array([0x1000, 0x2000, 0x4FFF, 0x5000, 0x5000, 0x1000, 0x6000], np.uint64)
    rows = obstacles.of_addresses({"obstacles": found}, calls, addresses)
    assert rows.tolist() == [1, -1, 0, -1, 2, -1, -1]


def test_a_file_systems_name_ends_at_its_nul() -> None:
    """What lay behind it in the kernel's memory is cut off; the recording stays as it is."""
    raw = table({"fs": b"tmpfs\0devtmpfs"}, {"fs": b"ext4"}, {})
    assert obstacles.of({"obstacles": raw})["fs"].tolist() == [b"tmpfs", b"ext4", b""]
    assert raw["fs"][0] == b"tmpfs\0devtmpfs"


@pytest.mark.parametrize(
    ("pte", "seen", "kind"),
    [
        (0, 0, ""),
        (0, SEEN_PTE, "none"),
        (0x8000000012345067, SEEN_PTE, "present"),
        (0x8000000012345160, SEEN_PTE, "prot_none"),
        (0x07FFFFFFFFFFF200, SEEN_PTE, "swap"),
        (23 << 59, SEEN_PTE, "special"),
        (30 << 59 | 2, SEEN_PTE, "special"),
        (0x8000000012345067, SEEN_PTE | SEEN_ZERO, "zero"),
        (0x8000000012345067, SEEN_PTE | SEEN_HUGE_ZERO, "huge_zero"),
    ],
)
def test_kinds_of_page_table_entries(pte: int, seen: int, kind: str) -> None:
    """By the bits of x86-64; elsewhere nothing is claimed."""
    row = table({"pte": pte, "seen": seen})
    assert PTE_KINDS[int(obstacles.pte_kind(row, "x86_64")[0])] == kind
    assert PTE_KINDS[int(obstacles.pte_kind(row, "aarch64")[0])] == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 1),
        ({"nr_pages": 512}, 1),
        ({"page_flags": SWAPBACKED | SWAPCACHE}, 2),
        ({"page_flags": SWAPCACHE}, 1),  # another meaning of the same bit
        ({"mapping": KSM}, 1),
        ({"mapping": FILE}, 2),
        ({"mapping": FILE, "page_flags": PRIVATE}, 3),
        ({"mapping": FILE, "nr_pages": 512}, 513),
        ({"mapping": FILE, "nr_pages": 16, "page_flags": PRIVATE}, 18),
        ({"mapping": FILE, "fs": b"hugetlbfs"}, -1),
        ({"seen": 0}, -1),
    ],
)
def test_expected_references(fields: dict[str, Any], expected: int) -> None:
    """The migration's own, one per base page in a cache, one for private data."""
    assert obstacles.expected_references(state(**fields), Meta.of(META)).tolist() == [expected]


@pytest.mark.parametrize(
    ("fields", "pinned"),
    [
        ({"refcount": 2}, False),
        ({"refcount": 1024}, False),
        ({"refcount": 1025}, True),
        ({"refcount": 1025, "mapcount": 1}, False),
        ({"refcount": 1026, "mapcount": 1}, True),
        ({"refcount": 1026, "mapping": FILE}, True),
        ({"refcount": 5000, "nr_pages": 512, "pincount": 0}, False),
        ({"refcount": 2, "nr_pages": 512, "pincount": 1}, True),
        ({"refcount": 5000, "seen": 0}, False),
    ],
)
def test_pins(fields: dict[str, Any], pinned: bool) -> None:
    """1,024 references beyond the expected ones; of a large folio its own count."""
    assert obstacles.is_pinned(state(**fields), Meta.of(META)).tolist() == [pinned]


def test_flags_have_the_names_of_the_recordings_kernel() -> None:
    """A name that it does not know is never set."""
    row = state(page_flags=1 | PRIVATE)
    assert obstacles.flag(row, Meta.of(META), "PG_locked").tolist() == [True]
    assert obstacles.flag(row, Meta.of(META), "PG_writeback").tolist() == [False]
    assert obstacles.flag(row, Meta.of({}), "PG_locked").tolist() == [False]


def test_what_a_migration_waited_for() -> None:
    """The longer of the two waits."""
    rows = table(
        {},
        {"lock_wait_ns": 5},
        {"lock_wait_ns": 5, "writeback_wait_ns": 6},
        {"lock_wait_ns": 7, "writeback_wait_ns": 6},
    )
    waited = obstacles.waited_for(rows).tolist()
    assert waited == ["", "folio_lock", "writeback", "folio_lock"]
