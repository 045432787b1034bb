# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a recording is mptrace's own, as numbers of a report.  Pure."""

from mptrace.reporting.numbers.parts import Gathered
from mptrace.reporting.numbers.sums import Numbers


def numbers_of(gathered: Gathered) -> Numbers | None:
    """How much of what is chosen is in no sum of a report; None where it is not known."""
    tgids = gathered.own.tgids
    return None if tgids is None else {"tgids": list(tgids), **gathered.mine}
