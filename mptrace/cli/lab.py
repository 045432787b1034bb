# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace lab`: a command in a NUMA guest."""

import os
import signal
import sys
from pathlib import Path

import click

from ..errors import UsageError
from ..host.signals import interrupted_by
from ..lab.kernels import SERIES, find_kernel
from ..lab.runner import run_in_guest
from ..lab.topology import MOST_CPUS, parse_nodes
from .types import whole, within


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--kernel",
    default=next(iter(SERIES)),
    show_default=True,
    metavar="SERIES|PATH",
    help=f"Kernel: {', '.join(SERIES)} (fetched from Debian by apt), 'host', or the path of "
    "a vmlinuz, a .deb or an unpacked directory.",
)
@click.option(
    "--nodes",
    default="2",
    show_default=True,
    metavar="SPEC",
    help="A number of equal nodes, or a size for each: 1G,512M or 1G/cpus=0-1,512M; "
    "1G,1G/slow has a second tier of memory, without CPU.",
)
@click.option("--cpus", type=whole(1, MOST_CPUS), help="CPUs, dealt out to the nodes in turn.")
@click.option("--memory", metavar="SIZE", help="Memory of all nodes together  [default: 1G each]")
@click.option(
    "--timeout",
    type=within("S", "seconds", 0.001, 1e9),
    metavar="S",
    help="Kill COMMAND after S seconds.",
)
@click.option(
    "--bring",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Bring changes below PATH back  [default: the current directory]",
)
@click.option("--no-bring", is_flag=True, help="Bring nothing back.")
@click.option(
    "--threads",
    type=click.Choice(["single", "multi"]),
    default="single",
    show_default=True,
    help="One host thread for all CPUs (quick), or one for each (CPUs run at once).",
)
@click.option(
    "--append",
    multiple=True,
    metavar="ARGUMENT",
    help="Add ARGUMENT to the kernel's command line, such as movablecore=512M.",
)
@click.option("--prepare", is_flag=True, help="Only fetch and unpack the kernel.")
@click.option("--verbose", is_flag=True, help="Attach a serial console; boots about 4 s slower.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    ctx: click.Context,
    kernel: str,
    nodes: str,
    cpus: int | None,
    memory: str | None,
    timeout: float | None,
    bring: tuple[Path, ...],
    no_bring: bool,
    threads: str,
    append: tuple[str, ...],
    prepare: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> None:
    """Boot a NUMA guest and run COMMAND in it, as root; without COMMAND, a shell.

    The guest sees this machine's files below a layer of its own.  What COMMAND
    changes below the current directory comes back, everything else is forgotten.
    The exit status is COMMAND's; 124 when it ran out of time.
    """
    if bring and no_bring:
        raise UsageError("--bring and --no-bring exclude each other")
    topology = parse_nodes(nodes, cpus=cpus, memory=memory)
    # SIGINT also where it is ignored, as in a script's background
    interrupted_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if prepare:
        _say(f"lab: kernel {find_kernel(kernel, say=_say)} is there")
        return
    # A command in the background must not stop for want of its terminal.
    stdin = 0 if not command or not os.isatty(0) else None
    sys.stdout.flush()
    status = run_in_guest(
        command,
        kernel=kernel,
        nodes=topology,
        timeout=timeout,
        stdin=stdin,
        bring=[] if no_bring else (list(bring) or None),
        threads=threads,
        kernel_arguments=append,
        verbose=verbose,
        say=_say,
    )
    ctx.exit(status)


def _say(line: str) -> None:
    click.echo(line, err=True)
