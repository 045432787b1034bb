# SPDX-License-Identifier: GPL-2.0-or-later
"""One command in the guest: its process or its terminal, and its streams over the port."""

import contextlib
import errno
import fcntl
import json
import os
import selectors
import signal
import struct
import subprocess
import termios
from collections.abc import Iterable
from typing import IO, Any

from . import wire
from .port import Port

#: Of a shell: a command that isn't there, or can't be executed.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


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
