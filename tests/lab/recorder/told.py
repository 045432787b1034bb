# SPDX-License-Identifier: GPL-2.0-or-later
"""On the host: what callers kept of their calls, and how a recording's rows compare with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mptrace.outcomes.correlate import Correlation, correlate
from mptrace.outcomes.implied import with_implied
from mptrace.recording.layouts import OUTCOMES, READ_NODES, READ_PAGES, READ_STATUS
from mptrace.recording.rotated import open_recording

UNKNOWN, MOVED, ALREADY_THERE, FAILED, NOT_ATTEMPTED = range(len(OUTCOMES))
COMPAT_HEAD = np.dtype(
    [
        ("count", "<u8"),
        ("before_ns", "<u8"),
        ("after_ns", "<u8"),
        ("ret", "<i4"),
        ("tid", "<u4"),
    ]
)


@dataclass(frozen=True)
class Told:
    """A call as its caller kept it; the arrays as far as it had them, places as far as asked."""

    count: int
    address: np.ndarray
    target: np.ndarray
    status: np.ndarray
    before: np.ndarray
    after: np.ndarray
    ret: int | None = None
    tid: int | None = None
    fill: int = 0x7777


def read_told(path: Path) -> Told:
    """What hostile.py kept."""
    with np.load(path) as data:
        more = {name: int(data[name]) for name in ("ret", "tid", "fill") if name in data}
        if path.stem == "in_pid_namespace":
            more.pop("tid")  # a number of that namespace
        return Told(
            int(data["count"]),
            *(data[name] for name in ("address", "target", "status", "before", "after")),
            **more,
        )


def read_compat(path: Path) -> list[Told]:
    """What compat.c kept."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        head = np.frombuffer(data, COMPAT_HEAD, 1, at)[0]
        at += COMPAT_HEAD.itemsize
        count = int(head["count"])
        arrays = []
        for kind in ("<u4", "<i4", "<i4", "<i4", "<i4"):
            arrays.append(np.frombuffer(data, kind, count, at))
            at += count * 4
        arrays[0] = arrays[0].astype(np.uint64)
        found.append(Told(count, *arrays, ret=int(head["ret"]), tid=int(head["tid"])))
    return found


class Judged:
    """A recording with its verdicts, by call."""

    def __init__(self, path: Path) -> None:
        recording, _ = open_recording(path)
        self.meta = recording.meta
        self.tables = with_implied(recording.tables(), recording.meta)
        self.found: Correlation = correlate(self.tables, recording.meta)
        self._starts = np.searchsorted(
            self.found.rows["call"], np.arange(len(self.found.call_ids) + 1)
        )

    def rows_of(self, call: np.void) -> np.ndarray:
        """Rows of one call of `tables`, by entry."""
        number = int(np.flatnonzero(self.found.call_ids == call["call_id"])[0])
        return self.found.rows[self._starts[number] : self._starts[number + 1]]

    def call_of(self, told: Told) -> np.void:
        """The one record of a call."""
        calls = self.tables["calls"]
        own = calls[calls["nr_pages"] == np.uint64(told.count)]
        if told.tid is not None:
            own = own[own["tid"] == told.tid]
        assert len(own) == 1, (told.count, own)
        return own[0]


def assert_right_or_unknown(told: Told, call: np.void, rows: np.ndarray) -> dict[str, int]:
    """Nothing that was recorded of a call contradicts its caller; rows by outcome."""
    if told.ret is not None:
        assert call["ret"] == told.ret
    assert rows["entry"].tolist() == list(range(len(rows)))

    def agree(recorded: np.ndarray, unread: np.ndarray, own: np.ndarray) -> None:
        n = min(len(own), len(rows))
        known = unread[:n] == 0
        assert (recorded[:n][known] == own[:n][known]).all()

    agree(rows["address"], rows["unread"] & READ_PAGES, told.address)
    agree(rows["target_nid"], rows["unread"] & READ_NODES, told.target)
    agree(rows["status_after"], rows["unread"] & READ_STATUS, told.status)
    filled = np.full(len(told.status), told.fill)
    agree(rows["status_before"], rows["unread_before"], filled)

    outcome = rows["outcome"]
    # what lies beyond the caller's arrays has neither moved nor failed
    beyond = outcome[min(len(told.address), len(told.target)) :]
    assert np.isin(beyond, (UNKNOWN, NOT_ATTEMPTED)).all()
    n = min(len(rows), len(told.before))
    target, before, after = told.target[:n], told.before[:n], told.after[:n]
    outcome = outcome[: len(target)]
    moved, there = outcome[:n] == MOVED, outcome[:n] == ALREADY_THERE
    stayed = np.isin(outcome[:n], (FAILED, NOT_ATTEMPTED))
    assert (after[moved] == target[moved]).all()
    assert (before[moved] != target[moved]).all()
    assert (before[there] == target[there]).all()
    assert (after[there] == target[there]).all()
    assert (after[stayed] == before[stayed]).all()
    return {name: int((rows["outcome"] == number).sum()) for number, name in enumerate(OUTCOMES)}
