# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest: boots under QEMU, runs commands one at a time, ends with its owner.

The guest sees the host's root file system read-only below a layer in its own
memory: it may write anywhere, the host keeps none of it.  Everything else goes
over one virtio port, whose host side is a socket pair; when either end goes
away, the other notices and ends.
"""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..errors import LabError, OutputError
from . import qemu, wire
from .image import initramfs
from .kernels import Kernel
from .topology import Topology

#: PATH of a job whose environment doesn't say.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds for a boot; one takes about 6 on an idle machine.
BOOT_TIMEOUT_S = 180.0
#: Seconds for a guest to power itself off, and for a killed command to be reported.
_GRACE_S = 3.0
_KILL_S = 20.0
#: How often the size of a terminal is looked at.
_RESIZE_S = 0.5

#: Takes output as it comes.
Sink = Callable[[bytes], object]
#: Rows and columns of a terminal.
Size = tuple[int, int]


class LabTimeout(LabError):
    """The command ran longer than it may; the exit status is timeout(1)'s."""

    exit_code = 124

    def __init__(self, message: str, completed: "Completed") -> None:
        super().__init__(message)
        #: What there was of it, its return code that of SIGKILL.
        self.completed = completed


@dataclass(frozen=True)
class Completed:
    """How a command ended: its exit status (128 + N for signal N) and its output."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode(errors="replace")

    @property
    def errors(self) -> str:
        """Standard error as text."""
        return self.stderr.decode(errors="replace")


class Guest:
    """One guest, from `boot` to `close`; also a context manager.

    ``threads`` is "single" (one host thread runs all CPUs in turn: quick to boot, but
    no two CPUs ever run at once) or "multi" (a host thread for each).  ``verbose``
    attaches a serial console at once (a boot takes about 4 s longer), which explains early deaths.
    ``count`` has the clocks go by the instructions executed (one thread; a boot takes 26 s).
    ``kernel_arguments`` are added to the kernel's command line, ``qemu_arguments`` to QEMU's.
    """

    def __init__(
        self,
        kernel: Kernel,
        topology: Topology,
        *,
        threads: str = "single",
        count: bool = False,
        verbose: bool = False,
        boot_timeout: float = BOOT_TIMEOUT_S,
        kernel_arguments: Sequence[str] = (),
        qemu_arguments: Sequence[str] = (),
    ) -> None:
        self.kernel = kernel
        self.topology = topology
        self._threads = threads
        self._count = count
        self._verbose = verbose
        self._boot_timeout = boot_timeout
        self._kernel_arguments = tuple(kernel_arguments)
        self._qemu_arguments = tuple(qemu_arguments)
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._unframer = wire.Unframer()
        self._frames: deque[tuple[bytes, bytes]] = deque()

    def __enter__(self) -> "Guest":
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is not None)

    @property
    def alive(self) -> bool:
        """Whether the guest is booted and QEMU still runs."""
        return (
            self._socket is not None and self._process is not None and self._process.poll() is None
        )

    def boot(self) -> None:
        """Start QEMU and wait until the agent in the guest answers.

        Raises LabError where something is missing or the guest doesn't come up.
        """
        try:
            self._start()
            kind, _ = self._receive(time.monotonic() + self._boot_timeout)
            if kind != wire.HELLO:
                raise LabError(f"the guest's agent greets with {kind!r}")
        except TimeoutError:
            error = self._death(f"the guest did not come up in {self._boot_timeout:g} s")
            self.close(at_once=True)
            raise error from None
        except BaseException:
            self.close(at_once=True)
            raise

    def close(self, *, at_once: bool = False) -> None:
        """Power the guest off, or end QEMU ``at_once``; nothing of it stays behind."""
        if self._socket is not None:
            self._socket.close()  # which tells the agent to power off
            self._socket = None
        if self._process is not None:
            try:
                if not at_once:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(_GRACE_S)
            finally:
                self._process.kill()
                self._process.wait()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | os.PathLike[str] = "/",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        stdin: bytes | int | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        terminal: Callable[[], Size] | None = None,
    ) -> Completed:
        """Run ``argv`` in the guest, as root, and wait for its end.

        ``stdin`` is the command's whole input, or a descriptor to forward from (None:
        /dev/null).  Output goes to the sinks as it comes, or else is collected.
        With ``terminal``, which tells its size, the command gets a terminal of its
        own, whose output goes to ``stdout``.  ``env`` is the whole environment; by
        default PATH and HOME.  A command that isn't there ends with 127, one that
        can't be executed with 126.  What the command leaves running keeps running
        until the guest ends.

        Raises LabTimeout after ``timeout`` seconds, and what a sink raised (an
        OutputError): the command's session was killed, the guest stays usable.
        LabError where the guest dies.
        """
        collected: tuple[list[bytes], list[bytes]] = ([], [])
        sinks = {
            wire.STDOUT: stdout or collected[0].append,
            wire.STDERR: stderr or collected[1].append,
        }
        size = terminal() if terminal else None
        job = {
            "argv": [os.fspath(word) for word in argv],
            "cwd": os.fspath(cwd),
            "env": dict(env) if env is not None else {"PATH": DEFAULT_PATH, "HOME": "/root"},
            "stdin": stdin is not None,
            "tty": size,
        }
        self._send_json(wire.JOB, job)
        source = _Input(stdin)
        deadline = None if timeout is None else time.monotonic() + timeout
        timed_out = False
        failure: OutputError | None = None
        while True:
            try:
                kind, payload = self._receive(deadline, source, terminal, size)
            except TimeoutError:
                if timed_out or failure:
                    error = self._death("the guest does not answer any more")
                    self.close(at_once=True)
                    raise error from None
                timed_out, deadline = True, time.monotonic() + _KILL_S
                self._send(wire.KILL)
                continue
            if kind in sinks and failure is None:
                try:
                    sinks[kind](payload)
                except OutputError as full:
                    failure, deadline = full, time.monotonic() + _KILL_S
                    self._send(wire.KILL)
            elif kind == wire.READY:
                source.wanted = True
            elif kind == wire.EXIT:
                break
        returncode = json.loads(payload)["returncode"]
        completed = Completed(returncode, b"".join(collected[0]), b"".join(collected[1]))
        if failure is not None:
            raise failure
        if timed_out:
            raise LabTimeout(f"{argv[0]!r} ran longer than {timeout:g} s and was killed", completed)
        return completed

    def put(self, path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644) -> None:
        """Write the file ``path`` in the guest, with the directories above it."""
        self._send_json(wire.PUT, {"path": os.fspath(path), "mode": mode})
        self._send(wire.STDIN, data)
        for _ in self._answer():
            pass

    def get(self, path: str | os.PathLike[str]) -> bytes:
        """The content of the file ``path`` in the guest."""
        self._send_json(wire.GET, {"path": os.fspath(path)})
        return b"".join(self._answer())

    def changes(self, roots: Iterable[str], exclude: Iterable[str]) -> Iterator[bytes]:
        """A tar of what was changed below ``roots``, piece by piece (see `layer.send_changes`).

        Names in ``exclude`` are left out at any depth.
        """
        self._send_json(wire.CHANGES, {"roots": list(roots), "exclude": list(exclude)})
        return self._answer()

    # -- QEMU

    def _start(self) -> None:
        if self._process is not None:
            raise LabError("this guest has been booted already")
        busybox = qemu.check_programs()
        self._directory = tempfile.TemporaryDirectory(prefix="mptrace-lab-")
        directory = Path(self._directory.name)
        settings = {
            "lab_modules": str(self.kernel.modules.resolve()),
            "lab_boot": str(self.kernel.boot.resolve()),
            "lab_python": os.path.realpath(sys.executable),
            "lab_package": str(Path(__file__).resolve().parents[2]),
        }
        (directory / "initrd").write_bytes(initramfs(self.kernel.modules, busybox, settings))
        self._socket, theirs = socket.socketpair()
        with theirs, (directory / "qemu").open("wb") as messages:
            self._process = subprocess.Popen(
                qemu.command(
                    self.kernel,
                    self.topology,
                    directory,
                    theirs.fileno(),
                    threads=self._threads,
                    count=self._count,
                    verbose=self._verbose,
                    kernel_arguments=self._kernel_arguments,
                    qemu_arguments=self._qemu_arguments,
                ),
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for us to handle
            )

    def _death(self, message: str) -> LabError:
        """The error for a guest that is gone or mute: what QEMU and the consoles said last."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        lines = []
        if self._directory is not None:
            for name in ("qemu", "serial", "console"):
                with contextlib.suppress(OSError):
                    text = (Path(self._directory.name) / name).read_text(errors="replace")
                    lines += qemu.telling(text.splitlines())
        tail = "".join(f"\n  | {line}" for line in lines if line.strip())
        hint = "" if self._verbose else "rerun with --verbose to see all that its kernel says"
        return LabError(message + tail, hint)

    # -- the agent

    def _send(self, kind: bytes, payload: bytes = b"") -> None:
        if self._socket is None:
            raise LabError("the guest is not running")
        try:
            self._socket.sendall(wire.frame(kind, payload))
        except OSError:
            raise self._death("the guest died") from None

    def _send_json(self, kind: bytes, value: object) -> None:
        self._send(kind, json.dumps(value).encode())

    def _receive(
        self,
        deadline: float | None = None,
        source: "_Input | None" = None,
        terminal: Callable[[], Size] | None = None,
        size: Size | None = None,
    ) -> tuple[bytes, bytes]:
        """The next frame; meanwhile forward ``source`` and the terminal's size.

        Raises TimeoutError at the ``deadline`` (of the monotonic clock), LabError
        where the guest dies.
        """
        if self._socket is None:
            raise LabError("the guest is not running")
        while not self._frames:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            if terminal is not None:
                left = _RESIZE_S if left is None else min(left, _RESIZE_S)
            # poll(2), as epoll refuses regular files and /dev/null.
            with selectors.PollSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                if source is not None and source.wanted:
                    if source.fd is None:
                        self._send(wire.STDIN, source.take())
                    else:
                        selector.register(source.fd, selectors.EVENT_READ)
                ready = {key.fd for key, _ in selector.select(left)}
            if terminal is not None and (now := terminal()) != size:
                size = now
                self._send_json(wire.RESIZE, now)
            if source is not None and source.fd in ready:
                self._send(wire.STDIN, source.take())
            if self._socket.fileno() in ready:
                try:
                    data = self._socket.recv(wire.CHUNK)
                except ConnectionError:
                    data = b""
                if not data:
                    raise self._death("the guest died")
                self._frames.extend(self._unframer.feed(data))
        return self._frames.popleft()

    def _answer(self) -> Iterator[bytes]:
        """The DATA frames up to DONE; raises LabError with what DONE complains of."""
        while True:
            kind, payload = self._receive()
            if kind == wire.DATA:
                yield payload
            elif kind == wire.DONE:
                if error := json.loads(payload)["error"]:
                    raise LabError(f"in the guest: {error}")
                return


class _Input:
    """A command's standard input: bytes at hand, or a descriptor; sent when ``wanted``."""

    def __init__(self, source: bytes | int | None) -> None:
        self.wanted = False
        self.fd = source if isinstance(source, int) else None
        self._data = source if isinstance(source, bytes) else b""

    def take(self) -> bytes:
        """The next piece, empty at the end."""
        self.wanted = False
        if self.fd is None:
            piece, self._data = self._data[: wire.CHUNK], self._data[wire.CHUNK :]
            return piece
        try:
            piece = os.read(self.fd, wire.CHUNK)
        except OSError:
            piece = b""
        if not piece:
            self.fd = None
        return piece
