# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: causes side by side and two on one page, recorded for `mptrace explain`.

usage: pairs.py DIRECTORY.  Leaves a recording DIRECTORY/recording and
DIRECTORY/expected.json: for each call, in order, the cause that was made for
each entry ("" for a page that moves).  What is expected follows from the
kernel's loop and from what was done to the pages; mptrace is not asked.
"""

import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np

from mptrace import driver
from mptrace.conform.stage import iouring, memfd
from mptrace.conform.stage.journal import Journal
from mptrace.conform.stage.stage import Stage
from mptrace.driver import MPOL_MF_MOVE, MPOL_MF_MOVE_ALL, PAGE_SIZE, SENTINEL
from mptrace.driving.worker_client import Worker
from mptrace.host.read import read_host_facts
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions.calibrated import calibrated, read_facts
from mptrace.sessions.meta import first_meta
from mptrace.tracing.plan.request import Request
from mptrace.tracing.program.chunks import EntryMerger

MADV_DONTFORK = 10
ABORTED = "aborted_by_earlier_group"


class Maker:
    """Makes a page with one cause; `at_lookup`: its status is written, else its group fails."""

    def __init__(self, cause, at_lookup, make):
        self.cause, self.at_lookup, self.make = cause, at_lookup, make


def own_page(stage, *, touch=True):
    """A page that a child made later does not get."""
    (page,) = stage.anonymous(touch=touch)
    assert not driver.advise(page, PAGE_SIZE, MADV_DONTFORK)
    return page


def makers(stage):
    """Causes that need neither a device nor a change of the host."""

    def held():
        page = own_page(stage)
        stage.vmsplice(page)
        return page

    def pinned():
        page = own_page(stage)
        iouring.register_buffer(stage, page)
        return page

    def shared():
        (page,) = stage.anonymous()
        stage.fork()
        return page

    def mapped_twice():
        file = memfd.memory_file()
        first, second = memfd.map_shared(file), memfd.map_shared(file)
        os.close(file)
        stage.bind(first, PAGE_SIZE, stage.source)
        stage.touch([first, second])
        return first

    def hole():
        return own_page(stage, touch=False)

    def zero():
        page = own_page(stage, touch=False)
        stage.touch([page], write=False)
        return page

    def unmapped():
        # far below what mmap(2) hands out: a page unmapped here would be handed out again
        return 1 << 40

    return (
        Maker("extra_references", False, held),
        Maker("pinned", False, pinned),
        Maker("shared", True, shared),
        Maker("shared", True, mapped_twice),
        Maker("never_touched", True, hole),
        Maker("zero_page", True, zero),
        Maker("no_vma", True, unmapped),
    )


def both_on_one_page(stage):
    """(address, flags, cause): the kernel meets one of the two causes first."""

    def shared_and_held():
        (page,) = stage.anonymous()
        stage.vmsplice(page)
        stage.fork()
        return page

    def pinned_and_held():
        (page,) = stage.anonymous()
        iouring.register_buffer(stage, page)
        stage.vmsplice(page)
        return page

    # do_pages_move() looks at the map count before it takes the page at all
    yield shared_and_held(), MPOL_MF_MOVE, "shared"
    yield shared_and_held(), MPOL_MF_MOVE_ALL, "extra_references"
    # try_to_migrate() fails for a pinned page before references are counted
    yield pinned_and_held(), MPOL_MF_MOVE, "pinned"


class Recorder:
    """One tracer, one recording."""

    def __init__(self, directory):
        host = read_host_facts()
        self.nodes = host.memory_nodes
        with Worker() as worker:
            self.tracer, coverage = calibrated(
                read_facts(), Request(), worker, self.nodes, lambda _: None
            )
        # who traces here moves the pages, too: nothing of it is left out
        meta = {**first_meta(host, read_facts(), self.tracer, coverage), "own": []}
        self.writer = RecordingWriter(directory / "recording", meta=meta)
        self.expected = []

    def call(self, addresses, target, flags, causes):
        """One call, recorded, with the causes that it must be explained by."""
        pages = np.array(addresses, np.uint64)
        nodes = np.full(pages.size, target, np.int32)
        status = np.full(pages.size, SENTINEL, np.int32)
        self.tracer.drain()
        self.tracer.open_gate(os.getpid())
        result = driver.move_pages(0, pages, nodes, status, flags)
        self.tracer.close_gate()
        drained = self.tracer.drain()
        merger = EntryMerger()
        for name in ("calls", "migrations", "folios", "obstacles"):
            self.writer.append(name, getattr(drained, name))
        self.writer.append("entries", merger.add(drained.sides, drained.calls["call_id"]))
        after = driver.query(0, pages)
        self.expected.append(
            {
                "causes": causes,
                "ret": result.ret,
                "on_target": [bool(nid == target) for nid in after],
                "statuses": [None if s == SENTINEL else int(s) for s in status],
            }
        )

    def close(self, directory):
        """Close the recording and write what was made."""
        self.writer.finish({"lost": self.tracer.losses()})
        self.tracer.close()
        (directory / "expected.json").write_text(json.dumps(self.expected))


def main():
    """Each pair of causes in one call, between pages that move; then two on one page."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(directory)

    def stage():
        return Stage(recorder.nodes, Journal(directory / "journal"))

    kinds = len(makers(stage()))
    for first, second in itertools.product(range(kinds), repeat=2):
        here = stage()
        with here.undo:
            a, b = makers(here)[first], makers(here)[second]
            plain = [own_page(here) for _ in range(3)]
            addresses = [plain[0], a.make(), plain[1], b.make(), plain[2]]
            causes = ["", a.cause, "", b.cause, ""]
            if b.at_lookup and not a.at_lookup:
                # b's status is written, then the group of a fails and ends the call
                causes[4] = ABORTED
            recorder.call(addresses, here.target, MPOL_MF_MOVE, causes)
    for number in range(3):
        here = stage()
        with here.undo:
            page, flags, cause = next(itertools.islice(both_on_one_page(here), number, None))
            plain = [own_page(here) for _ in range(2)]
            recorder.call([plain[0], page, plain[1]], here.target, flags, ["", cause, ""])
    recorder.close(directory)


if __name__ == "__main__":
    main()
