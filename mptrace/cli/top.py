# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace top`: who migrates most, live."""

import time

import click

from mptrace.cli import terminal
from mptrace.cli.options import duration_option, max_rows_option, tier_option
from mptrace.cli.output import progress
from mptrace.cli.scope import scope_options, wanted_of
from mptrace.cli.types import SECONDS
from mptrace.errors import EXIT_INTERRUPTED
from mptrace.reporting.text.stat import render_total
from mptrace.reporting.text.top import Look, top_lines
from mptrace.tracing.counting.counts import SORTS, Interval


@click.command(name="top", context_settings={"max_content_width": 80})
@click.argument("interval", type=SECONDS, default=2.0)
@scope_options("Count")
@duration_option("Stop after this many seconds.")
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="pages",
    show_default=True,
    help="What to sort by, largest first.",
)
@click.option(
    "--by",
    "view",
    type=click.Choice(("process", "cgroup")),
    default="process",
    show_default=True,
    help="Show one line per process or per cgroup.",
)
@max_rows_option
@tier_option("Count")
def command(
    interval: float,
    everybody: bool,
    pids: tuple[int, ...],
    user: str | None,
    cgroup: str | None,
    duration: float | None,
    sort: str,
    view: str,
    max_rows: int,
    tier: str,
) -> None:
    """Show live who migrates pages, why, and at what cost.

    The screen is redrawn every INTERVAL seconds (2) with the counts of
    `mptrace stat`, of the interval and since the start. Press h for the keys: they
    sort, show cgroups, and filter by what you type; q quits. The total is printed
    at the end.
    """
    from mptrace.cli import screen as curses_screen
    from mptrace.sessions.counted import counted
    from mptrace.tracing.counting.intervals import Ending, clock
    from mptrace.tracing.counting.plan import StatBounds

    wanted = wanted_of(everybody=everybody, pids=pids, user=user, cgroup=cgroup, name="top")
    curses_screen.check()
    look = Look(sort=sort, by=view)
    with (
        Ending() as ending,
        counted(wanted, StatBounds(max_rows=max_rows), tier, progress) as session,
    ):
        sampler = session.sampler
        with curses_screen.opened() as screen:
            shown: Interval | None = None
            tick = sampler.start_ns + round(interval * 1e9)
            end = None if duration is None else sampler.start_ns + round(duration * 1e9)
            screen.draw(["mptrace top: counting  help (h)  quit (q)"])
            while not (look.quit or ending):
                now = time.monotonic_ns()
                if end is not None and now >= end:
                    break
                keys = screen.keys()
                for key in keys:
                    look = look.after(key)
                if now >= tick:
                    shown = sampler.sample()
                    tick = now + round(interval * 1e9)
                elif not keys:
                    wake = min(t for t in (tick, end, now + round(sampler.poll_seconds * 1e9)) if t)
                    ending.wait((wake - now) / 1e9, sampler, screen.fd)
                    sampler.poll()
                    continue
                since = sampler.so_far()
                # before the first interval is over, there are the sums only
                screen.draw(
                    top_lines(
                        shown or since,
                        since,
                        sampler.reasons,
                        look,
                        screen.size,
                        clock(since.wall_ns),
                        sampler.unseen,
                    )
                )
        click.echo(render_total(sampler.total(), view, sampler.reasons, terminal.width()))
        if ending.gone:
            progress("the chosen processes have ended")
    if ending.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
