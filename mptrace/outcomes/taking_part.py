# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that take part in what is chosen of a recording.  Pure."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mptrace.arrays import Tables
from mptrace.outcomes.balancing import balancing_of
from mptrace.outcomes.told import Told
from mptrace.outcomes.waiting import waits_of


def taking_part(tables: Tables, told: Mapping[str, Told]) -> npt.NDArray[np.uint32]:
    """Each process once that moves, is moved, is balanced, waits or maps a page in these rows.

    :param told: table -> which of its rows; of all tables but those of processes.
    """
    calls = tables["calls"][told["calls"].yes]
    parts = [
        calls["tgid"],
        calls["target_tgid"],
        tables["migrations"]["tgid"][told["migrations"].yes],
        tables["folios"]["owner_tgid"][told["folios"].yes],
        waits_of(tables)["tgid"][told["waits"].yes],
        balancing_of(tables)["tgid"][told["balancing"].yes],
    ]
    mappers = tables.get("mappers")
    if mappers is not None:
        parts.append(mappers["pid"][told["mappers"].yes])
    return np.unique(np.concatenate(parts))
