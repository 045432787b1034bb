# SPDX-License-Identifier: GPL-2.0-or-later
"""From the rings into a recording, with a tracer and a search that are played."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace import mappers
from mptrace.arrays import chunk_rows
from mptrace.pump import Pump
from mptrace.recording import Recording, RecordingWriter
from mptrace.records import (
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
from mptrace.tracer import Drained

Rows = np.ndarray[Any, Any]
WAIT_SECONDS = 30


class PlayedTracer:
    """Rings that hold what a test put there."""

    def __init__(self) -> None:
        self._rings: list[Rows] = []
        self._lock = threading.Lock()
        self.drained = threading.Event()

    def put(self, count: int, stage: int = STAGE_SHARED, first: int = 0) -> None:
        """So many refusals of different pages."""
        rows = np.zeros(count, OBSTACLE)
        rows["call_id"], rows["src"] = 7, 1 + first + np.arange(count)
        rows["stage"], rows["mapcount"] = stage, 2
        with self._lock:
            self.drained.clear()
            self._rings.append(rows)

    def drain(self) -> Drained:
        """All that is there."""
        with self._lock:
            rows = self._rings.pop(0) if self._rings else np.empty(0, OBSTACLE)
            if not self._rings:
                self.drained.set()
        sides = chunk_rows(np.empty(0, CHUNK_SMALL))
        return Drained(
            folios=np.empty(0, FOLIO),
            obstacles=rows,
            migrations=np.empty(0, MIGRATION),
            calls=np.empty(0, CALL),
            sides=sides,
            waits=np.empty(0, WAIT),
        )

    def open_obstacles(self) -> Rows:
        return np.empty(0, OBSTACLE)

    def open_folios(self) -> Rows:
        """None."""
        return np.empty(0, FOLIO)


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

    def __init__(self, path: Path) -> None:
        self.tracer, self.finder = PlayedTracer(), PlayedFinder()
        self.path = path
        self.writer = RecordingWriter(path, meta={})
        self.pump = Pump(self.tracer, self.writer, self.finder)  # type: ignore[arg-type]
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
