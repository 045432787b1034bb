# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs paths one after the other, counts each without mptrace, and writes what it knows.

``python -m paths.conduct [--record DIR] [NAME...]`` writes JSON: of each path what it
returned, its window and the counters of /proc/vmstat, or ``error``, or what is
``missing``; of the whole time its window and counters, the tracepoint's events, how many
of them were lost, and what kprobes saw of NUMA balancing; ``around`` are the counters from
before the recording until after it.  With ``--record``, ``mptrace record -a`` runs around all
of it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from .balancing import BalancingWitness
from .kernel_paths import KERNEL, missing
from .provoke import REQUESTS, Path_
from .witness import Witness, difference, vmstat, window

PATHS: dict[str, Path_] = {**REQUESTS, **KERNEL}


@contextmanager
def recorder(directory: str) -> Iterator[None]:
    """``mptrace record -a`` into ``directory``, from when it traces until it ended in order."""
    argv = [sys.executable, "-m", "mptrace", "record", "-a", "--tier", "bpf", "-o", directory]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if "tracing:" in line:
                break
        else:
            raise AssertionError("mptrace record ended")
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            print(process.stderr.read(), file=sys.stderr)
        assert process.wait() == 0, f"mptrace record: {process.returncode}"


def conduct(names: list[str]) -> dict[str, Any]:
    """Run the paths; what became of them."""
    results: list[dict[str, Any]] = []
    about: dict[str, Any] = {"kernel": os.uname().release, "paths": results}
    with Witness() as witness, BalancingWitness() as balancing:
        with window(about):
            for name in names:
                results.append(_run(name))
        told = {"events": witness.events(), "lost": witness.lost()}
        return {**about, **told, "balancing": balancing.told(about["end_ns"], about["after_ns"])}


def _run(name: str) -> dict[str, Any]:
    by = (PATHS[name].__doc__ or "").rstrip(".")
    result: dict[str, Any] = {"path": name, "by": by}
    if what := missing(name):
        return {**result, "missing": what}
    try:
        with window(result):
            result |= PATHS[name]()
    except Exception:
        result["error"] = traceback.format_exc()
    print(name, "failed" if "error" in result else "done", file=sys.stderr, flush=True)
    return result


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", metavar="DIR")
    parser.add_argument("names", nargs="*", choices=[*PATHS, []])
    arguments = parser.parse_args()
    before = vmstat()
    with recorder(arguments.record) if arguments.record else nullcontext():
        result = conduct(arguments.names or list(PATHS))
    print(json.dumps({**result, "around": difference(before, vmstat())}))


if __name__ == "__main__":
    main()
