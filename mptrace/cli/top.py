# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace top`: who migrates most, live."""

import time

import click

from mptrace.cli import terminal
from mptrace.cli.options import duration_option, pids_option, tier_option
from mptrace.cli.output import progress
from mptrace.cli.types import SECONDS
from mptrace.errors import EXIT_INTERRUPTED
from mptrace.reporting.text.stat import next_sort, render_total, top_lines
from mptrace.tracing.counting.counts import SORTS, Interval


@click.command(name="top", context_settings={"max_content_width": 80})
@click.argument("interval", type=SECONDS, default=2.0)
@pids_option("Count for these processes only; repeatable.")
@duration_option("Stop after this many seconds.")
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="pages",
    show_default=True,
    help="What to sort the processes by, largest first.",
)
@tier_option("Count")
def command(
    interval: float, pids: tuple[int, ...], duration: float | None, sort: str, tier: str
) -> None:
    """Show live who migrates pages, why, and at what cost.

    The screen is redrawn every INTERVAL seconds (2) with the counts of
    `mptrace stat`. Press s to sort by pages, time, failed or stalls in turn, and
    q to quit. The total is printed at the end.
    """
    from mptrace.cli import screen as curses_screen
    from mptrace.tracing.counting.plan import StatBounds
    from mptrace.tracing.counting.sampler import Ending, Sampler, clock

    curses_screen.check()
    with Ending() as ending, Sampler(pids, StatBounds(), progress, tier) as sampler:
        quit_asked = False
        with curses_screen.opened() as screen:
            shown: Interval | None = None
            tick = sampler.start_ns + round(interval * 1e9)
            end = None if duration is None else sampler.start_ns + round(duration * 1e9)
            screen.draw(["mptrace top: counting; quit (q)"])
            while not (quit_asked or ending):
                now = time.monotonic_ns()
                if end is not None and now >= end:
                    break
                keys = screen.keys()
                quit_asked = "q" in keys
                for _ in range(keys.count("s")):
                    sort = next_sort(sort)
                if now >= tick:
                    shown = sampler.sample()
                    tick = now + round(interval * 1e9)
                elif not keys:
                    wake = min(t for t in (tick, end, now + round(sampler.poll_seconds * 1e9)) if t)
                    ending.wait((wake - now) / 1e9, sampler, screen.fd)
                    sampler.poll()
                    continue
                if shown is not None:
                    stamp = clock(shown.wall_ns)
                    lines = top_lines(
                        shown, sampler.reasons, sort, screen.size, stamp, sampler.unseen
                    )
                    screen.draw(lines)
        click.echo(render_total(sampler.total(), "process", sampler.reasons, terminal.width()))
        if ending.gone:
            progress("the chosen processes have ended")
    if ending.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
