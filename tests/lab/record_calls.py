# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: traces the mover's calls and writes down what both sides said.

Usage: record_calls.py DIRECTORY SECTION...  One tracer serves all sections; each
leaves ``SECTION.npz``: the tracer's records, what the mover was asked for and told,
where the pages were.  Nothing is judged here: `oracle` does that on the host.
"""

import json
import os
import random
import re
import select
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from mptrace.driving.worker_client import Worker
from mptrace.host.read import read_host_facts
from mptrace.recording.layouts import CALL, ENTRY, FOLIO, MAX_ENTRIES, MIGRATION
from mptrace.sessions.assembler import Assembler, joined
from mptrace.sessions.calibrated import calibrated, read_facts
from mptrace.tracing.plan import calibration
from mptrace.tracing.plan.calibration import Seen
from mptrace.tracing.plan.request import Request
from mptrace.tracing.program.chunks import EntryMerger

HERE = Path(__file__).parent
TRACING = Path("/sys/kernel/tracing")
SENTINEL = 0x5EAD0000
PAGE = 4096
HUGE_PAGES = 512
MOVE = 2
BAD_NODE = 77
# Small enough to be filled on purpose, and emptied 20 times a second.
_FOLIO_RING = 8 << 20
# What an entry's page is: judged by oracle.py.  HUGE is added for a huge page's part.
PLAIN, PINNED, UNMAPPED, UNTOUCHED = range(4)
HUGE = 16


class Mover:
    """A mover process; with ``strace`` a file, its calls are decoded into it."""

    def __init__(self, strace=""):
        self.strace = strace
        command = [sys.executable, str(HERE / "mover.py")]
        if strace:
            command = ["strace", "-f", "-v", "-e", "trace=move_pages", "-o", strace, *command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.pid = self.receive()["pid"]

    def send(self, do, **arguments):
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def receive(self):
        line = b""
        while not line.endswith(b"\n"):
            piece = self.process.stdout.read(1 << 16)
            if not piece:
                raise RuntimeError("the mover died")
            line += piece
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"the mover: {reply['error']}")
        return reply

    def __call__(self, do, **arguments):
        self.send(do, **arguments)
        return self.receive()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Entries:
    """The arrays of one call under construction."""

    def __init__(self):
        self.addresses, self.targets, self.folios, self.what = [], [], [], []

    def add(self, address, target, *, what=PLAIN, unit=PAGE):
        self.addresses.append(address)
        self.targets.append(target)
        self.folios.append(address // unit * unit)
        self.what.append(what + HUGE * (unit > PAGE))

    def arrays(self):
        return (
            np.array(self.addresses, "<u8"),
            np.array(self.targets, "<i4"),
            np.array(self.folios, "<u8"),
            np.array(self.what, "u1"),
        )


def range_entries(base, pages, target, *, pinned=()):
    """One entry for each of ``pages`` 4 KiB pages from ``base``, in order."""
    addresses = base + PAGE * np.arange(pages, dtype="<u8")
    what = np.zeros(pages, "u1")
    what[list(pinned)] = PINNED
    return addresses, np.full(pages, target, "<i4"), addresses, what


class Less:
    """What a second tracer sees of the same calls at the level of detail `outcomes`."""

    def __init__(self, tracer, coverage, facts):
        self.tracer = tracer
        self.coverage = coverage
        self._flags = dict(facts.page_flags)
        self._parts = []
        self._assembler = Assembler()
        self._lost = tracer.losses()

    def take(self):
        """What is in its rings."""
        self._parts.append(self._assembler.add(self.tracer.drain()))

    def told(self):
        """Its tables by their names in the file, and what it says of itself."""
        tables = joined([*self._parts, self._assembler.rest(self.tracer)])
        lost = self.tracer.losses()
        meta = {
            "detail": "outcomes",
            "coverage": [c.to_dict() for c in self.coverage],
            "page_flags": self._flags,
            "lost": {cause: lost[cause] - self._lost[cause] for cause in lost},
        }
        names = ("calls", "migrations", "folios", "entries", "lookups", "obstacles", "waits")
        return {f"less_{name}": tables[name] for name in names}, meta


class Section:
    """The recording of one section: what the tracer saw and what the movers told."""

    def __init__(self, tracer, coverage, nodes, directory, less=None):
        self.tracer = tracer
        self.directory = directory
        self.less = less
        self.meta = {
            "coverage": [c.to_dict() for c in coverage],
            "nodes": [{"nid": nid} for nid in nodes],
            "kernel": {"page_size": PAGE},
            "max_entries": MAX_ENTRIES,
        }
        #: seconds between two looks at the rings
        self.patience = 0.05
        self._merger = EntryMerger()
        self._tables = {"calls": [], "migrations": [], "folios": [], "entries": []}
        self._calls = []
        self._told = []
        self._started = time.monotonic()
        self._lost = tracer.losses()
        self.extra = {}

    def take(self):
        """What is in the rings."""
        drained = self.tracer.drain()
        for name in ("calls", "migrations", "folios"):
            self._tables[name].append(getattr(drained, name))
        self._tables["entries"].append(self._merger.add(drained.sides, drained.calls["call_id"]))
        if self.less:
            self.less.take()

    @contextmanager
    def gate(self, tgid):
        """The gate is open for one process (0: any)."""
        tracers = [self.tracer, *([self.less.tracer] if self.less else [])]
        for tracer in tracers:
            tracer.drain()
            tracer.open_gate(tgid)
        try:
            yield
        finally:
            for tracer in tracers:
                tracer.close_gate()
            self.take()

    def issue(self, mover, *calls, **note):
        """Send calls to be made at once; a call is (arrays, options).  Returns what to await."""
        specs, parts = [], []
        for arrays, options in calls:
            number = len(self._calls) + len(parts) + 1000 * len(self._told)
            stem = f"{self.directory}/{mover.pid}-{number}"
            for name, array in zip(("addresses", "targets"), arrays[:2], strict=True):
                array.tofile(f"{stem}.{name}")
            spec = {
                "addresses": f"{stem}.addresses",
                "targets": f"{stem}.targets",
                "out": f"{stem}.out",
                "count": len(arrays[0]),
                "fill": SENTINEL,
                **options,
            }
            specs.append(spec)
            parts.append((spec, arrays))
        mover.send("calls", calls=specs)
        return mover, parts, note

    def await_(self, *issued):
        """Collect the answers, taking what is in the rings meanwhile."""
        waiting = {mover.process.stdout: (mover, parts, note) for mover, parts, note in issued}
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], self.patience)
            self.take()
            for stream in ready:
                mover, parts, note = waiting.pop(stream)
                self._keep(mover.receive(), parts, {"mover": mover.pid, **note})

    def _keep(self, reply, parts, note):
        for position, (told, (spec, arrays)) in enumerate(zip(reply["calls"], parts, strict=True)):
            count = spec["count"]
            out = np.fromfile(spec["out"], "<i4")
            lacking = 3 * count - len(out)
            out = np.concatenate([out, np.full(lacking, -1, "<i4")]).reshape(3, count)
            for name in ("addresses", "targets", "out"):
                os.unlink(spec[name])
            self._calls.append(
                {
                    **told,
                    **note,
                    "entries": count,
                    "flags": spec.get("flags", MOVE),
                    "pid": spec.get("pid", 0),
                    "located": not lacking,
                    "sentinel": spec["fill"] if spec["fill"] is not None else 0,
                    # counted for all calls of the command, told once
                    "vmstat": reply["vmstat"] if position == 0 else None,
                    "together": len(parts),
                }
            )
            self._told.append((*arrays, *out))

    def run(self, mover, *calls, **note):
        """`issue` and `await_`."""
        self.await_(self.issue(mover, *calls, **note))

    def save(self, name):
        """Write everything down; what never ended, too."""
        self._tables["folios"].append(open_folios := self.tracer.open_folios())
        self._tables["entries"].append(rest := self._merger.rest())
        lost = self.tracer.losses()
        self.meta["lost"] = {cause: lost[cause] - self._lost[cause] for cause in lost}
        about = {
            "meta": self.meta,
            "calls": self._calls,
            "open_folios": len(open_folios),
            "unfinished_entries": len(rest),
            "seconds": time.monotonic() - self._started,
            "extra": self.extra,
        }
        less, about["less"] = self.less.told() if self.less else ({}, None)
        layouts = {"calls": CALL, "migrations": MIGRATION, "folios": FOLIO, "entries": ENTRY}
        tables = {
            table: np.concatenate([np.empty(0, layouts[table]), *rows])
            for table, rows in self._tables.items()
        }
        names = ("address", "target", "folio", "what", "status", "before", "after")
        told = {
            f"told_{column}": np.concatenate([row[index] for row in self._told])
            for index, column in enumerate(names)
        }
        with open(self.directory / f"{name}.npz", "wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **tables, **told, **less)
        return about


# ---- the sections ----------------------------------------------------------------


def there_and_back(section, mover, nodes, pages, *, pinned_back=0, seed=0):
    """Pages from the first node to the last one and back, in one call each way."""
    first, last = nodes[0], nodes[-1]
    base = mover("map", kind="4k", pieces=[[pages, first]])["base"]
    with section.gate(mover.pid):
        section.run(mover, (range_entries(base, pages, last), {}), pages=pages, way="there")
        pinned = sorted(random.Random(seed).sample(range(pages), pinned_back))
        mover("pin", pages=[base + PAGE * page for page in pinned])
        entries = range_entries(base, pages, first, pinned=pinned)
        section.run(mover, (entries, {}), pages=pages, way="back", pinned=len(pinned))
    mover("unpin")
    mover("unmap", base=base)


def record_small(lab):
    """23 and 509 4k pages between each pair of neighbouring nodes, there and back."""
    section = lab.section(twice=True)
    for pages in (23, 509):
        for first, last in zip(lab.nodes, (*lab.nodes[1:], lab.nodes[0]), strict=True):
            there_and_back(section, lab.mover, (first, last), pages)
    return section


def record_large(lab):
    """200,003 4k pages there and, three of them held by a pipe, back."""
    section = lab.section(twice=True)
    section.patience = 0.2
    there_and_back(section, lab.mover, lab.nodes, 200_003, pinned_back=3)
    return section


def record_kinds(lab):
    """Pages of all kinds in one call, there and back, the second time in another order."""
    section, mover = lab.section(twice=True), lab.mover
    first, last = lab.nodes[0], lab.nodes[-1]
    path = str(lab.ext4() / "file")
    made = {}
    for kind, folios in (("4k", 23), ("thp", 3), ("hugetlb", 2), ("shmem", 23), ("file", 23)):
        unit = HUGE_PAGES if kind in ("thp", "hugetlb") else 1
        base = mover("map", kind=kind, pieces=[[folios * unit, first]], path=path)["base"]
        made[kind] = [base + PAGE * unit * index for index in range(folios)]
        if unit > 1:
            size = folios * unit * PAGE
            section.extra[f"{kind}_huge"] = mover("huge", base=base, size=size)["bytes"] == size
    rng = random.Random(5)
    with section.gate(mover.pid):
        for target, way in ((last, "there"), (first, "back")):
            rows = [(kind, address) for kind, own in made.items() for address in own]
            if way == "back":
                rng.shuffle(rows)
            entries = Entries()
            for kind, address in rows:
                unit = PAGE * HUGE_PAGES if kind in ("thp", "hugetlb") else PAGE
                # any page of a THP stands for all of it
                offset = PAGE * rng.randrange(HUGE_PAGES) if kind == "thp" else 0
                entries.add(address + offset, target, unit=unit)
            section.run(mover, (entries.arrays(), {}), way=way)
    for own in made.values():
        mover("unmap", base=own[0])
    return section


def record_random(lab):
    """Seeded random cases: pins, duplicates, holes, several targets, THP, bad nodes."""
    section, mover = lab.section(twice=True), lab.mover
    nodes = lab.nodes
    seed = 1000 * len(nodes)
    with section.gate(mover.pid):
        for case in range(lab.random_cases):
            rng = random.Random(seed + case)
            pieces = [[rng.randrange(5, 40), rng.choice(nodes)] for _ in range(3)]
            pages = sum(count for count, _ in pieces)
            base = mover("map", kind="4k", pieces=pieces)["base"]
            huge = rng.choice((0, 0, 1, 2))
            huge_base = 0
            if huge:
                pieces = [[HUGE_PAGES, rng.choice(nodes)] for _ in range(huge)]
                huge_base = mover("map", kind="thp", pieces=pieces)["base"]
            entries, pinned, dropped = random_entries(rng, nodes, base, pages, huge_base, huge)
            mover("drop", pages=dropped)
            mover("pin", pages=pinned)
            options = {"flags": rng.choice((MOVE, MOVE, 4))}
            section.run(mover, (entries.arrays(), options), case=case, seed=seed + case)
            mover("unpin")
            for mapping in (base, huge_base):
                if mapping:
                    mover("unmap", base=mapping)
    return section


def random_entries(rng, nodes, base, pages, huge_base, huge):
    """One random call: its entries, the addresses to pin, those to drop."""
    unit = HUGE_PAGES * PAGE
    targets = rng.sample(nodes, min(len(nodes), rng.choice((1, 2, 2, 3))))
    own = [base + PAGE * page for page in range(pages)]
    dropped = rng.sample(own, rng.choice((0, 0, 1, 3)))
    alive = [address for address in own if address not in dropped]
    pinned = rng.sample(alive, rng.choice((0, 0, 1, 1, 2, 5)))
    pinned_huge = set()
    for index in range(huge):
        if rng.random() < 0.2:
            pinned_huge.add(huge_base + index * unit)
    order = list(own)
    if rng.random() < 0.5:
        rng.shuffle(order)
    order = order[: rng.randrange(1, pages + 1)]
    # a target for a stretch of entries: a group lasts as long as its target does
    entries, chosen = Entries(), rng.choice(targets)
    stretch = rng.choice((1, 3, 10, 1000))
    for address in order:
        if rng.randrange(stretch) == 0:
            chosen = rng.choice(targets)
        dice = rng.random()
        if dice < 0.04:
            entries.add(PAGE * rng.randrange(1, 16), chosen, what=UNMAPPED)
        if huge and dice > 0.85:
            address = huge_base + PAGE * rng.randrange(huge * HUGE_PAGES)
            what = PINNED if address // unit * unit in pinned_huge else PLAIN
            entries.add(address + rng.choice((0, 0, 8)), chosen, what=what, unit=unit)
            continue
        what = PINNED if address in pinned else UNTOUCHED if address in dropped else PLAIN
        entries.add(address + rng.choice((0, 0, 0, 1, 4095)), chosen, what=what)
    for _ in range(rng.choice((0, 0, 1, 3, 8))):
        # a page named again, perhaps with another target
        source, place = rng.randrange(len(order)), rng.randrange(len(order) + 1)
        target = rng.choice((entries.targets[source], rng.choice(targets)))
        for column, value in (
            (entries.addresses, entries.addresses[source]),
            (entries.targets, target),
            (entries.folios, entries.folios[source]),
            (entries.what, entries.what[source]),
        ):
            column.insert(place, value)
    if rng.random() < 0.12:
        entries.targets[rng.randrange(len(entries.targets))] = rng.choice((BAD_NODE, -1))
    pins = [*pinned, *(head + PAGE * rng.randrange(HUGE_PAGES) for head in pinned_huge)]
    return entries, pins, dropped


def record_together(lab):
    """Four threads of one mover, three movers, and three movers in one target, at once."""
    section, mover = lab.section(), lab.mover
    first, last = lab.nodes[0], lab.nodes[-1]
    pages = 251
    rng = random.Random(7)

    def prepared(owner, count=1):
        bases = [owner("map", kind="4k", pieces=[[pages, first]])["base"] for _ in range(count)]
        pinned = [sorted(rng.sample(range(pages), rng.choice((0, 1, 3)))) for _ in bases]
        for base, own in zip(bases, pinned, strict=True):
            owner("pin", pages=[base + PAGE * page for page in own])
        return [
            range_entries(*both, last, pinned=p)
            for *both, p in ((base, pages, own) for base, own in zip(bases, pinned, strict=True))
        ]

    with section.gate(mover.pid):
        section.run(mover, *((arrays, {}) for arrays in prepared(mover, 4)), what="threads")
    mover("unpin")
    others = [Mover() for _ in range(3)]
    try:
        own = [prepared(other)[0] for other in others]
        with section.gate(0):
            section.await_(
                *(
                    section.issue(other, (arrays, {}), what="processes")
                    for other, arrays in zip(others, own, strict=True)
                )
            )
            theirs = prepared(mover, 3)
            section.await_(
                *(
                    section.issue(other, (arrays, {"pid": mover.pid}), what="one target")
                    for other, arrays in zip(others, theirs, strict=True)
                )
            )
            mover("unpin")
            base = mover("map", kind="4k", pieces=[[pages, first]])["base"]
            same = range_entries(base, pages, last)
            section.await_(
                *(
                    section.issue(other, (same, {"pid": mover.pid}), what="same pages")
                    for other in others
                )
            )
    finally:
        for other in others:
            other.close()
    return section


def record_arrays(lab):
    """Arrays longer than what is read of them, arrays and statuses never touched before."""
    section, mover = lab.section(), lab.mover
    first, last = lab.nodes[0], lab.nodes[-1]
    base = mover("map", kind="4k", pieces=[[509, first]])["base"]
    with section.gate(mover.pid):
        for target, options in (
            (last, {"fill": None}),
            (first, {"cold": True}),
            (last, {"cold": True, "fill": None}),
        ):
            section.run(mover, (range_entries(base, 509, target), options), **options)
        # cold arrays of a call that ends early: the rest of them stays unread
        addresses, targets, folios, what = range_entries(base, 509, first)
        many = [np.tile(array, 23) for array in (addresses, targets, folios, what)]
        many[1][23] = BAD_NODE
        section.run(mover, (many, {"cold": True, "fill": None}), ends="early")
        # beyond the bound: real pages first and last, nothing mapped in between
        count = MAX_ENTRIES + 1009
        entries = [np.zeros(count, dtype) for dtype in ("<u8", "<i4", "<u8", "u1")]
        entries[0][:] = PAGE
        entries[1][:] = last
        entries[3][:] = UNMAPPED
        there = range_entries(base, 509, last)
        for whole, head in zip(entries, there, strict=True):
            whole[:251] = head[:251]
            whole[-251:] = head[-251:]
        section.run(mover, (entries, {}), bound=True)
    mover("unmap", base=base)
    return section


def record_strace(lab):
    """Calls with failures, decoded by strace."""
    with tempfile.NamedTemporaryFile("r") as file:
        mover = Mover(strace=file.name)
        section = lab.section()
        first, last = lab.nodes[0], lab.nodes[-1]
        base = mover("map", kind="4k", pieces=[[23, first]])["base"]
        with section.gate(mover.pid):
            for pinned, dropped, bad in (
                ([], [], None),
                ([5], [], None),
                ([17], [2, 11], None),
                ([3], [1], 20),
            ):
                mover("pin", pages=[base + PAGE * page for page in pinned])
                mover("drop", pages=[base + PAGE * page for page in dropped])
                addresses, targets, folios, what = range_entries(base, 23, last, pinned=pinned)
                what[dropped] = UNTOUCHED
                if bad is not None:
                    targets[bad] = BAD_NODE
                addresses = np.append(addresses, (np.uint64(PAGE), addresses[6]))
                targets = np.append(targets, (last, last)).astype("<i4")
                folios = np.append(folios, (np.uint64(PAGE), folios[6]))
                what = np.append(what, (UNMAPPED, what[6])).astype("u1")
                options = {"locate": False}
                section.run(mover, ((addresses, targets, folios, what), options))
                mover("unpin")
                mover("unmap", base=base)
                base = mover("map", kind="4k", pieces=[[23, first]])["base"]
        mover.close()
        lines = file.read().splitlines()
    section.extra["strace"] = [line for line in lines if "move_pages(" in line]
    return section


def record_hits(lab):
    """509 pages there and, some of them held, back; ftrace counts each phase's function."""
    section, mover = lab.section(), lab.mover
    first, last = lab.nodes[0], lab.nodes[-1]
    base = mover("map", kind="4k", pieces=[[509, first]])["base"]
    phases = {p.phase: p for p in lab.tracer.plan.phases if p.method and "pmd" not in p.phase}
    instance = TRACING / "instances/mptrace_test"
    with ExitStack() as stack:
        events = TRACING / "kprobe_events"
        for phase in phases.values():
            if ":" not in phase.attach:
                _append(events, f"p:mptrace_test/{phase.phase} {phase.attach}")
        stack.callback(_remove_events, events)
        instance.mkdir()
        stack.callback(instance.rmdir)
        (instance / "tracing_on").write_text("0")
        (instance / "buffer_size_kb").write_text("8192")
        switches = [instance / "events/mptrace_test/enable"]
        switches += [
            instance / f"events/migrate/{name}_migration_pte/enable"
            for name in (
                "set",
                "remove",
            )
        ]
        for switch in switches:
            switch.write_text("1")
            stack.callback(switch.write_text, "0")
        with section.gate(mover.pid):
            for target, pinned in ((last, []), (first, []), (last, [3, 100, 508])):
                mover("pin", pages=[base + PAGE * page for page in pinned])
                entries = range_entries(base, 509, target, pinned=pinned)
                (instance / "trace").write_text("")
                options = {"locate": False, "switch": str(instance / "tracing_on")}
                section.run(mover, (entries, options), pinned=len(pinned))
                hits = _hits(instance, mover.pid)
                section.extra.setdefault("hits", []).append(hits)
        mover("unpin")
    mover("unmap", base=base)
    section.extra["phases"] = {name: phase.attach for name, phase in phases.items()}
    tables = section._tables
    # the same sums that calibration makes, call by call
    calls, migrations, folios = (
        np.concatenate(tables[name]) for name in ("calls", "migrations", "folios")
    )
    section.extra["counts"] = [
        calibration.counts(
            Seen(
                calls[calls["call_id"] == call_id],
                migrations[migrations["call_id"] == call_id],
                folios[folios["call_id"] == call_id],
            )
        )
        for call_id in np.sort(calls["call_id"])
    ]
    section.extra["left_behind"] = "mptrace_test" in events.read_text()
    return section


