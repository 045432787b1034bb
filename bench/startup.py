# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time of a short session goes, from its command line to its exit, by stages.

Usage, which takes some minutes for each kernel:

    mptrace lab --count --kernel 6.12 -- .venv/bin/python bench/startup.py

In a guest that counts instructions it writes its table for this kernel into
docs/performance.md; elsewhere it only prints it.

The stages are those of the process itself, by CLOCK_MONOTONIC: functions are wrapped from
outside as soon as their modules are imported.  What a stage calls that is a stage, too,
counts for that one alone.
"""

import builtins
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
COMMANDS = (
    "run --pages 67 --repeats 1 --no-cost",
    "record -a -d 1",
    "stat -d 1",
)
#: Of each command; its first run, which finds nothing kept, is shown by itself.
RUNS = 3
MILLION = 1e6

#: (module, function, stage); of a function that another module imports by name, too.
STAGES = (
    ("mptrace.host.read", "read_host_facts", "the host: nodes, settings"),
    ("mptrace.host.read", "read_kernel_facts", "the kernel: other facts"),
    ("mptrace.host.kernel_types", "KernelTypes.__init__", "the kernel: what was kept of BTF"),
    ("mptrace.host.btf", "running", "the kernel: BTF, read and indexed"),
    ("mptrace.host.btf", "Btf.prototypes", "the kernel: questions to BTF"),
    ("mptrace.host.btf", "Btf.offsets", "the kernel: questions to BTF"),
    ("mptrace.host.btf", "Btf.sizes", "the kernel: questions to BTF"),
    ("mptrace.host.btf", "Btf.enum", "the kernel: questions to BTF"),
    ("mptrace.host.btf", "Btf.function_id", "the kernel: questions to BTF"),
    ("mptrace.host.kernel_symbols", "read", "the kernel: kallsyms, ftrace's list"),
    ("mptrace.host.bpf_support", "try_attach", "the kernel: methods, by trying"),
    ("mptrace.host.symbols", "names_at", "names of addresses, by kallsyms"),
    ("mptrace.tracing.plan.plan", "make_plan", "the plan"),
    ("mptrace.tracing.program.compiler", "built", "the compiled program"),
    ("mptrace.tracing.program.compiler", "_created", "maps, created"),
    ("mptrace.host.bpf", "load_program", "programs, loaded"),
    ("mptrace.host.bpf", "attach_tracing", "attaching: fentry, fexit"),
    ("mptrace.host.bpf", "attach_kprobe", "attaching: kprobes"),
    ("mptrace.host.bpf", "attach_raw_tracepoint", "attaching: raw tracepoints"),
    ("mptrace.tracing.program.program", "Program.open", "other work of attaching"),
    ("mptrace.tracing.program.program", "Program.close", "detaching"),
    ("mptrace.driving.worker_client", "Worker.__init__", "the worker: started"),
    ("mptrace.driving.worker_client", "Worker.setup", "the worker: waited for, its memory"),
    ("mptrace.driving.worker_client", "Worker.close", "the worker: ended"),
    ("mptrace.sessions.calibrated", "_calibrate", "calibration"),
    ("mptrace.sessions.run", "_Session._rounds", "rounds"),
    ("mptrace.sessions.record_bpf", "BpfSession._trace", "tracing (1 s was asked for)"),
    ("mptrace.tracing.counting.intervals", "intervals", "counting (1 s was asked for)"),
    ("mptrace.sessions.pump", "Pump.finish", "the recording's end"),
    ("mptrace.recording.writer", "RecordingWriter.finish", "the recording's end"),
    ("mptrace.cli.report", "print_report", "the report"),
)


class Clock:
    """Adds up the time of stages, in the main thread."""

    def __init__(self, began_ns: int) -> None:
        self.spent: dict[str, int] = {"Python's own start": time.monotonic_ns() - began_ns}
        self._stack = ["everything else"]
        self._since = time.monotonic_ns()
        self._thread = threading.get_ident()

    def _turn(self) -> None:
        now = time.monotonic_ns()
        stage = self._stack[-1]
        self.spent[stage] = self.spent.get(stage, 0) + now - self._since
        self._since = now

    def wrapped(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; of a generator each of its steps."""

        def timed(*args: Any, **extra: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*args, **extra)
            self._turn()
            self._stack.append(stage)
            try:
                result = function(*args, **extra)
            finally:
                self._turn()
                self._stack.pop()
            if hasattr(result, "__next__"):
                return iter(self.wrapped(stage, lambda: next(result, None)), None)
            return result

        return timed

    def end(self) -> dict[str, int]:
        """Nanoseconds of each stage until now, and when that was."""
        self._turn()
        return {**self.spent, "": self._since}


