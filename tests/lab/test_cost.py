# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracing costs has not grown: counted in instructions, beside docs/performance.md.

A guest that counts gives the probes' figures again to 0.1 %, whatever else the machine does. How
often the recorder takes what is there depends on the host's time, too: its figure varies.
What grew on purpose: make bench.
"""

import json
import re
import sys
from pathlib import Path

import pytest

from mptrace.lab.guest import Guest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
#: A figure may grow by so much.
BOUND = 1.03
#: That of the recorder, the CPU time of a process with several threads: 3,812 to 4,045 in one day.
RECORDER_BOUND = 1.15
RECORDER = "the recorder, per folio"
TIMEOUT = 600


def committed(release: str) -> dict[str, float]:
    """Figures of a kernel's tables in calls of 512 pages, by the names of their rows."""
    (section,) = re.findall(
        rf"^## {re.escape(release)}$(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \|", section, re.MULTILINE)
    return {name: float(figure.replace(",", "")) for name, figure in rows}


@pytest.mark.one_kernel
@pytest.mark.counted
@pytest.mark.nodes("1G/cpus=0,1G")
def test_what_tracing_costs_has_not_grown(guest: Guest) -> None:
    """No level's figure by more than 3 %, nor what the recorder executes by more than 15 %."""
    release = guest.run(["uname", "-r"]).text.strip()
    command = [sys.executable, "bench/migration_cost.py", "--check"]
    done = guest.run(command, cwd=str(ROOT), timeout=TIMEOUT)
    assert done.returncode == 0, done.errors
    measured, before = json.loads(done.text), committed(release)
    assert measured.keys() <= before.keys()
    grown = {
        name: f"{before[name]:,.0f} -> {cost:,.0f}"
        for name, cost in measured.items()
        if cost > before[name] * (RECORDER_BOUND if name == RECORDER else BOUND)
    }
    assert not grown, f"in calls of 512 pages, per page: {grown}; 'make bench' renews {PAGE.name}"
