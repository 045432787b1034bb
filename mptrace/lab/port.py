# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's end of the virtio port: frames to the host and from it."""

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from . import wire

_PORT_NAME = "mptrace.lab"


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


def port_device() -> str:
    """The device of our port, which appears a moment after its driver is loaded."""
    for _ in range(1000):
        for directory in Path("/sys/class/virtio-ports").glob("*"):
            device = Path("/dev", directory.name)
            if (directory / "name").read_text().strip() == _PORT_NAME and device.exists():
                return str(device)
        time.sleep(0.01)
    raise FileNotFoundError(f"no virtio port {_PORT_NAME!r}")


class PortFile:
    """The writing end that tarfile wants, as DATA frames."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), wire.CHUNK):
            self._port.send(wire.DATA, data[start : start + wire.CHUNK])
        return len(data)
