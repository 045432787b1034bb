# SPDX-License-Identifier: GPL-2.0-or-later
"""A session that counts: whom, with the command that it runs; `stat` and `top` look at it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mptrace.errors import Progress
from mptrace.host.privileges import check_privileges
from mptrace.sessions.command import Command
from mptrace.sessions.request import Wanted, scope_of
from mptrace.tracing.counting import sampler as sampling
from mptrace.tracing.counting.plan import StatBounds


@dataclass(frozen=True)
class Counted:
    """What counts, and the command that waits for `Command.release`, if there is one."""

    sampler: sampling.Sampler
    command: Command | None


@contextlib.contextmanager
def counted(wanted: Wanted, bounds: StatBounds, tier: str, progress: Progress) -> Iterator[Counted]:
    """Count for whoever is wanted while inside; a command is started and held.

    Raises like `sampler.Sampler`, `request.scope_of` and `Command.start`.
    """
    check_privileges()
    with contextlib.ExitStack() as stack:
        command = None
        if wanted.command:
            # before there is anything that it could inherit
            command = Command(wanted.command, wanted.user)
            command.start()
            stack.callback(command.close)
        scope = scope_of(wanted)
        if command is not None:
            scope = replace(scope, tgids=(command.pid,))
        sampler = sampling.Sampler(scope, bounds, progress, tier, is_command=command is not None)
        yield Counted(stack.enter_context(sampler), command)
