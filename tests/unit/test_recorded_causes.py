# SPDX-License-Identifier: GPL-2.0-or-later
"""What real kernels did, replayed without root: each cause that was made is the cause explained.

The recordings are of `mptrace conform` in guests; names of scenarios are in
``made.json`` only.  To renew them:
MPTRACE_UPDATE_FIXTURES=1 pytest tests/lab/test_conform.py -k explain_names
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace.conform.verdicts import SeenEntry, seen_entries
from mptrace.explain.entries import Explainer, Which
from mptrace.outcomes.causes.table import BY_NAME
from mptrace.outcomes.correlate import correlate
from mptrace.recording.meta import Meta
from mptrace.recording.reader import Recording
from mptrace.reporting.text.explain import explanation

FIXTURES = Path(__file__).parents[1] / "fixtures"
KERNELS = ("6.1", "6.12")


@cache
def made(kernel: str) -> dict[str, Any]:
    """Scenario -> its call and what was made to happen to each entry."""
    found: dict[str, Any] = json.loads((FIXTURES / f"conform-{kernel}" / "made.json").read_text())
    return found


@cache
def recorded(kernel: str) -> tuple[dict[str, Any], Meta]:
    """Tables and meta of the kernel's recording."""
    recording = Recording.open(FIXTURES / f"conform-{kernel}" / "recording")
    return recording.tables(), recording.meta


@cache
def seen(kernel: str) -> dict[int, list[SeenEntry]]:
    """call_id -> what the events say of its entries."""
    tables, meta = recorded(kernel)
    found = correlate(tables, meta)
    words = seen_entries(found.rows, tables)
    return {
        int(call_id): [words[row] for row in np.flatnonzero(found.rows["call"] == ordinal)]
        for ordinal, call_id in enumerate(found.call_ids)
    }


@cache
def explained(kernel: str) -> dict[tuple[int, int], Any]:
    """(call_id, entry) -> explanation of every page that stayed or was not attempted."""
    tables, meta = recorded(kernel)
    explainer = Explainer(tables, meta)
    return {(e.call_id, e.entry): e for e in explainer.each(explainer.select(Which()))}


CASES = [(kernel, name) for kernel in KERNELS for name in made(kernel)]


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_the_cause_that_was_made_is_the_cause_explained(kernel: str, name: str) -> None:
    """Outcome, cause and entry reason of every entry; each page that stayed has its evidence."""
    case = made(kernel)[name]
    entries = seen(kernel)[case["call_id"]]
    for number, (entry, wanted) in enumerate(zip(entries, case["entries"], strict=True)):
        assert (entry.outcome, entry.cause, entry.entry_reason) == (
            wanted["outcome"],
            wanted["cause"],
            wanted["entry_reason"],
        ), number
        if wanted["delay"]:
            assert entry.delay == wanted["delay"]
        if wanted["outcome"] != "failed":
            continue
        explanation_ = explained(kernel)[case["call_id"], number]
        assert explanation_.cause.name == wanted["cause"]
        assert explanation_.evidence
        assert not explanation_.gap
        text = explanation(explanation_)
        assert BY_NAME[wanted["cause"]].meaning.split(":")[0][:30] in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("kernel", KERNELS)
def test_enough_was_recorded(kernel: str) -> None:
    """At least 20 causes, among them what the manual's -EBUSY, -EIO and -EINVAL became."""
    causes = {entry["cause"] for case in made(kernel).values() for entry in case["entries"]}
    assert len(causes) >= 20
    assert {"extra_references", "pinned", "write_failed", "dirty_no_migration"} <= causes
