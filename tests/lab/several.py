# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: commands of mptrace, one after the other, that have to do little.

usage: several.py 'JSON list of lists of arguments'; prints a JSON list of [status, stdout, stderr].
Each runs in a process of its own, forked off this one, which has imported mptrace already: in a
guest that takes longer than to refuse a request.
"""

import json
import os
import sys
import tempfile

# for those that are forked
import mptrace.cli.record
import mptrace.cli.run
import mptrace.cli.stat
import mptrace.cli.top
import mptrace.sessions.record
import mptrace.sessions.run  # noqa: F401
from mptrace.cli import main


def told(arguments):
    """How a command ends: its status and what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["mptrace", *arguments]
            main(prog_name="mptrace")
            os._exit(70)  # main() exits
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return [os.waitstatus_to_exitcode(status), *texts]


if __name__ == "__main__":
    print(json.dumps([told(arguments) for arguments in json.loads(sys.argv[1])]))
