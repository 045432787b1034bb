# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of the commands that read: which rows of a recording; worded the same in each."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from mptrace.cli.options import pids_option
from mptrace.cli.types import COUNT, MOMENT, NIDS, flat
from mptrace.errors import UsageError
from mptrace.outcomes.selection import Selection, paths_named
from mptrace.recording.meta import Meta
from mptrace.recording.moments import Moment, resolve
from mptrace.recording.when import Clock

_Command = TypeVar("_Command", bound=Callable[..., Any])


def selection_options(command: _Command) -> _Command:
    """``since``, ``until``, ``pids``, ``paths``, ``nids``, ``failed``, ``top``: a selection."""
    for option in reversed(
        (
            click.option(
                "--from",
                "since",
                type=MOMENT,
                help="Only what was under way at this time (UTC) or later: 06:17:05, "
                "2026-11-29T06:17:05, or seconds since the start of the session such as 3.5.",
            ),
            click.option(
                "--to",
                "until",
                type=MOMENT,
                help="Only what had begun before this time, which is no longer in it.",
            ),
            pids_option(
                "Only what these processes moved, what was moved of theirs, and their waits; "
                "repeatable."
            ),
            click.option(
                "--path",
                "paths",
                multiple=True,
                metavar="NAME",
                help="Only migrations by this path or for this reason, such as compaction; "
                "repeatable.",
            ),
            click.option(
                "--node",
                "nids",
                type=NIDS,
                multiple=True,
                callback=flat,
                help="Only pages from or to these nodes; repeatable.",
            ),
            click.option(
                "--failed",
                is_flag=True,
                help="Only what did not succeed: entries that failed or were never attempted, "
                "calls with such an entry or an error, migrations that left something behind, "
                "folios that stayed. Waits and processes can't fail: all of them.",
            ),
            click.option("--top", type=COUNT, help="Show this many rows of each list."),
        )
    ):
        command = option(command)
    return command


def selected(
    meta: Meta,
    *,
    since: Moment | None,
    until: Moment | None,
    pids: Sequence[int],
    paths: Sequence[str],
    nids: Sequence[int],
    failed: bool,
    top: int | None,
) -> Selection:
    """The selection that these options make of a recording.

    :raises UsageError: a path that there is not, an end before its start, or times of a
        recording that does not say when it was.
    """
    clock = Clock(meta.raw.get("started"), meta.raw.get("ended"))
    # of a session that rotated, not of the recording that is left of it
    origin = None if meta.session is None else meta.session.monotonic_ns
    start = None if since is None else resolve(since, clock, "--from", origin_ns=origin)
    end = None if until is None else resolve(until, clock, "--to", after=start, origin_ns=origin)
    if since and until and start is not None and end is not None and end <= start:
        raise UsageError(
            f"--to '{until.text}' is not later than --from '{since.text}'",
            "a time of the day is UTC, of the session's day: give a date for another one; "
            "a number is seconds since its start",
        )
    try:
        codes, maybe, reasons = paths_named(paths, meta)
    except ValueError as error:
        message, hint = error.args
        raise UsageError(message, hint) from error
    return Selection(
        from_ns=start,
        to_ns=end,
        pids=tuple(pids),
        names=tuple(dict.fromkeys(paths)),
        paths=codes,
        maybe=maybe,
        reasons=reasons,
        nids=tuple(nids),
        failed=failed,
        top=top,
    )
