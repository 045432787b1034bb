# SPDX-License-Identifier: GPL-2.0-or-later
"""A command that a session runs: without root's rights, and held until tracing has begun."""

import contextlib
import ctypes
import errno
import os
import pwd
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mptrace.errors import CommandError, Progress, UsageError

#: What a shell says of a command that it does not find, and of one that it can't run.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


@dataclass(frozen=True)
class User:
    """As whom a command runs."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


def find_user(name: str) -> User:
    """The user of a name or number; raises UsageError where there is none."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"there is no user '{name}'") from None
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_shell)


def invoking_user() -> User | None:
    """Who called sudo, or None where nobody did."""
    if os.geteuid() or not os.environ.get("SUDO_UID", "").isdigit():
        return None
    return find_user(os.environ["SUDO_UID"])


class Command:
    """One command: `start` forks it, `release` lets it begin.

    It inherits standard input, output and error, and no descriptor of ours.  With
    ``user`` it has that user's rights, groups and home; without, those of this
    process, save for capabilities that an ordinary user was lent to trace.
    """

    def __init__(self, argv: Sequence[str], user: User | None) -> None:
        self.argv = tuple(argv)
        self.user = user
        self.pid = 0
        self._go = -1
        self._report = -1
        self._status: int | None = None

    def start(self) -> None:
        """Fork the command, which waits; raises CommandError where there is none of that name."""
        name = self.argv[0]
        if shutil.which(name) is None:
            there = os.path.exists(name) and os.sep in name
            raise CommandError(
                f"can't run '{name}': " + ("permission denied" if there else "not found"),
                "check the command after '--'",
                _NOT_EXECUTABLE if there else _NOT_FOUND,
            )
        sys.stdout.flush()
        sys.stderr.flush()
        wait, self._go = os.pipe()
        self._report, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            _become(self.argv, self.user, wait, tell)
        os.close(wait)
        os.close(tell)

    def release(self) -> None:
        """Let it begin; raises CommandError where it can't be run."""
        with contextlib.suppress(BrokenPipeError):  # killed while it waited: its status says so
            os.write(self._go, b"g")
        os.close(self._go)
        self._go = -1
        number = os.read(self._report, 16)
        os.close(self._report)
        self._report = -1
        if number:
            self.wait()
            error = int(number)
            raise CommandError(
                f"can't run '{self.argv[0]}': {os.strerror(error)}",
                "check the command after '--', and that "
                + (f"'{self.user.name}' may run it (--as USER)" if self.user else "you may run it"),
                _NOT_FOUND if error == errno.ENOENT else _NOT_EXECUTABLE,
            )

    @property
    def is_released(self) -> bool:
        """Whether it was let begin."""
        return self.pid > 0 and self._go < 0

    def poll(self) -> int | None:
        """Its exit status as a shell gives it, None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._set(status)
        return self._status

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        if self._status is None:
            self._set(os.waitpid(self.pid, 0)[1])
        assert self._status is not None
        return self._status

    def outlast(self, progress: Progress) -> int:
        """Wait for the end of one that was released, and say so; returns its exit status."""
        if self.poll() is None:
            progress(f"waiting for '{self.argv[0]}' to end")
        return self.wait()

    def close(self) -> None:
        """End it if it was never released; one that runs is left alone."""
        if self._go >= 0:
            os.close(self._go)  # it reads the end of the pipe, and leaves
            self._go = -1
            os.close(self._report)
            self.wait()

    def _set(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self._status = 128 - code if code < 0 else code


# Numbers of include/uapi/linux/prctl.h.
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


def _drop_ambient_capabilities() -> None:
    """Keep those that came with `setpriv` or a service file to ourselves: exec passes them on."""
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def _become(argv: Sequence[str], user: User | None, wait: int, tell: int) -> None:
    """In the child: give up rights, wait for the word, run the command."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        environment = dict(os.environ)
        if os.geteuid():
            _drop_ambient_capabilities()
        if user is not None:
            os.initgroups(user.name, user.gid)
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            environment |= {
                "HOME": user.home,
                "USER": user.name,
                "LOGNAME": user.name,
                "SHELL": user.shell,
            }
        if os.read(wait, 1) != b"g":
            os._exit(1)
        os.execvpe(argv[0], list(argv), environment)
    except OSError as error:
        os.write(tell, str(error.errno or errno.EINVAL).encode())
    finally:
        os._exit(_NOT_FOUND)
