# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures that rest on a phase that calibration refuted say so; those not calibrated do not."""

from typing import Any

import pytest
from others import META, Others
from simulated_kernel import PAGE, Kernel

from mptrace.recording.meta import Meta
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile

CLAUSE = "unproved (3 of 46 seen in calibration)"


def phase(name: str, **values: Any) -> dict[str, Any]:
    """A line of a recording's coverage."""
    return {"phase": name, "unit": "PTE", "attach": name, "method": "fentry", **values}


def refuted(name: str) -> dict[str, Any]:
    """It fired another number of times than it must."""
    return phase(name, state="unproved", expected=46, seen=3, reason="fired 3 times, not 46")


def untried(name: str) -> dict[str, Any]:
    """Calibration could not be made."""
    return phase(name, state="unproved", expected=None, seen=None, reason="not calibrated")


def text_of(coverage: list[dict[str, Any]], *, waits: int = 0) -> str:
    """The report in one line, without the table of the phases."""
    others = Others()
    others.migrate("compaction", folios=[{"owner_tgid": 77}] * 23, tgid=31, comm=b"kcompactd0")
    for _ in range(waits):
        others.add("waits", start_ns=9, end_ns=90, tid=77, tgid=77, comm=b"w")
    meta = {**META, "coverage": [*META["coverage"], *coverage]}
    return told(render(profile(others.tables(), Meta.of(meta))))


def told(text: str) -> str:
    """What stands below the table of the phases."""
    return " ".join(text.partition("\ncalls ")[2].split())


def test_a_blackout_of_a_refuted_phase() -> None:
    """Beside the figure, and beside the victim's."""
    text = text_of([refuted("dark")], waits=1)
    assert f"ns, {CLAUSE}" in text[text.index("blackout p50") :]
    assert f"the folios that it maps, {CLAUSE}" in text
    assert text.count(CLAUSE) == 2


def test_owners_of_a_refuted_phase() -> None:
    """Whose pages they are rests on it."""
    text = text_of([refuted("owner")])
    assert f"pages of process 77 23, {CLAUSE}" in text
    assert text.count(CLAUSE) == 1


@pytest.mark.parametrize("name", ["wait_pte", "wait_pmd", "wait_hugetlb", "io_sleep"])
def test_waits_of_a_refuted_phase(name: str) -> None:
    """That nobody was seen to wait, and how many were, rest on it."""
    nobody = text_of([refuted(name)])
    assert f"no thread was seen to wait for a page under migration; {CLAUSE}" in nobody
    some = text_of([refuted(name)], waits=2)
    assert "2 waits of 1 thread" in some
    assert f" 2 unknown; {CLAUSE}" in some
    assert some.count(CLAUSE) == nobody.count(CLAUSE) == 1


def test_the_blackout_of_calls() -> None:
    """In the table of time there is a line for it."""
    kernel = Kernel("6.12", 2)
    for page in range(23):
        kernel.folio(0x100 + page, 0)
    kernel.move_pages([(0x100 + page) * PAGE for page in range(23)], [1] * 23, tid=501)
    tables = kernel.tables()
    for name, value in (("n_dark", 1), ("blackout_ns", 700), ("dark_first_ns", 100)):
        tables["folios"][name] = value
    tables["folios"]["light_last_ns"] = 800
    for dark, is_said in ((refuted("dark"), True), (untried("dark"), False)):
        meta = kernel.meta()
        meta["coverage"] = [*meta["coverage"], dark]
        text = told(render(profile(tables, Meta.of(meta))))
        assert "blackout folio 23" in text
        assert (f"; blackout: {CLAUSE}" in text) is is_said


def test_the_batch_that_a_budget_allows() -> None:
    """Its row of the blackout rests on it."""
    others = Others()
    others.migrate("compaction", folios=[{}] * 23, tgid=31, comm=b"kcompactd0")
    meta = {**META, "coverage": [*META["coverage"], refuted("dark")]}
    text = told(render(profile(others.tables(), Meta.of(meta), budget_ns=10**7)))
    assert f" blackout: {CLAUSE}" in text


def test_what_was_not_calibrated_is_as_it_was() -> None:
    """The coverage says that of the phase; so do proved ones and others that were refuted."""
    names = ("dark", "owner", "wait_pte")
    for coverage in (
        [untried(name) for name in names],
        [phase(name, state="proved", expected=46, seen=46) for name in names],
        [refuted("copy")],
    ):
        text = text_of(coverage, waits=1)
        assert "blackout p50" in text
        assert "seen in calibration" not in text
