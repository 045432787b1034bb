# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace report`: a recording as the report it gave live."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from mptrace.cli import terminal
from mptrace.cli.options import recording_argument
from mptrace.cli.output import progress
from mptrace.cli.patience import reading
from mptrace.cli.selecting import selected, selection_options
from mptrace.cli.types import TIME, opened
from mptrace.errors import EXIT_OK, EXIT_STRICT


@click.command("report")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: raw nanoseconds, all numbers.")
@click.option("--calls", is_flag=True, help="Add calls, their entries, callers and paths.")
@click.option("--phases", is_flag=True, help="Add where the time of calls went, phase by phase.")
@click.option("--stalls", is_flag=True, help="Add the threads that waited, and for whom.")
@click.option("--stacks", is_flag=True, help="Add the stacks from which migrations and waits came.")
@click.option("--failures", is_flag=True, help="Add why pages stayed, with the evidence.")
@click.option("--coverage", is_flag=True, help="Add how well each phase was seen.")
@click.option("--all", "everything", is_flag=True, help="Add all of these.")
@click.option("--histogram", is_flag=True, help="Add power-of-two histograms of the phases.")
@click.option(
    "--strict", is_flag=True, help="Leave with status 3 if anything was lost or is unknown."
)
@click.option(
    "--budget",
    "budget_ns",
    type=TIME,
    help="Name the largest batch whose measured p99 stays below TIME, such as 20ms.",
)
@selection_options
@recording_argument
def command(
    as_json: bool,
    histogram: bool,
    strict: bool,
    budget_ns: int | None,
    recording: Path,
    everything: bool,
    calls: bool,
    phases: bool,
    stalls: bool,
    stacks: bool,
    failures: bool,
    coverage: bool,
    **options: Any,
) -> None:
    """Say what a recording shows, on any machine, without root.

    RECORDING (mptrace.data) may also be the name of a session that rotated: then all
    of its recordings are read. The first screen answers who moved whose pages, when
    and for how long, which threads stood still, why pages stayed, and what to do.
    The options add the sections behind it.

    What was under way from --from until before --to counts whole: calls and
    migrations with all their pages. The first lines say how much of the recording
    is left, and losses are those of the whole session.
    """
    asked = {
        "calls": calls,
        "phases": phases,
        "stalls": stalls,
        "stacks": stacks,
        "failures": failures,
        "coverage": coverage,
    }
    status = print_report(
        recording,
        as_json=as_json,
        histogram=histogram,
        strict=strict,
        budget_ns=budget_ns,
        parts=("all",) if everything else tuple(name for name, wanted in asked.items() if wanted),
        options=options,
    )
    raise SystemExit(status)


def print_report(
    recording: Path,
    *,
    as_json: bool,
    histogram: bool,
    strict: bool,
    budget_ns: int | None = None,
    parts: Collection[str] = (),
    options: Mapping[str, Any] | None = None,
) -> int:
    """Print the first screen of a recording and ``parts`` of its report; return the exit status.

    :param options: those of `selecting.selection_options`.
    """
    from mptrace.cli.slicing import sliced
    from mptrace.outcomes.implied import with_implied
    from mptrace.outcomes.selection import EVERYTHING
    from mptrace.report import answer
    from mptrace.reporting.numbers.profile import is_clean, profile
    from mptrace.reporting.numbers.top import shortened

    data = opened(recording)
    selection = selected(data.meta, **options) if options else EVERYTHING
    with reading(recording):
        # what is selected takes all tables at once
        is_whole = selection.is_filter or selection.top is not None
        numbers = profile(
            with_implied(data.tables(), data.meta) if is_whole else sliced(data),
            data.meta,
            missing_parts=data.missing_parts,
            budget_ns=budget_ns,
            selection=selection,
        )
    if "stacks" in parts and numbers["stacks"] is None:
        way = "'mptrace record --stacks' records them"
        if data.meta.tier == "tracepoints":
            way = "with tracepoints alone there are none"
        progress(f"no stacks were recorded; {way}")
    if as_json:
        click.echo(json.dumps(shortened(numbers, selection.top), indent=2))
    else:
        click.echo(answer(numbers, parts, histogram=histogram, width=terminal.width()))
    return EXIT_STRICT if strict and not is_clean(numbers) else EXIT_OK
