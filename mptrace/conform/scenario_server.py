# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that scenarios are forked from: small, started before any tracing is loaded.

Line by line, JSON, over the two descriptors that it is given: ``{"run": NAME,
"nodes": [...]}`` comes in; out go ``{"event": ...}`` with ``started`` (pid), ``ready``
(tgid: may the call be made?  any line in answer says yes), ``made`` (call; an answer
lets the scenario clean up),
``skip`` and ``error`` (reason), and at the end ``gone`` (exit status).
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from mptrace.conform.scenarios import catalogue
from mptrace.conform.stage.journal import Journal
from mptrace.conform.stage.stage import Made, Skip, Stage
from mptrace.errors import MptraceError
from mptrace.host.parent import die_with_parent


class Wire:
    """Lines of JSON over two descriptors, unbuffered: parent and children share them."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing

    def receive(self) -> dict[str, Any] | None:
        """The next line; None at the end, {} for the rest of one that another process began."""
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self._reading, 1)
            if not byte:
                return None
            line += byte
        try:
            value = json.loads(line)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def send(self, **line: Any) -> None:
        """Send one line."""
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(self._writing, data) :]


def serve(wire: Wire, journal: Journal) -> None:
    """Fork a process for each scenario asked for, until the other side closes."""
    catalogue()
    while (request := wire.receive()) is not None:
        if "run" not in request:  # an answer to a scenario that was killed
            continue
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            os.setsid()
            die_with_parent(parent)
            run(request["run"], request["nodes"], wire, journal)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        wire.send(event="gone", status=os.waitstatus_to_exitcode(status))


def run(name: str, nodes: list[int], wire: Wire, journal: Journal) -> None:
    """Run one scenario in this process and tell what came of it."""

    def begin(tgid: int) -> None:
        wire.send(event="ready", tgid=tgid)
        wire.receive()

    def finish(made: Made) -> None:
        wire.send(event="made", call=made.to_dict())
        # until then everything stays as it is: who maps a page is looked for meanwhile
        wire.receive()

    wire.send(event="started", pid=os.getpid())
    stage = Stage(nodes, journal, begin=begin, finish=finish)
    try:
        with stage.undo:
            catalogue()[name].provoke(stage)
    except Skip as skip:
        wire.send(event="skip", reason=str(skip))
    except MptraceError as error:
        wire.send(event="error", reason=error.message)
    except Exception as error:
        wire.send(event="error", reason=repr(error), trace=traceback.format_exc())


def main() -> None:
    """Serve on the descriptors named on the command line, with the journal named there."""
    # a killed mptrace takes the server with it, and that each scenario
    die_with_parent()
    reading, writing, journal = sys.argv[1:]
    serve(Wire(int(reading), int(writing)), Journal(Path(journal)))


if __name__ == "__main__":
    main()
