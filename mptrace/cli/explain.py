# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace explain`: why a page stayed, and why the kernel told of it what it told."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mptrace.cli.report import DEFAULT_RECORDING
from mptrace.cli.types import ADDRESS, ENTRY
from mptrace.errors import UsageError


@click.command("explain")
@click.option("--entry", type=ENTRY, help="One entry: number of its call, and its index there.")
@click.option("--address", type=ADDRESS, help="All entries of the page (also a huge one) at ADDR.")
@click.option("--failed", is_flag=True, help="Every page that stayed; so it is without an option.")
@click.option("--all", "every", is_flag=True, help="Each entry by itself, equal ones, too.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object per line for each entry.")
@click.argument("recording", type=click.Path(path_type=Path), default=DEFAULT_RECORDING)
def command(
    entry: tuple[int, int] | None,
    address: int | None,
    failed: bool,
    every: bool,
    as_json: bool,
    recording: Path,
) -> None:
    """Explain why pages of RECORDING (mptrace.data) stayed where they were.

    For each: the cause, the evidence for it (the kernel function that refused
    and what it returned, references seen and expected, flags, who maps it, its
    file), where the page is, the remedy; and why its status is silent or says
    something else. Equal ones are shown once, with their number. Numbers of
    calls and entries are those of `mptrace dump`.
    """
    if sum((entry is not None, address is not None, failed)) > 1:
        raise UsageError("--entry, --address and --failed exclude each other")
    from mptrace.explain import Explainer, Which
    from mptrace.recording import Recording
    from mptrace.report_explain import explanation, nothing, render

    data = Recording.open(recording)
    explainer = Explainer(data.tables(), data.meta)
    which = explainer.select(Which(entry, address))
    if not which.size:
        click.echo(nothing(explainer.count, explainer.unknown), err=as_json)
        return

    def lines() -> Iterator[str]:
        if as_json:
            yield from (json.dumps(one.as_dict()) for one in explainer.each(which))
        elif every:
            for number, one in enumerate(explainer.each(which)):
                yield f"{'' if not number else chr(10)}{explanation(one)}"
        else:
            yield render(explainer.blocks(which))

    try:
        for text in lines():
            sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
