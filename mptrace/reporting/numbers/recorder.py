# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording itself took, as numbers.  Pure."""

from typing import Any

from mptrace.recording.meta import RecorderCost


def recorder_numbers(cost: RecorderCost | None) -> dict[str, Any] | None:
    """What recording itself took, of one CPU and of all; None where nobody knows."""
    if cost is None:
        return None
    share = cost.cpu_ns / cost.wall_ns if cost.wall_ns else None
    return {
        **vars(cost),
        "share_of_cpu": share,
        "share_of_cpus": None if share is None else share / cost.cpus,
        "cpu_ns_per_folio": cost.cpu_ns / cost.folios if cost.folios else None,
    }
