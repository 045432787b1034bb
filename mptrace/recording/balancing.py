# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of what NUMA balancing does beside its migrations: scans and hint faults.  Pure.

BPF sums it by period, process and CPU, as a record of each would cost more than what it
tells; a row of the table is a period of a process.
"""

import numpy as np

from mptrace.arrays import Table
from mptrace.recording.joins import pair_ids

#: A period is so many ns, as a power of two: about 1.07 s.
PERIOD_SHIFT = 30
#: A period that ended so long ago changes no more.
SETTLED_NS = 200_000_000

#: As BPF has it: structs balancing_key and balancing_sums of bpf/move_pages/records.h.
BALANCING_KEY = np.dtype([("period", "<u8"), ("tgid", "<u4"), ("cpu", "<u4")])
BALANCING_SUMS = np.dtype(
    [
        ("from_ns", "<u8"),
        ("to_ns", "<u8"),
        ("scan_ns", "<u8"),
        ("scan_max_ns", "<u8"),
        ("scan_max_at_ns", "<u8"),
        ("fault_ns", "<u8"),
        ("fault_max_ns", "<u8"),
        ("fault_max_at_ns", "<u8"),
        ("scans", "<u4"),
        ("faults", "<u4"),
        ("faults_timed", "<u4"),
        ("pad", "<u4"),
        ("comm", "S16"),
    ]
)

#: One row per period and process in which it did something.  Times are those of the clock,
#: also where the thread did not run meanwhile.
BALANCING = np.dtype(
    [
        ("from_ns", "<u8"),  # the first scan or hint fault of it began
        ("to_ns", "<u8"),  # the last one ended, or (a hint fault that is not timed) began
        ("scan_ns", "<u8"),  # sum of the scans: task_numa_work()
        ("scan_max_ns", "<u8"),  # the longest
        ("scan_max_at_ns", "<u8"),  # when it began; 0: no scan
        # sum of the hint faults, each from where the kernel counts it to its end, with its
        # migration if there is one
        ("fault_ns", "<u8"),
        ("fault_max_ns", "<u8"),
        ("fault_max_at_ns", "<u8"),  # 0: none was timed
        ("scans", "<u8"),  # that ended in the period
        ("faults", "<u8"),  # that began in it
        ("faults_timed", "<u8"),  # that ended in it; of others the end is not seen
        ("tgid", "<u4"),
        ("comm", "S16"),  # of one of its threads
    ]
)
_ADDED = ("scan_ns", "fault_ns", "scans", "faults", "faults_timed")


def rows_of_sums(keys: Table, sums: Table) -> Table:
    """Rows of the table, shape (n,), of what BPF's map has: all CPUs of a period together.

    :param keys: dtype BALANCING_KEY, shape (m,); ``sums`` are theirs, dtype BALANCING_SUMS.
    """
    place = pair_ids(keys["period"], keys["tgid"].astype(np.int64))
    rows = np.zeros(int(place.max(initial=-1)) + 1, BALANCING)
    rows["from_ns"] = np.iinfo(np.uint64).max
    np.minimum.at(rows["from_ns"], place, sums["from_ns"])
    np.maximum.at(rows["to_ns"], place, sums["to_ns"])
    for name in _ADDED:
        np.add.at(rows[name], place, sums[name].astype(np.uint64))
    # of equal values the last one stays: those of most are written last
    for what in ("scan", "fault"):
        order = np.argsort(sums[f"{what}_max_ns"], kind="stable")
        for name in (f"{what}_max_ns", f"{what}_max_at_ns"):
            rows[name][place[order]] = sums[name][order]
    rows["tgid"][place] = keys["tgid"]
    rows["comm"][place] = sums["comm"]
    return rows
