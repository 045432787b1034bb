# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace record`: record migrations of programs that know nothing of mptrace."""

import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from mptrace.cli.options import (
    bounds_options,
    detail_option,
    duration_option,
    output_options,
    stacks_option,
    tier_option,
)
from mptrace.cli.output import progress
from mptrace.cli.patience import detaching
from mptrace.cli.scope import as_option, scope_options, wanted_of
from mptrace.cli.starting import will_watch
from mptrace.cli.types import (
    COUNT,
    NIDS,
    SIZE,
    is_default,
    within,
)
from mptrace.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_STRICT, UsageError
from mptrace.host.signals import interrupted_by
from mptrace.recording.detail import LEVEL_ALL, LEVEL_OUTCOMES
from mptrace.tracing.plan.request import Request
from mptrace.units import and_more, many

#: Recordings of one session that are named at its end, the last ones.
_MOST_NAMED = 3


@click.command(
    name="record",
    context_settings={
        "max_content_width": 80,
        # what follows the command's name is the command's
        "allow_interspersed_args": False,
        # as they were called before: in commands that read a recording, these are times
        "token_normalize_func": lambda name: f"{name}-node" if name in ("from", "to") else name,
    },
)
@scope_options("Record")
@as_option
@duration_option("Stop recording after this many seconds.")
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    help="Keep only migrations for this reason, such as compaction; repeatable.",
)
@click.option(
    "--from-node",
    "from_nids",
    type=NIDS,
    default=(),
    help="Keep only folios from these nodes.",
)
@click.option(
    "--to-node", "to_nids", type=NIDS, default=(), help="Keep only folios to these nodes."
)
@click.option(
    "--min-us",
    type=within("US", "microseconds", 0, 1e12),
    default=0.0,
    help="Keep only what took at least this many microseconds.",
)
@click.option("--failed", is_flag=True, help="Keep only migrations and folios that failed.")
@output_options
@click.option("--rotate-size", type=SIZE, help="Begin a new recording after this many bytes.")
@click.option(
    "--rotate-time",
    type=within("SECONDS", "seconds", 1, 1e9),
    help="Begin a new recording after this many seconds.",
)
@click.option(
    "--keep", type=COUNT, help="With rotation: keep only this many recordings, the last ones."
)
@detail_option
@bounds_options
@stacks_option
@tier_option("Trace")
@click.option("--strict", is_flag=True, help="Exit with status 3 if anything was lost.")
@click.argument("command_line", nargs=-1, metavar="[COMMAND ARGS...]")
@click.pass_context
def command(
    ctx: click.Context,
    everybody: bool,
    pids: tuple[int, ...],
    user: str | None,
    cgroup: str | None,
    run_as: str | None,
    duration: float | None,
    reasons: tuple[str, ...],
    from_nids: tuple[int, ...],
    to_nids: tuple[int, ...],
    min_us: float,
    failed: bool,
    output: Path,
    force: bool,
    rotate_size: int | None,
    rotate_time: float | None,
    keep: int | None,
    detail: str,
    buffer: int,
    max_folios: int | None,
    stacks: bool,
    tier: str,
    strict: bool,
    command_line: tuple[str, ...],
) -> None:
    """Record page migrations of the whole host, a process or a COMMAND.

    A process counts when it moves pages or when its pages are moved, on any path:
    move_pages(2), migrate_pages(2), mbind(2), cpusets, NUMA balancing, compaction,
    demotion, hot-unplug, ... What -p names, or COMMAND, is followed when it forks.

    --from-node, --to-node, --min-us and --failed apply to migrations that no move_pages(2)
    call asked for; --reason applies to calls too. A call is always kept whole.

    COMMAND runs as the user who called sudo, and mptrace exits with its status.
    mptrace's own options come before COMMAND. `mptrace report`, `explain` and
    `dump` read the recording.
    """
    wanted = wanted_of(
        everybody=everybody,
        pids=pids,
        user=user,
        cgroup=cgroup,
        command_line=command_line,
        run_as=run_as,
        name="record",
        must=True,
    )
    if stacks and tier == "tracepoints":
        raise UsageError(
            "--stacks needs BPF, and --tier tracepoints does without", "leave out one of them"
        )
    if detail == LEVEL_OUTCOMES and (from_nids or to_nids):
        raise UsageError(
            "--from-node and --to-node need the nodes of each folio",
            f"leave out --detail, or give --detail {LEVEL_ALL}",
        )
    # before what takes long to load
    progress(will_watch("record", wanted, duration))
    from mptrace.recording.rotation import Rotation
    from mptrace.reporting.numbers.recorder import recorder_numbers
    from mptrace.reporting.text.recorder import recorder_text
    from mptrace.sessions.record import record
    from mptrace.sessions.request import RecordRequest, WantedFilters

    bounds = Request(others=True, detail=detail, folio_ring_bytes=buffer, stacks=stacks)
    if max_folios:
        bounds = replace(bounds, max_folios=max_folios)
    request = RecordRequest(
        wanted=wanted,
        output=output,
        filters=WantedFilters(reasons, from_nids, to_nids, round(min_us * 1000), failed),
        force=force,
        aside=is_default(ctx, "output") and not force,
        duration_s=duration or 0.0,
        rotation=Rotation(rotate_size or 0, rotate_time or 0.0, keep or 0),
        bounds=bounds,
        tier=tier,
        command_line=tuple(sys.argv[1:]),
    )
    interrupted_by(signal.SIGTERM)
    with detaching() as ending:
        result = record(request, progress, ending)
        rows = result.rows
        progress(
            f"{many(rows['calls'], 'call')}, {many(rows['migrations'], 'migration')}, "
            f"{_folios(rows)}, {many(rows['waits'], 'wait')} of threads"
        )
        lost = {cause: count for cause, count in result.lost.items() if count}
        for cause, count in lost.items():
            progress(f"lost: {cause} {count}")
        if (took := recorder_numbers(result.recorder)) is not None:
            progress(f"the recorder took {recorder_text(took)}")
        last = ", ".join(map(str, result.recordings[-_MOST_NAMED:]))
        more = and_more(len(result.recordings) - _MOST_NAMED, "", f"{output}.*", inline=True)
        progress(f"recording: {last} {more}".rstrip())
    if result.exit_status is not None:
        raise SystemExit(result.exit_status)
    if result.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
    raise SystemExit(EXIT_STRICT if strict and lost else EXIT_OK)


def _folios(rows: Mapping[str, int]) -> str:
    """What was recorded of pages: at the level `outcomes` lookups, and what was left behind."""
    if not rows["lookups"]:
        return many(rows["folios"], "folio")
    return f"{many(rows['lookups'], 'page')} looked up, {many(rows['folios'], 'folio')} left behind"
