# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of the arrays that modules hand each other, by what is in them.  Pure."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

#: Rows of a structured layout, such as one of `recording.layouts`.
Table = NDArray[np.void]
#: Tables of a recording by name.
Tables = Mapping[str, Table]

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
#: Signed numbers: row numbers (-1: none), counts, ranks, differences of times in ns.
Ints = NDArray[np.int64]
#: 64 bits as the kernel has them: ids, page frame numbers, entries of page tables.
Words = NDArray[np.uint64]
#: Virtual addresses.
Addresses = Words
#: Node numbers as move_pages(2) takes and stores them; as a status, -errno where negative.
Nids = NDArray[np.int32]
#: Numbers of processes: thread groups, as the kernel has them.
Tgids = NDArray[np.uint32]
#: Causes, by their codes in `outcomes.causes.table`.
Codes = NDArray[np.uint16]
