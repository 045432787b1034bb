# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: sessions one after the other, by one tracer, as its start takes long.

A JSON object per line on stdin: ``output``, ``wanted`` (keywords of Wanted), ``filters``
(of WantedFilters).  The session ends at the next line; each line is answered with one.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from mptrace.driving.worker_client import Worker
from mptrace.host.read import read_host_facts
from mptrace.recording.rotation import Rotation, Series
from mptrace.recording.series import Parts
from mptrace.sessions.calibrated import calibrated, read_facts
from mptrace.sessions.meta import first_meta
from mptrace.sessions.record_bpf import BpfSession
from mptrace.sessions.request import RecordRequest, Wanted, WantedFilters, meta_of, resolve_scope
from mptrace.tracing.plan.request import Request


def session(facts, host, tracer, coverage, asked):
    """One session, from its line to the next."""
    wanted = Wanted(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in asked["wanted"].items()}
    )
    filters = WantedFilters(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in asked["filters"].items()}
    )
    scope = resolve_scope(wanted, filters, facts.migrate_reasons, host)
    request = RecordRequest(wanted, Path(asked["output"]), filters)
    series = Series(request.output, Rotation())
    meta = first_meta(host, facts, tracer, coverage) | meta_of(wanted, filters, scope)
    parts = Parts(series, meta, force=False)

    def ready(message):
        if message.startswith("tracing"):
            print(json.dumps({"tracing": asked["output"]}), flush=True)
            threading.Thread(target=wait, daemon=True).start()

    def wait():
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGINT)

    result = BpfSession(request, scope, parts, tracer, None, ready).run()
    tracer._maps["chosen"].clear()  # else the next session follows them, too
    print(json.dumps({"rows": result.rows, "lost": result.lost}), flush=True)


def main():
    """Sessions until stdin ends."""
    facts, host = read_facts(), read_host_facts()
    with Worker() as worker:
        bounds = Request(others=True)
        tracer, coverage = calibrated(facts, bounds, worker, host.memory_nodes, lambda _: None)
    print(json.dumps({"ready": True}), flush=True)
    while line := sys.stdin.readline():
        session(facts, host, tracer, coverage, json.loads(line))
    tracer.close()


if __name__ == "__main__":
    main()
