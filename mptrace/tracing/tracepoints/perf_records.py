# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of a perf ring buffer as arrays: samples, losses, threads that come and go.

Layouts are those of ``perf_event_open(2)`` for ``sample_type`` TID | TIME | RAW with
``sample_id_all``.  Records have no fixed size, but neighbours mostly have the same: a
ring is cut into runs of equal records, so that a loop runs per run and none per record.
"""

from collections.abc import Iterator

import numpy as np

from mptrace.arrays import Bytes, Table

# enum perf_event_type
_LOST = 2
_COMM = 3
_EXIT = 4
_FORK = 7
_SAMPLE = 9
_KINDS = {_COMM: "comm", _EXIT: "exit", _FORK: "fork"}

_HEADER = np.dtype([("type", "<u4"), ("misc", "<u2"), ("size", "<u2")])
#: A sample up to its raw data, which follows at RAW_OFFSET.
SAMPLE_HEAD = np.dtype(
    [
        ("header", _HEADER),
        ("tgid", "<u4"),
        ("tid", "<u4"),
        ("time_ns", "<u8"),
        ("raw_bytes", "<u4"),
    ]
)
RAW_OFFSET = SAMPLE_HEAD.itemsize
# What ends every record that is no sample: struct sample_id.
_TRAILER = np.dtype([("tgid", "<u4"), ("tid", "<u4"), ("time_ns", "<u8")])
_LOST_RECORD = np.dtype(
    [("header", _HEADER), ("id", "<u8"), ("count", "<u8"), ("trailer", _TRAILER)]
)
_TASK_RECORD = np.dtype(
    [
        ("header", _HEADER),
        ("tgid", "<u4"),
        ("parent_tgid", "<u4"),
        ("tid", "<u4"),
        ("parent_tid", "<u4"),
        ("time_ns", "<u8"),
    ]
)

#: Records that a ring had no room for, and when: after ``from_ns``, before ``to_ns``.
LOSS = np.dtype([("from_ns", "<u8"), ("to_ns", "<u8"), ("count", "<u8")])
#: A thread that was created, got a name or ended (`kind`: "fork", "comm", "exit").
TASK = np.dtype(
    [
        ("time_ns", "<u8"),
        ("tgid", "<u4"),
        ("tid", "<u4"),
        ("parent_tgid", "<u4"),
        ("parent_tid", "<u4"),
        ("kind", "S4"),
        ("comm", "S16"),
    ]
)


def record_bytes(raw_bytes: int) -> int:
    """Size of a sample's record whose raw data, a struct of the kernel's, has ``raw_bytes``."""
    return RAW_OFFSET - 4 + -(-(raw_bytes + 4) // 8) * 8


def runs(data: Bytes) -> Iterator[tuple[int, Bytes]]:
    """The records of ``data``, whole ones in order: type and shape (n, size) of each run.

    Raises ValueError where ``data`` does not divide into records.
    """
    data = np.ascontiguousarray(data)
    start = 0
    while start < data.size:
        header = data[start : start + _HEADER.itemsize].view(_HEADER)[0]
        kind, size = int(header["type"]), int(header["size"])
        if size < _HEADER.itemsize or size % 8 or start + size > data.size:
            raise ValueError(f"a record of {size} bytes at {start} of {data.size}")
        count = (data.size - start) // size
        block = data[start : start + count * size].reshape(count, size)
        heads = block[:, : _HEADER.itemsize].copy().view(_HEADER)[:, 0]
        other = (heads["type"] != kind) | (heads["size"] != size)
        if other.any():
            block = block[: int(other.argmax())]
        yield kind, block
        start += block.size


def split(data: Bytes, last_ns: int) -> tuple[list[Bytes], Table, Table, int]:
    """What one ring held: runs of samples, LOSS rows, TASK rows, and the time of its last record.

    ``last_ns`` is what the call before returned for this ring (or when it was opened):
    a loss begins after it.
    """
    samples: list[Bytes] = []
    losses: list[tuple[int, int, int]] = []
    tasks: list[Table] = []
    for kind, block in runs(data):
        if kind == _SAMPLE:
            samples.append(block)
            last_ns = max(last_ns, int(head(block)["time_ns"].max()))
        elif kind == _LOST:
            for row in block.view(_LOST_RECORD)[:, 0]:
                until = int(row["trailer"]["time_ns"])
                losses.append((last_ns, until, int(row["count"])))
                last_ns = until
        elif kind in _KINDS:
            tasks.append(_tasks(kind, block))
    found = np.concatenate(tasks) if tasks else np.empty(0, TASK)
    return samples, np.array(losses, LOSS), found, last_ns


def head(block: Bytes) -> Table:
    """The fixed part of a run of samples, shape (n,), dtype SAMPLE_HEAD."""
    rows: Table = np.ascontiguousarray(block[:, :RAW_OFFSET]).view(SAMPLE_HEAD)[:, 0]
    return rows


def raw(block: Bytes) -> Bytes:
    """The raw data of a run of samples, shape (n, size)."""
    return np.ascontiguousarray(block[:, RAW_OFFSET:])


def _tasks(kind: int, block: Bytes) -> Table:
    rows = np.zeros(len(block), TASK)
    rows["kind"] = _KINDS[kind].encode()
    if kind == _COMM:
        width = block.shape[1] - _HEADER.itemsize - 8 - _TRAILER.itemsize
        named = np.dtype(
            [
                ("header", _HEADER),
                ("tgid", "<u4"),
                ("tid", "<u4"),
                ("comm", f"S{width}"),
                ("trailer", _TRAILER),
            ]
        )
        record = np.ascontiguousarray(block).view(named)[:, 0]
        rows["comm"] = record["comm"]
        rows["time_ns"] = record["trailer"]["time_ns"]
    else:
        record = np.ascontiguousarray(block[:, : _TASK_RECORD.itemsize]).view(_TASK_RECORD)[:, 0]
        for name in ("parent_tgid", "parent_tid", "time_ns"):
            rows[name] = record[name]
    for name in ("tgid", "tid"):
        rows[name] = record[name]
    return rows
