# SPDX-License-Identifier: GPL-2.0-or-later
"""From the rings into a recording, with a tracer and a search that are played."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace.errors import RecordingError
from mptrace.host.processes import Processes
from mptrace.recording.balancing import BALANCING
from mptrace.recording.layouts import (
    CALL,
    CHUNK_SMALL,
    FOLIO,
    MAPPER,
    MIGRATION,
    OBSTACLE,
    STAGE_MOVE,
    STAGE_SHARED,
    WAIT,
)
from mptrace.recording.reader import Recording
from mptrace.recording.rotated import open_recording
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions import mappers, pace
from mptrace.sessions.pump import Pump
from mptrace.tracer import Drained
from mptrace.tracing.program.chunks import chunk_sides

Rows = np.ndarray[Any, Any]
WAIT_SECONDS = 30


class PlayedTracer:
    """Rings that hold what a test put there."""

    def __init__(self) -> None:
        self._rings: list[Rows | Drained] = []
        self._lock = threading.Lock()
        self.drained = threading.Event()
        #: How full they are where there is anything: they press.
        self.filled = 0.5
        self.balanced: Rows = np.empty(0, BALANCING)

    def put(self, count: int, stage: int = STAGE_SHARED, first: int = 0) -> None:
        """So many refusals of different pages."""
        rows = np.zeros(count, OBSTACLE)
        rows["call_id"], rows["src"] = 7, 1 + first + np.arange(count)
        rows["stage"], rows["mapcount"] = stage, 2
        self._put(rows)

    def put_call(
        self,
        call_id: int,
        enter_ns: int,
        exit_ns: int = 0,
        *,
        wanted: bool = True,
        target: int = 0,
    ) -> None:
        """The arrays of a call of three entries, and its end if that is given."""
        sides = [_chunk(call_id, at_exit=0)] + [_chunk(call_id, at_exit=1)] * (exit_ns > 0)
        ended = int(exit_ns > 0)
        calls, migrations = np.zeros(ended, CALL), np.zeros(ended, MIGRATION)
        for rows in (calls, migrations):
            rows["call_id"], rows["enter_ns"], rows["exit_ns"] = call_id, enter_ns, exit_ns
            rows["tgid"] = 23
        calls["nodes_ptr"], calls["target_tgid"] = 4096 * wanted, target
        self._put(
            Drained(
                folios=np.empty(0, FOLIO),
                obstacles=np.empty(0, OBSTACLE),
                migrations=migrations,
                calls=calls,
                sides=chunk_sides(np.concatenate(sides)),
                waits=np.empty(0, WAIT),
            )
        )

    def _put(self, rows: "Rows | Drained") -> None:
        with self._lock:
            self.drained.clear()
            self._rings.append(rows)

    @property
    def fill(self) -> float:
        """Of the fullest ring."""
        with self._lock:
            return self.filled if self._rings else 0.0

    def fresh_tgids(self) -> Rows:
        """None."""
        return np.empty(0, np.uint32)

    def fresh_obstacles(self) -> Rows:
        """None."""
        return np.empty(0, OBSTACLE)

    has_fresh_stacks = False

    def drain(self, _most: int = 0) -> Drained:
        """The first of what is there."""
        with self._lock:
            rows = self._rings.pop(0) if self._rings else np.empty(0, OBSTACLE)
            if not self._rings:
                self.drained.set()
        if isinstance(rows, Drained):
            return rows
        sides = chunk_sides(np.empty(0, CHUNK_SMALL))
        return Drained(
            folios=np.empty(0, FOLIO),
            obstacles=rows,
            migrations=np.empty(0, MIGRATION),
            calls=np.empty(0, CALL),
            sides=sides,
            waits=np.empty(0, WAIT),
        )

    def balancing(self, _now_ns: int, *, every: bool = False) -> Rows:
        """What was put there, at the end."""
        return self.balanced if every else self.balanced[:0]

    def open_obstacles(self) -> Rows:
        return np.empty(0, OBSTACLE)

    def open_folios(self) -> Rows:
        """None."""
        return np.empty(0, FOLIO)


def _chunk(call_id: int, *, at_exit: int) -> Rows:
    made = np.zeros(1, CHUNK_SMALL)
    made["call_id"], made["count"], made["at_exit"] = call_id, 3, at_exit
    return made


class PlayedFinder:
    """Finds one mapping of each page, when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.may.set()
        self.fails = False

    def find(self, rows: Rows) -> Rows:
        """A row for each row."""
        assert self.may.wait(WAIT_SECONDS)
        if self.fails:
            raise ValueError("a defect")
        found = np.zeros(rows.size, MAPPER)
        found["call_id"], found["src"], found["pid"] = rows["call_id"], rows["src"], 23
        return found


