# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one command in a new guest: finds the kernel, boots, runs, copies files back."""

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import LabError, OutputError
from ..units import many
from .changes import bring_back
from .guest import DEFAULT_PATH, Guest, LabTimeout, Sink, Size
from .kernels import Kernel, Say, find_kernel
from .programs import SharedPrograms
from .topology import Topology, parse_nodes

#: Variables of the host that a command in the guest gets, besides MPTRACE_*.
PASSED_VARIABLES = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "VIRTUAL_ENV"),
        *("TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES", "CI"),
        *("SUDO_UID", "SUDO_GID", "SUDO_USER", "PYTHONUNBUFFERED"),
    )
)
#: Where the guest mounts file systems of its own, so that the host's aren't seen.
_HIDDEN = ("/dev", "/proc", "/run", "/sys")


def guest_environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a command in the guest, from the host's; has MPTRACE_IN_LAB=1."""
    passed = {
        name: value
        for name, value in env.items()
        if name in PASSED_VARIABLES or name.startswith(("MPTRACE_", "LC_"))
    }
    passed.setdefault("PATH", DEFAULT_PATH)
    passed.setdefault("HOME", "/root")
    passed["MPTRACE_IN_LAB"] = "1"
    return passed


def run_in_guest(
    command: Sequence[str],
    *,
    kernel: str | Kernel = "6.1",
    nodes: str | Topology = "2",
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    stdin: bytes | int | None = None,
    stdout: int | Sink = 1,
    stderr: int | Sink = 2,
    bring: Sequence[str | os.PathLike[str]] | None = None,
    threads: str = "single",
    count: bool = False,
    kernel_arguments: Sequence[str] = (),
    verbose: bool = False,
    say: Say = lambda _: None,
) -> int:
    """Boot a guest, run ``command`` in it, bring its files back, power off; its exit status.

    The command starts in ``cwd`` (by default the current directory) with the
    environment ``env`` (by default `guest_environment`); its output goes to the
    descriptors or sinks ``stdout`` and ``stderr`` as it comes.  ``threads``, ``count`` and
    ``kernel_arguments`` are `Guest`'s.  An empty command
    is a shell, with a terminal where ``stdin`` is one.  What the command changed
    below the paths ``bring`` (by default ``cwd``, unless that is the root) comes
    back to the host, also when the command failed or ran out of time.

    Raises LabError where the guest can't be built or dies, LabTimeout after
    ``timeout`` seconds, UsageError for nodes that can't be read.
    """
    directory = Path(cwd or ".").resolve()
    for path in (directory, Path(__file__).resolve()):
        if top := next((name for name in _HIDDEN if path.is_relative_to(name)), ""):
            raise LabError(
                f"the guest can't see {str(path)!r}: it has its own {top}",
                "run from another directory",
            )
    topology = parse_nodes(nodes) if isinstance(nodes, str) else nodes
    if bring is None:
        bring = [directory] if directory != Path("/") else []
    roots = [str((directory / path).resolve()) for path in bring]
    found = find_kernel(kernel, say=say) if isinstance(kernel, str) else kernel
    environment = guest_environment() if env is None else dict(env)
    how = "instructions counted" if count else "emulated"
    say(f"lab: booting {found}, {topology}, {how}")
    with Guest(
        found,
        topology,
        threads=threads,
        count=count,
        verbose=verbose,
        kernel_arguments=kernel_arguments,
    ) as guest:
        programs = SharedPrograms(guest)
        programs.lend()
        try:
            with contextlib.ExitStack() as stack:
                terminal = None
                if not command:
                    command = [environment.get("SHELL", "/bin/sh")]
                    if isinstance(stdin, int) and os.isatty(stdin):
                        stack.enter_context(_raw(stdin))
                        terminal = _terminal_size
                completed = guest.run(
                    command,
                    cwd=directory,
                    env=environment,
                    timeout=timeout,
                    stdin=stdin,
                    stdout=_sink(stdout),
                    stderr=_sink(stderr, is_result=False),
                    terminal=terminal,
                )
        except (LabTimeout, OutputError):
            _bring(guest, roots, say)
            raise
        _bring(guest, roots, say)
        programs.collect()
    return completed.returncode


def _bring(guest: Guest, roots: Sequence[str], say: Say) -> None:
    if roots and (count := bring_back(guest, roots)):
        say(f"lab: brought back {many(count, 'changed path')}")


def _sink(target: int | Sink, *, is_result: bool = True) -> Sink:
    """Where output goes; what can't be written there is dropped unless it is a result."""
    if not isinstance(target, int):
        return target
    descriptor = target

    def write(data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError as error:
            if is_result:
                raise OutputError.of(error) from error

    return write


def _terminal_size() -> Size:
    columns, rows = os.get_terminal_size(sys.__stdin__.fileno() if sys.__stdin__ else 0)
    return rows, columns


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal in raw mode: every key goes to the guest, Ctrl-C too."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
