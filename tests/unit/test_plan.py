# SPDX-License-Identifier: GPL-2.0-or-later
"""Probe plans for kernels whose facts were recorded (tests/fixtures/facts-*.json)."""

import dataclasses

import pytest
from recorded_facts import PHASES, facts_of

from mptrace.host.facts import Prototype
from mptrace.recording.detail import LEVEL_ALL, LEVEL_OUTCOMES
from mptrace.tracing.plan.balancing import BALANCING_PHASES
from mptrace.tracing.plan.candidates import (
    CANDIDATES,
    PHASES_FOR_OTHERS,
    candidate_sizes,
)
from mptrace.tracing.plan.detail import essential
from mptrace.tracing.plan.plan import PhasePlan, Plan, make_plan
from mptrace.tracing.plan.request import Request
from mptrace.tracing.program.source import source_of


def phases_of(plan: Plan) -> dict[str, PhasePlan]:
    """Phases of a plan by name."""
    return {phase.phase: phase for phase in plan.phases}


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_every_phase_has_an_attach_point(kernel: str) -> None:
    """Both kernels of the lab offer a function or tracepoint for each phase."""
    plan = make_plan(facts_of(kernel), Request(others=True))
    assert [p.phase for p in plan.phases] == list(PHASES)
    assert all(p.method for p in plan.phases)
    own = make_plan(facts_of(kernel)).phases
    assert {p.phase for p in plan.phases} - {p.phase for p in own} == PHASES_FOR_OTHERS
    assert plan.missing_essentials() == ()
    assert plan.notes == ()


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("6.1", {"lookup": "follow_page", "copy": "folio_copy", "move": "move_to_new_folio"}),
        ("6.12", {"lookup": "folio_walk_start", "copy": "folio_mc_copy"}),
    ],
)
def test_the_function_is_the_one_that_fires(kernel: str, expected: dict[str, str]) -> None:
    """Of a phase's candidates the one that this kernel really calls comes first."""
    phases = phases_of(make_plan(facts_of(kernel)))
    assert {phase: phases[phase].attach for phase in expected} == expected


def test_macros_follow_the_prototypes() -> None:
    """Where 6.1 and 6.12 differ in arguments, return types and structs, the macros do."""
    old, new = (make_plan(facts_of(kernel)).defines for kernel in ("6.1", "6.12"))
    assert (old["LOOKUP_NARGS"], old["LOOKUP_ADDRESS"]) == (3, 1)
    assert (new["LOOKUP_NARGS"], new["LOOKUP_ADDRESS"]) == (4, 2)
    assert "ISOLATE_BOOL" not in old
    assert new["ISOLATE_BOOL"] == 1
    assert "REMAP_INDIRECT" not in old
    assert new["REMAP_INDIRECT"] == 1
    assert old["NODES_SHIFT"] == new["NODES_SHIFT"] == 10


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_a_level_of_detail_traces_what_it_needs(kernel: str) -> None:
    """At `outcomes` one probe is hit for each page; nothing follows folios, in maps neither."""
    facts = facts_of(kernel)
    every = make_plan(facts, Request(others=True))
    less = make_plan(facts, Request(others=True, detail=LEVEL_OUTCOMES))
    assert set(phases_of(less)) < set(phases_of(every))
    per_page = {"vma", "isolate", "allocate", "unmap", "dark", "move", "copy", "remap", "done"}
    assert not per_page & set(phases_of(less))
    assert essential(LEVEL_OUTCOMES) <= {p.phase for p in less.phases if p.method}
    assert (less.defines["OUTCOMES"], less.defines["MAX_FOLIOS"]) == (1, 1)
    assert "OUTCOMES" not in every.defines
    assert less.memory_bound_bytes < every.memory_bound_bytes
    assert any("not traced at --detail outcomes" in note for note in less.notes)
    assert not any("--detail" in note for note in every.notes)


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_ones_own_driver_needs_the_kernels_count_too(kernel: str) -> None:
    """Where folios have no records it is the kernel that says how many were left behind."""
    plan = make_plan(facts_of(kernel), Request(detail=LEVEL_OUTCOMES))
    assert phases_of(plan)["outcome"].method
    assert "wait_pte" not in phases_of(plan)
    assert "outcome" not in phases_of(make_plan(facts_of(kernel), Request()))


