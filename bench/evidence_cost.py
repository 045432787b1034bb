# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeping evidence costs a page that simply moves: with and without, in turn.

Usage, on a NUMA host as root or in a guest, with nothing else running:

    mptrace lab --kernel 6.12 -- .venv/bin/python bench/evidence_cost.py

Writes its table for this kernel into docs/evidence-cost.md.
"""

import os
import re
import statistics
from pathlib import Path

import numpy as np

from mptrace import driver
from mptrace.driver import MPOL_MF_MOVE, PAGE_SIZE, SENTINEL
from mptrace.host.read import read_host_facts
from mptrace.sessions.calibrated import read_facts
from mptrace.tracer import Tracer
from mptrace.tracing.plan.plan import make_plan
from mptrace.tracing.plan.request import Request
from mptrace.units import format_ns

PAGES = 509
ROUNDS = 31
#: With, without, without, with: a drift of the machine falls on both alike.
ORDER = (True, False, False, True)
PAGE = Path(__file__).parents[1] / "docs" / "evidence-cost.md"


def measure(evidence: bool, pages: np.ndarray, nodes: tuple[int, int]) -> dict[str, list]:
    """Call times in ns, gate open, and each handler's (runs, ns) by BPF's statistics."""
    facts = read_facts()
    vma = ("vma", "vma_migratable")
    excluded = {} if evidence else {(*vma, way): "left out" for way in ("fentry", "kprobe")}
    plan = make_plan(facts, Request(max_folios=4096, evidence=evidence), excluded)
    tracer = Tracer(plan, facts.release)
    assert not tracer.open()
    status = np.full(pages.size, SENTINEL, np.int32)
    times, closed = [], []
    with tracer.statistics():
        for number in range(2 * ROUNDS):
            target = np.full(pages.size, nodes[(number + 1) % 2], np.int32)
            traced = number % 4 < 2
            if traced:
                tracer.open_gate(os.getpid())
            ret, _, before, after, _ = driver.timed_move_pages(
                0, pages, target, status, MPOL_MF_MOVE
            )
            tracer.close_gate()
            assert ret == 0
            tracer.drain()
            (times if traced else closed).append(after - before)
        costs = {c.handler: (c.run_count, c.run_ns) for c in tracer.handler_costs()}
    tracer.close()
    return {"times": times, "closed": closed, "costs": costs}


def main() -> None:
    """Measure in turn and write the table."""
    nodes = read_host_facts().memory_nodes[:2]
    size = PAGES * PAGE_SIZE
    base = driver.map_anonymous(size)
    driver.advise(base, size, 15)  # MADV_NOHUGEPAGE
    driver.mbind(base, size, driver.MPOL_PREFERRED, nodes[:1])
    pages = base + np.arange(PAGES, dtype=np.uint64) * np.uint64(PAGE_SIZE)
    for address in pages:
        np.frombuffer((np.ctypeslib.ctypes.c_char * 1).from_address(int(address)), np.uint8)[0] = 1
    runs = {True: [], False: []}
    for evidence in ORDER:
        runs[evidence].append(measure(evidence, pages, nodes))
    release = os.uname().release
    rows = ["| per page | with | without | ratio |", "|---|---|---|---|"]

    def per_page(evidence: bool, handlers: tuple[str, ...] = ()) -> float:
        total = sum(
            ns
            for run in runs[evidence]
            for label, (_, ns) in run["costs"].items()
            if not handlers or label.split("@")[0] in handlers
        )
        # the gate is open in half of the calls; the handlers of the other half do nothing
        return total / (len(runs[evidence]) * ROUNDS * PAGES)

    def row(name: str, with_: float, without: float) -> None:
        ratio = f"{with_ / without:.2f}" if without else "new"
        shown = [format_ns(int(value)) for value in (with_, without)]
        rows.append(f"| {name} | {shown[0]} | {shown[1]} | {ratio} |")

    calls = {e: statistics.median(t for run in runs[e] for t in run["times"]) / PAGES for e in runs}
    row("call, gate open (median)", calls[True], calls[False])
    row("all BPF programs", per_page(True), per_page(False))
    for handler in ("exit_lookup", "exit_unmap", "exit_vma"):
        row(handler, per_page(True, (handler,)), per_page(False, (handler,)))
    write(PAGE, HEAD, release, rows)
    print("\n".join(rows))


def write(page: Path, head: str, release: str, rows: list[str]) -> None:
    """Replace this kernel's table in the page, or add it."""
    text = page.read_text() if page.exists() else head
    table = f"## {release}\n\n" + "\n".join(rows) + "\n"
    pattern = re.compile(rf"^## {re.escape(release)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = (
        pattern.sub(table + "\n", text).rstrip() + "\n"
        if pattern.search(text)
        else text.rstrip() + "\n\n" + table
    )
    page.write_text(text)


HEAD = f"""# What evidence costs

So that mptrace can explain a refused page, its programs keep evidence. The tables show what
that costs a page that is not refused.

`bench/evidence_cost.py` moves {PAGES} pages to and fro, in {ROUNDS} calls traced and {ROUNDS}
not traced. It uses programs that keep evidence and programs that don't, in the order with,
without, without, with. `exit_lookup` is the same code in both, so its ratio says how far to
trust the others. The programs' times come from BPF's run-time statistics, which slow the calls
themselves. Under emulation, only the ratios mean anything.
"""

if __name__ == "__main__":
    main()
