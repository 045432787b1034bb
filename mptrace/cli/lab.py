# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace lab`: run a command in a guest with NUMA nodes."""

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


@click.command(
    context_settings={
        "allow_interspersed_args": False,
        # as it was called before: with `run`, it is how many threads call at once
        "token_normalize_func": lambda name: "host-threads" if name == "threads" else name,
    }
)
@click.option(
    "--kernel",
    default=next(iter(SERIES)),
    show_default=True,
    metavar="SERIES|PATH",
    help=f"Kernel to boot: {', '.join(SERIES)} (apt fetches it from Debian), 'host', or the path "
    "of a vmlinuz, a .deb or an unpacked directory.",
)
@click.option(
    "--nodes",
    default="2",
    show_default=True,
    metavar="SPEC",
    help="Number of equal nodes, or a size for each: 1G,512M or 1G/cpus=0-1,512M. A node "
    "marked /slow, as in 1G,1G/slow, is a slower memory tier without CPUs.",
)
@click.option(
    "--cpus",
    type=whole(1, MOST_CPUS),
    help="Number of CPUs, dealt out to the nodes in turn.  [default: one per node]",
)
@click.option("--memory", metavar="SIZE", help="Memory of all nodes together.  [default: 1G each]")
@click.option(
    "--timeout",
    type=within("SECONDS", "seconds", 0.001, 1e9),
    help="Kill COMMAND after this many seconds.  [default: never]",
)
@click.option(
    "--bring",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Copy changes below PATH back to this machine; repeatable.  [default: the current "
    "directory]",
)
@click.option("--no-bring", is_flag=True, help="Copy no changes back.")
@click.option(
    "--host-threads",
    type=click.Choice(["single", "multi"]),
    default="single",
    show_default=True,
    help="Host threads for the CPUs: 'single' runs all in one and boots fastest; 'multi' gives "
    "each its own, so that they run at the same time.",
)
@click.option(
    "--count",
    is_flag=True,
    help="Count instructions in place of time: in the guest 1 ns is one instruction, repeatable "
    "to 0.5 %. One CPU, unless --cpus says more; it boots in about 30 s.",
)
@click.option(
    "--append",
    multiple=True,
    metavar="ARGUMENT",
    help="Add ARGUMENT, such as movablecore=512M, to the kernel command line; repeatable.",
)
@click.option("--prepare", is_flag=True, help="Fetch and unpack the kernel, and boot nothing.")
@click.option(
    "--verbose", is_flag=True, help="Attach a serial console; the guest boots about 4 s slower."
)
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
    host_threads: str,
    count: bool,
    append: tuple[str, ...],
    prepare: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND, or a shell, in an emulated guest with NUMA nodes.

    COMMAND runs as root and sees this machine's files. What it changes below the
    current directory is copied back when it ends; all other changes are dropped.
    The exit status is COMMAND's, or 124 if --timeout ended it.
    """
    if bring and no_bring:
        raise UsageError("--bring and --no-bring exclude each other")
    if count and host_threads != "single":
        raise UsageError("--count needs all CPUs in one thread: leave --host-threads out")
    if count and cpus is None and "cpus=" not in nodes:
        cpus = 1
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
        threads=host_threads,
        count=count,
        kernel_arguments=append,
        verbose=verbose,
        say=_say,
    )
    ctx.exit(status)


def _say(line: str) -> None:
    click.echo(line, err=True)
