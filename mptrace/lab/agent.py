# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: takes jobs from the host over a virtio port, one at a time.

Started by stage2 with the host's Python and without site-packages, so it imports
the standard library and `wire`, nothing else.
"""

import contextlib
import errno
import fcntl
import json
import os
import selectors
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import termios
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from . import wire

_LAYER = "/run/mptrace-lab/layer/upper"
_HOST = "/run/mptrace-lab/host"
_PORT_NAME = "mptrace.lab"
#: Of a shell: a command that isn't there, or can't be executed.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class HostGone(Exception):
    """The host closed the port: power off."""


class Port:
    """The way to the host, an open descriptor: frames out, frames in."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._unframer = wire.Unframer()
        self._frames: deque[tuple[bytes, bytes]] = deque()

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        data = memoryview(wire.frame(kind, payload))
        while data:
            data = data[os.write(self.fd, data) :]

    def send_json(self, kind: bytes, value: object) -> None:
        self.send(kind, json.dumps(value).encode())

    def read_some(self) -> None:
        """Wait for data and queue the frames that it completes."""
        try:
            data = os.read(self.fd, wire.CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            raise HostGone
        self._frames.extend(self._unframer.feed(data))

    def pending(self) -> Iterator[tuple[bytes, bytes]]:
        """The frames that are queued, each taken as it is yielded."""
        while self._frames:
            yield self._frames.popleft()

    def next(self) -> tuple[bytes, bytes]:
        """The next frame; waits for it."""
        while not self._frames:
            self.read_some()
        return self._frames.popleft()


def _port_device() -> str:
    """The device of our port, which appears a moment after its driver is loaded."""
    for _ in range(1000):
        for directory in Path("/sys/class/virtio-ports").glob("*"):
            device = Path("/dev", directory.name)
            if (directory / "name").read_text().strip() == _PORT_NAME and device.exists():
                return str(device)
        time.sleep(0.01)
    raise FileNotFoundError(f"no virtio port {_PORT_NAME!r}")


class Job:
    """One command: its process, and its streams carried over the port."""

    def __init__(self, port: Port, request: dict[str, Any]) -> None:
        self._port = port
        self._request = request
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: int | None = None
        self._stdin: int | None = None
        self._input = b""
        self._outputs: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Start the command, carry its streams, report how it ended."""
        try:
            process = self._start()
        except OSError as error:
            name = self._request["argv"][0]
            what = error.strerror or str(error)
            if error.filename == self._request["cwd"]:
                what += f" (directory {error.filename!r})"
            self._port.send(wire.STDERR, f"mptrace lab: {name}: {what}\n".encode())
            missing = error.errno == errno.ENOENT
            self._exit(_NOT_FOUND if missing else _NOT_EXECUTABLE)
            return
        self._process = process
        try:
            self._carry(process)
        finally:
            if process.poll() is None:
                self._kill()
                process.wait()
            for fd in (*self._outputs, self._stdin):
                if fd is not None:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            self._selector.close()
        code = process.returncode
        self._exit(128 - code if code < 0 else code)

    def _exit(self, returncode: int) -> None:
        self._port.send_json(wire.EXIT, {"returncode": returncode})

    def _start(self) -> "subprocess.Popen[bytes]":
        request = self._request
        common: dict[str, Any] = {
            "args": request["argv"],
            "cwd": request["cwd"],
            "env": request["env"],
            "start_new_session": True,
        }
        if request["tty"]:
            master, slave = os.openpty()
            _set_size(master, request["tty"])
            try:
                process = subprocess.Popen(
                    **common,
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,
                    preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                )
            except BaseException:
                os.close(master)
                raise
            finally:
                os.close(slave)
            self._terminal = self._stdin = master
            self._outputs = {master: wire.STDOUT}
        else:
            process = subprocess.Popen(
                **common,
                stdin=subprocess.PIPE if request["stdin"] else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            # Descriptors of our own, so that Popen's file objects don't close them.
            self._outputs = {
                _own(process.stdout): wire.STDOUT,
                _own(process.stderr): wire.STDERR,
            }
            if process.stdin is not None:
                self._stdin = _own(process.stdin)
        for fd in self._outputs:
            os.set_blocking(fd, False)
        if self._stdin is not None:
            os.set_blocking(self._stdin, False)
            self._port.send(wire.READY)
        return process

    def _carry(self, process: "subprocess.Popen[bytes]") -> None:
        """Move data until the process ends, then take what it still left in its pipes.

        A descendant that keeps the pipes open doesn't hold the job: what the
        process itself wrote is in the pipes when it ends.
        """
        ended = os.pidfd_open(process.pid)
        try:
            self._selector.register(self._port.fd, selectors.EVENT_READ)
            self._selector.register(ended, selectors.EVENT_READ)
            for fd in self._outputs:
                self._watch(fd)
            while process.poll() is None:
                # What was queued before the job belongs to it too (an early KILL).
                self._obey()
                for key, events in self._selector.select():
                    if key.fd == self._port.fd:
                        self._port.read_some()
                    elif key.fd == ended:
                        process.wait()
                    else:
                        if events & selectors.EVENT_READ:
                            self._forward(key.fd)
                        if events & selectors.EVENT_WRITE:
                            self._write_input()
            for fd in list(self._outputs):
                while self._forward(fd):
                    pass
        finally:
            os.close(ended)

    def _obey(self) -> None:
        for kind, payload in self._port.pending():
            if kind == wire.KILL:
                self._kill()
            elif kind == wire.RESIZE and self._terminal is not None:
                _set_size(self._terminal, json.loads(payload))
            elif kind == wire.STDIN and self._stdin is not None:
                if payload:
                    self._input += payload
                    self._write_input()
                elif self._terminal is None:
                    self._close_stdin()

    def _watch(self, fd: int) -> None:
        """Select ``fd`` for what is wanted of it now."""
        events = selectors.EVENT_READ if fd in self._outputs else 0
        if fd == self._stdin and self._input:
            events |= selectors.EVENT_WRITE
        known = fd in self._selector.get_map()
        if events and known:
            self._selector.modify(fd, events)
        elif events:
            self._selector.register(fd, events)
        elif known:
            self._selector.unregister(fd)

    def _forward(self, fd: int) -> bool:
        """Send what ``fd`` has; False when it has nothing (now, or any more)."""
        try:
            data = os.read(fd, wire.CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal whose last user is gone
                raise
            data = b""
        if data:
            self._port.send(self._outputs[fd], data)
            return True
        self._drop(fd)
        return False

    def _drop(self, fd: int) -> None:
        self._outputs.pop(fd, None)
        if fd == self._stdin:
            self._stdin = self._terminal = None
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        os.close(fd)

    def _write_input(self) -> None:
        fd = self._stdin
        if fd is None:
            return
        try:
            self._input = self._input[os.write(fd, self._input) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self._input = b""
            if self._terminal is None:
                self._close_stdin()
            return
        self._watch(fd)
        if not self._input:
            self._port.send(wire.READY)

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            fd, self._stdin = self._stdin, None
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
            os.close(fd)

    def _kill(self) -> None:
        """End the job: its session's processes, found by their session number."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry)) == process.pid:
                        os.kill(int(entry), signal.SIGKILL)


def _own(file: IO[bytes] | None) -> int:
    assert file is not None
    fd = os.dup(file.fileno())
    file.close()
    return fd


def _set_size(terminal: int, size: Iterable[int]) -> None:
    rows, columns = size
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class _PortFile:
    """The writing end that tarfile wants, as DATA frames."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), wire.CHUNK):
            self._port.send(wire.DATA, data[start : start + wire.CHUNK])
        return len(data)


def send_changes(port: Port, roots: Iterable[str], exclude: Iterable[str]) -> None:
    """Send as a tar what was changed below ``roots``; removed paths carry the record "removed".

    The layer over the host's root has what changed: a file there is new, or was
    opened for writing; one whose content and mode equal the host's is left out.
    A character device 0/0 stands for a removed name, the attribute
    trusted.overlay.opaque for a directory made anew in the place of another
    (Documentation/filesystems/overlayfs.rst).
    """
    names = frozenset(exclude)
    with tarfile.open(fileobj=_PortFile(port), mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for root in roots:
            upper = _LAYER + root
            if os.path.lexists(upper):
                _add(tar, root, names)


def _add(tar: tarfile.TarFile, path: str, exclude: frozenset[str]) -> None:
    upper, lower = _LAYER + path, _HOST + path
    status = os.lstat(upper)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        _add_removed(tar, path)
    elif stat.S_ISDIR(status.st_mode):
        if not os.path.isdir(lower) or os.path.islink(lower):
            tar.add(upper, path, recursive=False)
        children = set(os.listdir(upper))
        if _is_opaque(upper):
            for name in sorted(set(_listdir(lower)) - children - exclude):
                _add_removed(tar, f"{path.rstrip('/')}/{name}")
        for name in sorted(children - exclude):
            _add(tar, f"{path.rstrip('/')}/{name}", exclude)
    elif (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)) and not _same(upper, lower):
        tar.add(upper, path, recursive=False)


def _add_removed(tar: tarfile.TarFile, path: str) -> None:
    member = tarfile.TarInfo(path)
    member.pax_headers = {"MPTRACE.removed": "1"}
    tar.addfile(member)


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _listdir(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _same(one: str, two: str) -> bool:
    """Whether two paths have the same type, mode and content."""
    try:
        first, second = os.lstat(one), os.lstat(two)
        if first.st_mode != second.st_mode or first.st_size != second.st_size:
            return False
        if stat.S_ISLNK(first.st_mode):
            return os.readlink(one) == os.readlink(two)
        with open(one, "rb") as a, open(two, "rb") as b:
            while chunk := a.read(1 << 20):
                if chunk != b.read(1 << 20):
                    return False
    except OSError:
        return False
    return True


def _put(port: Port, request: dict[str, Any]) -> None:
    kind, data = port.next()
    while kind != wire.STDIN:
        kind, data = port.next()
    path = Path(request["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(request["mode"])


def _get(port: Port, request: dict[str, Any]) -> None:
    with open(request["path"], "rb") as file:
        shutil.copyfileobj(file, _PortFile(port), wire.CHUNK)


def _serve_one(port: Port, kind: bytes, payload: bytes) -> None:
    if kind == wire.JOB:
        Job(port, json.loads(payload)).run()
        return
    error = ""
    try:
        if kind == wire.CHANGES:
            request = json.loads(payload)
            send_changes(port, request["roots"], request["exclude"])
        elif kind == wire.PUT:
            _put(port, json.loads(payload))
        elif kind == wire.GET:
            _get(port, json.loads(payload))
        else:
            return  # of a job that has just ended: KILL, STDIN, RESIZE
    except OSError as failure:
        error = str(failure)
    port.send_json(wire.DONE, {"error": error})


def serve(port: Port) -> None:
    """Do what the host asks for until it closes the port."""
    port.send(wire.HELLO)
    with contextlib.suppress(HostGone):
        while True:
            _serve_one(port, *port.next())


if __name__ == "__main__":
    serve(Port(os.open(_port_device(), os.O_RDWR | os.O_CLOEXEC)))
