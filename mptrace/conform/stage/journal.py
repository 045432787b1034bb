# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that a scenario changes on the host, written down first and undone afterwards.

A line of JSON per change, on disk before the change is made: ``{"id", "undo":
[verb, arguments...]}``; ``{"undone": id}`` when it was taken back.  Whoever finds
the file after a SIGKILL can restore the host from it.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mptrace.errors import HostError

#: Below /run: what a reboot undoes needs no journal any more.
JOURNAL = Path("/run/mptrace/conform.journal")
#: Names of directories and devices that scenarios make begin with it.
OWN_PREFIX = "mptrace-"
_COMMAND_SECONDS = 30
#: Module of the process that scenarios, and their helpers, are forked from.
SERVER = "mptrace.conform.scenario_server"


class Journal:
    """The journal at ``path``; processes that append to it do so one after the other."""

    def __init__(self, path: Path = JOURNAL) -> None:
        self.path = path

    def claim(self, seconds: float = 5.0) -> int:
        """Lock the journal for one run; the descriptor that holds the lock.

        The lock lasts until every process that has the descriptor is gone, and
        is waited for ``seconds``: those of a killed run may just be ending.
        Helpers of a scenario that outlive a run that died are killed.  Raises
        HostError where another run holds the lock.
        """
        path = self.path.with_suffix(".lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"can't open '{path}': {error.strerror}") from error
        try:
            if not _locked(fd, seconds):
                owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
                holders = _holders(path)
                if owner in holders:
                    raise HostError(
                        f"another mptrace conform is running (process {owner})",
                        "wait until it ends",
                    )
                for pid, words in holders.items():
                    if SERVER in words:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
                if not _locked(fd, 5.0):
                    raise HostError(
                        f"processes of a run that died hold the lock '{path}': "
                        f"{', '.join(holders) or 'unknown'}",
                        "end them, or restart this host",
                    )
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def note(self, verb: str, *arguments: str) -> int:
        """Write down how to undo a change that is about to be made; returns its id."""
        if verb not in _UNDO:
            raise ValueError(verb)
        number = 1 + max((line.get("id", -1) for line in self._lines()), default=-1)
        self._append({"id": number, "undo": [verb, *arguments]})
        return number

    def undo(self, number: int) -> None:
        """Undo one change and write that down; raises HostError where it can't be undone."""
        entry = next(line for line in self._lines() if line.get("id") == number)
        verb, *arguments = entry["undo"]
        _undo(verb, arguments)
        self._append({"undone": number})

    def outstanding(self) -> list[tuple[int, str]]:
        """Changes not undone yet, oldest first: (id, in words)."""
        lines = self._lines()
        undone = {line["undone"] for line in lines if "undone" in line}
        return [
            (line["id"], " ".join(line["undo"]))
            for line in lines
            if "id" in line and line["id"] not in undone
        ]

    def restore(self) -> list[str]:
        """Undo everything outstanding, newest first, and remove the journal.

        Returns what was undone, in words.  What can't be undone stays in the
        journal; the HostError raised at the end names it.
        """
        restored, failed = [], []
        for number, words in reversed(self.outstanding()):
            try:
                self.undo(number)
                restored.append(words)
            except HostError as error:
                failed.append(f"{words}: {error.message}")
        if failed:
            raise HostError(
                "could not restore everything: " + "; ".join(failed),
                f"what is left is written down in '{self.path}'",
            )
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        return restored

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        return [entry for line in text.split("\n") if (entry := _entry(line))]

    def _append(self, line: dict[str, object]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o600)
        try:
            # first an end for what a writer that was killed may have left without
            os.write(fd, b"\n" + json.dumps(line).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)


def _entry(line: str) -> dict[str, Any] | None:
    """A line's entry; None for one cut short, whose change was never made: the line comes first."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry


def _locked(fd: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)


def _holders(path: Path) -> dict[str, str]:
    """Other processes that have the file open: number -> command line."""
    found = {}
    wanted = os.path.realpath(path)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = {os.readlink(link) for link in (process / "fd").iterdir()}
            if wanted in files and process.name != str(os.getpid()):
                found[process.name] = (process / "cmdline").read_text(errors="replace")
        except OSError:
            continue  # it has just ended
    return found


# ---- how each kind of change is undone; undoing twice does no harm ------------------


def _write(path: str, value: str) -> None:
    Path(path).write_text(value)


def _rmdir(path: str) -> None:
    # a cgroup is busy until its last process is gone
    deadline = time.monotonic() + 10
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _command(*argv: str) -> Callable[[str], None]:
    def run(argument: str) -> None:
        process = subprocess.Popen(
            [*argv, argument],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            # not waited for: what waits for a device can't be killed
            process.kill()
            words = " ".join([*argv, argument])
            raise HostError(f"'{words}' did not end within {_COMMAND_SECONDS} s") from None
        if process.returncode:
            raise HostError(output.strip() or f"exit {process.returncode}")

    return run


def _swapoff(path: str) -> None:
    swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    if any(line.split()[0] == path for line in swaps):
        _command("swapoff")(path)


def _remove_dm(name: str) -> None:
    if Path(f"/dev/mapper/{name}").exists():
        # --force: what still waits in a slow device fails at once
        _command("env", "DM_DISABLE_UDEV=1", "dmsetup", "remove", "--force", "--retry")(name)


_UNDO: dict[str, Callable[..., None]] = {
    "write": _write,
    "rmdir": _rmdir,
    "swapoff": _swapoff,
    "dm-remove": _remove_dm,
}


def _undo(verb: str, arguments: list[str]) -> None:
    try:
        _UNDO[verb](*arguments)
    except OSError as error:
        raise HostError(error.strerror or str(error)) from error
