# SPDX-License-Identifier: GPL-2.0-or-later
"""A session by BPF, with a tracer that is played: its threads don't hinder each other."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace.recording.balancing import BALANCING
from mptrace.recording.layouts import (
    CALL,
    CHUNK_SMALL,
    FOLIO,
    MIGRATION,
    OBSTACLE,
    PROCESS,
    TABLES,
    WAIT,
)
from mptrace.sessions import record_bpf
from mptrace.sessions.record_bpf import BpfSession
from mptrace.sessions.request import RecordRequest, Wanted
from mptrace.tracer import Drained
from mptrace.tracing.plan.scope import Scope
from mptrace.tracing.program.chunks import chunk_sides

#: Times that the last of a recording's meta is made while the rings are drained.
LOOKS = 100
#: New addresses, and new processes with a cgroup each, at every look at the rings.
NEW = 7


class PlayedTracer:
    """Rings that always hold what was never met before."""

    has_stacks = has_fresh_stacks = False
    #: They press, always.
    fill = 0.5

    def __init__(self) -> None:
        self.drains = 0

    def fresh_tgids(self) -> np.ndarray[Any, Any]:
        """None."""
        return np.empty(0, np.uint32)

    def fresh_obstacles(self) -> np.ndarray[Any, Any]:
        """None."""
        return np.empty(0, OBSTACLE)

    def drain(self, _most: int = 0) -> Drained:
        """Refusals by other operations, migrations by other processes than all before."""
        first = 1 + self.drains * NEW
        self.drains += 1
        obstacles, migrations = np.zeros(NEW, OBSTACLE), np.zeros(NEW, MIGRATION)
        obstacles["a_ops"] = migrations["tgid"] = first + np.arange(NEW)
        return Drained(
            folios=np.empty(0, FOLIO),
            obstacles=obstacles,
            migrations=migrations,
            calls=np.empty(0, CALL),
            sides=chunk_sides(np.empty(0, CHUNK_SMALL)),
            waits=np.empty(0, WAIT),
        )

    def losses(self) -> dict[str, int]:
        return {"ring": 0}

    def open_scope(self, _scope: Scope) -> None:
        return None

    def choose(self, _tgids: tuple[int, ...]) -> None:
        return None

    def close_gate(self) -> None:
        return None

    def open_folios(self) -> np.ndarray[Any, Any]:
        return np.empty(0, FOLIO)

    def balancing(self, _now_ns: int, **_every: bool) -> np.ndarray[Any, Any]:
        """None."""
        return np.empty(0, BALANCING)

    def open_obstacles(self) -> np.ndarray[Any, Any]:
        return np.empty(0, OBSTACLE)


class PlayedProcesses:
    """As many cgroups as there are processes."""

    def __init__(self) -> None:
        self.cgroups: dict[int, str] = {}

    def meet(self, tgids: list[int]) -> np.ndarray[Any, Any]:
        for tgid in tgids:
            self.cgroups[tgid] = f"/{tgid}"
        return np.empty(0, PROCESS)

    def learn(self, cgroup_ids: list[int]) -> None:
        for cgroup_id in filter(None, cgroup_ids):
            self.cgroups[cgroup_id] = f"/{cgroup_id}"

    def forget(self) -> None:
        return None


class Nowhere:
    """A recording that keeps nothing."""

    bytes = 0

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}

    def append(self, _table: str, _rows: object) -> None:
        return None

    def tick(self) -> None:
        return None


class PlayedParts:
    """Recordings that end again and again."""

    def __init__(self) -> None:
        self.writer = Nowhere()
        self.paths: tuple[Path, ...] = ()
        self.rows = dict.fromkeys(TABLES, 0)
        self.recorder = None
        self.metas: list[dict[str, Any]] = []

    def rotate_if_due(
        self, _age_s: float, hand_over: Callable[[Any], Any], last_meta: Callable[[], Any]
    ) -> bool:
        for _ in range(LOOKS):
            hand_over(self.writer)
            self.metas.append(last_meta())
        return True

    def finish(self, last_meta: dict[str, Any]) -> None:
        self.metas.append(last_meta)


class PlayedCommand:
    """Ends when a recording has."""

    pid = 23

    def __init__(self, parts: PlayedParts) -> None:
        self._parts = parts

    def release(self) -> None:
        return None

    def poll(self) -> int | None:
        return 0 if self._parts.metas else None

    def outlast(self, _progress: object) -> int:
        return 0


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_a_recording_ends_while_the_rings_are_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its meta names is a snapshot: everything met before, while more comes."""
    monkeypatch.setattr(record_bpf, "Processes", PlayedProcesses)
    monkeypatch.setattr(
        record_bpf, "symbols_of", lambda addresses: {f"{a:#x}": "f" for a in addresses}
    )
    tracer, parts = PlayedTracer(), PlayedParts()
    request = RecordRequest(Wanted(), Path("r"))
    arguments: tuple[Any, ...] = (request, Scope("pids"), parts, tracer, PlayedCommand(parts))
    BpfSession(*arguments, lambda _: None).run()
    assert len(parts.metas) == LOOKS + 1
    met = [(len(meta["symbols"]), len(meta["cgroups"])) for meta in parts.metas]
    assert met == sorted(met)
    # address 0 too: of these refusals no operation of migration is known
    assert met[-1][0] == met[-1][1] + 1
    assert met[-1][0] > NEW * LOOKS
