# SPDX-License-Identifier: GPL-2.0-or-later
"""What the level of detail `outcomes` says of each entry, against a kernel that knows the truth."""

import errno
from collections import Counter

import numpy as np
import pytest
import test_correlate
from less_detail import at_outcomes, meta_at_outcomes
from simulated_kernel import MOVE_ALL, PAGE, Kernel
from test_correlate import address, causes, check, random_call, random_kernel, words

from mptrace.outcomes.causes.rules import cause_name
from mptrace.outcomes.correlate import correlate
from mptrace.outcomes.dump import dumped_table
from mptrace.outcomes.history import Histories
from mptrace.outcomes.implied import with_implied
from mptrace.recording.layouts import NOT_COUNTED, OUTCOMES, STAGE_PUTBACK, TABLES, WAIT, WITNESSES
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.profile import profile


def rows_of(kernel: Kernel, **changed: np.ndarray) -> np.ndarray:
    """Rows of everything that the model recorded, at the level `outcomes`."""
    meta = Meta.of(meta_at_outcomes(kernel.meta()))
    folios = [folio for folio in kernel.pages.values() if folio is not None]
    merged = frozenset(
        page
        for page, folio in kernel.pages.items()
        if folio is not None and folio.nr_pages == 1 and folios.count(folio) > 1
    )
    tables = at_outcomes(kernel.tables(), merged)
    return correlate(with_implied({**tables, **changed}, meta), meta).rows