def _remove_events(events):
    for name in re.findall(r"mptrace_test/(\S+)", events.read_text()):
        _append(events, f"-:mptrace_test/{name}")


def _append(events, line):
    # Python's mode "a" seeks, which tracefs refuses
    fd = os.open(events, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def _hits(instance, pid):
    """Event -> number of times in the thread ``pid``, and what the buffer dropped."""
    hits = {}
    with (instance / "trace").open() as file:
        for line in file:
            match = re.match(rf".*-{pid}\s+\[\d+\].*?\d+\.\d+: (\w+): ", line)
            if match:
                hits[match[1]] = hits.get(match[1], 0) + 1
    overruns = [
        re.search(r"overrun: (\d+)", (cpu / "stats").read_text())[1]
        for cpu in (instance / "per_cpu").iterdir()
    ]
    hits["overrun"] = sum(map(int, overruns))
    return hits


def record_losses(lab):
    """A call that tells more than the ring holds, nobody taking it out meanwhile."""
    section, mover = lab.section(), lab.mover
    first, last = lab.nodes[0], lab.nodes[-1]
    base = mover("map", kind="4k", pieces=[[509, first]])["base"]
    room = lab.tracer.plan.request.folio_ring_bytes // (FOLIO.itemsize + 8)
    section.patience = 600
    with section.gate(mover.pid):
        for target in (last, first):
            # one of the pages is named again and again
            arrays = [
                np.concatenate([array, np.repeat(array[-1:], 2 * room)])
                for array in range_entries(base, 509, target)
            ]
            section.run(mover, (arrays, {}))
    mover("unmap", base=base)
    return section


class Lab:
    """What the sections share."""

    def __init__(self, directory, random_cases):
        self.directory = directory
        self.random_cases = random_cases
        self.nodes = read_host_facts().memory_nodes
        self.facts = read_facts()
        request = Request(folio_ring_bytes=_FOLIO_RING)
        with Worker() as worker:
            self.tracer, self.coverage = calibrated(
                self.facts, request, worker, self.nodes, lambda _: None
            )
            self.less = calibrated(
                self.facts, Request(detail="outcomes"), worker, self.nodes, lambda _: None
            )
        self.mover = Mover()

    def section(self, *, twice=False):
        """A section; ``twice``: traced at the level `outcomes`, too."""
        less = Less(*self.less, self.facts) if twice else None
        return Section(self.tracer, self.coverage, self.nodes, self.directory, less)

    def ext4(self):
        """A directory on a real file system."""
        point = Path("/mnt/mptrace-test")
        if not point.is_mount():
            image = self.directory / "ext4.image"
            with image.open("wb") as file:
                file.truncate(64 << 20)
            point.mkdir(exist_ok=True)
            for command in (
                ["modprobe", "loop"],
                ["mkfs.ext4", "-q", str(image)],
                ["mount", "-o", "loop", str(image), str(point)],
            ):
                subprocess.run(command, check=True)
        return point

    def huge_pool(self):
        for nid in self.nodes:
            path = f"/sys/devices/system/node/node{nid}/hugepages/hugepages-2048kB/nr_hugepages"
            Path(path).write_text("4")


def main():
    """Record the sections named; a line of JSON about each."""
    directory, random_cases, *names = sys.argv[1:]
    started = time.monotonic()
    lab = Lab(Path(directory), int(random_cases))
    lab.huge_pool()
    print(json.dumps({"section": "start", "seconds": time.monotonic() - started}), flush=True)
    for name in names:
        before = time.monotonic()
        report = {"section": name}
        try:
            section = globals()[f"record_{name}"](lab)
            about = section.save(name) if section else {}
            report["calls"] = len(about.get("calls", ()))
        except Exception:
            report["error"] = traceback.format_exc()
        report["seconds"] = round(time.monotonic() - before, 1)
        print(json.dumps(report), flush=True)
    lab.mover.close()
    lab.tracer.close()
    lab.less[0].close()


if __name__ == "__main__":
    main()
