# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording itself took, as text.  Pure."""

from collections.abc import Mapping
from typing import Any

from mptrace.units import format_ns, many


def recorder_text(recorder: Mapping[str, Any]) -> str:
    """How much CPU time recording took, of one CPU and of all, and for a folio."""
    said = f"{format_ns(recorder['cpu_ns'])} of CPU time in {format_ns(recorder['wall_ns'])}"
    if recorder["share_of_cpu"] is not None:
        cpus = recorder["cpus"]
        said += f": {100 * recorder['share_of_cpu']:.3g} % of a CPU"
        if cpus > 1:
            said += f", {100 * recorder['share_of_cpus']:.3g} % of {cpus}"
    if recorder["folios"]:
        each = format_ns(round(recorder["cpu_ns_per_folio"]))
        said += f"; {each} for each of {many(recorder['folios'], 'folio')}"
    return said
