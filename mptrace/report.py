# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a profile as text of so many columns.  Returns, never prints."""

from collections.abc import Callable, Collection

from mptrace.reporting.text import balancing as report_balancing
from mptrace.reporting.text import calls as report_calls
from mptrace.reporting.text import groups as report_groups
from mptrace.reporting.text import head as report_head
from mptrace.reporting.text import lying as report_lying
from mptrace.reporting.text import paths as report_paths
from mptrace.reporting.text import sizes as report_sizes
from mptrace.reporting.text import stacks as report_stacks
from mptrace.reporting.text import stalls as report_stalls
from mptrace.reporting.text import summary as report_summary
from mptrace.reporting.text import time as report_time
from mptrace.reporting.text.layout import WIDTH, Numbers, columns, rows_of_lists

__all__ = ["PARTS", "WIDTH", "answer", "render"]

_Section = Callable[[Numbers], list[str]]


def _no_calls(_profile: Numbers) -> list[str]:
    return ["calls      no calls"]


def _has_calls(profile: Numbers) -> bool:
    return bool(profile["calls"]["count"] or profile["entries"]["asked"])


_HEAD: tuple[_Section, ...] = (report_head.head, report_head.coverage, report_lying.read)
_OF_CALLS: tuple[_Section, ...] = (
    report_calls.counts,
    report_calls.agreement,
    report_paths.callers,
    report_groups.groups,
    report_paths.misled,
    report_time.time,
    report_time.movement,
    report_calls.failures,
)
_OF_ALL: tuple[_Section, ...] = (
    report_paths.paths,
    report_sizes.sizes,
    report_balancing.balancing,
    report_stalls.stalls,
    report_stacks.stacks,
    report_stalls.budget,
)
#: Part of a report -> its sections; all of them together are the whole report.
PARTS: dict[str, tuple[_Section, ...]] = {
    "calls": (
        report_calls.counts,
        report_calls.agreement,
        report_paths.callers,
        report_groups.groups,
        report_paths.misled,
        report_paths.paths,
    ),
    "phases": (
        report_time.time,
        report_time.movement,
        report_sizes.sizes,
        report_balancing.balancing,
    ),
    "stalls": (report_stalls.stalls,),
    "stacks": (report_stacks.stacks,),
    "failures": (report_calls.failures, report_paths.paths),
    "coverage": _HEAD,
}


def answer(
    profile: Numbers, parts: Collection[str] = (), *, histogram: bool = False, width: int = WIDTH
) -> str:
    """The first screen of a report, and below it what else was asked for.

    :param profile: of :func:`mptrace.reporting.numbers.profile.profile`.
    :param parts: keys of :data:`PARTS`, or "all".
    :param histogram: add a power-of-two histogram of each phase and of the blackout.
    :param width: columns that there are, 80 at the least.
    """
    selection = profile["selection"]
    with columns(width), rows_of_lists(selection["top"] if selection else None):
        wanted = {section for part in parts if part != "all" for section in PARTS[part]}
        wanted |= {report_stalls.budget}
        found = [
            report_summary.first_screen(profile),
            *_sections(profile, None if "all" in parts else wanted),
        ]
        if histogram:
            found.append(report_time.histograms(profile))
        return _joined(found)


def render(profile: Numbers, *, histogram: bool = False, width: int = WIDTH) -> str:
    """Every section of the report of a profile, without its first screen.

    For the parameters see :func:`answer`.
    """
    with columns(width):
        found = _sections(profile, None)
        if histogram:
            found.append(report_time.histograms(profile))
        return _joined(found)


def _sections(profile: Numbers, wanted: set[_Section] | None) -> list[list[str]]:
    """Lines of the sections that are wanted, all of None, in the order of the whole report."""
    of_calls = _OF_CALLS if _has_calls(profile) else (_no_calls,)
    if wanted is not None and wanted.intersection(_OF_CALLS):
        wanted = {*wanted, _no_calls}
    return [
        section(profile)
        for section in (*_HEAD, *of_calls, *_OF_ALL)
        if wanted is None or section in wanted
    ]


def _joined(sections: list[list[str]]) -> str:
    return "\n\n".join("\n".join(lines) for lines in sections if lines)