def test_a_kernel_that_refuses_tracing_has_no_plan_and_says_why() -> None:
    """On a host with tracepoints only, each essential phase is missing, with both reasons."""
    missing = make_plan(facts_of("restricted")).missing_essentials()
    assert {p.phase for p in missing} == essential(LEVEL_ALL)
    assert all("EPERM" in p.reason or "kprobe" in p.reason for p in missing)


def test_what_was_refused_falls_back() -> None:
    """A refused method gives way to the next method, then to the next candidate, then to none."""
    facts = facts_of("6.12")
    excluded = {("drain", "lru_cache_disable", "fentry"): "refused"}
    assert phases_of(make_plan(facts, excluded=excluded))["drain"].method == "kprobe"
    excluded["drain", "lru_cache_disable", "kprobe"] = "refused"
    drain = phases_of(make_plan(facts, excluded=excluded))["drain"]
    assert drain.attach == "lru_add_drain_all"
    for method in ("fentry", "kprobe"):
        excluded["drain", "lru_add_drain_all", method] = "fired 0 times, not 2"
    drain = phases_of(make_plan(facts, excluded=excluded))["drain"]
    assert drain.method == ""
    assert "lru_cache_disable by fentry: refused" in drain.reason
    assert "fired 0 times" in drain.reason


def test_a_kretprobe_of_the_lookup_gets_a_kprobe() -> None:
    """By kprobe the lookup's address is stored at entry: there is an enter handler then."""
    facts = facts_of("6.1")
    assert phases_of(make_plan(facts))["lookup"].enter == ""
    excluded = {("lookup", "follow_page", "fentry"): "refused"}
    assert phases_of(make_plan(facts, excluded=excluded))["lookup"].enter == "enter_lookup"


def test_a_function_of_another_shape_is_refused() -> None:
    """A prototype with fewer parameters than the row describes is not attached to."""
    facts = facts_of("6.12")
    functions = {**facts.functions, "folio_walk_start": Prototype(("vma",), "pointer")}
    plan = make_plan(dataclasses.replace(facts, functions=functions))
    lookup = phases_of(plan)["lookup"]
    assert lookup.method == ""
    assert "has 1 parameters, not 4" in lookup.reason


def test_rings_are_powers_of_two_and_the_bound_counts_them() -> None:
    """Ring sizes round up; the memory bound grows with what was asked for."""
    facts = facts_of("6.12")
    small = make_plan(facts, Request(folio_ring_bytes=5000, max_folios=1 << 10))
    large = make_plan(facts, Request(folio_ring_bytes=1 << 26, max_folios=1 << 18))
    assert small.defines["FOLIO_RING_PAGES"] == 2
    assert large.memory_bound_bytes - small.memory_bound_bytes > 1 << 26


def test_handlers_of_the_table_are_in_the_program() -> None:
    """Each handler that a row names is a function of bpf/move_pages.c and its parts."""
    source = source_of("move_pages.c")
    for candidate in CANDIDATES:
        for handler in {candidate.enter, candidate.exit, candidate.kprobe_enter} - {""}:
            allocator = handler.partition("_")[2]  # these have a macro that writes both
            assert f"\nint {handler}(" in source or f"\nALLOCATOR({allocator}, " in source


@pytest.mark.parametrize("lacking", ["io_schedule", "wake_page_function"])
def test_sleeps_are_looked_at_only_where_their_end_is_seen(lacking: str) -> None:
    """Either probe alone would cost and tell nothing; the other says what it lacks."""
    facts = facts_of("6.12")
    known = frozenset(facts.symbols) - {lacking}
    functions = {name: p for name, p in facts.functions.items() if name != lacking}
    facts = dataclasses.replace(facts, symbols=known, functions=functions)
    phases = phases_of(make_plan(facts, Request(others=True)))
    assert not phases["io_sleep"].method
    assert not phases["wake"].method
    reasons = {phases["io_sleep"].reason, phases["wake"].reason}
    assert f"{lacking}: not in this kernel" in reasons
    assert any(reason.startswith("useless without") for reason in reasons)


