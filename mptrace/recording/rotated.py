# SPDX-License-Identifier: GPL-2.0-or-later
"""The recordings of a session that rotated, read as one.

``BASE`` is a recording, or the name of a session whose recordings are ``BASE.000001``
and so on.  Each call and migration has its row in one of them; what lies across a
boundary is marked as lost there, as a part of it is in the recording before, and
is not lost where both are read.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mptrace.arrays import Table
from mptrace.errors import RecordingError
from mptrace.recording.directory import META
from mptrace.recording.layouts import TABLES
from mptrace.recording.meta import Meta, RecorderCost
from mptrace.recording.reader import PartSource, Recording
from mptrace.recording.rotation import numbered

#: Tables with rows that are marked as lost where they lie across a boundary.
_MARKED = {"bpf": ("calls", "migrations"), "tracepoints": ("calls",)}


class Joined:
    """Recordings of one session, in order, as one: `meta`, `table` and the rest as of one.

    ``notes`` are sentences about what is not read, or not there.
    """

    def __init__(self, path: Path, parts: Sequence[Recording], notes: Iterable[str] = ()) -> None:
        self.path = path
        self._parts = parts
        self._numbers = [_number(part) for part in parts]
        first, last = self._numbers[0], self._numbers[-1]
        gone = [number for number in range(first, last) if number not in self._numbers]
        #: Files, and whole recordings, that the numbering shows to be gone.
        self.missing_parts = (
            *(f"{path.name}.{number:06d}" for number in gone),
            *(f"{part.path.name}/{name}" for part in parts for name in part.missing_parts),
        )
        self.notes = (*notes, *([_earlier(path, first)] if first > 1 else []))
        self._tables: dict[str, Table] = {}

    @cached_property
    def meta(self) -> Meta:
        """meta.json of all: from the first one's begin to the last one's end."""
        metas = [part.meta.raw for part in self._parts]
        meta = {
            **metas[-1],
            "started": metas[0].get("started"),
            "complete": self.complete,
            "interrupted": any(each.get("interrupted") for each in metas),
            "lost": _lost(self._parts),
            "recorder": _recorder(metas),
            "rotation": {"numbers": self._numbers, "of": self.path.name},
        }
        for key in ("symbols", "cgroups"):
            meta[key] = {name: text for m in metas for name, text in (m.get(key) or {}).items()}
        for key in ("mappings", "unseen"):
            found: list[Any] = []
            for each in metas:
                found += [one for one in each.get(key) or () if one not in found]
            meta[key] = found
        meta.pop("parts", None)
        return Meta.of(meta)

    @property
    def complete(self) -> bool:
        """Whether the session ended in order, and its last recording is here."""
        last = self._parts[-1].meta
        # who wrote no `session` did not say which one is the last either
        there = last.last_part or "session" not in last.raw
        return there and all(part.complete for part in self._parts)

    def table(self, name: str) -> Table:
        """All rows of a table, shape (n,), dtype ``layouts.TABLES[name]``."""
        if name not in self._tables:
            tables = [part.table(name) for part in self._parts]
            if name in _MARKED.get(str(self.meta.tier), ()):
                tables = [self._unmarked(index, rows) for index, rows in enumerate(tables)]
            rows = np.concatenate(tables)
            self._tables[name] = _once(rows) if name == "processes" else rows
        return self._tables[name]

    def tables(self) -> dict[str, Table]:
        """Every table by name."""
        return {name: self.table(name) for name in TABLES}

    def sources(self, name: str) -> list[PartSource]:
        """The parts of a table of all recordings in the order of its rows, but of marked ones."""
        return [source for part in self._parts for source in part.sources(name)]

    def _unmarked(self, index: int, rows: Table) -> Table:
        """Rows that are whole, as every recording since they began is here."""
        first = index
        while first and self._numbers[first - 1] == self._numbers[first] - 1:
            first -= 1
        boundary = self._parts[index].meta.boundary_ns
        since = self._parts[first].meta.boundary_ns
        if first == index or not boundary or not (since or self._numbers[first] == 1):
            return rows
        whole = (rows["enter_ns"] >= since) & (rows["enter_ns"] < boundary) & (rows["lost"] > 0)
        rows = rows.copy()
        rows["lost"][whole] -= 1
        return rows


def open_recording(path: Path) -> "tuple[Recording | Joined, tuple[str, ...]]":
    """The recording at ``path``, or those of the rotated session of that name; and notes.

    :raises RecordingError: there is neither, or one of them can't be read.
    """
    others = numbered(path)
    if os.path.lexists(path) or not others:
        notes: tuple[str, ...] = ()
        if others:
            note = f"'{others[0]}' is another session's and is not read; give its name to read it"
            if len(others) > 1:
                note = (
                    f"'{others[0]}' to '{others[-1]}' are another session's and are not read; "
                    "give a name to read one"
                )
            notes = (note,)
        return Recording.open(path), notes
    joined = _joined(path, others)
    return joined, joined.notes


def _joined(path: Path, found: Sequence[Path]) -> Joined:
    notes = []
    sessions: dict[object, list[Recording]] = {}
    began, group = 0, 0
    for each in found:
        if not _may_be_recording(each):
            notes.append(f"'{each}' is not a recording and is not read")
            continue
        part = Recording.open(each)
        if not _number(part):
            notes.append(f"'{each}' is not part of a session that rotated, and is not read")
            continue
        session = part.meta.session
        start = _started(part)
        if session is None and start < began:
            # an older session's: its numbers go on where a newer one has ended
            group += 1
        began = start
        parts = sessions.setdefault(group if session is None else session, [])
        if _number(part) in map(_number, parts):
            notes.append(f"'{each}' is a copy of another recording, and is not read")
            continue
        parts.append(part)
    if not sessions:
        raise RecordingError(
            f"there is no recording '{path}', and no session by that name",
            "\n  ".join(notes),
        )
    *others, newest = sorted(sessions.values(), key=lambda parts: _started(parts[-1]))
    for parts in others:
        names = " to ".join(dict.fromkeys(f"'{p.path}'" for p in (parts[0], parts[-1])))
        notes.append(f"not read, as an older session wrote it: {names}")
    return Joined(path, sorted(newest, key=_number), notes)


def _may_be_recording(path: Path) -> bool:
    """False where it is certainly none; what can't be looked into is an error of reading."""
    try:
        return META in os.listdir(path)
    except NotADirectoryError:
        return False
    except OSError:
        return True