@pytest.fixture
def nothing_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is freed while it is moved looks like one that moved: see docs/limitations.md."""
    traits = tuple(trait for trait in test_correlate.TRAITS if trait != "freed")
    monkeypatch.setattr(test_correlate, "TRAITS", traits)


@pytest.mark.usefixtures("nothing_is_freed")
@pytest.mark.parametrize("seed", range(400))
def test_an_outcome_is_the_true_one_or_unknown(seed: int) -> None:
    """As at the level `all`; what isn't known is what this level doesn't trace."""
    random = np.random.default_rng(20_000 + seed)
    kernel = random_kernel(random)
    truths = [random_call(kernel, random, 100 + index % 2) for index in range(5)]
    rows = rows_of(kernel)
    for call, truth in enumerate(truths):
        mine = rows[rows["call"] == call]
        check(mine, truth, strict=False)
        for row in mine[mine["outcome"] == OUTCOMES.index("unknown")]:
            name = cause_name(int(row["cause"]))
            assert name in ("not_traced", "maybe_same_folio", "ambiguous"), row


@pytest.mark.usefixtures("nothing_is_freed")
def test_little_is_unknown() -> None:
    """Of calls that name each page once: only what has a status that was there before."""
    found: Counter[str] = Counter()
    for seed in range(60):
        random = np.random.default_rng(30_000 + seed)
        kernel = Kernel("6.12", 2)
        for page in range(60):
            trait = str(random.choice(["", "", "", "pinned", "locked"]))
            kernel.folio(
                test_correlate.BASE + page,
                int(random.integers(0, 2)),
                trait=trait,
                shared=bool(random.random() < 0.1),
                busy=bool(random.random() < 0.1),
            )
        kernel.move_pages([address(page) for page in range(60)], [1] * 60)
        found.update(words(rows_of(kernel)))
    assert found["unknown"] == 0
    assert min(found[name] for name in ("moved", "already_there", "failed", "not_attempted")) > 100


def test_the_kernels_refusals_have_their_cause() -> None:
    """What was put back has the state of that moment, what was not isolated that of its lookup."""
    kernel = Kernel("6.12", 2)
    kernel.evidence = True
    for page, traits in enumerate(({}, {"trait": "pinned"}, {})):
        kernel.folio(test_correlate.BASE + page, 0, **traits)
    kernel.folio(test_correlate.BASE + 3, 0, shared=True)
    kernel.folio(test_correlate.BASE + 4, 0, busy=True)
    # the later ones first: the group that fails ends the call
    pages = [3, 4, 0, 1, 2]
    kernel.move_pages([address(page) for page in pages], [1] * 5)
    rows = rows_of(kernel)
    assert words(rows) == ["failed", "failed", "moved", "failed", "moved"]
    assert causes(rows)[:2] == ["shared", "isolated_by_other"]
    assert causes(rows)[3] == "extra_references"
    assert [WITNESSES[code] for code in rows["witnesses"]] == ["agree"] * 2 + ["silent"] * 3


def test_evidence_that_did_not_matter_is_left_out() -> None:
    """A page that was mapped twice moves with MPOL_MF_MOVE_ALL: nothing stood in its way."""
    kernel = Kernel("6.12", 2)
    kernel.folio(test_correlate.BASE, 0, shared=True)
    kernel.move_pages([address(0)], [1], MOVE_ALL)
    tables = at_outcomes(kernel.tables())
    early = np.zeros(1, tables["obstacles"].dtype)
    early["call_id"], early["stage"] = tables["calls"]["call_id"][0], 3
    meta = Meta.of(meta_at_outcomes(kernel.meta()))
    found = with_implied({**tables, "obstacles": early}, meta)
    assert found["obstacles"].size == 0
    assert words(correlate(found, meta).rows) == ["moved"]


def test_a_status_that_was_there_before_tells_nothing() -> None:
    """-EBUSY before and after: stored again, or left as it was in a group that failed.

    The kernel's count of the group tells it then; without that nothing does.
    """
    kernel = Kernel("6.12", 2)
    kernel.folio(test_correlate.BASE, 0, trait="pinned")
    kernel.move_pages([address(0)], [1], initial=-errno.EBUSY)
    rows = rows_of(kernel)
    assert (words(rows), causes(rows)) == (["failed"], ["extra_references"])
    migrations = at_outcomes(kernel.tables())["migrations"]
    migrations["failed"] = migrations["succeeded"] = NOT_COUNTED
    rows = rows_of(kernel, migrations=migrations)
    assert (words(rows), causes(rows)) == (["unknown"], ["not_traced"])


@pytest.mark.parametrize("lost", ["folios", "lookups"])
def test_what_was_lost_makes_no_page_moved(lost: str) -> None:
    """Without the record of what was put back nobody knows which page it was."""
    kernel = Kernel("6.12", 2)
    for page in range(8):
        kernel.folio(test_correlate.BASE + page, 0, trait="pinned" if page == 3 else "")
    kernel.move_pages([address(page) for page in range(8)], [1] * 8)
    tables = at_outcomes(kernel.tables())
    rows = rows_of(kernel, **{lost: tables[lost][1:]})
    named = dict(zip(range(8), words(rows), strict=True))
    assert {page for page, name in named.items() if name == "moved"} <= set(range(8)) - {3}
    assert "unknown" in named.values()
    assert words(rows_of(kernel)).count("moved") == 7


def test_a_large_folio_that_was_split_is_not_put_back_whole() -> None:
    """A page of it was put back: its other pages may have moved."""
    kernel = Kernel("6.12", 2)
    page = (test_correlate.BASE // 512 + 1) * 512
    kernel.folio(page, 0, 512, trait="pinned")
    kernel.move_pages([page * PAGE, (page + 5) * PAGE], [1, 1])
    tables = at_outcomes(kernel.tables())
    assert words(rows_of(kernel)) == ["failed", "failed"]
    tail = tables["folios"].copy()
    tail["src"] += 64 * 7
    tail["nr_pages"] = 1
    migrations = tables["migrations"].copy()
    migrations["failed"] = 1
    assert words(rows_of(kernel, folios=tail, migrations=migrations)) == ["unknown", "unknown"]


def test_a_large_folio_is_not_moved_by_a_return_value_alone() -> None:
    """Where the kernel's count was not seen: pages of one that was split may have stayed."""
    kernel = Kernel("6.12", 2)
    page = (test_correlate.BASE // 512 + 1) * 512
    kernel.folio(page, 0, 512)
    kernel.folio(test_correlate.BASE, 0)
    kernel.move_pages([page * PAGE, address(0)], [1, 1])
    assert words(rows_of(kernel)) == ["moved", "moved"]
    migrations = at_outcomes(kernel.tables())["migrations"]
    migrations["failed"] = migrations["succeeded"] = NOT_COUNTED
    assert words(rows_of(kernel, migrations=migrations)) == ["unknown", "moved"]


def test_who_had_the_page_that_a_thread_waited_for() -> None:
    """The one migration of a call that was under way and had the folio."""
    kernel = Kernel("6.12", 2)
    folio = kernel.folio(test_correlate.BASE, 0)
    source = folio.pointer
    kernel.move_pages([address(0)], [1])
    tables = at_outcomes(kernel.tables())
    migration = tables["migrations"][0]
    waits = np.zeros(3, WAIT)
    waits["folio"] = [source, source, source + 64]
    waits["start_ns"] = [migration["enter_ns"] + 1, migration["exit_ns"] + 1, migration["enter_ns"]]
    meta = Meta.of(meta_at_outcomes(kernel.meta()))
    found = with_implied({**tables, "waits": waits}, meta)["waits"]
    assert found["holder_id"].tolist() == [migration["migration_id"], 0, 0]
    assert found["holder_tid"].tolist() == [migration["tid"], 0, 0]


def test_of_two_that_may_have_had_the_page_nobody_is_named() -> None:
    """Both calls found the folio, and both migrations were under way."""
    kernel = Kernel("6.12", 2)
    kernel.reuse = False
    folio = kernel.folio(test_correlate.BASE, 0, trait="pinned")
    for _ in range(2):
        kernel.move_pages([address(0)], [1])
    tables = at_outcomes(kernel.tables())
    waits = np.zeros(2, WAIT)
    waits["folio"] = folio.pointer
    first, second = tables["migrations"]["enter_ns"]
    waits["start_ns"] = [first, second]
    meta = Meta.of(meta_at_outcomes(kernel.meta()))
    ids = tables["migrations"]["migration_id"].tolist()
    assert with_implied({**tables, "waits": waits}, meta)["waits"]["holder_id"].tolist() == ids
    tables["migrations"]["exit_ns"][0] = 0  # its end was not seen
    found = with_implied({**tables, "waits": waits}, meta)["waits"]
    assert found["holder_id"].tolist() == [ids[0], 0]


def test_other_levels_are_left_as_they_are() -> None:
    """Nothing is implied where folios have their records."""
    kernel = Kernel("6.12", 2)
    kernel.folio(test_correlate.BASE, 0)
    kernel.move_pages([address(0)], [1])
    tables = kernel.tables()
    assert with_implied(tables, Meta.of(kernel.meta())) is tables


def test_nothing_is_said_of_what_is_not_traced() -> None:
    """No time, count or target of a folio in a dump, no duration in its history, no split."""
    kernel = Kernel("6.12", 2)
    page = (test_correlate.BASE // 512 + 1) * 512
    kernel.folio(page, 0, 512)
    kernel.folio(test_correlate.BASE, 0)
    kernel.move_pages([page * PAGE, address(0)], [1, 1])
    meta = Meta.of(meta_at_outcomes(kernel.meta()))
    empty = {name: np.zeros(0, kind) for name, kind in TABLES.items()}
    tables = with_implied({**empty, **at_outcomes(kernel.tables())}, meta)
    columns = dumped_table("folios", tables, meta).columns
    unknown = {name for name, (_, known) in columns.items() if not known.any()}
    assert {"dst", "copy_ns", "blackout_ns", "dark_first_ns", "n_alloc", "n_maps"} <= unknown
    assert not {"src", "address", "outcome", "src_nid", "dst_nid", "nr_pages"} & unknown
    numbers = profile(tables, meta)
    (path,) = numbers["paths"]
    assert [(size["kind"], size["moved"], size["split"]) for size in path["sizes"]] == [
        ("page", 1, 0),
        ("thp", 1, None),
    ]
    assert set(path["phases"].values()) == {None}
    assert numbers["folios"]["moves_tried"] is None
    assert numbers["phases"]["copy"]["state"] == "not_traced"
    assert numbers["phases"]["migrate"]["total_ns"] > 0
    (history,) = Histories(tables, meta, correlate(tables, meta)).of(address(0))
    assert [step.took_ns for step in history.steps] == [None]


def test_a_folio_without_a_call_keeps_its_row() -> None:
    """What compaction left behind is in no call."""
    kernel = Kernel("6.12", 2)
    kernel.folio(test_correlate.BASE, 0)
    kernel.move_pages([address(0)], [1])
    tables = at_outcomes(kernel.tables())
    alone = np.zeros(1, tables["folios"].dtype)
    alone["migration_id"], alone["src"], alone["lookup_seq"] = 99, 64, 0xFFFFFFFF
    state = np.zeros(1, tables["obstacles"].dtype)
    state["migration_id"], state["src"], state["stage"] = 99, 64, STAGE_PUTBACK
    state["lookup_seq"] = 0xFFFFFFFF
    meta = Meta.of(meta_at_outcomes(kernel.meta()))
    found = with_implied({**tables, "folios": alone, "obstacles": state}, meta)
    assert found["folios"]["migration_id"].tolist()[-1] == 99
    assert found["obstacles"]["lookup_seq"].tolist() == [0xFFFFFFFF]
