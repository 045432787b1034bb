# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings of processes are read when they are met, within bounds, and again when they change."""

import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mptrace.host import maps, proc
from mptrace.host.maps_reader import Bounds, MapsReader, met_in
from mptrace.recording.layouts import CALL, ENTRY, FOLIO, WAIT
from mptrace.recording.mapping import CUT, ENDED, LEFT_OUT, MAPPED, NAME_BYTES, NO_MEMORY

PAGE = mmap.PAGESIZE
#: Nothing is put off.
AT_ONCE = Bounds(again_ns=0, checked_ns=0, share=1.0)
SECONDS = 30.0
HEAP = "55f000000000-55f000003000 rw-p 00000000 00:00 0    [heap]\n"
FILE = "7f0000000000-7f0000002000 r-xp 00003000 fe:01 77    /usr/lib/a b\n"


def put(
    root: Path, tgid: int, text: str, *, start: int = 100, stack: int = 5, flags: int = 0
) -> None:
    """A process."""
    place = root / f"proc/{tgid}"
    place.mkdir(parents=True, exist_ok=True)
    fields = [
        "S",
        *["0"] * 5,
        str(flags),
        *["0"] * 12,
        str(start),
        *["0"] * 3,
        "4",
        "0",
        str(stack),
    ]
    (place / "stat").write_text(f"{tgid} (a (b) c) {' '.join(fields)} 0 0\n")
    (place / "maps").write_text(text)


class Session:
    """A reader at work."""

    def __init__(self, root: Path, bounds: Bounds = AT_ONCE) -> None:
        self.reader = MapsReader(bounds, root)
        self.reader.start()

    def read(self, tgid: int, address: int = 0, last: int = 0) -> np.ndarray:
        """What comes of a process that is met, at one address or a span of them."""
        self.meet([tgid], address, last)
        self.reader.settle(SECONDS)
        return self.reader.take()

    def meet(self, tgids: list[int], address: int = 0, last: int = 0) -> None:
        """Processes are met, all at the same address."""
        meet(self.reader, tgids, address, last)


def meet(reader: MapsReader, tgids: list[int], address: int = 0, last: int = 0) -> None:
    """Processes are met, all at the same addresses."""
    firsts = np.full(len(tgids), address, np.uint64)
    lasts = np.full(len(tgids), last or address, np.uint64)
    reader.meet(np.array(tgids, np.uint32), firsts, lasts)


@pytest.fixture(name="session")
def _session(tmp_path: Path) -> Iterator[Session]:
    made = Session(tmp_path)
    yield made
    made.reader.stop(SECONDS)


def test_a_process_is_read_when_it_is_met(session: Session, tmp_path: Path) -> None:
    """Each mapping with its file, offset and rights; once."""
    put(tmp_path, 7, HEAP + FILE)
    rows = session.read(7)
    assert rows["name"].tolist() == [b"[heap]", b"/usr/lib/a b"]
    assert rows["start"].tolist() == [0x55F000000000, 0x7F0000000000]
    assert rows["offset"].tolist() == [0, 0x3000]
    assert rows["inode"].tolist() == [0, 77]
    assert rows["dev"].tolist() == [0, 0xFE << 20 | 1]
    assert rows["perms"].tolist() == [b"rw-p", b"r-xp"]
    assert set(rows["seen_ns"]) == {rows["seen_ns"][0]}
    assert not session.read(7).size
    assert not session.read(7, 0x55F000000123).size


def test_it_is_read_again_for_an_address_that_is_not_known(
    session: Session, tmp_path: Path
) -> None:
    """As it maps more later."""
    put(tmp_path, 7, HEAP)
    session.read(7)
    put(tmp_path, 7, HEAP + FILE)
    assert session.read(7, 0x7F0000001000)["name"].tolist() == [b"[heap]", b"/usr/lib/a b"]


@pytest.mark.parametrize("change", [{"start": 200}, {"stack": 6}])
def test_another_process_or_program_is_read_anew(
    session: Session, tmp_path: Path, change: dict[str, int]
) -> None:
    """The number was used again, or it called execve(2): the addresses say nothing then."""
    put(tmp_path, 7, HEAP)
    first = session.read(7)
    put(tmp_path, 7, HEAP.replace("[heap]", "[new]"), **change)
    again = session.read(7, 0x55F000000000)
    assert again["name"].tolist() == [b"[new]"]
    born = [int(rows["born_ns"][0]) for rows in (first, again)]
    later = born[1] - born[0] > 500_000_000
    assert later == ("start" in change)


