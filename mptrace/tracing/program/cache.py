# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps compiled BPF programs for the next session, because compiling takes seconds.

A program is found by what went into it: sources, macros, kernel version, compiler.
Without a place to keep anything, each session compiles.
"""

from collections.abc import Iterable
from pathlib import Path

from mptrace.host import kept
from mptrace.tracing.program.compiled import FORMAT, Compiled

SUFFIX = ".bpf"


def key_of(parts: Iterable[str]) -> str:
    """A name for what was made of these texts, in this order."""
    return kept.key_of([str(FORMAT), *parts])


def load(directory: Path | None, key: str) -> Compiled | None:
    """The program of that name, None where there is none that can be relied on."""
    data = kept.load(directory, key, SUFFIX)
    if data is None:
        return None
    try:
        return Compiled.from_bytes(data)
    except (ValueError, KeyError, TypeError):
        return None


def store(directory: Path | None, key: str, program: Compiled) -> bool:
    """Keep a program under that name; returns whether it is kept, which is no condition."""
    return kept.store(directory, key, SUFFIX, program.to_bytes())
