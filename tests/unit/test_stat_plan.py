# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans of `mptrace stat` for kernels as they are and as they might be."""

import dataclasses
from pathlib import Path

import pytest
from recorded_facts import facts_of

import mptrace
from mptrace.host.facts import KernelFacts, Prototype
from mptrace.tracing.counting.plan import (
    CANDIDATES,
    StatBounds,
    make_stat_plan,
    stat_functions,
    stat_offsets,
    stat_tracepoints,
)

#: Of __bpf_trace_mm_migrate_pages, by BTF of 6.1 and of 6.12, which split large folios, too.
ARGUMENTS = {
    "6.1": ("thp_succeeded", "thp_failed", "thp_split"),
    "6.12": ("thp_succeeded", "thp_failed", "thp_split", "large_folio_split"),
}


def kernel(series: str) -> KernelFacts:
    """What `counting.plan` asks of a kernel of the lab, as it answers."""
    between = ARGUMENTS[series]
    functions = {
        "migrate_pages": Prototype(tuple("abcdefg"), "int"),
        "migration_entry_wait": Prototype(("mm", "pmd", "address"), "void"),
        "pmd_migration_entry_wait": Prototype(("mm", "pmd"), "void"),
        "migration_entry_wait_huge": Prototype(("vma", "pte"), "void"),
        "__bpf_trace_mm_migrate_pages_start": Prototype(("__data", "mode", "reason"), "void"),
        "__bpf_trace_mm_migrate_pages": Prototype(
            ("__data", "succeeded", "failed", *between, "mode", "reason"), "void"
        ),
    }
    assert set(functions) == set(stat_functions())
    offsets = {
        **dict.fromkeys(stat_offsets(), 0),
        "trace_event_raw_mm_migrate_pages_start.reason": 12,
    }
    offsets |= {
        "trace_event_raw_mm_migrate_pages.succeeded": 8,
        "trace_event_raw_mm_migrate_pages.failed": 16,
        "trace_event_raw_mm_migrate_pages.reason": 28 + 8 * len(between),
    }
    return KernelFacts(
        release=series,
        machine="x86_64",
        page_size=4096,
        functions=functions,
        symbols=frozenset(functions),
        offsets=offsets,
        tracepoints=frozenset(stat_tracepoints()),
        methods=dict.fromkeys(("fentry", "kprobe", "raw_tracepoint", "tracepoint"), ""),
    )


@pytest.mark.parametrize(("series", "reason"), [("6.1", 6), ("6.12", 7)])
def test_positions_come_from_the_prototype(series: str, reason: int) -> None:
    """6.12 has an argument more than 6.1: the reason is where that kernel has it."""
    plan = make_stat_plan(kernel(series))
    assert plan.unseen() == ()
    assert [p.method for p in plan.phases] == ["raw_tracepoint"] * 2 + ["fentry"] * 3
    assert plan.defines["END_METHOD"] == "RAW_TRACEPOINT"
    places = [plan.defines[f"END_{name}"] for name in ("SUCCEEDED", "FAILED", "REASON")]
    assert places == [0, 1, reason]
    assert plan.defines["BEGIN_REASON"] == 1


@pytest.mark.parametrize(("series", "reason"), [("6.1", 52), ("6.12", 60)])
def test_a_perf_tracepoint_has_offsets(series: str, reason: int) -> None:
    """Where raw tracepoints are refused, the fields are at their offsets in the record."""
    refused = {
        (phase, name, "raw_tracepoint"): "EPERM"
        for phase, name in zip(("begin", "end"), stat_tracepoints(), strict=False)
    }
    plan = make_stat_plan(kernel(series), excluded=refused)
    assert plan.phase("end").method == "tracepoint"
    places = [plan.defines[f"END_{name}"] for name in ("SUCCEEDED", "FAILED", "REASON")]
    assert places == [8, 16, reason]
    assert plan.defines["BEGIN_REASON"] == 12


def test_a_kernel_without_the_first_tracepoint_gets_a_kprobe() -> None:
    """Before mm_migrate_pages_start a migration begins at migrate_pages(), its sixth argument."""
    facts = kernel("6.12")
    facts = dataclasses.replace(facts, tracepoints=frozenset({"migrate:mm_migrate_pages"}))
    plan = make_stat_plan(facts)
    begin = plan.phase("begin")
    assert (begin.attach, begin.method, begin.exit) == ("migrate_pages", "kprobe", "")
    assert (plan.defines["BEGIN_METHOD"], plan.defines["BEGIN_REASON"]) == ("KPROBE", 5)


def test_without_btf_of_the_arguments_there_is_no_end_and_the_reason_is_said() -> None:
    """Arguments at unknown places are not guessed."""
    facts = dataclasses.replace(kernel("6.12"), functions={}, offsets={})
    plan = make_stat_plan(facts)
    assert plan.phase("end").method == ""
    assert "BTF does not say where its arguments are" in plan.phase("end").reason


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        (("migration_entry_wait_huge",), "waits for hugetlb folios can't be seen"),
        (
            ("migration_entry_wait", "pmd_migration_entry_wait"),
            "waits for base pages and THPs can't be seen",
        ),
        (
            (
                "migration_entry_wait",
                "pmd_migration_entry_wait",
                "migration_entry_wait_huge",
            ),
            "waits can't be seen",
        ),
    ],
)
def test_a_kernel_without_waits_says_so(gone: tuple[str, ...], sentence: str) -> None:
    """Functions that are not there leave their waits unseen, in one sentence; the rest stays."""
    facts = kernel("6.12")
    facts = dataclasses.replace(
        facts,
        functions={n: p for n, p in facts.functions.items() if n not in gone},
        symbols=facts.symbols - set(gone),
    )
    plan = make_stat_plan(facts)
    assert plan.unseen() == (f"{sentence}; 'mptrace doctor' says why",)
    assert plan.phase("end").method == "raw_tracepoint"


def test_what_each_way_to_attach_was_refused_with_is_not_in_the_sentence() -> None:
    """Three reasons for each of three functions are no sentence."""
    refused = {
        (phase, function, method): "loading: EPERM"
        for phase, function in (
            ("wait", "migration_entry_wait"),
            ("wait_pmd", "pmd_migration_entry_wait"),
            ("wait_huge", "migration_entry_wait_huge"),
        )
        for method in ("fentry", "kprobe")
    }
    plan = make_stat_plan(kernel("6.12"), excluded=refused)
    assert "EPERM" in plan.phase("wait_pmd").reason
    (sentence,) = plan.unseen()
    assert len(sentence) < 80
    assert "EPERM" not in sentence


def test_a_kernel_that_refuses_tracing_has_no_end() -> None:
    """On a host that allows tracepoints only, nothing can be counted by BPF."""
    assert make_stat_plan(facts_of("restricted")).phase("end").method == ""


def test_the_bound_of_memory_follows_the_rows() -> None:
    """More rows cost more, and the macros have what was asked for."""
    facts = kernel("6.12")
    small, large = (make_stat_plan(facts, StatBounds(max_rows=n)) for n in (64, 4096))
    assert large.memory_bound_bytes - small.memory_bound_bytes >= (4096 - 64) * 400
    assert (small.defines["MAX_ROWS"], large.defines["MAX_ROWS"]) == (64, 4096)


def test_handlers_of_the_table_are_in_the_program() -> None:
    """Each handler that a row names is a function of bpf/stat.c."""
    source = (Path(mptrace.__file__).parent / "bpf" / "stat.c").read_text()
    for candidate in CANDIDATES:
        for handler in {candidate.enter, candidate.exit} - {""}:
            assert f"\nint {handler}(" in source