class Session:
    """A pump, what it takes from, and where it goes."""

    def __init__(self, path: Path, processes: Processes | None = None) -> None:
        self.tracer, self.finder = PlayedTracer(), PlayedFinder()
        self.path = path
        self.writer = RecordingWriter(path, meta={})
        self.pump = Pump(
            self.tracer,  # type: ignore[arg-type]
            self.writer,
            self.finder,  # type: ignore[arg-type]
            processes,
        )
        self.pump.start()

    def finish(self) -> Recording:
        """The recording, when all has come."""
        self.pump.finish()
        self.writer.finish()
        return Recording.open(self.path)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """One that was started."""
    return Session(tmp_path / "r")


def test_who_maps_a_shared_page_is_recorded(session: Session) -> None:
    """Of pages refused for being shared, and of no others."""
    with session.pump.keeping():
        session.tracer.put(5)
        session.tracer.put(3, STAGE_MOVE, first=100)
        assert session.tracer.drained.wait(WAIT_SECONDS)
    recording = session.finish()
    assert recording.table("obstacles").size == 8
    assert recording.table("mappers")["src"].tolist() == [1, 2, 3, 4, 5]
    assert set(recording.table("mappers")["pid"]) == {23}


def test_a_round_ends_when_its_searches_have(session: Session) -> None:
    """While the memory that is looked for is still there."""
    with session.pump.keeping():
        session.tracer.put(1)
    assert session.writer.rows["mappers"] == 1
    session.finish()


def test_the_rings_are_taken_while_a_search_lasts(session: Session) -> None:
    """A slow search keeps nobody from draining."""
    session.finder.may.clear()
    with session.pump.keeping():
        for number in range(3):
            session.tracer.put(1, first=number)
            assert session.tracer.drained.wait(WAIT_SECONDS)
        session.finder.may.set()
    assert session.finish().table("mappers").size == 3


