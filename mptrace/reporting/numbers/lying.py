# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies at the address of a folio that was refused, as far as it was recorded.  Pure."""

import numpy as np

from mptrace.arrays import Tables
from mptrace.outcomes.causes import obstacles
from mptrace.outcomes.causes.obstacles import MAPPING_KINDS
from mptrace.outcomes.lying import Lying
from mptrace.recording.layouts import NO_LOOKUP, SEEN_FILE, SEEN_STATE, STAGE_VMA
from mptrace.reporting.numbers.sums import Numbers


class There:
    """What lies at the folios that a report names as examples, noted while their slice is here."""

    def __init__(self, lying: Lying) -> None:
        self._lying = lying
        self._found: dict[int, Numbers] = {}

    def note(self, number: int, tables: Tables, folio: int) -> None:
        """Note one by its number in the recording; ``folio``: its row in ``tables``."""
        self._found[number] = lies_there(tables, self._lying, folio)

    def at(self, number: int | None) -> Numbers:
        """``kind`` and ``file`` of one that was noted; None: no folio is known."""
        return {"kind": None, "file": None} if number is None else self._found[number]


def lies_there(tables: Tables, lying: Lying, folio: int | None) -> Numbers:
    """``kind`` and ``file`` of the page of a row of `folios`, from what its refusal left.

    ``kind``: one of ``obstacles.MAPPING_KINDS``, None where it was not read or the page has
    no mapping; ``file``: {``fs``, ``device``, ``inode``, ``path``}, None where it is none, or not
    read; ``path`` is None where no process whose mappings were read maps that file.
    """
    table = obstacles.of(tables)
    if folio is None or not table.size:
        return {"kind": None, "file": None}
    record = tables["folios"][folio]
    if record["lookup_seq"] != NO_LOOKUP:
        hit = (table["call_id"] == record["call_id"]) & (
            table["lookup_seq"] == record["lookup_seq"]
        )
    else:
        hit = (table["migration_id"] == record["migration_id"]) & (table["src"] == record["src"])
    rows = np.flatnonzero(hit & (table["stage"] != STAGE_VMA))
    if not rows.size:
        return {"kind": None, "file": None}
    row = table[rows[-1:]]
    kind, file, seen = None, None, int(row["seen"][0])
    if seen & SEEN_STATE:
        code = int(obstacles.mapping_kind(row)[0])
        kind = MAPPING_KINDS[code] if code >= 0 else None
    if seen & SEEN_FILE:
        device = int(row["dev"][0])
        file = {
            "fs": row["fs"][0].decode("utf-8", "replace"),
            "device": f"{device >> 20}:{device & 0xFFFFF}",
            "inode": int(row["inode"][0]),
            "path": lying.path(device, int(row["inode"][0])),
        }
    return {"kind": kind, "file": file}