def test_one_that_had_ended_and_a_kernel_thread(session: Session, tmp_path: Path) -> None:
    """There is a row that says it; a zombie has no mappings any more."""
    put(tmp_path, 2, "", flags=0x200000)
    put(tmp_path, 5, "")
    states = {tgid: session.read(tgid)["state"].tolist() for tgid in (2, 5, 11)}
    assert states == {2: [NO_MEMORY], 5: [ENDED], 11: [ENDED]}


def test_what_is_beyond_the_bounds_is_left_out(tmp_path: Path) -> None:
    """Mappings of a process, processes, and rows of all: each has a row that says it, once."""
    for tgid in (7, 11, 13):
        put(tmp_path, tgid, HEAP + FILE)
    session = Session(tmp_path, replace(AT_ONCE, mappings=1, processes=2))
    rows = session.read(7)
    assert rows["state"].tolist() == [MAPPED, CUT]
    assert rows["start"][1] == rows["end"][0]
    assert session.read(11).size == 2
    assert session.read(13)["state"].tolist() == [LEFT_OUT]
    assert not session.read(13).size
    session.reader.forget()
    assert session.read(13)["state"].tolist() == [MAPPED, CUT]
    session.reader.stop(SECONDS)


def test_what_comes_too_fast_is_read_again(tmp_path: Path) -> None:
    """Of batches beyond the bound the addresses are gone: their processes are read for them."""
    for tgid in (7, 11):
        put(tmp_path, tgid, HEAP)
    session = Session(tmp_path, replace(AT_ONCE, batches=0))
    assert session.read(7)["tgid"].tolist() == [7]
    put(tmp_path, 7, HEAP + FILE)
    # one that is known is read as well: it may have mapped more
    rows = session.read(7, 0x55F000000000)
    assert rows["name"].tolist() == [b"[heap]", b"/usr/lib/a b"]
    session.reader.stop(SECONDS)


@pytest.mark.parametrize("batches", [0, 256])
def test_processes_beyond_what_is_remembered_are_said_to_be_left_out(
    tmp_path: Path, batches: int
) -> None:
    """By one row of no process in each recording, whatever bound was met first."""
    put(tmp_path, 7, HEAP)
    bounds = replace(AT_ONCE, batches=batches, processes=1, remembered=2 * (batches > 0))
    session = Session(tmp_path, bounds)
    for tgid in (7, 11):
        session.read(tgid)
    for _ in range(2):
        rows = [session.read(tgid) for tgid in (13, 17)]
        if batches:
            assert [row["tgid"].tolist() for row in rows] == [[0], []]
            assert rows[0]["state"].tolist() == [LEFT_OUT]
        session.reader.forget()
        first = session.read(7)
        if not batches:
            assert first["tgid"].tolist() == [0]
            assert first["state"].tolist() == [LEFT_OUT]
        session.read(11)
    session.reader.stop(SECONDS)


def test_what_waits_when_the_session_ends_is_left_out(tmp_path: Path) -> None:
    """Also a process that is known and would have been read again."""
    for tgid in (7, 11):
        put(tmp_path, tgid, HEAP)
    session = Session(tmp_path, Bounds(share=1e-9, burst_ns=0))
    session.read(7)
    session.meet([7, 11], 1)
    session.reader.stop(SECONDS)
    rows = session.reader.take()
    assert sorted(rows["tgid"].tolist()) == [7, 11]
    assert set(rows["state"].tolist()) == {LEFT_OUT}


