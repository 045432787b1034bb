# SPDX-License-Identifier: GPL-2.0-or-later
"""What a running scenario is given: memory in place, helpers, the one call that is judged.

A scenario has a process of its own and may do to it what it likes (drop its
privileges, enter a cgroup); everything beyond it goes through the journal.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mptrace import driver
from mptrace.conform.stage.journal import OWN_PREFIX, Journal
from mptrace.driver import MPOL_BIND, MPOL_MF_MOVE, PAGE_SIZE, SENTINEL
from mptrace.errors import MptraceError
from mptrace.host import proc
from mptrace.host.parent import die_with_parent

_libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """This host can't do what the scenario needs; the text says why."""


class StageError(MptraceError):
    """A scenario's preparation failed: nothing was observed."""


@dataclass(frozen=True)
class Made:
    """The call that is judged, as its caller saw it; one element per entry.

    ``statuses``: None where the kernel wrote nothing (or where they could not be
    read back).  ``before`` and ``after``: node or -errno by query mode, empty
    where the process could not be asked.
    """

    pid: int
    tid: int
    addresses: list[int]
    targets: list[int]
    flags: int
    count: int
    ret: int
    errno: int
    statuses: list[int | None]
    before: list[int]
    after: list[int]
    before_ns: int
    after_ns: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Stage:
    """Facilities of one scenario; ``undo`` takes everything back in reverse order.

    ``nodes`` have memory; ``source`` and ``target`` are the first and the last, which
    has the most that is free; ``smallest`` is the other end of that: where a node is
    to be filled, the less goes on there the better.
    ``begin`` is called right before the judged call, with the caller's process
    id, and returns when it may be made; ``finish`` right after it.
    """

    def __init__(
        self,
        nodes: Sequence[int],
        journal: Journal,
        *,
        begin: Callable[[int], None] = lambda _: None,
        finish: Callable[[Made], None] = lambda _: None,
    ) -> None:
        self.nodes = tuple(nodes)
        self.source, self.target = self.nodes[0], self.nodes[-1]
        self.smallest = self.nodes[min(1, len(self.nodes) - 1)]
        self.journal = journal
        self.undo = contextlib.ExitStack()
        self._begin = begin
        self._finish = finish
        self.made: Made | None = None

    # ---- what the host lacks -----------------------------------------------------

    def skip(self, reason: str) -> None:
        """End the scenario: this host can't do it."""
        raise Skip(reason)

    def need_tool(self, name: str) -> None:
        """Skip where a program is not installed."""
        if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            self.skip(f"the program '{name}' is not installed")

    def need_module(self, name: str) -> None:
        """Load a module unless it is there; skip where this kernel has none of that name."""
        if Path(f"/sys/module/{name.replace('-', '_')}").exists():
            return
        done = subprocess.run(["modprobe", name], capture_output=True, text=True, check=False)
        if done.returncode:
            self.skip(f"this kernel has no module '{name}'")

    def need_file(self, path: str | Path) -> None:
        """Skip where a file is not there (a sysfs interface, a device)."""
        if not Path(path).exists():
            self.skip(f"this host has no '{path}'")

    # ---- memory -----------------------------------------------------------------

    def anonymous(self, pages: int = 1, *, nid: int | None = None, touch: bool = True) -> list[int]:
        """Private anonymous pages of one mapping on ``nid`` (the source node); their addresses."""
        size = pages * PAGE_SIZE
        base = driver.map_anonymous(size)
        # no THP: what is tested is 4 KiB pages
        driver.advise(base, size, mmap.MADV_NOHUGEPAGE)
        self.bind(base, size, self.source if nid is None else nid)
        addresses = [base + PAGE_SIZE * page for page in range(pages)]
        if touch:
            self.touch(addresses)
        return addresses

    def bind(self, base: int, size: int, nid: int) -> None:
        """Let memory that is not there yet come from ``nid``."""
        driver.mbind(base, size, MPOL_BIND, (nid,))

    def touch(self, addresses: Sequence[int], *, write: bool = True) -> None:
        """Read, or read and write, a byte of each page, so that it is there."""
        for address in addresses:
            byte = ctypes.c_ubyte.from_address(address)
            if write:
                byte.value = byte.value ^ 0xFF
            else:
                _ = byte.value

    # ---- holders ----------------------------------------------------------------

    def vmsplice(self, address: int, length: int = PAGE_SIZE) -> int:
        """Put the pages at ``address`` into a pipe that nobody reads; its reading end."""
        reading, writing = os.pipe()
        self.undo.callback(os.close, reading)
        self.undo.callback(os.close, writing)

        class IoVec(ctypes.Structure):
            _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

        vector = IoVec(address, length)
        if _libc.vmsplice(writing, ctypes.byref(vector), 1, 0) != length:
            raise StageError(f"vmsplice failed: {os.strerror(ctypes.get_errno())}")
        return reading

    def fork(self, act: Callable[[], Any] = lambda: None) -> int:
        """A child that runs ``act`` and then waits until the scenario ends; its process id.

        Returns when ``act`` has returned.  The child dies with this process.
        """
        reading, writing = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(reading)
                die_with_parent(parent)
                act()
                os.write(writing, b"r")
                while True:
                    signal.pause()
            except BaseException as error:
                os.write(writing, repr(error).encode()[:500])
            finally:
                os._exit(status)
        os.close(writing)
        self.undo.callback(self._end, pid)
        answer = os.read(reading, 512)
        os.close(reading)
        if answer != b"r":
            raise StageError(f"the helper process failed: {answer.decode() or 'it died'}")
        return pid

    def _end(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def await_(self, done: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Wait until ``done()``; raises StageError where it does not come true."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise StageError(f"waited {seconds:.0f} s for {what}, in vain")
            time.sleep(0.01)

    # ---- changes of the host -------------------------------------------------------

    def change(self, verb: str, *arguments: str) -> None:
        """Write down how to undo what is about to be changed; undone when the scenario ends."""
        number = self.journal.note(verb, *arguments)
        self.undo.callback(self.journal.undo, number)

    def set_file(self, path: str | Path, value: str) -> None:
        """Write a setting and put its old value back afterwards."""
        path = Path(path)
        self.need_file(path)
        old = path.read_text().strip()
        if chosen := [word for word in old.split() if word.startswith("[")]:
            old = chosen[0].strip("[]")  # "always [madvise] never"
        self.change("write", str(path), old)
        path.write_text(value)

    def cgroup(self, **settings: str) -> Path:
        """A cgroup (v2) with settings such as ``cpuset_mems="0"``, gone afterwards."""
        root = Path("/sys/fs/cgroup")
        self.need_file(root / "cgroup.controllers")
        path = root / f"{OWN_PREFIX}{os.getpid()}-{time.monotonic_ns()}"
        for controller in {name.partition("_")[0] for name in settings}:
            if controller not in (root / "cgroup.subtree_control").read_text().split():
                if controller not in (root / "cgroup.controllers").read_text().split():
                    self.skip(f"cgroup v2 has no controller '{controller}' here")
                self.change("write", str(root / "cgroup.subtree_control"), f"-{controller}")
                (root / "cgroup.subtree_control").write_text(f"+{controller}")
        self.change("rmdir", str(path))
        path.mkdir()
        for name, value in settings.items():
            (path / name.replace("_", ".", 1)).write_text(value)
        return path

    def run(self, *argv: str) -> str:
        """Run a program; its output.  Raises StageError where it fails."""
        self.need_tool(argv[0])
        environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=environment, timeout=120
        )
        if done.returncode:
            raise StageError(f"'{' '.join(argv)}' failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    # ---- the judged call ---------------------------------------------------------

    def move(
        self,
        addresses: Sequence[int],
        targets: Sequence[int] | int | None = None,
        *,
        pid: int = 0,
        flags: int = MPOL_MF_MOVE,
        count: int | None = None,
        bad: str = "",
    ) -> Made:
        """Make the one call that is judged: each scenario makes exactly one.

        ``targets`` is the node for all entries or a list (the target node).
        ``count`` lies about the length of the arrays; ``bad`` (``"pages"``, ``"nodes"``,
        ``"status"``) passes a pointer that is none in that place.
        """
        if self.made is not None:
            raise StageError("a scenario makes one call")
        if targets is None:
            targets = self.target
        if isinstance(targets, int):
            targets = [targets] * len(addresses)
        n = len(addresses)
        pages = driver.guarded_array(n, np.uint64)
        nodes = driver.guarded_array(n, np.int32)
        status = driver.guarded_array(n, np.int32)
        pages[:], nodes[:], status[:] = addresses, targets, SENTINEL
        before = self._where(pid, pages)
        nowhere = PAGE_SIZE  # below what may be mapped
        self._begin(os.getpid())
        ret, number, before_ns, after_ns, _ = driver.timed_move_pages(
            pid,
            nowhere if bad == "pages" else pages,
            nowhere if bad == "nodes" else nodes,
            nowhere if bad == "status" else status,
            flags,
            count=n if count is None else count,
        )
        made = Made(
            pid=pid,
            tid=threading.get_native_id(),
            addresses=list(addresses),
            targets=list(targets),
            flags=flags,
            count=n if count is None else count,
            ret=ret,
            errno=number,
            statuses=[None if s == SENTINEL else int(s) for s in status],
            before=before,
            after=self._where(pid, pages),
            before_ns=before_ns,
            after_ns=after_ns,
        )
        self.made = made
        self._finish(made)
        return made

    def _where(self, pid: int, pages: Any) -> list[int]:
        try:
            return [int(nid) for nid in driver.query(pid, pages)]
        except MptraceError:
            return []

    # ---- this process ------------------------------------------------------------

    def become(self, uid: int) -> None:
        """Drop to an unprivileged user, for good."""
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # the kernel clears these together with the privileges
        die_with_parent()
        _libc.prctl(4, 1)  # PR_SET_DUMPABLE: else its own /proc files are root's

    def enter(self, cgroup: Path, pid: int = 0) -> None:
        """Put a process (0: this one) into a cgroup; back to where it was afterwards."""
        old = proc.cgroup(pid or "self") or "/"
        home = Path("/sys/fs/cgroup") / old.lstrip("/") / "cgroup.procs"
        (cgroup / "cgroup.procs").write_text(str(pid or os.getpid()))

        def back() -> None:
            try:
                home.write_text(str(pid or os.getpid()))
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise

        self.undo.callback(back)
