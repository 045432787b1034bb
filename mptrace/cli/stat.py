# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace stat`: counts of migrations and waits, per interval and in total."""

import json
from pathlib import Path

import click

from mptrace.cli import terminal
from mptrace.cli.exporter import Publisher, check_library
from mptrace.cli.options import duration_option, max_rows_option, tier_option
from mptrace.cli.output import progress
from mptrace.cli.scope import as_option, scope_options, wanted_of
from mptrace.cli.starting import will_watch
from mptrace.cli.types import COUNT, EXPOSED, SECONDS
from mptrace.errors import EXIT_FAILURE, EXIT_INTERRUPTED
from mptrace.tracing.counting.views import VIEWS

_NUMBERS = click.Argument(["interval"], type=SECONDS), click.Argument(["count"], type=COUNT)


class _Command(click.Command):
    """Options anywhere, up to two numbers among them; COMMAND begins with what is neither.

    What follows `--` is COMMAND whatever it is called.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``args`` as click does, the numbers apart."""
        numbers: list[str] = []
        while True:
            words = self._words(ctx, args)
            before = args[: len(args) - len(words)]
            is_command = before[-1:] == ["--"] or len(numbers) == len(_NUMBERS)
            if not words or is_command or not _is_number(words[0]):
                break
            numbers.append(words[0])
            args = [*before, *words[1:]]
        values = {"interval": None, "count": None}
        for argument, text in zip(_NUMBERS, numbers, strict=False):
            values[str(argument.name)] = argument.process_value(ctx, text)
        rest = super().parse_args(ctx, args)
        ctx.params |= values
        return rest

    def _words(self, ctx: click.Context, args: list[str]) -> tuple[str, ...]:
        """What comes from the first word on that is no option, nor an option's value."""
        options, _, _ = self.make_parser(ctx).parse_args(list(args))
        words = options.get("command_line")
        return words if isinstance(words, tuple) else ()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@click.command(
    name="stat",
    cls=_Command,
    context_settings={"max_content_width": 80, "allow_interspersed_args": False},
)
@scope_options("Count")
@as_option
@duration_option("Stop after this many seconds.")
@click.option(
    "--by",
    "view",
    type=click.Choice(VIEWS),
    default="reason",
    show_default=True,
    help="Print one line per reason, per process or per cgroup.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--openmetrics",
    "exposed",
    type=EXPOSED,
    help="Keep counters for Prometheus in FILE, which is replaced after each INTERVAL, or serve "
    "them by HTTP on PORT of HOST.  [default HOST: 127.0.0.1]",
)
@max_rows_option
@tier_option("Count")
@click.argument("command_line", nargs=-1, metavar="[INTERVAL [COUNT]] [COMMAND ARGS...]")
def command(
    everybody: bool,
    pids: tuple[int, ...],
    user: str | None,
    cgroup: str | None,
    run_as: str | None,
    duration: float | None,
    view: str,
    as_json: bool,
    exposed: Path | tuple[str, int] | None,
    max_rows: int,
    tier: str,
    command_line: tuple[str, ...],
    interval: float | None,
    count: int | None,
) -> None:
    """Count migrations, failures and waits, once or every INTERVAL.

    Prints a group of lines every INTERVAL seconds, COUNT times, and then a total;
    without INTERVAL, the total alone. Ctrl-C ends it too. The kernel adds
    everything up, and nothing is recorded about single pages.

    With COMMAND, counts what it and its children do until it ends, and exits with
    its status. It runs as the user who called sudo. Write -- before a command
    whose name is a number or begins with -.
    """
    if exposed is not None:
        check_library()
    wanted = wanted_of(
        everybody=everybody,
        pids=pids,
        user=user,
        cgroup=cgroup,
        command_line=command_line,
        run_as=run_as,
        name="stat",
    )
    if not as_json:
        # before what takes long to load
        progress(will_watch("count for", wanted, duration, interval, count))
    from mptrace.host.read import read_host_facts
    from mptrace.reporting.text.stat import Lines, to_json
    from mptrace.reporting.text.times import times_note
    from mptrace.sessions.counted import counted
    from mptrace.tracing.counting.intervals import Ending, clock, intervals
    from mptrace.tracing.counting.plan import StatBounds

    # signals from the start: what is being attached is taken down in order
    with (
        Ending() as ending,
        counted(wanted, StatBounds(max_rows=max_rows), tier, progress) as session,
    ):
        sampler = session.sampler
        for sentence in sampler.unseen:
            progress(sentence)
        with Publisher(exposed, view, sampler) as publisher:
            if session.command is not None:
                session.command.release()
            if not as_json:
                progress("counting")
            lines = Lines(view, sampler.reasons, terminal.width())
            for each in intervals(sampler, ending, interval, count, duration, publisher.publish):
                publisher.publish(is_due=True)
                if as_json:
                    click.echo(json.dumps(to_json(each, sampler.reasons, "interval", view)))
                else:
                    click.echo(lines.interval(each, clock(each.wall_ns)))
            everything = sampler.total()
        host = read_host_facts()
        if as_json:
            value = to_json(everything, sampler.reasons, "total", view)
            value["tier"] = sampler.tier
            value["unseen"] = list(sampler.unseen)
            value["interrupted"] = ending.interrupted
            value["emulated"] = host.emulated
            value["counted"] = None if host.counted is None else dict(host.counted)
            click.echo(json.dumps(value))
        else:
            click.echo(("" if interval is None else "\n") + lines.total(everything))
            note = times_note(counted=host.counted is not None, emulated=host.emulated)
            if note:
                click.echo(note)
        if ending.gone and session.command is None:
            progress("the chosen processes have ended")
        if session.command is not None:
            raise SystemExit(session.command.outlast(progress))
    if ending.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
    if not publisher.is_whole:
        raise SystemExit(EXIT_FAILURE)
