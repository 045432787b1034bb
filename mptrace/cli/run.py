# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace run`: move pages, trace it, keep a recording and print the report."""

import mmap
import signal
import sys
from pathlib import Path

import click

from mptrace.cli import terminal
from mptrace.cli.options import bounds_options, detail_option, output_options, stacks_option
from mptrace.cli.output import progress
from mptrace.cli.patience import detaching
from mptrace.cli.starting import will_move
from mptrace.cli.types import (
    COUNT,
    FRACTION,
    NIDS,
    NUMBER,
    PID,
    RANGE,
    SIZE,
    is_default,
)
from mptrace.driving.workloads import KINDS, PATTERNS, Workload
from mptrace.errors import EXIT_INTERRUPTED, EXIT_USAGE, UsageError
from mptrace.host.signals import interrupted_by
from mptrace.reporting.text.layout import columns, wrapped
from mptrace.units import many


@click.command(name="run", context_settings={"max_content_width": 80})
@click.option("--pages", type=COUNT, help="How many base pages to move.  [default: 509]")
@click.option(
    "--size", type=SIZE, help="How much memory to move, in place of --pages: 64M, for example."
)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="4k",
    show_default=True,
    help="Kind of memory to move.",
)
@click.option(
    "--source", type=NUMBER, help="Node to move from.  [default: the first that is no target]"
)
@click.option(
    "--target",
    type=NIDS,
    default=(),
    help="Node or nodes to move to, such as 1,2,3.  [default: the one after the source]",
)
@click.option(
    "--alternate/--in-runs",
    default=True,
    help="With several targets: change the target with every entry, or give each target one "
    "run of entries.  [default: alternate]",
)
@click.option(
    "--pages-per-call", type=COUNT, help="Entries in each call.  [default: all of a thread's]"
)
@click.option(
    "--repeats",
    type=COUNT,
    default=3,
    show_default=True,
    help="How many rounds to run; it takes 3 to measure what tracing costs.",
)
@click.option(
    "--move-all", is_flag=True, help="Move with MPOL_MF_MOVE_ALL instead of MPOL_MF_MOVE."
)
@click.option(
    "--threads", type=COUNT, default=1, show_default=True, help="Threads that call at once."
)
@click.option(
    "--child", is_flag=True, help="Move the pages of a child process, not the caller's own."
)
@click.option(
    "-p",
    "--pid",
    type=PID,
    help="Move the pages of this process; without --yes, only show them.",
)
@click.option(
    "--range",
    "ranges",
    type=RANGE,
    multiple=True,
    help="With --pid: move these addresses only; repeatable.",
)
@click.option("--yes", is_flag=True, help="With --pid: really move the pages.")
@click.option("--one-way", is_flag=True, help="Don't move the pages back.")
@click.option(
    "--pattern",
    type=click.Choice(PATTERNS),
    default="sequential",
    show_default=True,
    help="Order of the addresses in a call.",
)
@click.option(
    "--stride",
    type=COUNT,
    default=16,
    show_default=True,
    help="Entries apart in the strided pattern.",
)
@click.option(
    "--duplicates",
    type=FRACTION,
    default=0.0,
    help="Add entries that repeat a page, as a fraction of the pages.",
)
@click.option(
    "--holes",
    type=FRACTION,
    default=0.0,
    help="Add entries for pages that were never touched, as a fraction of the pages.",
)
@click.option(
    "--bad", type=NUMBER, default=0, help="Add this many entries where nothing is mapped."
)
@click.option(
    "--pin",
    type=FRACTION,
    default=0.0,
    help="Fraction of the folios that a pipe holds, so that they can't move.",
)
@click.option(
    "--every-page",
    is_flag=True,
    help="For huge pages: one entry for each base page, not one for each huge page.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of all random choices.")
@click.option("--directory", default="", help="With --kind file: where to make the file.")
@output_options
@detail_option
@bounds_options
@stacks_option
@click.option("--no-cost", is_flag=True, help="Don't measure what tracing costs.")
@click.option(
    "--strict", is_flag=True, help="Exit with status 3 if anything was lost or is unknown."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--histogram", is_flag=True, help="Add histograms of the phases to the report.")
@click.pass_context
def command(
    ctx: click.Context,
    pages: int | None,
    size: int | None,
    kind: str,
    source: int | None,
    target: tuple[int, ...],
    alternate: bool,
    pages_per_call: int | None,
    repeats: int,
    move_all: bool,
    threads: int,
    child: bool,
    pid: int | None,
    ranges: tuple[tuple[int, int], ...],
    yes: bool,
    one_way: bool,
    pattern: str,
    stride: int,
    duplicates: float,
    holes: float,
    bad: int,
    pin: float,
    every_page: bool,
    seed: int,
    directory: str,
    output: Path,
    force: bool,
    detail: str,
    buffer: int,
    max_folios: int | None,
    stacks: bool,
    no_cost: bool,
    strict: bool,
    as_json: bool,
    histogram: bool,
) -> None:
    """Move pages between nodes and report what became of each.

    Makes memory on one node, moves it to another and back with move_pages(2), and
    traces what the kernel does to each folio. The report compares the status
    array, the kernel's events and where the pages are afterwards.
    """
    if pages is not None and size is not None:
        raise UsageError("--pages and --size exclude each other")
    if pid is not None and child:
        raise UsageError("--pid and --child exclude each other")
    if pid is None and (yes or ranges):
        raise UsageError("--yes and --range need --pid")
    workload = Workload(
        pages=pages or (-(-size // mmap.PAGESIZE) if size else 509),
        kind=kind,
        source_nids=() if source is None else (source,),
        target_nids=target,
        alternate=alternate,
        pages_per_call=pages_per_call or 0,
        repeats=1 if pid is not None else repeats,
        move_all=move_all,
        threads=threads,
        target="pid" if pid is not None else "child" if child else "self",
        pid=pid or 0,
        ranges=ranges,
        pattern=pattern,
        stride=stride,
        duplicates=duplicates,
        holes=holes,
        bad=bad,
        pin=pin,
        every_page=every_page,
        back=not one_way,
        seed=seed,
        directory=directory,
    )
    if pid is not None and not yes:
        _show_what_would_move(workload)
        raise SystemExit(EXIT_USAGE)
    # before what takes long to load
    progress(will_move(workload))
    from mptrace.sessions.run import RunRequest, run

    interrupted_by(signal.SIGTERM)
    request = RunRequest(
        workload=workload,
        output=output,
        force=force,
        aside=is_default(ctx, "output") and not force,
        measure_cost=not no_cost,
        folio_ring_bytes=buffer,
        max_folios=max_folios or 0,
        stacks=stacks,
        detail=detail,
        command=tuple(sys.argv[1:]),
    )
    with detaching() as ending:
        result = run(request, progress, ending)
        progress(f"recording: {output}")
        # loaded while the probes are detached
        from mptrace.cli.report import print_report

        status = print_report(output, as_json=as_json, histogram=histogram, strict=strict)
    raise SystemExit(EXIT_INTERRUPTED if result.interrupted else status)


def _show_what_would_move(workload: Workload) -> None:
    """What --pid would do, and that it was not done."""
    from mptrace.sessions.run import preview

    with columns(terminal.width()):
        for mapping in preview(workload).would_move:
            places = ", ".join(
                f"{many(count, 'page')} on node {nid}" for nid, count in mapping["nodes"].items()
            )
            text = f"{mapping['start']:#x}-{mapping['end']:#x}  {places}  {mapping['name']}"
            click.echo("\n".join(wrapped("", text, keep_spaces=True, hang="    ")))
    progress("nothing was moved\n  add --yes to move these pages")
