# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies at an address is told from readings of mappings before and after that moment."""

from typing import Any

import numpy as np
import pytest

from mptrace.outcomes.lying import Lying
from mptrace.recording.mapping import CUT, DENIED, ENDED, LEFT_OUT, MAPPING
from mptrace.recording.meta import NO_MAPPINGS, Meta
from mptrace.reporting.text.layout import wrapped
from mptrace.reporting.text.lying import where_of

PAGE = 4096
DEV = 8 << 20 | 1
TGID, OTHER = 412, 509


def reading(seen_ns: int, *rows: dict[str, Any], tgid: int = TGID, born_ns: int = 10) -> np.ndarray:
    """A process as it was at a moment."""
    made = np.zeros(len(rows), MAPPING)
    made["seen_ns"], made["tgid"], made["born_ns"], made["perms"] = seen_ns, tgid, born_ns, b"rw-p"
    for row, values in zip(made, rows, strict=True):
        for name, value in values.items():
            row[name] = value
    return made


def mapping(start: int, pages: int, name: bytes = b"", **fields: Any) -> dict[str, Any]:
    """A mapping of so many pages."""
    return {"start": start, "end": start + pages * PAGE, "name": name, **fields}


def lying(*readings: np.ndarray) -> Lying:
    """Of a recording with these readings."""
    meta = Meta.of({"mappings_gap": ""})
    return Lying({"mappings": np.concatenate([np.zeros(0, MAPPING), *readings])}, meta)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (mapping(0x1000, 7, b"[heap]"), "heap"),
        (mapping(0x1000, 7, b"[stack]"), "stack"),
        (mapping(0x1000, 7), "anonymous"),
        (mapping(0x1000, 7, b"[anon:glibc: malloc]"), "anonymous (glibc: malloc)"),
        (mapping(0x1000, 7, b"[vdso]"), "[vdso]"),
        (mapping(0x1000, 7, b"/usr/lib/libc.so.6", inode=9, offset=0x1C000), "+0x1e000"),
        (mapping(0x1000, 7, b"/a (deleted)", inode=9), "/a+0x2000 (deleted)"),
        (mapping(0x1000, 7, b"/dev/shm/x", inode=9), "shared memory /dev/shm/x+0x2000"),
        (mapping(0x1000, 7, b"/memfd:m (deleted)", inode=9), "shared memory /memfd:m+0x2000"),
        (mapping(0x1000, 7, b"/SYSV00000000 (deleted)", inode=9), "shared memory /SYSV00000000"),
        (mapping(0x1000, 7, b"/dev/zero (deleted)", inode=9), "shared memory /dev/zero+0x2000"),
        (mapping(0x1000, 7, b"/anon_hugepage (deleted)", inode=9), "anonymous hugetlb"),
    ],
)
def test_a_mapping_in_words(row: dict[str, Any], words: str) -> None:
    """By its name as maps has it; of a file with the offset in it."""
    place = lying(reading(100, row)).at(TGID, 0x3000, 90)
    assert words in place.text
    assert place.as_dict() is not None


def test_the_reading_before_and_that_after_are_asked() -> None:
    """What one has is taken; what both have must be the same; an end is exclusive."""
    found = lying(
        reading(100, mapping(0x1000, 2, b"[heap]"), mapping(0x8000, 1, b"/a", inode=1)),
        reading(200, mapping(0x1000, 5, b"[heap]"), mapping(0x8000, 1, b"/b", inode=2)),
    )
    addresses = np.array([0x1000, 0x2FFF, 0x3000, 0x6000, 0x8000], np.uint64)
    rows = found.rows(np.full(5, TGID), addresses, np.full(5, 150, np.uint64))
    assert [found.place(int(r), int(a)).text for r, a in zip(rows, addresses, strict=True)] == [
        "heap",
        "heap",
        "heap",
        "",
        "",
    ]
    assert [found.why(int(r)).split()[0] for r in rows[3:]] == ["no", "mapped"]
    # after the last reading that one alone tells
    assert found.at(TGID, 0x8000, 250).text == "/b+0x0"
    assert found.at(TGID, 0x8000, 50).text == "/a+0x0"


def test_another_process_of_the_same_number() -> None:
    """What it has is said of nothing that was before its start, nor the other's after that."""
    ms = 1_000_000
    found = lying(
        reading(100 * ms, mapping(0x1000, 1, b"[heap]"), born_ns=10 * ms),
        reading(300 * ms, mapping(0x1000, 1, b"/x", inode=3), born_ns=200 * ms),
    )
    assert found.at(TGID, 0x1000, 150 * ms).text == "heap"
    assert found.at(TGID, 0x1000, 250 * ms).text == "/x+0x0"
    late = lying(reading(300 * ms, mapping(0x1000, 1, b"[heap]"), born_ns=200 * ms))
    assert "had ended" in late.at(TGID, 0x1000, 150 * ms).why_unknown


