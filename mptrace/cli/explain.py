# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace explain`: why a page stayed, and why its status says what it says."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mptrace.cli import terminal
from mptrace.cli.options import recording_argument
from mptrace.cli.output import progress
from mptrace.cli.patience import reading
from mptrace.cli.selecting import selection_options
from mptrace.cli.types import ADDRESS, ENTRY, opened
from mptrace.errors import UsageError
from mptrace.units import many


@click.command("explain")
@click.option(
    "--entry",
    type=ENTRY,
    help="Explain one entry: the number of its call, and its index in that call.",
)
@click.option(
    "--address",
    type=ADDRESS,
    help="Show the history of the page or huge page at ADDR, and what became of it.",
)
@click.option(
    "--all", "every", is_flag=True, help="Show each page by itself, even if others are equal."
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object per line for each entry or folio.",
)
@selection_options
@recording_argument
def command(
    entry: tuple[int, int] | None,
    address: int | None,
    every: bool,
    as_json: bool,
    recording: Path,
    **options: Any,
) -> None:
    """Explain why pages in a recording stayed where they were.

    RECORDING is mptrace.data by default. For each page you get the cause, the
    evidence (the kernel function that refused and what it returned, references
    seen and expected, flags, who maps the page, its file), where the page is, the
    remedy, and why its status is silent or says something else. If no call asked
    for the page (compaction, NUMA balancing, ...), you get who wanted to move it
    and by which path. Equal pages are shown once, with their number.

    --address first shows the page's history: every recorded attempt to move it,
    with its time, initiator, source and target, for each process that has a page
    there. With it --pid says whose page it is. Calls, entries and folios are
    numbered as in `mptrace dump`. Without --address, only pages that stayed are
    explained: --failed is the default. --entry is one entry, whatever is selected.
    """
    if sum((entry is not None, address is not None, options["failed"])) > 1:
        raise UsageError("--entry, --address and --failed exclude each other")
    if entry is not None and any(value for name, value in options.items() if name != "top"):
        raise UsageError(
            "--entry names one entry: --from, --to, --pid, --path and --node exclude it"
        )
    from mptrace.cli.selecting import selected
    from mptrace.explain.entries import MOST_BLOCKS, Explainer, Which
    from mptrace.explain.folios import FolioExplainer
    from mptrace.outcomes.chosen import choose
    from mptrace.outcomes.correlate import correlate
    from mptrace.outcomes.fates import fates
    from mptrace.outcomes.implied import with_implied
    from mptrace.outcomes.own import own_of
    from mptrace.outcomes.said import is_empty, said_of
    from mptrace.recording.when import Clock, with_utc
    from mptrace.reporting.text import explain as report_explain
    from mptrace.reporting.text import explain_folios as report_explain_folios
    from mptrace.reporting.text.history import history

    width = terminal.width()
    data = opened(recording)
    clock = Clock(data.meta.raw.get("started"), data.meta.raw.get("ended"))
    selection = selected(data.meta, **options)
    pids = selection.pids if address is not None else ()
    # of an address the processes say whose page it is
    about = replace(selection, pids=()) if pids else selection
    with reading(recording):
        tables = with_implied(data.tables(), data.meta)
        found = correlate(tables, data.meta)
        chosen, said = None, None
        if about.is_about:
            mine, fate = own_of(tables, data.meta), fates(tables, data.meta)
            chosen = choose(tables, data.meta, about, found, fate, mine)
            said = said_of(about, chosen, tables, data.meta, found, mine)
        explainer = Explainer(tables, data.meta, found, chosen)
        # an entry is a call's; pages of others have none
        others = None if entry is not None else FolioExplainer(tables, data.meta, chosen)
    folios = None if others is None else others.select(address, *pids)
    unrecorded = others.unrecorded_pages if others and address is None else 0
    own = 0
    if entry is None and address is None:
        own = explainer.own_stayed + (others.own_stayed if others else 0)
    histories = [] if address is None else explainer.histories(address, *pids)
    try:
        which = explainer.select(Which(entry, address, pids))
    except UsageError as error:
        # a folio may be recorded whose entry is not: one beyond those that are read of a call
        if said is None and not histories and (folios is None or not folios.size):
            if address is None or others is None or not others.count:
                raise
            raise UsageError(
                f"there is neither an entry nor a folio at '{address:#x}'", others.addresses_hint
            ) from error
        which = explainer.select(Which())[:0]
    if said is not None:
        _say(said, as_json=as_json)
    if not which.size and not histories and (folios is None or not folios.size):
        if said is not None and is_empty(said):
            return
        if said is not None and address is not None:
            words = f"of what is selected nothing is about a page at {address:#x}"
            click.echo(words, err=as_json)
            return
        if explainer.count or not (others and others.count):
            is_part = said is not None
            words = report_explain.nothing(explainer.count, explainer.unknown, is_part=is_part)
            click.echo(words, err=as_json)
        if others and others.count:
            click.echo(report_explain_folios.nothing(others.count, others.unknown), err=as_json)
        if unrecorded:
            click.echo(report_explain_folios.unrecorded(unrecorded, width=width), err=as_json)
        if own:
            click.echo(report_explain.left_out(own, width=width), err=as_json)
        return

    if selection.top is not None and every | as_json:
        rest = max(which.size - selection.top, 0)
        which = which[: selection.top]
        if folios is not None:
            rest += max(folios.size - selection.top, 0)
            folios = folios[: selection.top]
        if rest:
            progress(f"{many(rest, 'more page')} not shown (--top)")
    most = selection.top or MOST_BLOCKS
    # what is not shown; beside JSON on stderr, as its lines are one for each page
    notes = [report_explain_folios.unrecorded(unrecorded, width=width)] if unrecorded else []
    notes += [report_explain.left_out(own, width=width)] if own else []

    def texts() -> Iterator[str]:
        yield from (history(one, width=width) for one in histories)
        if every:
            for one in explainer.each(which):
                yield report_explain.explanation(one, width=width)
            if others and folios is not None:
                for folio in others.each(folios):
                    yield report_explain_folios.explanation(folio, width=width)
        else:
            if which.size:
                yield report_explain.render(explainer.blocks(which), most=most, width=width)
            if others and folios is not None and folios.size:
                yield report_explain_folios.render(others.blocks(folios), most=most, width=width)
        yield from notes

    def lines() -> Iterator[str]:
        if as_json:
            yield from (json.dumps(with_utc(one.as_dict(), clock)) for one in histories)
            yield from (json.dumps(with_utc(one.as_dict(), clock)) for one in explainer.each(which))
            if others and folios is not None:
                yield from (
                    json.dumps(with_utc(one.as_dict(), clock)) for one in others.each(folios)
                )
            return
        for number, one in enumerate(texts()):
            yield f"{'' if not number else chr(10)}{one}"

    for text in lines():
        sys.stdout.write(text + "\n")
    if as_json:
        for note in notes:
            click.echo(note, err=True)


def _say(said: Mapping[str, Any], *, as_json: bool) -> None:
    """What is selected, before anything else: a line of JSON, or text and a blank line."""
    if as_json:
        click.echo(json.dumps({"kind": "selection", **said}))
        return
    from mptrace.reporting.text.selection import selected as words

    for line in [*words(said, width=terminal.width()), ""]:
        click.echo(line)
