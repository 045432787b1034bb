# SPDX-License-Identifier: GPL-2.0-or-later
"""Yes, no and unknown of each row of a table, and how they combine.  Pure, vectorized."""

from dataclasses import dataclass

import numpy as np

from mptrace.arrays import Bools, Ints
from mptrace.outcomes.plain_table import flags_at


@dataclass(frozen=True)
class Told:
    """Which rows fit, and of which that is unknown."""

    yes: Bools
    unsure: Bools

    def __and__(self, other: "Told") -> "Told":
        maybe = (self.yes | self.unsure) & (other.yes | other.unsure)
        yes = self.yes & other.yes
        return Told(yes, maybe & ~yes)

    def __or__(self, other: "Told") -> "Told":
        yes = self.yes | other.yes
        return Told(yes, (self.unsure | other.unsure) & ~yes)

    def at(self, row: Ints, otherwise: "Told | None" = None) -> "Told":
        """Those of other rows, for -1 those of ``otherwise``, else unsure."""
        nowhere = row < 0
        yes, unsure = flags_at(self.yes, row), flags_at(self.unsure, row)
        if otherwise is None:
            return Told(yes, unsure | nowhere)
        return Told(
            np.where(nowhere, otherwise.yes, yes), np.where(nowhere, otherwise.unsure, unsure)
        )


def known(yes: Bools) -> Told:
    """Of each row what a mask says, for certain."""
    return Told(yes, np.zeros(yes.size, np.bool_))


def every(size: int) -> Told:
    """Every row fits."""
    return known(np.ones(size, np.bool_))


def none(size: int) -> Told:
    """No row fits."""
    return known(np.zeros(size, np.bool_))