def test_a_reader_that_is_stuck_leaves_out_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may keep it in a read for long: the session ends all the same, and says so."""
    begun, go_on = threading.Event(), threading.Event()

    def stuck(tgid: int, _most: int, _root: Path) -> maps.Reading:
        begun.set()
        go_on.wait(SECONDS)
        return maps.Reading(maps.left_out(tgid), None)

    monkeypatch.setattr(maps, "read", stuck)
    reader = MapsReader(AT_ONCE, tmp_path)
    reader.start()
    meet(reader, [7])
    assert begun.wait(SECONDS)
    meet(reader, [11])
    reader.stop(0.01)
    rows = reader.take()
    go_on.set()
    assert rows["tgid"].tolist() == [7, 11]
    assert set(rows["state"].tolist()) == {LEFT_OUT}


def test_a_pace_is_kept(tmp_path: Path) -> None:
    """With next to no share of a core the second process waits, until the session ends."""
    for tgid in (7, 11):
        put(tmp_path, tgid, HEAP)
    session = Session(tmp_path, Bounds(share=1e-9, burst_ns=0))
    session.meet([7, 11])
    rows = session.reader.take()
    while not rows.size:
        rows = session.reader.take()
    assert rows.size == 1
    session.reader.settle(SECONDS)
    assert session.reader.take().size == 1
    session.reader.stop(SECONDS)


def test_a_long_name_keeps_its_begin_and_its_end(session: Session, tmp_path: Path) -> None:
    """By its begin it is told what it is: a memfd may have a name as long."""
    put(tmp_path, 7, FILE.replace("/usr/lib/a b", "/memfd:" + "x" * 600 + "/end"))
    (name,) = session.read(7)["name"].tolist()
    assert len(name) == NAME_BYTES
    assert name.startswith(b"/memfd:xxxxxxxxx...x")
    assert name.endswith(b"x/end")


def test_a_real_process() -> None:
    """The kernel's own text of this one: the stack that the program was started on is there."""
    reading = maps.read(os.getpid(), 4096)
    stack = next(one for one in proc.mapped(proc.maps("self")) if one.name == b"[stack]")
    assert b"[stack]" in reading.rows["name"]
    for address, is_held in ((stack.end - 1, True), (8, False)):
        span = np.array([address], np.uint64)
        assert reading.holds(span, span).tolist() == [is_held]
    assert 0 < reading.rows["born_ns"][0] <= reading.rows["seen_ns"][0]


@pytest.mark.parametrize(
    ("first", "last", "is_held"),
    [
        (0x1000, 0x3FFF, True),  # over two mappings that touch
        (0x2000, 0x2000, True),
        (0x3FFF, 0x4000, False),
        (0x3000, 0x6000, False),  # a gap between
        (0x0FFF, 0x1000, False),
        (0x6000, 0x8000, True),  # beyond what was read nobody knows
    ],
)
def test_a_span_is_held_where_it_has_no_gap(
    tmp_path: Path, first: int, last: int, is_held: bool
) -> None:
    """What lies between its ends may have been mapped since."""
    spans = ("1000-2000", "2000-4000", "6000-7000", "7000-8000")
    put(tmp_path, 7, "".join(f"{span} rw-p 00000000 00:00 0\n" for span in spans))
    reading = maps.read(7, 3, tmp_path)
    ends = (np.array([end], np.uint64) for end in (first, last))
    assert reading.holds(*ends).tolist() == [is_held]


def test_whose_addresses_rows_have() -> None:
    """Entries are of the call's target, other folios of their owner, waits of the thread."""
    calls, entries = np.zeros(1, CALL), np.zeros(2, ENTRY)
    folios, waits = np.zeros(2, FOLIO), np.zeros(1, WAIT)
    calls["call_id"], calls["target_tgid"] = 3, 7
    entries["call_id"], entries["address"] = [3, 4], [100, 200]
    folios["call_id"], folios["owner_tgid"], folios["address"] = [3, 0], [11, 13], [300, 400]
    waits["tgid"], waits["address"] = 17, 500
    tables = {"calls": calls, "entries": entries, "folios": folios, "waits": waits}
    assert met(tables) == [
        (7, 0, 0),
        (7, 100, 100),
        (7, 300, 300),
        (13, 400, 400),
        (17, 500, 500),
    ]


def met(tables: dict[str, np.ndarray]) -> list[tuple[int, int, int]]:
    """Processes and spans."""
    return sorted(zip(*(column.tolist() for column in met_in(tables)), strict=True))


def test_pages_that_follow_each_other_are_one_span() -> None:
    """Of one process and upwards; what calls of another target asked for is another one."""
    calls, entries = np.zeros(2, CALL), np.zeros(7, ENTRY)
    calls["call_id"], calls["target_tgid"] = [3, 4], [7, 11]
    entries["call_id"] = [3] * 5 + [4] * 2
    entries["address"] = np.array([1, 2, 3, 5, 4, 5, 6]) * PAGE
    assert met({"calls": calls, "entries": entries}) == [
        (7, 0, 0),
        (7, PAGE, 3 * PAGE),
        (7, 4 * PAGE, 4 * PAGE),
        (7, 5 * PAGE, 5 * PAGE),
        (11, 0, 0),
        (11, 5 * PAGE, 6 * PAGE),
    ]
