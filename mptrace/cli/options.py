# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several commands have, with the same words in each."""

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
)
from mptrace.tracing.plan.request import Request

_Command = TypeVar("_Command", bound=Callable[..., Any])
Decorator = Callable[[_Command], _Command]


def pids_option(words: str) -> Decorator[Any]:
    """``pids``: processes, by commas and by repetition; ``words`` are its help."""
    return click.option("-p", "--pid", "pids", type=PIDS, multiple=True, callback=flat, help=words)


def duration_option(words: str) -> Decorator[Any]:
    """``duration``: seconds or None; ``words`` are its help."""
    return click.option("-d", "--duration", type=SECONDS, help=words)


def tier_option(verb: str) -> Decorator[Any]:
    """``tier``: by what it is traced; ``verb`` says what the command does so."""
    return click.option(
        "--tier",
        type=click.Choice(("auto", "bpf", "tracepoints")),
        default="auto",
        show_default=True,
        help=f"{verb} by BPF, or by tracepoints alone where the kernel refuses it.",
    )


def output_options(command: _Command) -> _Command:
    """``output`` and ``force``: where the recording goes, and whether one may be there."""
    output = click.option(
        "-o",
        "--output",
        type=Path,
        default=Path(DEFAULT_RECORDING),
        show_default=True,
        help="Where the recording goes. By this name, an earlier one becomes "
        f"{DEFAULT_RECORDING}.old.",
    )
    return output(force_option(command))


def force_option(command: _Command) -> _Command:
    """``force``: whether an existing recording may be replaced."""
    return click.option("--force", is_flag=True, help="Replace an existing recording.")(command)


def bounds_options(command: _Command) -> _Command:
    """``buffer`` and ``max_folios``: what the program in the kernel may take."""
    buffer = click.option(
        "--buffer", type=RING, default=Request.folio_ring_bytes, help="Ring of folio records."
    )
    return buffer(
        click.option("--max-folios", type=FOLIOS, help="Folios tracked at once.")(command)
    )


def recording_argument(command: _Command) -> _Command:
    """``recording``: the one to read."""
    return click.argument("recording", type=RECORDING, default=DEFAULT_RECORDING)(command)
