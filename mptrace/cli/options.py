# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands share, worded the same in each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mptrace.cli.types import (
    DEFAULT_RECORDING,
    FOLIOS,
    PIDS,
    RECORDING,
    RING,
    SECONDS,
    flat,
    whole,
)
from mptrace.recording.detail import DETAILS, LEVEL_ALL
from mptrace.tracing.plan.request import Request

_Command = TypeVar("_Command", bound=Callable[..., Any])
Decorator = Callable[[_Command], _Command]


def pids_option(words: str) -> Decorator[Any]:
    """``pids``: processes, by commas and by repetition; ``words`` are its help."""
    return click.option("-p", "--pid", "pids", type=PIDS, multiple=True, callback=flat, help=words)


def duration_option(words: str) -> Decorator[Any]:
    """``duration``: seconds or None; ``words`` are its help."""
    return click.option("-d", "--duration", type=SECONDS, help=words)


def max_rows_option(command: _Command) -> _Command:
    """``max_rows``: how many rows a counting program may have."""
    return click.option(
        "--max-rows",
        type=whole(64, 1 << 20),
        default=4096,
        show_default=True,
        help="How many rows (a reason, a process and its cgroup each) the kernel can count: 64 "
        "to 1,048,576.",
    )(command)


def tier_option(verb: str) -> Decorator[Any]:
    """``tier``: what is used to trace; ``verb`` is what the command does with it."""
    return click.option(
        "--tier",
        type=click.Choice(("auto", "bpf", "tracepoints")),
        default="auto",
        show_default=True,
        help=f"{verb} with BPF or with tracepoints alone; 'auto' uses tracepoints where the kernel "
        "refuses BPF.",
    )


def output_options(command: _Command) -> _Command:
    """``output`` and ``force``: where the recording goes, and whether it may replace one."""
    output = click.option(
        "-o",
        "--output",
        type=Path,
        default=Path(DEFAULT_RECORDING),
        show_default=True,
        help="Directory to write the recording to. Without -o, an earlier one is renamed to "
        f"{DEFAULT_RECORDING}.old.",
    )
    return output(force_option(command))


def stacks_option(command: _Command) -> _Command:
    """``stacks``: whether to record where calls, migrations and waits came from."""
    return click.option(
        "--stacks",
        is_flag=True,
        help="Also record the stacks, of the kernel and of user space, from which calls, other "
        "migrations and waits came.",
    )(command)


def force_option(command: _Command) -> _Command:
    """``force``: whether an existing recording may be replaced."""
    return click.option("--force", is_flag=True, help="Replace an existing recording.")(command)


def detail_option(command: _Command) -> _Command:
    """``detail``: how much of each page is traced."""
    return click.option(
        "--detail",
        type=click.Choice(DETAILS),
        default=LEVEL_ALL,
        show_default=True,
        help="How much to trace of each page: 'outcomes' is light, and leaves out phases, "
        "blackouts and owners.",
    )(command)


def bounds_options(command: _Command) -> _Command:
    """``buffer`` and ``max_folios``: how much memory the program in the kernel may take."""
    buffer = click.option(
        "--buffer",
        type=RING,
        default=Request.folio_ring_bytes,
        help="Size of the kernel's ring buffer for folio records; a larger one loses less.  "
        f"[default: {Request.folio_ring_bytes >> 20}M]",
    )
    most = click.option(
        "--max-folios",
        type=FOLIOS,
        help="How many folios can be tracked at once, at about 300 bytes each.  "
        f"[default: {Request.max_folios:,}; for the workload of 'run', what its calls need]",
    )
    return buffer(most(command))


def recording_argument(command: _Command) -> _Command:
    """``recording``: the one to read."""
    return click.argument("recording", type=RECORDING, default=DEFAULT_RECORDING)(command)
