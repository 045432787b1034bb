# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in the guest: takes jobs from the host over a virtio port, one at a time.

Started by stage2 with the host's Python and without site-packages, so it and what it
imports, `port`, `job`, `layer` and `wire`, need the standard library only.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from . import wire
from .job import Job
from .layer import send_changes
from .port import HostGone, Port, PortFile, port_device


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
        shutil.copyfileobj(file, PortFile(port), wire.CHUNK)


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
    serve(Port(os.open(port_device(), os.O_RDWR | os.O_CLOEXEC)))