class Importer:
    """Times imports, and wraps what has been imported."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = {module for module, _, _ in STAGES}
        for owner, name in ((builtins, "__import__"), (importlib, "import_module")):
            setattr(owner, name, self._watching(getattr(owner, name)))

    def _watching(self, function: Callable[..., Any]) -> Callable[..., Any]:
        timed = self._clock.wrapped("imports", function)

        def importing(*args: Any, **extra: Any) -> Any:
            # where nothing is left to be imported this is called very often
            found = timed(*args, **extra)
            for module in [name for name in self._left if _is_ready(name)]:
                self._left.remove(module)
                self._wrap(module)
            return found

        return importing

    def _wrap(self, module: str) -> None:
        for name, path, stage in STAGES:
            if name == module:
                owner: Any = sys.modules[module]
                *outer, last = path.split(".")
                for each in outer:
                    owner = getattr(owner, each)
                setattr(owner, last, self._clock.wrapped(stage, getattr(owner, last)))


def _is_ready(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def inside(told: Path, began_ns: int, argv: list[str]) -> None:
    """Run a command line in this process, and tell of its stages."""
    clock = Clock(began_ns)
    Importer(clock)
    sys.argv = ["mptrace", *argv]
    try:
        importlib.import_module("mptrace.cli").main(argv, prog_name="mptrace")
    finally:
        told.write_text(json.dumps(clock.end()))


def measured(command: str, directory: Path) -> dict[str, int]:
    """Nanoseconds of each stage of one run of a command, in order."""
    told = directory / "told.json"
    argv = command.split()
    if argv[0] != "stat":
        argv += ["-o", str(directory / "recording"), "--force"]
    began = time.monotonic_ns()
    subprocess.run(
        [sys.executable, __file__, "--inside", str(told), str(began), *argv],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    ended = time.monotonic_ns()
    spent: dict[str, int] = json.loads(told.read_text())
    spent["exit"] = ended - spent.pop("")
    return spent


def table(directory: Path) -> list[str]:
    """Rows of Markdown: a stage in each, a column for each command."""
    columns: list[dict[str, float]] = []
    firsts: list[float] = []
    for command in COMMANDS:
        firsts.append(sum(measured(command, directory).values()))
        runs = [measured(command, directory) for _ in range(RUNS)]
        print(command, firsts[-1] / 1e9, [sum(run.values()) / 1e9 for run in runs], flush=True)
        stages = list(dict.fromkeys(stage for run in runs for stage in run))
        columns.append(
            {stage: statistics.median(run.get(stage, 0) for run in runs) for stage in stages}
        )
    order = ["Python's own start", "imports", *(stage for _, _, stage in STAGES)]
    order = list(dict.fromkeys([*order, "everything else", "exit"]))
    rows = ["| " + " | ".join(["", *(f"`{command}`" for command in COMMANDS)]) + " |"]
    rows.append("|---|" + "---|" * len(COMMANDS))

    def row(name: str, values: list[float]) -> str:
        cells = (f"{value / MILLION:,.0f}" if value else "" for value in values)
        return f"| {name} | {' | '.join(cells)} |"

    for stage in order:
        values = [column.get(stage, 0) for column in columns]
        if max(values) >= MILLION:
            rows.append(row(stage, values))
    rows.append(row("**all**", [sum(column.values()) for column in columns]))
    rows.append(row("the first time, nothing kept", firsts))
    return rows


def main() -> None:
    """Measure and write the table."""
    # not at the top: the measured process has to import it itself
    from evidence_cost import write

    from mptrace.host.read import read_host_facts

    with tempfile.TemporaryDirectory() as name:
        os.environ["MPTRACE_PROGRAMS"] = str(Path(name) / "programs")
        rows = table(Path(name))
    if read_host_facts().counted is not None:
        write(PAGE, "", TITLE, [INTRODUCTION])
        write(PAGE, "", f"{TITLE}: {os.uname().release}", rows)
    print("\n".join(rows))


TITLE = "Start and end of a session"
INTRODUCTION = f"""Millions of instructions, by the stages of mptrace's own process; the median of
{RUNS} runs of `mptrace lab --count -- .venv/bin/python bench/startup.py`. The guest has one CPU, so
that the worker's start and the kernel's threads are in the stages during which they run.

Detaching is what is left of it when the results are printed: it begins before. The kernel takes
0.1 s for each function that fentry was attached to, nearly all of it waiting. While all wait, a
nanosecond of the host counts as an instruction, so that this row depends on the host.

What can be kept for the next session was kept by an earlier run; the last row is the run
before, which found nothing kept."""

if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        main()
