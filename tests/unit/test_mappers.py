# SPDX-License-Identifier: GPL-2.0-or-later
"""Who maps a refused page, found in a /proc of files."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace.recording.layouts import (
    MAPPER,
    OBSTACLE,
    SEEN_FILE,
    SEEN_STATE,
    SEEN_VMA,
    SEEN_ZERO,
    STAGE_ISOLATE,
    STAGE_SHARED,
)
from mptrace.sessions import mappers
from mptrace.sessions.mappers import PAGE_SIZE, Finder, Frames

BASE = 0xFFFFEA0000000000
FRAMES = Frames(BASE, 64)
FRAME = 509
HERE = 0x10000000
ANON, FILE, KSM = 0xFFFF888000000001, 0xFFFF888000000000, 0xFFFF888000000003
PRESENT = 1 << 63


class Proc:
    """A /proc of some processes: maps, comm and the entries of their page tables."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc" / "self").mkdir(parents=True)
        (root / "proc" / "meminfo").write_text("")

    def add(self, pid: int, frames: dict[int, int], maps: str = "", comm: str = "mover") -> Path:
        """A process with these frames behind addresses; frame 0: nothing present."""
        place = self.root / "proc" / str(pid)
        place.mkdir()
        (place / "maps").write_text(maps)
        (place / "comm").write_text(comm + "\n")
        with (place / "pagemap").open("wb") as file:
            for address, frame in frames.items():
                file.seek(address // PAGE_SIZE * 8)
                file.write(struct.pack("<Q", frame | PRESENT if frame else 0))
        return place

    def finder(self, **options: Any) -> Finder:
        """One that looks here, with the frames known."""
        return Finder(**{"frames": FRAMES, "root": self.root, **options})


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    """An empty one."""
    return Proc(tmp_path)


def refused(frame: int = FRAME, count: int = 1, **values: Any) -> np.ndarray[Any, Any]:
    """Rows of pages that were refused for being mapped twice."""
    rows = np.zeros(count, OBSTACLE)
    rows["call_id"], rows["lookup_seq"] = 7, np.arange(count)
    rows["src"] = BASE + (frame + np.arange(count, dtype=np.uint64)) * 64
    rows["address"] = HERE + np.arange(count) * PAGE_SIZE
    rows["stage"], rows["tid"], rows["nr_pages"] = STAGE_SHARED, 100, 1
    rows["mapcount"], rows["page_mapcount"] = 2, 2
    rows["mapping"], rows["seen"] = ANON, SEEN_STATE
    for name, value in values.items():
        rows[name] = value
    return rows


def places(rows: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """What was found, as (pid, address)."""
    return [(int(row["pid"]), int(row["address"])) for row in rows]


def counter(step_ns: int) -> Callable[[], int]:
    """A clock that goes on by so much whenever it is looked at."""
    now = 0

    def clock() -> int:
        nonlocal now
        now += step_ns
        return now

    return clock


def test_a_forked_child_maps_it_at_the_same_address(proc: Proc) -> None:
    """Both are found, with pid, name, time and the identity of the refusal; others are not."""
    proc.add(100, {HERE: FRAME})
    proc.add(103, {HERE: FRAME}, comm="child")
    proc.add(101, {HERE: FRAME + 1})
    proc.add(102, {})
    found = proc.finder(clock=counter(1)).find(refused())
    assert found.dtype == MAPPER
    assert places(found) == [(100, HERE), (103, HERE)]
    assert found["comm"].tolist() == [b"mover", b"child"]
    assert set(found["call_id"]) == {7}
    assert set(found["src"]) == {BASE + FRAME * 64}
    assert (np.diff(found["found_ns"].astype(np.int64)) > 0).all()


def test_an_entry_that_is_not_present_is_no_mapping(proc: Proc) -> None:
    """A swap entry whose bits look like the frame does not count."""
    place = proc.add(100, {HERE: 0})
    with (place / "pagemap").open("r+b") as file:
        file.seek(HERE // PAGE_SIZE * 8)
        file.write(struct.pack("<Q", FRAME | 1 << 62))
    assert not proc.finder().find(refused()).size


def test_a_page_of_a_file_is_found_at_other_addresses(proc: Proc) -> None:
    """By dev, inode and offset of maps: another process, and the same one a second time."""
    there, again = 0x20000000, 0x30000000
    line = "{:08x}-{:08x} rw-s {:08x} 00:01 4242                       /memfd:x (deleted)\n"
    # the page is the file's sixth in all of them
    proc.add(
        100,
        {HERE: FRAME, again + 5 * PAGE_SIZE: FRAME},
        line.format(HERE - PAGE_SIZE, HERE + PAGE_SIZE, 4 * PAGE_SIZE)
        + line.format(again, again + 6 * PAGE_SIZE, 0),
    )
    proc.add(
        200,
        {there: FRAME},
        "00400000-00500000 r-xp 00000000 fd:01 4242 /bin/other\n"
        + line.format(there, there + PAGE_SIZE, 5 * PAGE_SIZE),
    )
    # the same inode number of another device, and too short a mapping of the file
    proc.add(300, {there: FRAME}, line.replace("00:01", "00:02").format(there, there + 4096, 0))
    proc.add(301, {there: FRAME}, line.format(there, there + PAGE_SIZE, 6 * PAGE_SIZE))
    rows = refused(mapping=FILE, seen=SEEN_STATE | SEEN_FILE, inode=1, mapcount=4)
    found = proc.finder().find(rows)
    assert places(found) == [(100, HERE), (100, again + 5 * PAGE_SIZE), (200, there)]


def test_an_anonymous_page_is_not_looked_for_by_file(proc: Proc) -> None:
    """A copy in a private mapping of a file has no place in that file."""
    line = f"{HERE:08x}-{HERE + PAGE_SIZE:08x} rw-p 00000000 fd:01 42 /lib\n"
    proc.add(100, {HERE: FRAME}, line)
    proc.add(101, {HERE + 4096: FRAME}, line.replace(f"{HERE:08x}", f"{HERE + 4096:08x}"))
    assert places(proc.finder().find(refused(seen=SEEN_STATE | SEEN_FILE))) == [(100, HERE)]


def test_ksm_is_found_elsewhere_in_the_mapping(proc: Proc) -> None:
    """The merged page behind several addresses of one mapping, and not beyond it."""
    proc.add(100, {HERE + n * PAGE_SIZE: FRAME for n in (0, 23, 41, 60)})
    rows = refused(
        mapping=KSM,
        seen=SEEN_STATE | SEEN_VMA,
        vm_start=HERE - PAGE_SIZE,
        vm_end=HERE + 59 * PAGE_SIZE,
        mapcount=5,
    )
    expected = [(100, HERE + n * PAGE_SIZE) for n in (0, 23, 41)]
    assert places(proc.finder().find(rows)) == expected


def test_a_large_mapping_is_looked_through_around_the_page(proc: Proc) -> None:
    """64 MiB of it."""
    near, far = HERE + (31 << 20), HERE + (33 << 20)
    proc.add(100, {HERE: FRAME, near: FRAME, far: FRAME})
    rows = refused(seen=SEEN_STATE | SEEN_VMA, vm_start=0x1000, vm_end=HERE + (1 << 40), mapcount=3)
    assert places(proc.finder().find(rows)) == [(100, HERE), (100, near)]


def test_a_folio_is_met_by_any_of_its_pages_and_counted_once(proc: Proc) -> None:
    """An address of a tail page counts; the pages of one mapping of the folio are one."""
    head, tail = 512, HERE + 3 * PAGE_SIZE
    whole = {HERE + n * PAGE_SIZE: head + n for n in range(16)}
    proc.add(100, whole)
    proc.add(101, {tail: head + 3})
    proc.add(102, {tail: head + 16})
    rows = refused(head, address=tail, nr_pages=16, seen=SEEN_STATE | SEEN_VMA)
    rows["vm_start"], rows["vm_end"] = HERE, HERE + 16 * PAGE_SIZE
    assert places(proc.finder().find(rows)) == [(100, tail), (101, tail)]


def test_a_search_ends_with_the_last_mapping(proc: Proc) -> None:
    """Nothing is read when as many as the kernel counted were found."""
    for pid in (100, 101, 102):
        proc.add(pid, {HERE: FRAME})
    assert places(proc.finder().find(refused())) == [(100, HERE), (101, HERE)]


def test_processes_that_vanish_or_are_shut_are_left_out(proc: Proc) -> None:
    """No files, an empty pagemap, no name: the others are found."""
    proc.add(99, {HERE: FRAME})
    (proc.add(100, {HERE: FRAME}) / "comm").unlink()
    (proc.add(101, {HERE: FRAME}) / "pagemap").unlink()
    (proc.add(102, {HERE: FRAME}) / "pagemap").write_bytes(b"")
    (proc.root / "proc" / "103").mkdir()
    rows = refused(mapcount=7, mapping=FILE, seen=SEEN_STATE | SEEN_VMA, vm_end=HERE + PAGE_SIZE)
    found = proc.finder().find(rows)
    assert places(found) == [(100, HERE), (99, HERE)]
    assert found["comm"].tolist() == [b"", b"mover"]


def test_a_name_is_read_when_its_process_is_found(proc: Proc) -> None:
    """Not at the search's end, when it may be gone."""
    place = proc.add(100, {HERE: FRAME})
    proc.add(103, {HERE: FRAME}, comm="child")
    looks = 0

    def clock() -> int:
        nonlocal looks
        looks += 1
        if looks == 4:  # the start, the first process, its page, the second process
            (place / "comm").unlink()
        return looks

    found = proc.finder(clock=clock).find(refused())
    assert not (place / "comm").exists()
    assert found["comm"].tolist() == [b"mover", b"child"]


def test_without_proc_nothing_is_found(tmp_path: Path) -> None:
    """Nor is it an error."""
    assert not Finder(frames=FRAMES, root=tmp_path / "nowhere").find(refused()).size


@pytest.mark.parametrize(
    "values",
    [
        {"stage": STAGE_ISOLATE},
        {"mapcount": 1, "page_mapcount": 1},
        {"src": 0},
        {"seen": SEEN_STATE | SEEN_ZERO},
    ],
    ids=str,
)
def test_only_pages_refused_for_being_shared_are_looked_for(
    proc: Proc, values: dict[str, int]
) -> None:
    """Other refusals, pages mapped once, no page, and the zero page are not."""
    proc.add(100, {HERE: FRAME})
    assert not proc.finder().find(refused(**values)).size


def test_either_count_makes_a_page_shared() -> None:
    """That of the folio, and that of the page looked up."""
    rows = np.concatenate([refused(mapcount=1), refused(page_mapcount=1)])
    assert mappers.shared(rows).all()


def test_the_pages_of_a_session_are_limited(proc: Proc) -> None:
    """The first ones are looked for, in whatever batches they come."""
    proc.add(100, {HERE + n * PAGE_SIZE: FRAME + n for n in range(23)})
    finder = proc.finder(pages=5)
    rows = refused(count=23)
    first, second, third = (finder.find(rows[part]) for part in np.split(np.arange(23), [3, 11]))
    assert first["lookup_seq"].tolist() == [0, 1, 2]
    assert second["lookup_seq"].tolist() == [3, 4]
    assert not third.size


def test_a_page_is_looked_for_once_per_call(proc: Proc) -> None:
    """Several entries for it are one refusal; each call that met it has rows of its own."""
    proc.add(100, {HERE: FRAME})
    rows = np.concatenate([refused(), refused(lookup_seq=3), refused(call_id=8, lookup_seq=1)])
    found = proc.finder().find(rows)
    assert found[["call_id", "lookup_seq"]].tolist() == [(7, 0), (8, 1)]


def test_the_mappings_of_a_page_are_limited(proc: Proc) -> None:
    """Of a page that all processes map, as many as a reader wants to read."""
    for pid in range(1, mappers.MAX_MAPPERS + 12):
        proc.add(pid, {HERE: FRAME})
    found = proc.finder(clock=counter(0)).find(refused(mapcount=509))
    assert found.size == mappers.MAX_MAPPERS


def test_the_time_of_a_page_is_limited(proc: Proc) -> None:
    """The search stops where it is; the processes of its neighbourhood came first."""
    for pid in range(60, 141):
        proc.add(pid, {HERE: FRAME})
    found = proc.finder(clock=counter(mappers.PAGE_NS // 10)).find(refused(mapcount=509))
    assert 0 < found.size < 10
    assert set(found["pid"]) <= set(range(94, 107))


def test_the_time_of_a_session_is_limited(proc: Proc) -> None:
    """When it is used up, nothing is looked at any more."""
    proc.add(100, {HERE: FRAME})
    finder = proc.finder(session_ns=1000, clock=counter(400))
    assert finder.find(refused()).size == 1
    assert not finder.find(refused(call_id=8)).size


def test_where_struct_pages_are_is_learned_from_a_page_of_ones_own(proc: Proc) -> None:
    """Without kcore: the thread's own page table tells, also for other processes' pages."""
    other = 0x20000000
    proc.add(100, {HERE + 3 * PAGE_SIZE: 512 + 3})
    proc.add(101, {other: FRAME})
    rows = np.concatenate(
        [
            # the call was for a page of 101: what 100 has there is another page
            refused(address=other, tid=100),
            refused(512, address=HERE + 3 * PAGE_SIZE, nr_pages=16, lookup_seq=1),
        ]
    )
    finder = proc.finder(frames=Frames(None))
    assert places(finder.find(rows)) == [(101, other), (100, HERE + 3 * PAGE_SIZE)]


def test_a_wrong_page_teaches_nothing(proc: Proc) -> None:
    """A frame of which the base would lie anywhere is not the page that was refused."""
    proc.add(100, {HERE: FRAME + 1})
    assert not proc.finder(frames=Frames(None)).find(refused()).size
    assert Frames(None).learn(BASE + FRAME * 64, 1, FRAME) == FRAMES
    assert Frames(None).learn(BASE + FRAME * 64, 1, 0) == Frames(None)


def test_what_is_no_struct_page_has_no_frame() -> None:
    """Below the array, or between two of its elements."""
    assert FRAMES.frame(BASE + 23 * 64) == 23
    assert FRAMES.frame(BASE - 64) is None
    assert FRAMES.frame(BASE + 8) is None
    assert Frames(None).frame(BASE) is None


def test_where_nothing_was_shared_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the kernel's memory nor /proc."""
    monkeypatch.setattr(mappers, "Finder", None)
    assert mappers.find(refused(stage=STAGE_ISOLATE)).dtype == MAPPER