def test_what_waits_for_a_search_is_bounded(session: Session) -> None:
    """By the pages that a session looks for at all."""
    with session.pump.keeping():
        for number in range(3):
            session.tracer.put(mappers.MAX_PAGES // 2, first=1000 * number)
            assert session.tracer.drained.wait(WAIT_SECONDS)
    assert session.finish().table("mappers").size == mappers.MAX_PAGES


def test_nothing_is_looked_for_between_rounds(session: Session) -> None:
    """What is not recorded has no mappers either."""
    session.tracer.put(1)
    assert session.tracer.drained.wait(WAIT_SECONDS)
    assert not session.finish().table("mappers").size


def test_a_defect_of_the_search_reaches_the_session(session: Session) -> None:
    """And does not leave it waiting."""
    session.finder.fails = True
    with pytest.raises(ValueError, match="a defect"), session.pump.keeping():
        session.tracer.put(1)


def test_a_call_that_was_of_no_interest_leaves_nothing(session: Session) -> None:
    """Its end has no nodes: neither it nor what was read of its arrays is recorded."""
    with session.pump.keeping():
        session.tracer.put_call(1, 100)
        session.tracer.put_call(1, 100, 200, wanted=False)
        session.tracer.put_call(2, 100, 200)
        assert session.tracer.drained.wait(WAIT_SECONDS)
    recording = session.finish()
    assert recording.table("calls")["call_id"].tolist() == [2]
    assert recording.table("entries")["call_id"].tolist() == [2, 2, 2]


class Second:
    """The recording after a swap."""

    def __init__(self, session: Session) -> None:
        self._writer = RecordingWriter(session.path.with_name("second"), meta={})
        self.before = session.pump.swap(self._writer)

    def finish(self) -> Recording:
        """The recording, when all has come."""
        self._writer.finish()
        return Recording.open(self._writer.path)


def test_what_lies_in_two_recordings_counts_as_lost(session: Session) -> None:
    """Calls and migrations that began before the second one, and only those."""
    with session.pump.keeping():
        session.tracer.put_call(1, time.monotonic_ns())
        assert session.tracer.drained.wait(WAIT_SECONDS)
        second = Second(session)
        session.tracer.put_call(1, 1, 2)
        session.tracer.put_call(2, time.monotonic_ns(), time.monotonic_ns())
        assert session.tracer.drained.wait(WAIT_SECONDS)
    session.pump.finish()
    second.before.finish()
    first, last = Recording.open(session.path), second.finish()
    assert not first.table("calls").size
    assert not first.table("entries").size
    for table in ("calls", "migrations"):
        assert last.table(table)["call_id"].tolist() == [1, 2]
        assert last.table(table)["lost"].tolist() == [1, 0]
    assert last.table("entries")["call_id"].tolist() == [1] * 3 + [2] * 3


def test_what_lies_in_two_recordings_is_whole_where_both_are_read(tmp_path: Path) -> None:
    """What is lost for one that lacks the other is not lost for who has both."""
    tracer = PlayedTracer()
    writers = [
        RecordingWriter(
            tmp_path / f"r.00000{number}",
            meta={"tier": "bpf", "rotation": {"number": number, "of": "r"}},
        )
        for number in (1, 2)
    ]
    pump = Pump(tracer, writers[0], PlayedFinder())  # type: ignore[arg-type]
    pump.start()
    with pump.keeping():
        tracer.put_call(1, time.monotonic_ns())
        assert tracer.drained.wait(WAIT_SECONDS)
        assert pump.swap(writers[1]) is writers[0]
        tracer.put_call(1, 1, 2)
        assert tracer.drained.wait(WAIT_SECONDS)
    pump.finish()
    for writer in writers:
        writer.finish()
    both, _ = open_recording(tmp_path / "r")
    alone, _ = open_recording(tmp_path / "r.000002")
    for table in ("calls", "migrations"):
        assert alone.table(table)["lost"].tolist() == [1]
        assert both.table(table)["lost"].tolist() == [0]
    assert both.table("entries").size == 3


def test_a_call_that_begins_while_recordings_change(session: Session) -> None:
    """What it did until the last look is in the first: it has begun before the second."""
    last_look = 0
    drain = session.tracer.drain

    def look(_most: int = 0) -> Drained:
        nonlocal last_look
        if threading.current_thread() is threading.main_thread():
            last_look = time.monotonic_ns()
        return drain()

    with session.pump.keeping():
        session.tracer.drain = look  # type: ignore[method-assign]
        second = Second(session)
        session.tracer.put_call(1, last_look, last_look + 1)
        assert session.tracer.drained.wait(WAIT_SECONDS)
    session.pump.finish()
    assert second.finish().table("calls")["lost"].tolist() == [1]


def test_each_recording_stands_for_itself(tmp_path: Path) -> None:
    """Processes are asked about again for the next one."""
    tracer, path = PlayedTracer(), tmp_path / "r"
    writer = RecordingWriter(path, meta={})
    (tmp_path / "proc/23").mkdir(parents=True)
    (tmp_path / "proc/23/comm").write_text("mover\n")
    pump = Pump(
        tracer,  # type: ignore[arg-type]
        writer,
        PlayedFinder(),  # type: ignore[arg-type]
        Processes(tmp_path),
    )
    pump.start()
    with pump.keeping():
        tracer.put_call(1, 1, 2)
        assert tracer.drained.wait(WAIT_SECONDS)
        after = RecordingWriter(tmp_path / "after", meta={})
        assert pump.swap(after) is writer
        tracer.put_call(2, 1, 2)
        assert tracer.drained.wait(WAIT_SECONDS)
    pump.finish()
    for each in (writer, after):
        each.finish()
        assert Recording.open(each.path).table("processes")["comm"].tolist() == [b"mover"]


def test_everybody_who_is_met_is_asked(tmp_path: Path) -> None:
    """Callers, the targets of their calls, mappers, and owners of folios that never ended."""
    people = {23: "mover", 29: "target", 31: "owner", 37: "mapper"}
    for tgid, comm in people.items():
        (tmp_path / f"proc/{tgid}").mkdir(parents=True)
        (tmp_path / f"proc/{tgid}/comm").write_text(comm + "\n")
    tracer, finder = PlayedTracer(), PlayedFinder()
    folio, found = np.zeros(1, FOLIO), np.zeros(1, MAPPER)
    folio["owner_tgid"], found["pid"] = 31, 37
    tracer.open_folios = lambda: folio  # type: ignore[method-assign]
    finder.find = lambda _: found  # type: ignore[method-assign]
    writer = RecordingWriter(tmp_path / "r", meta={})
    pump = Pump(tracer, writer, finder, Processes(tmp_path))  # type: ignore[arg-type]
    pump.start()
    with pump.keeping():
        tracer.put_call(1, 1, 2, target=29)
        assert tracer.drained.wait(WAIT_SECONDS)
        tracer.put(1)
        assert tracer.drained.wait(WAIT_SECONDS)
    pump.finish()
    writer.finish()
    rows = Recording.open(writer.path).table("processes")
    assert {int(row["tgid"]): row["comm"].decode() for row in rows} == people


def test_a_full_disk_is_told_to_the_session(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that drains ends, `failed` says so, and stopping it harms nobody."""

    def full(*_: object) -> None:
        raise RecordingError("can't write: no space left")

    monkeypatch.setattr(session.writer, "append", full)
    kept = session.pump.keeping()
    kept.__enter__()
    session.tracer.put(1)
    assert session.tracer.drained.wait(WAIT_SECONDS)
    session.pump.stop()
    assert session.pump.failed
    with pytest.raises(RecordingError, match="no space"):
        kept.__exit__(None, None, None)
    with pytest.raises(RecordingError, match="no space"):
        session.pump.finish()


def test_what_was_balanced_is_taken_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each look at the rings; of whom it is, is asked at once; all of it at the end."""
    monkeypatch.setattr("mptrace.sessions.pump._BALANCING_SECONDS", 3600.0)
    tracer = PlayedTracer()
    looks: list[bool] = []
    rows = np.zeros(1, BALANCING)
    rows["tgid"], rows["scans"] = 41, 7

    def balancing(now_ns: int, *, every: bool = False) -> Rows:
        assert abs(now_ns - time.monotonic_ns()) < 3600 * 10**9
        looks.append(every)
        return rows

    tracer.balancing = balancing  # type: ignore[method-assign]
    (tmp_path / "proc/41").mkdir(parents=True)
    (tmp_path / "proc/41/comm").write_text("balanced\n")
    writers = [RecordingWriter(tmp_path / name, meta={}) for name in ("r", "after")]
    pump = Pump(tracer, writers[0], PlayedFinder(), Processes(tmp_path))  # type: ignore[arg-type]
    pump.start()
    with pump.keeping():
        for call_id in range(1, 5):
            tracer.put_call(call_id, 1, 2)
            assert tracer.drained.wait(WAIT_SECONDS)
        pump.swap(writers[1])
    pump.finish()
    for writer in writers:
        writer.finish()
    # before the next recording, and the last look
    assert looks == [False, True]
    found = [Recording.open(writer.path).table("balancing") for writer in writers]
    assert [table["scans"].tolist() for table in found] == [[7], [7]]
    people = Recording.open(tmp_path / "r").table("processes")
    assert b"balanced" in people["comm"][people["tgid"] == 41].tolist()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings are taken when something presses, and at no other time."""
    monkeypatch.setattr(pace, "TAKE_SECONDS", 3600.0)


def looks(session: Session) -> Callable[[], None]:
    """Waits for the next look at the rings that has begun after it was called."""
    begun = threading.Semaphore(0)
    ask = session.tracer.fresh_obstacles

    def look() -> Rows:
        begun.release()
        return ask()

    session.tracer.fresh_obstacles = look  # type: ignore[method-assign]

    def wait() -> None:
        while begun.acquire(blocking=False):
            pass
        for _ in range(2):
            assert begun.acquire(timeout=WAIT_SECONDS)

    return wait


@pytest.mark.usefixtures("patient")
def test_who_is_new_is_met_before_what_they_did_is_taken(tmp_path: Path) -> None:
    """They may end meanwhile; they are asked once."""
    (tmp_path / "proc/23").mkdir(parents=True)
    (tmp_path / "proc/23/comm").write_text("mover\n")
    session = Session(tmp_path / "r", Processes(tmp_path))
    wait = looks(session)
    with session.pump.keeping():
        session.tracer.filled = 0.01
        session.tracer.fresh_tgids = (  # type: ignore[method-assign]
            lambda: np.array([23], np.uint32)
        )
        session.tracer.put_call(1, 1, 2)
        wait()
        assert session.writer.rows["processes"] == 1
        assert not session.tracer.drained.is_set()
    recording = session.finish()
    assert recording.table("calls").size == 1
    assert recording.table("processes")["comm"].tolist() == [b"mover"]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("what", ["mappers", "stacks", "other"])
def test_what_may_end_is_not_kept_waiting(session: Session, what: str) -> None:
    """Who maps a refused page, whose stack it is; a refusal for another reason is not urgent."""
    tracer = session.tracer
    tracer.filled = 0.01
    wait = looks(session)
    with session.pump.keeping():
        stage = STAGE_MOVE if what == "other" else STAGE_SHARED
        if what == "stacks":
            tracer.has_fresh_stacks = True
        else:
            refused = np.zeros(1, OBSTACLE)
            refused["stage"], refused["src"], refused["mapcount"] = stage, 1, 2
            tracer.fresh_obstacles = lambda: refused  # type: ignore[method-assign]
            wait = looks(session)
        tracer.put(1, stage)
        if what == "other":
            wait()
            assert not tracer.drained.is_set()
        else:
            assert tracer.drained.wait(WAIT_SECONDS)
    assert session.finish().table("obstacles").size == 1
