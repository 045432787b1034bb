# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace conform`: what is documented of move_pages(2), tried on this kernel."""

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
@click.option("--only", multiple=True, metavar="NAME", help="Only this scenario; may be repeated.")
@click.option("--list", "as_list", is_flag=True, help="Show the scenarios; run none.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of KTAP.")
@click.option(
    "--disruptive",
    is_flag=True,
    help="Outside a virtual machine, too, run those that fill nodes or change hugetlb pools, "
    "swap, cgroups or the state of memory.",
)
@click.option("--no-trace", is_flag=True, help="Judge return values and statuses alone.")
@click.option("-o", "--output", type=Path, help="Keep a recording of all calls.")
@force_option
@click.option(
    "--restore", is_flag=True, help="Undo what a run that was killed left changed; run nothing."
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
    """Provoke each documented outcome on this kernel, and say what it really did.

    Prints KTAP: per scenario what is documented, what came back, what the
    kernel's events showed, and whether that is as documented, different (with
    the change of the kernel that made it so) or a surprise; a table at the end.
    Everything changed on the host is written down first and restored.

    The exit status is 1 where there was a surprise or an error, else 0.
    """
    if restore and (only or as_list or as_json or disruptive or no_trace or output or force):
        raise UsageError("--restore goes alone")
    if as_list and (disruptive or no_trace or output or force):
        raise UsageError("--list runs nothing: it goes with --only and --json")
    if output and no_trace:
        raise UsageError("--output and --no-trace exclude each other: there is nothing to record")
    if force and not output:
        raise UsageError("--force goes with --output")
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
        progress(f"the kernel's events were not seen: {numbers['not_traced']}")
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