def _number(part: Recording) -> int:
    """Which of its session's recordings it is, 0: of none."""
    rotation = part.meta.rotation
    return rotation.numbers[0] if rotation and rotation.numbers else 0


def _started(part: Recording) -> int:
    started = part.meta.started
    return (started.wall_ns or 0) if started else 0


def _earlier(path: Path, first: int) -> str:
    there = f"{path.name}.{first:06d}"
    return f"the session's recordings before '{there}' are gone (--keep removes them)"


def _lost(parts: Sequence[Recording]) -> dict[str, int]:
    """Losses of all, by cause; {} (not recorded) where one that was killed may hide some."""
    told = [part.meta.lost for part in parts]
    total: dict[str, int] = {}
    for lost in told:
        for cause, count in lost.items():
            total[cause] = total.get(cause, 0) + count
    return total if all(told) or any(total.values()) else {}


def _recorder(metas: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """What recording took for all; None where one does not say it."""
    told = [each.get("recorder") for each in metas]
    total = RecorderCost.of(each for each in told if each)
    return vars(total) if total and all(told) else None


def _once(processes: Table) -> Table:
    """Each process once: every recording has those that it met, by its own asking."""
    named = set(processes["tgid"][processes["comm"] != b""].tolist())
    seen = set()
    kept = np.zeros(len(processes), bool)
    columns = [processes[name].tolist() for name in ("tgid", "comm", "uid", "cgroup_id")]
    for row, who in enumerate(zip(*columns, strict=True)):
        # gone when it was asked about again
        nameless = not who[1] and who[0] in named
        kept[row] = who not in seen and not nameless
        seen.add(who)
    return processes[kept]
