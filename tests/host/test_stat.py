# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace stat` on this host, in both tiers it may have: its own compaction against /proc/vmstat.

Needs root and a kernel whose tracepoint migrate:mm_migrate_pages can be had; says so if not.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mptrace.reporting.text.stat import render_total
from mptrace.tracing.counting.counts import by_process, total
from mptrace.tracing.counting.plan import StatBounds
from mptrace.tracing.counting.sampler import Sampler
from mptrace.tracing.plan.scope import Scope

COMPACT = Path("/proc/sys/vm/compact_memory")


def vmstat() -> tuple[int, int]:
    """pgmigrate_success and pgmigrate_fail."""
    fields = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(fields["pgmigrate_success"]), int(fields["pgmigrate_fail"])


def counted_while_compacting(*options: str) -> dict[str, Any]:
    """The total of `mptrace stat` while memory is compacted until something was migrated."""
    stat = subprocess.Popen(
        [sys.executable, "-m", "mptrace", "stat", "0.2", "--json", "--by", "process", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stat.stdout is not None
    assert stat.stderr is not None
    first = stat.stdout.readline()
    if not first:
        pytest.fail(f"this environment can't count: {stat.stderr.read()}")
    before = vmstat()
    deadline = time.monotonic() + 30
    while sum(vmstat()) == sum(before) and time.monotonic() < deadline:
        COMPACT.write_text("1")
    stat.terminate()
    out, errors = stat.communicate(timeout=60)
    assert stat.returncode == 130, errors
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


@pytest.mark.parametrize("tier", ["auto", "tracepoints"])
def test_compaction_is_counted_as_vmstat_does(tier: str) -> None:
    """Pages moved and failed are the kernel's own counts; compaction is its reason."""
    for _ in range(5):
        told = counted_while_compacting("--tier", tier)
        # the kernel counts what mptrace itself does, too
        pages = tuple(
            told["total"][name] + told["own"][name] for name in ("moved_pages", "failed_pages")
        )
        # vmstat is read just outside: a migration may come in between on a busy host
        if pages == (told["vmstat_moved_pages"], told["vmstat_failed_pages"]):
            break
    assert pages == (told["vmstat_moved_pages"], told["vmstat_failed_pages"])
    assert sum(pages) > 0
    reasons = {r["reason"] for p in told["processes"] for r in p["reasons"]}
    assert "compaction" in reasons
    assert set(told["lost"].values()) == {0}
    if tier == "tracepoints":
        assert told["tier"] == tier
        assert any("waits" in sentence for sentence in told["unseen"])


@pytest.mark.parametrize("tier", ["auto", "tracepoints"])
def test_what_the_counting_process_migrates_is_counted_apart(tier: str) -> None:
    """It compacts itself here: its pages are in no row, and in the kernel's count."""
    with Sampler(Scope("all"), StatBounds(), lambda _: None, tier) as sampler:
        deadline = time.monotonic() + 30
        while not sampler.sample().own["succeeded"].sum() and time.monotonic() < deadline:
            COMPACT.write_text("1")
        everything = sampler.total()
    assert os.getpid() not in {group.tgid for group in by_process(everything.rows, {})}
    own = total(everything.own)
    assert own.migrations > 0
    assert own.succeeded > 0
    text = render_total(everything, "process", sampler.reasons)
    said = (
        f"! of mptrace itself, not counted: {own.migrations:,} migrations, {own.succeeded:,} pages"
    )
    assert said in text
