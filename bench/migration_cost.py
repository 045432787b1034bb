# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing costs a page that moves, in instructions, and what the recorder does for it.

Usage, which takes some minutes for each kernel; `make bench` runs it for all:

    mptrace lab --count --kernel 6.12 -- .venv/bin/python bench/migration_cost.py [--check]

Writes its table for this kernel into docs/performance.md; with --check it measures what
tests/lab/test_cost.py compares with that table, and prints it as JSON.  It refuses to run anywhere
but in a guest that counts instructions.
"""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from evidence_cost import write

from mptrace.host import maps_reader
from mptrace.host.heap import keep_small
from mptrace.host.processes import Processes
from mptrace.host.read import read_host_facts
from mptrace.recording.writer import RecordingWriter
from mptrace.sessions.calibrated import read_facts
from mptrace.sessions.pump import Pump
from mptrace.tracer import Tracer
from mptrace.tracing.plan.plan import make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.plan.scope import Scope

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
#: Pages in a call -> pages in all: nothing may be lost before it is taken, afterwards.
PAGES = {512: 2048, 16: 2048, 1: 128}
#: There and back; the first one does not count.
ROUNDS = 6
#: Of what only is to be compared with the table.
CHECK_ROUNDS = 3
#: Rounds whose folios the recorder takes while it is measured; and before, a fourth of them.
RECORDED = {512: 24, 16: 24}
#: Ways of tracing that are checked, in calls of so many pages.
CHECKED = (
    "probes of `run`, nothing recorded",
    "probes of `run`",
    "probes of `record -a`",
    "`--detail outcomes`: `record -a`",
)
CHECKED_BATCH = 512
RECORDER = "the recorder, per folio"
FACTS = read_facts()
OTHERS = Request(others=True)
OUTCOMES = Request(others=True, detail="outcomes")
#: What traces the process of a number while inside.
Way = Callable[[int], AbstractContextManager[object]]


class Mover:
    """migration_cost.c, which waits before it moves anything."""

    def __init__(self, program: Path, batch: int, rounds: int) -> None:
        argv = [str(program), str(PAGES[batch]), str(batch), str(rounds)]
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


def instructions(way: Way, program: Path, batch: int, rounds: int) -> float:
    """Per page, in calls of so many: the median of the rounds but for the first one."""
    mover = Mover(program, batch, rounds)
    with way(mover.pid):
        return statistics.median(mover.run())


def recorder(
    program: Path, directory: Path, batches: Iterable[int], request: Request
) -> dict[int, float]:
    """Instructions per folio that the recorder executes, from the rings to closed parts.

    Everything that `mptrace record -a` does meanwhile is in it: the CPU time of this process.
    """
    tracer = Tracer(make_plan(FACTS, request), FACTS.release)
    assert not tracer.open()
    spent: dict[int, float] = {}
    with contextlib.closing(tracer), RecordingWriter(directory / request.detail, meta={}) as writer:
        pump = Pump(tracer, writer, processes=Processes(), maps=maps_reader.reader())
        pump.start()

        def closed() -> tuple[int, int]:
            """CPU time and folios until now, all of which are in closed parts."""
            while tracer.fill:
                time.sleep(0.01)
            with pump._lock:  # nobody else writes meanwhile
                writer.flush()
            return time.process_time_ns(), writer.rows["lookups"] or writer.rows["folios"]

        with pump.keeping():
            tracer.open_scope(Scope("all"))
            for batch in batches:
                # its arrays grow, and it meets processes, at first only
                Mover(program, batch, RECORDED[batch] // 4).run()
                mover = Mover(program, batch, RECORDED[batch])
                cpu_ns, folios = closed()
                mover.run()
                cpu_after_ns, folios_after = closed()
                spent[batch] = (cpu_after_ns - cpu_ns) / (folios_after - folios)
            tracer.close_gate()
        pump.finish()
        assert not any(tracer.losses().values()), tracer.losses()
    return spent


def check(program: Path, directory: Path) -> dict[str, float]:
    """What the table has in calls of `CHECKED_BATCH`, measured once more, by its rows' names."""
    found = ways(directory)
    costs = {way: instructions(found[way], program, CHECKED_BATCH, CHECK_ROUNDS) for way in CHECKED}
    return costs | {RECORDER: recorder(program, directory, [CHECKED_BATCH], OTHERS)[CHECKED_BATCH]}


def table(program: Path, directory: Path, counted: Mapping[str, str]) -> list[str]:
    """The table of this kernel."""
    costs: dict[str, list[float]] = {}
    for way, around in ways(directory).items():
        costs[way] = [instructions(around, program, batch, ROUNDS) for batch in PAGES]
        print(way, costs[way], flush=True)
    spent = {
        RECORDER: recorder(program, directory, RECORDED, OTHERS),
        f"{RECORDER}, `--detail outcomes`": recorder(program, directory, RECORDED, OUTCOMES),
    }
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
    heads = [f"calls of {many}" for many in RECORDED]
    rows += ["", f"| instructions | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, each_batch in spent.items():
        rows.append(f"| {name} | {' | '.join(f'{cost:,.0f}' for cost in each_batch.values())} |")
    return rows


def main() -> None:
    """Measure and write the table, or what is compared with it."""
    counted = read_host_facts().counted
    if counted is None:
        sys.exit("bench/migration_cost.py: run it in a guest that counts: mptrace lab --count")
    # as the recorder has it
    keep_small()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        program = directory / "migration_cost"
        argv = ["gcc", "-O2", "-static", "-o", str(program), str(HERE / "migration_cost.c")]
        subprocess.run(argv, check=True)
        if sys.argv[1:] == ["--check"]:
            print(json.dumps(check(program, directory)))
            return
        rows = table(program, directory, counted)
    write(PAGE, HEAD, os.uname().release, rows)
    print("\n".join(rows))


HEAD = f"""# What tracing costs

Counted in instructions ([lab.md](lab.md#counting-instructions)), which repeat on any machine; they
say how much work is done, not how long a CPU takes for it.

`bench/migration_cost.py` moves pages of 4 KiB of a small program from node 0 to node 1 and back, in
calls of move_pages(2) of {", ".join(map(str, PAGES))} pages, and reads the CPU time of the calling
thread: what the kernel, the probes and a tracer that stops the thread do for each page. It takes
the median of {ROUNDS - 1} rounds.

The recorder works beside the thread and has a table of its own: the CPU time of `record -a`, all of
its threads and whatever it does meanwhile, for a folio that such calls moved, from the rings to
closed Parquet parts; at `--detail outcomes` for a lookup. With each call come a record of it, one
of its migration, and its arrays.

`make bench` renews this page; `tests/lab/test_cost.py` fails where a figure has grown.
"""

if __name__ == "__main__":
    main()
