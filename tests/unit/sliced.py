# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of the tests, whole and in slices of few rows."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import others
import recorded
from simulated_kernel import PAGE, Kernel
from test_correlate import random_call, random_kernel
from test_history import merged, moved_by_a_call, on
from test_report_others import busy

from mptrace.arrays import Tables
from mptrace.outcomes.locations import asked_of
from mptrace.recording.layouts import TABLES
from mptrace.recording.meta import Meta
from mptrace.recording.reader import Recording
from mptrace.recording.slices import LARGE, InMemory, Slices

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"

_spec = importlib.util.spec_from_file_location(
    "big_recording", HERE.parents[1] / "bench" / "big_recording.py"
)
assert _spec is not None
assert _spec.loader is not None
#: The generator of big recordings, which is in no package.
big_recording = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(big_recording)


def _kept(path: Path) -> tuple[Tables, Meta]:
    data = Recording.open(path)
    return data.tables(), data.meta


def _made(tables: Tables, meta: dict[str, Any]) -> tuple[Tables, Meta]:
    return {name: tables.get(name, np.zeros(0, TABLES[name])) for name in TABLES}, Meta.of(meta)


def _random(seed: int) -> tuple[Tables, Meta]:
    """Calls of several threads and pages of all kinds, of which some records may be lost."""
    random = np.random.default_rng(seed)
    kernel = random_kernel(random)
    for tid in random.integers(100, 103, 12):
        random_call(kernel, random, int(tid))
    tables = dict(_made(kernel.tables(), {})[0])
    for name in ("calls", "entries", "folios", "migrations", "obstacles"):
        if random.random() < 0.3:
            rows = tables[name]
            tables[name] = rows[random.random(rows.size) < 0.9]
    return tables, Meta.of(kernel.meta())


def _moved_later() -> tuple[Tables, Meta]:
    """A page that NUMA balancing took on after its call, where the driver saw it."""
    kernel, beside = moved_by_a_call()
    on(beside, kernel, 1)
    tables = merged(kernel, beside)
    tables["locations"]["final_nid"][1] = 2
    return _made(tables, others.META)


def _partial() -> tuple[Tables, Meta]:
    """Of one call there is no end, of one no folio is recorded, and one lost some."""
    kernel = Kernel("6.12", 2)
    for page in range(6):
        kernel.folio(page + 100, 0)
    for page in range(0, 6, 2):
        kernel.move_pages([(page + 100) * PAGE, (page + 101) * PAGE], [1, 1])
    tables = kernel.tables()
    ids = tables["calls"]["call_id"]
    tables["calls"]["exit_ns"][0] = 0
    tables["folios"] = tables["folios"][tables["folios"]["call_id"] != ids[1]]
    tables["calls"]["lost"][2] = 1
    return _made(tables, kernel.meta())


def _big() -> tuple[Tables, Meta]:
    """Of `bench/big_recording.py`: two calls at a time, and others' migrations between them."""
    with tempfile.TemporaryDirectory() as directory:
        big_recording.write(Path(directory) / "r", 600, 30)
        return _kept(Path(directory) / "r")


#: Real recordings, and others.
RECORDINGS: dict[str, Callable[[], tuple[Tables, Meta]]] = {
    **{
        name: lambda path=path: _kept(path)
        for name, path in {
            "conform-6.1": FIXTURES / "conform-6.1" / "recording",
            "conform-6.12": FIXTURES / "conform-6.12" / "recording",
            "recording-v2": FIXTURES / "recording-v2",
            **{name: HERE / "recordings" / name for name in ("record", "run", "stalls", "lost")},
        }.items()
    },
    "busy": lambda: _made(busy(), others.META),
    "calls": lambda: _made(recorded.tables(), recorded.META),
    "moved later": _moved_later,
    "partial": _partial,
    "big": _big,
    **{f"random-{seed}": lambda seed=seed: _random(seed) for seed in range(12)},
}


def slices_of(tables: Tables, rows: int, part: int = 7) -> Slices:
    """Slices of so many rows of tables whose parts have so many."""
    large = {
        name: [InMemory(table[at : at + part]) for at in range(0, table.size, part)]
        for name, table in tables.items()
        if name in LARGE
    }
    small = {name: table for name, table in tables.items() if name not in LARGE}
    return Slices(small, large, asked_of(tables), rows=rows, first=1)
