# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace stat`: counts of migrations and waits, per interval and in total."""

import json

import click

from mptrace.cli import terminal
from mptrace.cli.options import duration_option, pids_option, tier_option
from mptrace.cli.output import progress
from mptrace.cli.types import COUNT, SECONDS, whole
from mptrace.errors import EXIT_INTERRUPTED, UsageError
from mptrace.reporting.text.stat import VIEWS, Lines, to_json


@click.command(name="stat", context_settings={"max_content_width": 80})
@click.argument("interval", type=SECONDS, required=False)
@click.argument("count", type=COUNT, required=False)
@pids_option("Count for these processes only; repeatable.")
@duration_option("Stop after this many seconds.")
@click.option(
    "--by",
    "view",
    type=click.Choice(VIEWS),
    default="reason",
    show_default=True,
    help="Print one line per reason or per process.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--max-rows",
    type=whole(64, 1 << 20),
    default=4096,
    show_default=True,
    help="How many pairs of reason and process the kernel can count: 64 to 1,048,576.",
)
@tier_option("Count")
def command(
    interval: float | None,
    count: int | None,
    pids: tuple[int, ...],
    duration: float | None,
    view: str,
    as_json: bool,
    max_rows: int,
    tier: str,
) -> None:
    """Count migrations, failures and waits, once or every INTERVAL.

    Prints a group of lines every INTERVAL seconds, COUNT times, and then a total;
    without INTERVAL, the total alone. Ctrl-C ends it too. The kernel adds
    everything up, and nothing is recorded about single pages.
    """
    if count is not None and interval is None:
        raise UsageError("COUNT needs an INTERVAL")
    if len(pids) > 1024:
        raise UsageError("-p takes at most 1024 processes")
    from mptrace.tracing.counting.plan import StatBounds
    from mptrace.tracing.counting.sampler import Ending, Sampler, clock, intervals

    # signals from the start: what is being attached is taken down in order
    with (
        Ending() as ending,
        Sampler(pids, StatBounds(max_rows=max_rows), progress, tier) as sampler,
    ):
        for sentence in sampler.unseen:
            progress(sentence)
        if not as_json:
            progress(
                "counting; Ctrl-C ends it" if duration is None and count is None else "counting"
            )
        lines = Lines(view, sampler.reasons, terminal.width())
        for each in intervals(sampler, ending, interval, count, duration):
            if as_json:
                click.echo(json.dumps(to_json(each, sampler.reasons, "interval", view)))
            else:
                click.echo(lines.interval(each, clock(each.wall_ns)))
        everything = sampler.total()
        if as_json:
            value = to_json(everything, sampler.reasons, "total", view)
            value["tier"] = sampler.tier
            value["unseen"] = list(sampler.unseen)
            value["interrupted"] = ending.interrupted
            click.echo(json.dumps(value))
        else:
            click.echo(("" if interval is None else "\n") + lines.total(everything))
        if ending.gone:
            progress("the chosen processes have ended")
    if ending.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