def test_a_kernel_whose_sleepers_cannot_be_read_says_so() -> None:
    """Without the struct of a sleeper's queue nothing of it is attached, and a note says why."""
    facts = facts_of("6.1")
    offsets = {k: v for k, v in facts.offsets.items() if not k.startswith("wait_page_queue")}
    plan = make_plan(dataclasses.replace(facts, offsets=offsets), Request(others=True))
    assert not phases_of(plan)["io_sleep"].method
    assert any("sleep for the lock" in note for note in plan.notes)


def test_room_for_sleepers_is_made_where_others_are_traced() -> None:
    """One's own driver is not asked about waits."""
    facts = facts_of("6.1")
    assert make_plan(facts).defines["MAX_WAITING"] == 1
    assert make_plan(facts, Request(others=True)).defines["MAX_WAITING"] == Request().max_waiting


@pytest.mark.parametrize(("fred_frame", "padding"), [(None, 0), (184, 16)])
def test_where_fred_is_built_in_the_registers_lie_lower(
    fred_frame: int | None, padding: int
) -> None:
    """The kernel leaves room behind them for the rest of a struct fred_frame, as BTF has it."""
    facts = facts_of("6.12")
    sizes = {**facts.sizes, **({"fred_frame": fred_frame} if fred_frame else {})}
    plan = make_plan(dataclasses.replace(facts, sizes=sizes), Request(others=True))
    assert plan.defines["STACK_PADDING"] == padding
    assert plan.notes == ()
    assert "fred_frame" in candidate_sizes()


@pytest.mark.parametrize(
    ("kernel", "function"), [("6.1", "numa_migrate_prep"), ("6.12", "numa_migrate_check")]
)
def test_balancing_is_seen_beside_its_migrations(kernel: str, function: str) -> None:
    """Scans and hint faults, of programs that know nothing of mptrace."""
    plan = make_plan(facts_of(kernel), Request(others=True))
    phases = phases_of(plan)
    assert [phases[name].attach for name in BALANCING_PHASES] == [
        "task_numa_work",
        function,
        "task_numa_fault",
    ]
    assert (plan.defines["BALANCING"], plan.defines["HINT_FAULT_TIMED"]) == (1, 1)
    assert plan.defines["MR_NUMA_MISPLACED"] == 5
    assert "BALANCING" not in make_plan(facts_of(kernel)).defines
    smaller = make_plan(facts_of(kernel), Request(others=True, max_balancing=1 << 10))
    assert plan.memory_bound_bytes - smaller.memory_bound_bytes > 15 * (1 << 10) * 112


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [
        # counted all the same
        ("task_numa_fault", {"hint_fault_end"}),
        ("numa_migrate_check", {"hint_fault", "hint_fault_end"}),
        ("task_numa_work", {"numa_scan"}),
    ],
)
def test_a_part_of_balancing_that_is_missing(lacking: str, missing: set[str]) -> None:
    """An end of hint faults is useless without their begin; nothing else goes with it."""
    facts = facts_of("6.12")
    functions = {name: p for name, p in facts.functions.items() if name != lacking}
    facts = dataclasses.replace(facts, symbols=facts.symbols - {lacking}, functions=functions)
    plan = make_plan(facts, Request(others=True))
    assert {p.phase for p in plan.phases if not p.method} == missing
    assert all(phases_of(plan)[name].reason for name in missing)
    assert plan.defines["BALANCING"] == 1
    assert plan.defines["HINT_FAULT_TIMED"] == int(lacking != "task_numa_fault")


def test_a_kernel_without_balancing_has_nothing_of_it() -> None:
    """As where it was left out of the configuration."""
    facts = facts_of("6.12")
    gone = {"task_numa_work", "numa_migrate_check", "task_numa_fault"}
    functions = {name: p for name, p in facts.functions.items() if name not in gone}
    facts = dataclasses.replace(facts, symbols=facts.symbols - gone, functions=functions)
    plan = make_plan(facts, Request(others=True))
    assert "BALANCING" not in plan.defines
    assert {p.phase for p in plan.phases if not p.method} == set(BALANCING_PHASES)
