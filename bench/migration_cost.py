# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing costs a page that moves, in instructions, and what the recorder does for it.

Usage, which takes some minutes for each kernel:

    mptrace lab --count --kernel 6.12 -- .venv/bin/python bench/migration_cost.py

Writes its table for this kernel into docs/performance.md.  It refuses to run anywhere but in a
guest that counts instructions.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from evidence_cost import write

from mptrace.host.read import read_host_facts
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions.assembler import Assembler
from mptrace.sessions.calibrated import read_facts
from mptrace.tracer import Drained, Tracer
from mptrace.tracing.plan.plan import make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.plan.scope import Scope

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
#: Pages in a call -> pages in all: nothing may be lost before it is taken, afterwards.
PAGES = {512: 2048, 16: 2048, 1: 128}
#: There and back; the first one does not count.
ROUNDS = 6
_LARGEST = max(PAGES)
FACTS = read_facts()
OTHERS = Request(others=True)
OUTCOMES = Request(others=True, detail="outcomes")
#: What traces the process of a number while inside.
Way = Callable[[int], AbstractContextManager[object]]


class Mover:
    """migration_cost.c, which waits before it moves anything."""

    def __init__(self, program: Path, batch: int) -> None:
        argv = [str(program), str(PAGES[batch]), str(batch), str(ROUNDS)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid

    def run(self) -> list[float]:
        """Instructions per page of each round."""
        told, _ = self._process.communicate(b"go\n")
        assert self._process.returncode == 0, self._process.returncode
        return [float(line) for line in told.split()]


@contextmanager
def nothing(_: int) -> Iterator[None]:
    """Nobody traces."""
    yield


def by_probes(request: Request, scope: Callable[[int], Scope] | None) -> Way:
    """mptrace's probes, what they record being taken afterwards; without a scope all gates shut."""

    @contextmanager
    def way(pid: int) -> Iterator[Tracer]:
        tracer = Tracer(make_plan(FACTS, request), FACTS.release)
        refused = tracer.open()
        try:
            assert not refused, refused
            if scope is not None:
                tracer.open_scope(scope(pid))
            yield tracer
            tracer.close_gate()
            assert not any(tracer.losses().values()), tracer.losses()
        finally:
            tracer.close()

    return way


@contextmanager
def strace(directory: Path, pid: int) -> Iterator[None]:
    """strace of move_pages(2), from when it says that it is attached."""
    argv = ["strace", "-f", "-e", "trace=move_pages", "-o", str(directory / "strace")]
    with subprocess.Popen([*argv, "-p", str(pid)], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"attached" in process.stderr.readline()
        yield
        process.send_signal(signal.SIGINT)
        process.stderr.read()


@contextmanager
def perf(directory: Path, pid: int) -> Iterator[None]:
    """perf record of all tracepoints of migrations, from when it answers."""
    control, answers = directory / "control", directory / "answers"
    for path in (control, answers):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    argv = ["perf", "record", "-e", "migrate:*", "-o", str(directory / "perf")]
    argv += [f"--control=fifo:{control},{answers}", "-p", str(pid)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with process, control.open("w") as ask, answers.open() as answer:
        print("ping", file=ask, flush=True)
        assert "ack" in answer.readline()
        yield
        process.send_signal(signal.SIGINT)
    count = subprocess.run(
        ["perf", "script", "-i", str(directory / "perf")], stdout=subprocess.PIPE, check=True
    ).stdout.count(b"\n")
    assert count > PAGES[1], f"perf saw {count} events"


def ways(directory: Path) -> dict[str, Way]:
    """All that is compared, by what the table calls it."""
    found: dict[str, Way] = {
        "nothing traced": nothing,
        "probes of `run`, nothing recorded": by_probes(Request(), None),
        "probes of `run`": by_probes(Request(), lambda pid: Scope("caller", tgids=(pid,))),
        "probes of `record -p` on somebody else": by_probes(
            OTHERS, lambda _: Scope("pids", tgids=(os.getpid(),))
        ),
        "probes of `record -a`": by_probes(OTHERS, lambda _: Scope("all")),
        "the same with `--stacks`": by_probes(
            Request(others=True, stacks=True), lambda _: Scope("all")
        ),
        "`--detail outcomes`: `record -p` on somebody else": by_probes(
            OUTCOMES, lambda _: Scope("pids", tgids=(os.getpid(),))
        ),
        "`--detail outcomes`: `record -a`": by_probes(OUTCOMES, lambda _: Scope("all")),
    }
    if shutil.which("strace"):
        found["`strace -f -e move_pages`"] = lambda pid: strace(directory, pid)
    if shutil.which("perf"):
        found["`perf record -e 'migrate:*'`"] = lambda pid: perf(directory, pid)
    return found


def recorder(program: Path, directory: Path) -> list[tuple[str, float]]:
    """Instructions that the recorder executes per folio, from the rings to closed parts."""
    mover = Mover(program, _LARGEST)
    tracer = Tracer(make_plan(FACTS, OTHERS), FACTS.release)
    tracer.open()
    try:
        tracer.open_scope(Scope("all"))
        mover.run()
        tracer.close_gate()
        began = time.thread_time_ns()
        drained: Drained = tracer.drain()
        taken = time.thread_time_ns()
        tables = Assembler().add(drained)
        assembled = time.thread_time_ns()
        with RecordingWriter(directory / "data", meta={}) as writer:
            created = time.thread_time_ns()
            for name, rows in tables.items():
                writer.append(name, rows)
            writer.flush()
            written = time.thread_time_ns()
        folios = tables["folios"].size
    finally:
        tracer.close()
    assert folios >= 2 * ROUNDS * PAGES[_LARGEST]
    parts = {
        "take it from the rings": taken - began,
        "assemble rows of tables": assembled - taken,
        "write Parquet parts": written - created,
    }
    return [(name, spent / folios) for name, spent in parts.items()]


def main() -> None:
    """Measure and write the table."""
    counted = read_host_facts().counted
    if counted is None:
        sys.exit("bench/migration_cost.py: run it in a guest that counts: mptrace lab --count")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program = directory / "migration_cost"
        argv = ["gcc", "-O2", "-static", "-o", str(program), str(HERE / "migration_cost.c")]
        subprocess.run(argv, check=True)
        costs: dict[str, list[float]] = {}
        for way, around in ways(directory).items():
            costs[way] = []
            for batch in PAGES:
                mover = Mover(program, batch)
                with around(mover.pid):
                    each = mover.run()
                costs[way].append(statistics.median(each))
                print(way, batch, each, flush=True)
        spent = recorder(program, directory)
    heads = [f"calls of {many}" for many in PAGES]
    rows = [
        f"CPU: {counted['cpu']} ({counted['string_moves'] or 'no erms'}).",
        "",
        f"| instructions per page | {' | '.join(f'{head} | ratio' for head in heads)} |",
        "|---|" + "---|---|" * len(heads),
    ]
    base = costs["nothing traced"]
    for way, each in costs.items():
        cells = (f"{cost:,.0f} | {cost / one:.3f}" for cost, one in zip(each, base, strict=True))
        rows.append(f"| {way} | {' | '.join(cells)} |")
    rows += ["", "| the recorder, per folio | instructions |", "|---|---|"]
    rows += [f"| {what} | {cost:,.0f} |" for what, cost in spent]
    rows.append(f"| all | {sum(cost for _, cost in spent):,.0f} |")
    write(PAGE, HEAD, os.uname().release, rows)
    print("\n".join(rows))


HEAD = f"""# What tracing costs

Counted in instructions ([lab.md](lab.md#counting-instructions)), which repeat on any machine; they
say how much work is done, not how long a CPU takes for it.

`bench/migration_cost.py` moves pages of 4 KiB of a small program from node 0 to node 1 and back, in
calls of move_pages(2) of {", ".join(map(str, PAGES))} pages, and reads the CPU time of the calling
thread: what the kernel, the probes and a tracer that stops the thread do for each page. It takes
the median of {ROUNDS - 1} rounds. The recorder, which works beside the thread, has its own table.
"""

if __name__ == "__main__":
    main()
