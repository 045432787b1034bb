# SPDX-License-Identifier: GPL-2.0-or-later
"""What every row that `mptrace dump` prints may need, whatever is printed.  Pure."""

from dataclasses import dataclass

from mptrace.arrays import Tables
from mptrace.outcomes.lying import Lying
from mptrace.outcomes.processes import RecordedProcesses
from mptrace.recording.meta import Meta
from mptrace.recording.when import Clock


@dataclass(frozen=True)
class Known:
    """What is known of processes and times, whatever rows are printed."""

    people: RecordedProcesses
    lying: Lying
    clock: Clock

    @classmethod
    def of(cls, tables: Tables, meta: Meta) -> "Known":
        """By the tables of processes and their mappings."""
        return cls(
            RecordedProcesses(tables, meta),
            Lying(tables, meta),
            Clock(meta.raw.get("started"), meta.raw.get("ended")),
        )
