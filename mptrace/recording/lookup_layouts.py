# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of lookups, which stand for folios at the level `outcomes`.

Mirrors the structs of ``bpf/move_pages/records.h``; a test compares them.
"""

import numpy as np

# Bit of `flags` of a lookup, beside FOLIO_HUGETLB.
FOUND_KSM = 1 << 1  # merged with equal pages by KSM: it may be at several addresses

#: Lookups that BPF sends at once, by class: as a batch is full, and as a call ends.
FEW_LOOKUPS, MANY_LOOKUPS = 4, 32

#: What a lookup of a call found; recorded at the level of detail `outcomes` only.
FOUND = np.dtype(
    [
        ("address", "<u8"),  # user address of the entry
        ("src", "<u8"),  # the folio, 0: none
        ("rc", "<i4"),  # 0, LOOKUP_NONE or -errno, as `lookup_rc` of a folio
        ("nid", "<i2"),
        ("order", "u1"),  # the folio has 1 << order base pages
        ("flags", "u1"),  # FOLIO_HUGETLB, FOUND_KSM
    ]
)


def _lookups(number: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("call_id", "<u8"),
            ("first", "<u4"),  # ordinal of the first in its call
            ("count", "<u4"),
            ("lookups", FOUND, (number,)),
        ]
    )


LOOKUPS_FEW = _lookups(FEW_LOOKUPS)
LOOKUPS_MANY = _lookups(MANY_LOOKUPS)
#: One row per lookup, of the level `outcomes`.
LOOKUP = np.dtype([("call_id", "<u8"), ("lookup_seq", "<u4"), *FOUND.descr])