def test_one_process_whose_start_was_computed_twice() -> None:
    """A difference of nanoseconds makes no other process of it: both readings count."""
    found = lying(
        reading(100, mapping(0x1000, 1, b"[heap]"), born_ns=10),
        reading(300, mapping(0x9000, 1, b"[heap]"), born_ns=60),
    )
    assert found.at(TGID, 0x1000, 200).text == "heap"


@pytest.mark.parametrize(
    ("state", "words"),
    [(ENDED, "had ended"), (DENIED, "permission denied"), (LEFT_OUT, "beyond the bound")],
)
def test_why_nothing_is_known(state: int, words: str) -> None:
    """The row of such a process says it."""
    found = lying(reading(100, {"state": state}))
    assert words in found.at(TGID, 0x1000, 100).why_unknown
    assert "not read" in found.at(OTHER, 0x1000, 100).why_unknown
    assert "unknown" in found.at(0, 0x1000, 100).why_unknown


def test_what_was_cut_is_not_said_to_be_unmapped() -> None:
    """Above the last mapping that was read nothing is known, below it is."""
    cut = mapping(0x1000, 1, b"[heap]"), {"state": CUT, "start": 0x2000}
    found = lying(reading(100, *cut))
    assert found.at(TGID, 0x1800, 100).text == "heap"
    assert "beyond the bound" in found.at(TGID, 0x3000, 100).why_unknown
    assert "no longer mapped" in found.at(TGID, 0x800, 50).why_unknown
    assert found.seen == {"processes": 1, "ended": 0, "denied": 0, "left_out": 1, "more": False}


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ([], "mapped after the mappings of its process were read"),
        ([reading(300, {"state": ENDED})], "had ended before"),
        ([reading(300, {"state": DENIED})], "permission denied"),
        ([reading(300, mapping(0x1000, 1, b"[heap]"))], "no longer mapped"),
    ],
)
def test_what_was_mapped_after_a_reading(then: list[np.ndarray], words: str) -> None:
    """Only a reading that comes later can say that it is no longer there."""
    found = lying(reading(100, mapping(0x1000, 1, b"[heap]")), *then)
    assert words in found.at(TGID, 0x5000, 200).why_unknown


def test_an_older_recording_says_why() -> None:
    """It has no such table, and nothing fails."""
    found = Lying({}, Meta.of({}))
    place = found.at(TGID, 0x1000, 1)
    assert place.why_unknown == NO_MAPPINGS
    assert not place.is_recorded
    assert found.names(found.rows(np.array([TGID]), np.array([1]), np.array([1])))[0][0] is None


def test_a_file_by_its_inode() -> None:
    """Of a page at no known address; by the reading that came last."""
    found = lying(
        reading(100, mapping(0x1000, 1, b"/old", inode=7, dev=DEV)),
        reading(200, mapping(0x9000, 1, b"/new", inode=7, dev=DEV), tgid=OTHER),
    )
    assert found.path(DEV, 7) == "/new"
    assert found.path(DEV + 1, 7) is None
    assert found.path(DEV, 0) is None


def test_a_hostile_name_is_no_command() -> None:
    """What a file is called does not reach the terminal as it is."""
    evil = "/tmp/\x1b[2J\u202ex".encode()
    place = lying(reading(100, mapping(0x1000, 1, evil, inode=1))).at(TGID, 0x1000, 50)
    text = " ".join(wrapped("", where_of(place)))
    assert place.name == evil.decode()
    assert text.strip() == "in /tmp/?[2J?x+0x0"


def test_a_million_addresses_of_many_processes() -> None:
    """Each is found in its own process, also where others have the same addresses."""
    readings = [reading(100, mapping(t * PAGE, 3, b"[heap]"), tgid=t) for t in range(1, 510)]
    found = lying(*readings)
    tgid = np.arange(1_000_003) % 509 + 1
    address = (tgid * PAGE + 5).astype(np.uint64)
    rows = found.rows(tgid, address, np.full(tgid.size, 90, np.uint64))
    assert (rows == tgid - 1).all()
    words, why, _ = found.names(rows)
    assert set(words) == {"heap"}
    assert set(why) == {None}


def test_of_processes_beyond_what_is_remembered_it_is_left_out() -> None:
    """A row of no process stands for all that have none."""
    found = lying(
        reading(100, mapping(0x1000, 1, b"[heap]")), reading(200, {"state": LEFT_OUT, "tgid": 0})
    )
    assert found.seen == {"processes": 1, "ended": 0, "denied": 0, "left_out": 0, "more": True}
    assert found.at(TGID, 0x1800, 100).text == "heap"
    assert "beyond the bound" in found.at(TGID + 1, 0x1800, 100).why_unknown
    assert "no longer mapped" in found.at(TGID, 0x3000, 50).why_unknown
