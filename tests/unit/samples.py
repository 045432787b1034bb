# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw samples as a kernel writes them into a perf ring, and events without that detour."""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mptrace.tracing.tracepoints.formats import EVENT, Format

FIXTURES = Path(__file__).parents[1] / "fixtures"
SERIES = ("6.1", "6.12")

SET_PTE, REMOVE_PTE = "migrate:set_migration_pte", "migrate:remove_migration_pte"
START, END = "migrate:mm_migrate_pages_start", "migrate:mm_migrate_pages"


def formats_of(series: str) -> dict[str, Format]:
    """Formats of the tracepoints as a kernel of that series has them."""
    text = (FIXTURES / f"tracepoint-formats-{series}.txt").read_text()
    parts = re.split(r"^=== (\S+)$", text, flags=re.MULTILINE)[1:]
    return {
        name.replace("/", ":"): Format.parse(body)
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def sample(layout: Format, time_ns: int, tid: int = 7, tgid: int = 0, **fields: int) -> bytes:
    """A PERF_RECORD_SAMPLE of TID | TIME | RAW whose raw data has these fields."""
    raw = bytearray(layout.raw_bytes)
    values = {"common_type": layout.event_id, "common_pid": tid, **fields}
    for name, value in values.items():
        offset, size, _ = layout.fields[name]
        raw[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    # perf pads the raw data so that, with its length, it is a multiple of eight
    raw += bytes(-(len(raw) + 4) % 8)
    body = struct.pack("<IIQI", tgid or tid, tid, time_ns, len(raw)) + raw
    return struct.pack("<IHH", 9, 1, 8 + len(body)) + body


def lost(time_ns: int, count: int) -> bytes:
    """A PERF_RECORD_LOST."""
    return struct.pack("<IHHQQIIQ", 2, 0, 40, 1, count, 0, 0, time_ns)


def comm(time_ns: int, tid: int, name: str, tgid: int = 0) -> bytes:
    """A PERF_RECORD_COMM."""
    text = name.encode() + b"\0"
    text += bytes(-len(text) % 8)
    size = 16 + len(text) + 16
    return (
        struct.pack("<IHHII", 3, 0, size, tgid or tid, tid)
        + text
        + struct.pack("<IIQ", tgid or tid, tid, time_ns)
    )


def task(kind: int, time_ns: int, tid: int, parent: int) -> bytes:
    """A PERF_RECORD_FORK (7) or PERF_RECORD_EXIT (4) of a process."""
    return struct.pack(
        "<IHHIIIIQIIQ", kind, 0, 48, tid, parent, tid, parent, time_ns, tid, tid, time_ns
    )


def bytes_of(*records: bytes) -> npt.NDArray[np.uint8]:
    """What a ring with these records holds."""
    return np.frombuffer(b"".join(records), np.uint8)


# ---- words of page tables, as the kernel makes them (x86-64) -------------------------

#: _PAGE_PRESENT, RW, USER, ACCESSED, DIRTY and NX.
FLAGS = 0x8000_0000_0000_0067
MASK = (1 << 64) - 1


def present(pfn: int) -> int:
    """The word of a page table entry that maps a page frame."""
    return pfn << 12 | FLAGS


def migrating(pfn: int, swap_type: int = 31) -> int:
    """The word of a migration entry; young and dirty, as since 6.1."""
    offset = pfn | 3 << 34
    # __swp_entry(): the type in the top five bits, the offset inverted below them
    return ((~offset & MASK) << 14 & MASK) >> 5 | swap_type << 59


def event(kind: int, time_ns: int, first: int = 0, second: int = 0, **more: Any) -> np.void:
    """One EVENT row; of thread 7 unless told otherwise."""
    row = np.zeros(1, EVENT)
    values = {"kind": kind, "time_ns": time_ns, "first": first, "second": second, "tid": 7, **more}
    for name, value in values.items():
        row[name] = value
    row["tgid"] = more.get("tgid", row["tid"])
    return row[0]


def events(*rows: np.void) -> npt.NDArray[np.void]:
    """Rows of `event` as an array."""
    return np.array(list(rows), EVENT)
