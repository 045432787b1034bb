# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a profile as text of so many columns.  Returns, never prints."""

from mptrace.reporting.text import calls as report_calls
from mptrace.reporting.text import groups as report_groups
from mptrace.reporting.text import head as report_head
from mptrace.reporting.text import paths as report_paths
from mptrace.reporting.text import stalls as report_stalls
from mptrace.reporting.text import time as report_time
from mptrace.reporting.text.layout import WIDTH, Numbers, columns

__all__ = ["WIDTH", "render"]


def render(profile: Numbers, *, histogram: bool = False, width: int = WIDTH) -> str:
    """The report of a profile (:func:`mptrace.reporting.numbers.profile.profile`).

    :param histogram: add a power-of-two histogram of each phase and of the blackout.
    :param width: columns that there are, 80 at the least.
    """
    with columns(width):
        return _render(profile, histogram)


def _render(profile: Numbers, histogram: bool) -> str:
    sections = [report_head.head(profile), report_head.coverage(profile)]
    if profile["calls"]["count"] or profile["entries"]["asked"]:
        sections += [
            report_calls.counts(profile),
            report_calls.agreement(profile),
            report_paths.callers(profile),
            report_groups.groups(profile),
            report_paths.misled(profile),
            report_time.time(profile),
            report_time.movement(profile),
            report_calls.failures(profile),
        ]
    else:
        sections.append(["calls      no calls"])
    sections += [
        report_paths.paths(profile),
        report_stalls.stalls(profile),
        report_stalls.budget(profile),
    ]
    if histogram:
        sections.append(report_time.histograms(profile))
    return "\n\n".join("\n".join(lines) for lines in sections if lines)
