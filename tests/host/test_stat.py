# SPDX-License-Identifier: GPL-2.0-or-later
"""`mptrace stat` on this host, in both tiers it may have: its own compaction against /proc/vmstat.

Needs root and a kernel whose tracepoint migrate:mm_migrate_pages can be had; says so if not.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

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
    total: dict[str, Any] = json.loads(out.splitlines()[-1])
    return total


@pytest.mark.parametrize("tier", ["auto", "tracepoints"])
def test_compaction_is_counted_as_vmstat_does(tier: str) -> None:
    """Pages moved and failed are the kernel's own counts; compaction is its reason."""
    for _ in range(5):
        total = counted_while_compacting("--tier", tier)
        counts = total["total"]
        pages = (counts["moved_pages"], counts["failed_pages"])
        # vmstat is read just outside: a migration may come in between on a busy host
        if pages == (total["vmstat_moved_pages"], total["vmstat_failed_pages"]):
            break
    assert pages == (total["vmstat_moved_pages"], total["vmstat_failed_pages"])
    assert sum(pages) > 0
    reasons = {r["reason"] for p in total["processes"] for r in p["reasons"]}
    assert "compaction" in reasons
    assert set(total["lost"].values()) == {0}
    if tier == "tracepoints":
        assert total["tier"] == tier
        assert any("waits" in sentence for sentence in total["unseen"])
