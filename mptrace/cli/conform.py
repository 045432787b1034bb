# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace conform`: does this kernel do what is documented of move_pages(2)?"""

import json
import signal
from pathlib import Path
from typing import Any

import click

from mptrace.cli import terminal
from mptrace.cli.options import force_option
from mptrace.cli.output import progress
from mptrace.errors import EXIT_FAILURE, EXIT_INTERRUPTED, UsageError
from mptrace.host.signals import interrupted_by


@click.command("conform", context_settings={"max_content_width": 80})
@click.option("--only", multiple=True, metavar="NAME", help="Run this scenario only; repeatable.")
@click.option("--list", "as_list", is_flag=True, help="List the scenarios and run none.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of KTAP.")
@click.option(
    "--disruptive",
    is_flag=True,
    help="Outside a virtual machine too, run the scenarios that change the host: they fill nodes, "
    "or change hugetlb pools, swap, cgroups, mounts or settings.",
)
@click.option(
    "--no-trace", is_flag=True, help="Judge by return values and statuses alone, without tracing."
)
@click.option("-o", "--output", type=Path, help="Keep a recording of all calls in this directory.")
@force_option
@click.option(
    "--restore", is_flag=True, help="Undo the changes that a killed run left behind; run nothing."
)
@click.pass_context
def command(
    context: click.Context,
    only: tuple[str, ...],
    as_list: bool,
    as_json: bool,
    disruptive: bool,
    no_trace: bool,
    output: Path | None,
    force: bool,
    restore: bool,
) -> None:
    """Test whether this kernel does what move_pages(2) documents.

    Makes each documented outcome happen and prints, as KTAP, what is documented,
    what came back and what the kernel's events showed. The verdict is "as
    documented", "different" (it names the kernel change that explains it) or
    "surprise". A table sums up all scenarios.

    Every change to the host is written down first, and undone at the end. The
    exit status is 1 if there was a surprise or an error, else 0.
    """
    if restore and (only or as_list or as_json or disruptive or no_trace or output or force):
        raise UsageError("--restore takes no other option")
    if as_list and (disruptive or no_trace or output or force):
        raise UsageError("--list runs nothing: only --only and --json go with it")
    if output and no_trace:
        raise UsageError(
            "--output and --no-trace exclude each other: without tracing there is nothing to record"
        )
    if force and not output:
        raise UsageError("--force needs --output")
    if restore:
        _restore()
        return
    from mptrace.conform.run import ConformRequest, described, run
    from mptrace.conform.scenarios import catalogue, find
    from mptrace.conform.verdicts import BAD
    from mptrace.reporting.text import conform as report_conform

    wanted = {find(name).name for name in only} or set(catalogue())
    scenarios = tuple(each for each in catalogue().values() if each.name in wanted)
    width = terminal.width()
    if as_list:
        known = [described(each) for each in scenarios]
        click.echo(
            json.dumps(known, indent=2) if as_json else report_conform.listing(known, width=width)
        )
        return

    def began(numbers: dict[str, Any]) -> None:
        if not as_json:
            click.echo(report_conform.head(numbers, width=width))

    def judged(number: int, result: dict[str, Any]) -> None:
        if not as_json:
            click.echo(report_conform.scenario(number, result, width=width))

    interrupted_by(signal.SIGTERM, signal.SIGHUP)
    numbers = run(
        ConformRequest(scenarios, disruptive, not no_trace, output, force),
        progress,
        began,
        judged,
    )
    click.echo(
        json.dumps(numbers, indent=1) if as_json else report_conform.tail(numbers, width=width)
    )
    if as_json and not numbers["traced"]:
        progress(f"the kernel's events could not be traced: {numbers['not_traced']}")
    if numbers["not_restored"]:
        progress(numbers["not_restored"])
        context.exit(EXIT_FAILURE)
    if numbers["interrupted"]:
        context.exit(EXIT_INTERRUPTED)
    if any(result["verdict"] in BAD for result in numbers["scenarios"]):
        context.exit(EXIT_FAILURE)


def _restore() -> None:
    from mptrace.conform.run import restore

    undone = restore()
    for words in undone:
        click.echo(f"undone: {words}")
    if not undone:
        click.echo("nothing was left to undo")
