# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace run`: drive a workload, trace it, keep a recording, print the report."""

import signal
import sys
from pathlib import Path

import click

from mptrace.cli import terminal
from mptrace.cli.options import bounds_options, output_options
from mptrace.cli.output import progress
from mptrace.cli.report import print_report
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
from mptrace.driver import PAGE_SIZE
from mptrace.driving.workloads import KINDS, PATTERNS, Workload
from mptrace.errors import EXIT_INTERRUPTED, EXIT_USAGE, UsageError
from mptrace.host.signals import interrupted_by
from mptrace.reporting.text.layout import columns, wrapped
from mptrace.units import many


@click.command(name="run", context_settings={"max_content_width": 80})
@click.option("--pages", type=COUNT, help="Base pages to move.  [default: 509]")
@click.option("--size", type=SIZE, help="The same as bytes, e.g. 64M.")
@click.option(
    "--kind", type=click.Choice(KINDS), default="4k", show_default=True, help="Kind of memory."
)
@click.option("--source", type=NUMBER, help="Node the pages are on before.")
@click.option("--target", type=NIDS, default=(), help="Node to move to, or several: 1,2,3.")
@click.option(
    "--alternate/--in-runs",
    default=True,
    help="Several targets: entry by entry, or one run of entries each.  [default: alternate]",
)
@click.option("--pages-per-call", type=COUNT, help="Entries of a call.  [default: all]")
@click.option(
    "--repeats",
    type=COUNT,
    default=3,
    show_default=True,
    help="Rounds; what tracing costs takes 3.",
)
@click.option("--move-all", is_flag=True, help="MPOL_MF_MOVE_ALL, not MPOL_MF_MOVE.")
@click.option("--threads", type=COUNT, default=1, show_default=True, help="Calling at once.")
@click.option("--child", is_flag=True, help="Move the pages of a child, not the caller's own.")
@click.option("--pid", type=PID, help="Move the pages of this process.")
@click.option("--range", "ranges", type=RANGE, multiple=True, help="With --pid: only START-END.")
@click.option("--yes", is_flag=True, help="With --pid: really move that process's pages.")
@click.option("--one-way", is_flag=True, help="Don't move the pages back.")
@click.option(
    "--pattern",
    type=click.Choice(PATTERNS),
    default="sequential",
    show_default=True,
    help="Order of the addresses in the array.",
)
@click.option("--stride", type=COUNT, default=16, show_default=True, help="Of --pattern strided.")
@click.option("--duplicates", type=FRACTION, default=0.0, help="Entries that repeat a page.")
@click.option("--holes", type=FRACTION, default=0.0, help="Entries of pages never touched.")
@click.option("--bad", type=NUMBER, default=0, help="Entries where nothing is mapped.")
@click.option("--pin", type=FRACTION, default=0.0, help="Folios that a pipe holds.")
@click.option("--every-page", is_flag=True, help="Huge pages: an entry for each base page.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of everything random.")
@click.option("--directory", default="", help="With --kind file: where the file is made.")
@output_options
@bounds_options
@click.option("--no-cost", is_flag=True, help="Don't measure what the tracing costs.")
@click.option("--strict", is_flag=True, help="Exit status 3 if anything was lost or unknown.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option("--histogram", is_flag=True, help="Add power-of-two histograms.")
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
    buffer: int,
    max_folios: int | None,
    no_cost: bool,
    strict: bool,
    as_json: bool,
    histogram: bool,
) -> None:
    """Move pages between nodes, trace it, and say what became of each page.

    The driver makes memory on one node and moves it to another and back; the
    tracer sees what the kernel did to each folio; the report lays the status
    array, the kernel's events and the pages' locations side by side.
    """
    if pages is not None and size is not None:
        raise UsageError("--pages and --size exclude each other")
    if pid is not None and child:
        raise UsageError("--pid and --child exclude each other")
    if pid is None and (yes or ranges):
        raise UsageError("--yes and --range go with --pid")
    workload = Workload(
        pages=pages or (-(-size // PAGE_SIZE) if size else 509),
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
    from mptrace.sessions.run import RunRequest, run

    interrupted_by(signal.SIGTERM)
    result = run(
        RunRequest(
            workload=workload,
            output=output,
            force=force,
            aside=is_default(ctx, "output") and not force,
            measure_cost=not no_cost,
            folio_ring_bytes=buffer,
            max_folios=max_folios or 0,
            command=tuple(sys.argv[1:]),
        ),
        progress,
    )
    progress(f"recording: {output}")
    status = print_report(output, as_json=as_json, histogram=histogram, strict=strict)
    raise SystemExit(EXIT_INTERRUPTED if result.interrupted else status)


def _show_what_would_move(workload: Workload) -> None:
    """What --pid would do, and that it was not done."""
    from mptrace.sessions.run import preview

    with columns(terminal.width()):
        for mapping in preview(workload).would_move:
            text = (
                f"{mapping['start']:#x}-{mapping['end']:#x}  {many(mapping['pages'], 'page')}"
                f" on {mapping['nodes']}  {mapping['name']}"
            )
            click.echo("\n".join(wrapped("", text, keep_spaces=True, hang="    ")))
    progress("nothing was moved\n  add --yes to move these pages")
