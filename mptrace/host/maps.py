# SPDX-License-Identifier: GPL-2.0-or-later
"""The mappings of a process, read from /proc while it is there, as rows of a recording."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Addresses, Bools, Table
from mptrace.host import proc
from mptrace.recording.mapping import (
    CUT,
    CUT_NAME,
    DENIED,
    ENDED,
    LEFT_OUT,
    MAPPING,
    NAME_BYTES,
    NO_MEMORY,
)

_SLASH = Path("/")
_FILE = re.compile(rb"([0-9a-f]+):([0-9a-f]+) (\d+)")
_HEAD_BYTES = 16
_LOOKS = 3
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """What one look at a process gave.

    ``rows``: dtype MAPPING, one for each mapping, in order; or a single one that says why
    there are none.  ``image`` is None where there are none.
    """

    rows: Table
    image: proc.Image | None

    def holds(self, firsts: Addresses, lasts: Addresses) -> Bools:
        """Which spans lie in mappings without a gap, or beyond the bound of what was read.

        A span goes from an address to another one, which may be the same, both inclusive.
        """
        starts, ends = self.rows["start"], self.rows["end"]
        has_end = self.rows["state"] != CUT
        first, last = (
            np.searchsorted(starts, addresses, side="right") - 1 for addresses in (firsts, lasts)
        )
        gaps = np.cumsum(np.append(True, starts[1:] != ends[:-1]))
        found: Bools = (first >= 0) & (gaps[first] == gaps[last])
        for place, addresses in ((first, firsts), (last, lasts)):
            found &= (addresses < ends[place]) | ~has_end[place]
        return found


def left_out(tgid: int) -> Table:
    """The row of a process that is beyond the bounds."""
    return _state(tgid, LEFT_OUT, time.monotonic_ns())


def read(tgid: int, most: int, root: Path = _SLASH) -> Reading:
    """Its first ``most`` mappings; raises nothing.

    What changes while it is read (the kernel gives a page of text at once) may be in it or
    not; a program that is replaced meanwhile is read as one that had ended.
    """
    seen_ns = time.monotonic_ns()
    try:
        before = proc.image(tgid, root)
        if before.is_kthread:
            return Reading(_state(tgid, NO_MEMORY, seen_ns), None)
        text, is_cut = proc.maps_begin(tgid, most, root)
        if not text:
            # its first thread has ended, and others may go on
            others = (tid for tid in proc.tids(tgid, root) if tid != tgid)
            text, is_cut = proc.maps_begin(next(others, tgid), most, root)
        after = proc.image(tgid, root)
    except PermissionError:
        return Reading(_state(tgid, DENIED, seen_ns), None)
    except (OSError, ValueError, IndexError):
        return Reading(_state(tgid, ENDED, seen_ns), None)
    # a zombie has no memory any more
    if before != after or not text:
        return Reading(_state(tgid, ENDED, seen_ns), None)
    rows = _rows(tgid, text, is_cut)
    rows["seen_ns"], rows["born_ns"] = seen_ns, _born_ns(before)
    return Reading(rows, before)


def _rows(tgid: int, text: bytes, is_cut: bool) -> Table:
    found = [
        (0, 0, one.start, one.end, one.offset, *_file(one.file), 0, one.perms, _name(one.name))
        for one in proc.mapped(text)
    ]
    fields = ["seen_ns", "born_ns", "start", "end", "offset", "inode", "dev", "state", "perms"]
    rows = np.zeros(len(found) + is_cut, MAPPING)
    if found:
        some: npt.NDArray[np.void] = np.array(
            found, np.dtype([(name, MAPPING[name]) for name in (*fields, "name")])
        )
        for name in (*fields, "name"):
            rows[name][: len(found)] = some[name]
    if is_cut:
        rows["state"][-1], rows["start"][-1] = CUT, found[-1][3] if found else 0
    rows["tgid"] = tgid
    return rows


def _file(text: bytes) -> tuple[int, int]:
    """Inode and device of a mapping's file."""
    match = _FILE.fullmatch(text)
    assert match is not None  # as proc.mapped() has it
    return int(match[3]), int(match[1], 16) << 20 | int(match[2], 16)


def _name(name: bytes) -> bytes:
    if len(name) <= NAME_BYTES:
        return name
    # by its head it is told what it is, by its end which
    return name[:_HEAD_BYTES] + CUT_NAME + name[_HEAD_BYTES + len(CUT_NAME) - NAME_BYTES :]


def _born_ns(image: proc.Image) -> int:
    """When it was started, by CLOCK_MONOTONIC: /proc counts the time of suspends, too."""
    suspended = min(_suspended_ns() for _ in range(_LOOKS))
    return max(image.start_ticks * 10**9 // _TICKS - suspended, 0)


def _suspended_ns() -> int:
    """Never less than it is; more, where another thread goes on between the two clocks."""
    monotonic = time.monotonic_ns()
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - monotonic


def _state(tgid: int, state: int, seen_ns: int) -> Table:
    row = np.zeros(1, MAPPING)
    row["tgid"], row["state"], row["seen_ns"] = tgid, state, seen_ns
    return row
