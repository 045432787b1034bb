# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom a session is about: the options that say it, the same in each command."""

import os
import pwd
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mptrace.cli.options import pids_option
from mptrace.cli.output import progress
from mptrace.cli.types import check_exclusive
from mptrace.errors import UsageError

if TYPE_CHECKING:
    from mptrace.sessions.request import Wanted

_Command = TypeVar("_Command", bound=Callable[..., Any])


def scope_options(verb: str) -> Callable[[_Command], _Command]:
    """``everybody``, ``pids``, ``user`` and ``cgroup``; ``verb`` is what the command does."""
    options = (
        click.option(
            "-a", "--all", "everybody", is_flag=True, help=f"{verb} for every process on this host."
        ),
        pids_option(f"{verb} for these processes, and what they fork from now on; repeatable."),
        click.option(
            "-u",
            "--uid",
            "--user",
            "user",
            metavar="USER",
            help=f"{verb} for the processes of this user (name or number).",
        ),
        click.option(
            "--cgroup",
            metavar="PATH",
            help=f"{verb} for the processes of this cgroup (v2) and those below it.",
        ),
    )

    def decorated(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def as_option(command: _Command) -> _Command:
    """``run_as``: whose rights COMMAND has."""
    return click.option(
        "--as",
        "run_as",
        metavar="USER",
        help="Run COMMAND as this user.  [default: the user who called sudo]",
    )(command)


def wanted_of(
    *,
    everybody: bool,
    pids: tuple[int, ...],
    user: str | None,
    cgroup: str | None,
    command_line: tuple[str, ...] = (),
    run_as: str | None = None,
    name: str,
    must: bool = False,
) -> "Wanted":
    """Whom the options of command ``name`` mean: everybody, where they say nothing.

    Raises UsageError where they contradict each other, or say nothing and ``must``;
    and where there is no such user.
    """
    from mptrace.sessions.command import find_user, invoking_user
    from mptrace.sessions.request import Wanted

    asked = (
        ("-a", everybody),
        ("-p", pids),
        ("-u", user is not None),
        ("--cgroup", cgroup is not None),
        (f"COMMAND ('{command_line[0]}')" if command_line else "", command_line),
    )
    if not check_exclusive(asked, "each says whom to trace: give one of them") and must:
        raise UsageError(
            "say whom to trace, by one of -a, -p PID, -u USER, --cgroup PATH or COMMAND",
            f"mptrace {name} -a   traces every process",
        )
    if cgroup == "":
        raise UsageError("--cgroup names no cgroup", "the root of all is /")
    if run_as is not None and not command_line:
        raise UsageError("--as needs a COMMAND")
    runs_as = None
    if command_line:
        runs_as = find_user(run_as) if run_as is not None else invoking_user()
        if runs_as is None:
            me = pwd.getpwuid(os.geteuid()).pw_name
            progress(f"the command runs as {me}; --as USER runs it as somebody else")
    return Wanted(
        pids=pids,
        uid=None if user is None else find_user(user).uid,
        cgroup=cgroup or "",
        command=command_line,
        user=runs_as,
    )
